"""The threshold of a run, and what it means in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aaclip_med.errors import InputError
from aaclip_med.inference.case import choose_threshold
from aaclip_med.inference.predictor import Predictor
from aaclip_med.scoring.operating import OperatingTable


@dataclass(frozen=True)
class Aim:
    """What the threshold is to do: be a ``heat``, leave so many ``false_positives`` a normal volume, or keep a conformal
    ``level``: the chance that anything is found in a normal volume.
    """

    kind: Literal["heat", "false_positives", "level"]
    value: float


@dataclass(frozen=True)
class OperatingPoint:
    """The heat at which a candidate begins, and how it was chosen."""

    threshold: float
    meaning: str


def choose_operating_point(predictor: Predictor, aim: Aim | None, minimum_ml: float = 0.0) -> OperatingPoint:
    """The threshold that does what is asked for; without an ``aim`` the default of calibrated or uncalibrated scores.

    Raises:
        InputError: a heat outside [0, 1]; or the adapters' calibration has no such point, or counted other candidates.
    """
    if aim is None or aim.kind == "heat":
        threshold = choose_threshold(predictor, aim.value if aim else None)
        if not 0.0 <= threshold <= 1.0:
            raise InputError(f"threshold {threshold:g}: heat lies between 0 and 1")
        chosen = "chosen by hand" if aim else "default"
        if predictor.calibration is None:
            return OperatingPoint(threshold, f"{chosen}, on the model's own uncalibrated scale")
        return OperatingPoint(threshold, f"{chosen}; above {threshold:.6g} of the voxels of normal cases")
    table = _find_table(predictor)
    if aim.kind == "level":
        threshold = table.for_level(aim.value)
        return OperatingPoint(threshold, f"a chance of at most {aim.value:g} that anything is found in a normal volume")
    if minimum_ml != table.minimum_ml:
        raise InputError(
            f"false positives were counted with --minimum-ml {table.minimum_ml:g}, not {minimum_ml:g}; take the same, or "
            "calibrate again"
        )
    threshold = table.for_false_positives(aim.value)
    return OperatingPoint(threshold, f"at most {aim.value:g} candidates a normal volume, on average over {len(table.peaks)}")


def _find_table(predictor: Predictor) -> OperatingTable:
    table = predictor.calibration.operating if predictor.calibration else None
    if table is None:
        raise InputError("these adapters know no operating points; run aaclip-med calibrate on normal cases first")
    return table
