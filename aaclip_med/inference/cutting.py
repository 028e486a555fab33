"""How volumes are cut where the caller departs from the preset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aaclip_med.data.volumes import ENDINGS
from aaclip_med.errors import InputError
from aaclip_med.inference.predictor import Predictor
from aaclip_med.inference.refinement import PUBLISHED, Refinement
from aaclip_med.presets import Preset


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

    def find_organ(self, name: str) -> Path | None:
        """The file with the organ of case ``name``; None where no masks were named.

        Raises:
            InputError: the folder of masks has none for the case.
        """
        if self.masks is None or self.masks.is_file():
            return self.masks
        found = [path for ending in ENDINGS if (path := self.masks / f"{name}{ending}").is_file()]
        if not found:
            raise InputError(f"{name}: no organ mask {name}.nii.gz in {self.masks}; name it as the case")
        return found[0]


def describe_scale(preset: Preset, plane: str | None, within_organ: bool, refinement: Refinement = PUBLISHED) -> dict[str, Any]:
    """What a calibration and the cases scored with it must share."""
    window = preset.window
    scale = {
        "plane": plane or preset.plane,
        "window": [window.kind, window.low, window.high],
        "crop": preset.crop,
        "within an organ": within_organ,
    }
    return scale | ({"refinement": refinement.to_json()} if refinement != PUBLISHED else {})


def check_calibrated_alike(predictor: Predictor, plane: str | None, within_organ: bool) -> None:
    """Refuse a calibration that was made on other cuts.

    Raises:
        InputError: plane, window, organ or refinement differ.
    """
    made = predictor.checkpoint.provenance.get("calibration") if predictor.checkpoint else None
    asked = describe_scale(predictor.preset, plane, within_organ, predictor.refinement)
    if predictor.calibration is not None and made not in (None, asked):
        said = ", ".join(f"{name} {value}" for name, value in made.items())
        raise InputError(f"these adapters were calibrated with {said}; score with the same, or calibrate again")
