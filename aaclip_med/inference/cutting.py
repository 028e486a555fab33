"""How volumes are cut where the caller departs from the preset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aaclip_med.data.slices import read_organ
from aaclip_med.data.volumes import ENDINGS, Volume
from aaclip_med.errors import InputError
from aaclip_med.inference.predictor import Predictor
from aaclip_med.presets import Preset

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Cutting:
    """How volumes are cut where the caller departs from the preset; none of it changes where a voxel lands.

    plane: an anatomical plane, ``native`` or ``all``. slices: first and last used, inclusive. stride: score every n-th slice
    and interpolate. masks: an organ's mask, or a folder with one mask a case, named as the case. volume: which one of 4-D
    files. spacing_mm: (I, J, K) for DICOM series without a geometry of their own.
    """

    plane: str | None = None
    slices: tuple[int, int] | None = None
    stride: int = 1
    masks: Path | None = None
    volume: int | None = None
    spacing_mm: tuple[float, float, float] | None = None

    def read_organ(self, name: str, volume: Volume) -> Array | None:
        """The organ of case ``name``, (I, J, K) bool; None where no masks were named.

        Raises:
            InputError: the case has no mask, or it is empty or lies elsewhere than the volume.
        """
        if self.masks is None:
            return None
        path = self.masks
        if path.is_dir():
            found = [path / f"{name}{ending}" for ending in ENDINGS if (path / f"{name}{ending}").is_file()]
            if not found:
                raise InputError(f"{volume.path}: no organ mask {name}.nii.gz in {path}; name it as the case")
            path = found[0]
        return read_organ(path, volume)

    def describe_scale(self, preset: Preset, within_organ: bool = False) -> dict[str, Any]:
        """What a calibration and the cases scored with it must share."""
        window = preset.window
        return {
            "plane": self.plane or preset.plane,
            "window": [window.kind, window.low, window.high],
            "crop": preset.crop,
            "within an organ": within_organ or self.masks is not None,
        }


def check_calibrated_alike(predictor: Predictor, cutting: Cutting) -> None:
    """Refuse a calibration that was made on other cuts.

    Raises:
        InputError: plane, window or organ differ.
    """
    made = predictor.checkpoint.provenance.get("calibration") if predictor.checkpoint else None
    if predictor.calibration is not None and made is not None and made != cutting.describe_scale(predictor.preset):
        said = ", ".join(f"{name} {value}" for name, value in made.items())
        raise InputError(f"these adapters were calibrated with {said}; score with the same, or calibrate again")
