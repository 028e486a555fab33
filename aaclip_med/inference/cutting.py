"""How volumes are cut where the caller departs from the preset."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from aaclip_med.data.fusion import ALL_PLANES, cut_names
from aaclip_med.data.index import Case
from aaclip_med.data.slices import CutCase, cut_case
from aaclip_med.data.volumes import ENDINGS, Volume
from aaclip_med.errors import InputError
from aaclip_med.inference.predictor import Predictor
from aaclip_med.presets import PlaneName, get_preset

NETWORK_PARTS = ("image size", "drop background", "refinement")
"""Of ``describe_scale``, what a network does by itself; the rest is done to the scans around it."""
UNSAID = ("image size", "drop background", "ranges of slices")
"""Of ``describe_scale``, what calibrations of files before these were written down do not say."""


@dataclass(frozen=True)
class Cutting:
    """How volumes are cut where the caller departs from the preset; none of it changes where a voxel lands.

    plane: an anatomical plane, ``native`` or ``all``; None: see ``Predictor.choose_plane``. slices: first and last used,
    inclusive. stride: score every n-th slice and interpolate. masks: an organ's mask, or a folder with one mask a case, named
    as the case. volume: which one of 4-D files. spacing_mm: (I, J, K) for DICOM series without a geometry of their own.
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
            raise InputError(f"{name}: no organ mask {name}.nii.gz in the folder of masks; name it as the case")
        return found[0]

    def check_names(self, cases: Iterable[Case]) -> None:
        """Make sure that a folder of masks has another mask for each scan, though it may have one for several rows of it.

        Raises:
            InputError: two scans have the same name.
        """
        if self.masks is None or self.masks.is_file():
            return
        named: dict[str, Path] = {}
        for case in cases:
            first = named.setdefault(case.name, case.image_path)
            if first.resolve() != case.image_path.resolve():
                raise InputError(
                    f"{first} and {case.image_path}: two scans have the name {case.name}, and would share a mask in "
                    f"{self.masks}; name the organ mask of each in its row, as organ_path"
                )


def adapt_case(case: Case, predictor: Predictor, cutting: Cutting) -> Case:
    """A row as the command's options and the calibration change it: plane (of three, the row's own), slices, organ; the window
    where it is of the predictor's preset.

    Raises:
        InputError: the folder of organ masks has none for it.
    """
    preset = None if case.preset == predictor.preset.name else case.preset
    plane = cutting.plane or case.plane or (None if preset else predictor.calibrated_plane)
    return replace(
        case,
        plane=case.plane if plane == ALL_PLANES else cast("PlaneName | None", plane),
        slices=cutting.slices or case.slices,
        organ_path=cutting.find_organ(case.name) or case.organ_path,
        preset=preset,
    )


def cut_planes(case: Case, predictor: Predictor, cutting: Cutting) -> list[CutCase]:
    """A row as ``adapt_case`` gives it, read and cut, with its mask; of all planes, where they are asked for, each.

    Raises:
        InputError: an image or mask cannot be used.
    """
    adapted = adapt_case(case, predictor, cutting)
    cut = cut_case(adapted, predictor.preset)
    plane = find_plane(cut.volume, adapted, predictor, cutting)
    if plane != ALL_PLANES:
        return [cut]
    names = cut_names(cut.volume, plane, adapted.slices)
    return [cut_case(replace(adapted, plane=name), predictor.preset) for name in names]


def find_plane(volume: Volume, case: Case, predictor: Predictor, cutting: Cutting) -> str:
    """The plane, or ``all``, of the volume of a row as ``adapt_case`` gives it."""
    if cutting.plane == ALL_PLANES:
        return ALL_PLANES
    if case.plane or case.preset:
        return case.plane or get_preset(cast("str", case.preset)).plane
    return predictor.choose_plane(volume, case.slices)


def describe_scale(predictor: Predictor, plane: str | None, within_organ: bool, by_range: bool = False) -> dict[str, Any]:
    """What a calibration and the cases scored with it must share.

    ``by_range``: whether first and last slice are named. A case's score is that of its highest slices: of few, it is lower.
    """
    window = predictor.preset.window
    scale = {
        "plane": plane or predictor.preset.plane,
        "window": [window.kind, window.low, window.high],
        "crop": predictor.preset.crop,
        "within an organ": within_organ,
        "ranges of slices": by_range,
        "image size": predictor.detector.config.image_size,
        "drop background": predictor.drop_background,
    }
    refined = predictor.refinement.to_scale()
    return scale | ({"refinement": refined} if refined else {})


def check_calibrated_alike(
    predictor: Predictor,
    plane: str | None,
    within_organ: bool,
    parts: Collection[str] | None = None,
    by_range: bool = False,
) -> None:
    """Refuse a calibration that was made otherwise.

    ``plane`` None: cases are scored in the calibration's. ``by_range``: see ``describe_scale``. ``parts``: of that, None for
    all; what an older file does not say of its calibration is not held against it.

    Raises:
        InputError: one of ``parts`` differs.
    """
    unlike = _explain_unlike(predictor, plane, within_organ, by_range, parts)
    if unlike:
        raise InputError(f"{unlike}; score with the same, or calibrate again")


def forget_unlike_calibration(predictor: Predictor, cases: Iterable[Case], cutting: Cutting) -> Predictor:
    """The predictor; a copy without its calibration, where that was made otherwise than one of ``cases`` is scored."""
    kinds = {
        (case.preset, cutting.plane or case.plane, bool(cutting.masks or case.organ_path), bool(cutting.slices or case.slices))
        for case in cases
    }
    for preset, plane, within_organ, by_range in kinds:
        is_other = preset not in (None, predictor.preset.name)
        if is_other or _explain_unlike(predictor, plane, within_organ, by_range):
            forgetful = copy(predictor)
            forgetful.forget_calibration()
            return forgetful
    return predictor


def _explain_unlike(
    predictor: Predictor, plane: str | None, within_organ: bool, by_range: bool, parts: Collection[str] | None = None
) -> str | None:
    """How the calibration was made otherwise than is asked, as ``check_calibrated_alike`` has it; None: it was not."""
    made = predictor.checkpoint.provenance.get("calibration") if predictor.checkpoint else None
    if predictor.calibration is None or made is None:
        return None
    asked = describe_scale(predictor, plane or predictor.calibrated_plane, within_organ, by_range)
    names = [name for name in {**made, **asked} if name in made or name not in UNSAID]
    other = [name for name in names if made.get(name) != asked.get(name) and (parts is None or name in parts)]
    was, now = (", ".join(f"{name} {_say(scale.get(name))}" for name in other) for scale in (made, asked))
    return f"these adapters were calibrated with {was}, and would score with {now}" if other else None


def _say(value: object) -> str:
    """A part of ``describe_scale`` in words."""
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {part}" for name, part in value.items()) + ")"
    if isinstance(value, list):
        return " ".join(str(part) for part in value)
    return "published" if value is None else str(value)
