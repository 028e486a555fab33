"""Whether the rows of an index agree with the files that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from aaclip_med.data.index import Case, join
from aaclip_med.data.planes import plan_volume
from aaclip_med.data.sources import read_source
from aaclip_med.data.volumes import Volume, fit_mask, is_image_file, read_grid, read_unchecked
from aaclip_med.errors import InputError
from aaclip_med.presets import get_preset

Array = np.ndarray[Any, Any]


def check_agreement(
    cases: Sequence[Case], quick: bool = False, track: Callable[[Sequence[Case]], Iterable[Case]] = iter
) -> None:
    """Make sure that scans and masks can be read and lie alike, and that labels say what lesion masks show.

    Of a scan the header is read, a DICOM series whole; of masks all, with ``quick`` the header: labels are then not looked at.

    Raises:
        InputError: some do not agree; the first ten are named, by row.
    """
    problems = [f"row {case.row}: {problem}" for case in track(cases) for problem in _find_problems(case, quick)]
    if problems:
        raise InputError(join(problems))


def _find_problems(case: Case, quick: bool) -> list[str]:
    problems: list[str] = []
    try:
        scan = read_grid(case.image_path) if is_image_file(case.image_path) else read_source(case.image_path)
    except InputError as error:
        return [str(error)]
    limits = _find_slices(case, scan, problems)
    for path in (case.mask_path, case.organ_path):
        if path is None:
            continue
        try:
            mask = read_grid(path) if quick else read_unchecked(path)
            above = fit_mask(mask, scan)
        except InputError as error:
            problems.append(str(error))
            continue
        if quick:
            continue
        problems += _describe_values(mask)
        if path == case.organ_path:
            problems += [] if above.any() else [f"{path}: the organ mask is empty; leave organ_path out, or correct the mask"]
        else:
            problems += _compare_label(case, above, limits)
    return problems


def _find_slices(case: Case, scan: Volume, problems: list[str]) -> tuple[slice, slice, slice] | None:
    """The part (I, J, K) of the scan that the row speaks of; None where the plane of its slices is not known."""
    everything = slice(None)
    if case.slices is None:
        return everything, everything, everything
    plane = case.plane or (get_preset(case.preset).plane if case.preset else None)
    if plane is None and not scan.is_picture:
        return None
    plan = plan_volume(scan, plane or "native")
    first, last = case.slices
    if last >= plan.stack_shape[0]:
        problems.append(
            f"{case.image_path}: slices {first} to {last} are named, but it has {plan.stack_shape[0]} in this plane"
        )
    limits = [everything, everything, everything]
    limits[plan.axis] = slice(first, last + 1)
    return limits[0], limits[1], limits[2]


def _compare_label(case: Case, above: Array, limits: tuple[slice, slice, slice] | None) -> list[str]:
    inside = above if limits is None else above[limits]
    within = " in its slices" if case.slices and limits else ""
    if case.label and not inside.any():
        return [f"{case.mask_path}: labelled abnormal (1), and the mask is empty{within}; write label 0, or correct the mask"]
    if not case.label and limits and inside.any():
        count = int(np.count_nonzero(inside))
        return [
            f"{case.mask_path}: labelled normal (0), and {count} voxels of the mask are above 0{within}; write label 1, or "
            "correct the mask"
        ]
    return []


def _describe_values(mask: Volume) -> list[str]:
    """What a mask must not hold: it is read all the same, as every value above 0, which hides a mistake."""
    problems = []
    values = mask.array
    wrong = int(np.count_nonzero(~np.isfinite(values))) if np.issubdtype(values.dtype, np.floating) else 0
    if wrong:
        problems.append(f"{mask.path}: {wrong} of {values.size} values are NaN or infinite; write 0 where there is nothing")
    below = int(np.count_nonzero(values < 0))
    if below:
        problems.append(
            f"{mask.path}: {below} of {values.size} values are below 0 (lowest {np.nanmin(values):g}); only values above 0 "
            "count, write 0 where there is nothing"
        )
    return problems
