"""How volumes are cut where the caller departs from the preset."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from aaclip_med.data.index import Case
from aaclip_med.data.slices import CutCase, cut_case
from aaclip_med.data.volumes import ENDINGS
from aaclip_med.errors import InputError
from aaclip_med.inference.predictor import ALL_PLANES, THREE_PLANES, Predictor
from aaclip_med.inference.refinement import PUBLISHED, Refinement
from aaclip_med.presets import PlaneName, Preset


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


def adapt_case(case: Case, predictor: Predictor, cutting: Cutting) -> Case:
    """A row as the command's options change it: plane, slices, organ; the window where it is of the predictor's preset.

    Raises:
        InputError: the folder of organ masks has none for it.
    """
    return replace(
        case,
        plane=case.plane if cutting.plane in (None, ALL_PLANES) else cast("PlaneName", cutting.plane),
        slices=cutting.slices or case.slices,
        organ_path=cutting.find_organ(case.name) or case.organ_path,
        preset=None if case.preset == predictor.preset.name else case.preset,
    )


def cut_planes(case: Case, predictor: Predictor, cutting: Cutting) -> list[CutCase]:
    """A row as ``adapt_case`` gives it, read and cut, with its mask; of all planes, where they are asked for, each.

    Raises:
        InputError: an image or mask cannot be used.
    """
    adapted = adapt_case(case, predictor, cutting)
    planes = THREE_PLANES if cutting.plane == ALL_PLANES else (adapted.plane,)
    return [cut_case(replace(adapted, plane=cast("PlaneName | None", plane)), predictor.preset) for plane in planes]


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
        other = [name for name in {**made, **asked} if made.get(name) != asked.get(name)]
        was, now = (", ".join(f"{name} {_say(scale.get(name))}" for name in other) for scale in (made, asked))
        raise InputError(
            f"these adapters were calibrated with {was}, and would score with {now}; score with the same, or calibrate again"
        )


def _say(value: object) -> str:
    """A part of ``describe_scale`` in words."""
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {part}" for name, part in value.items()) + ")"
    if isinstance(value, list):
        return " ".join(str(part) for part in value)
    return "published" if value is None else str(value)
