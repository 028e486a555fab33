"""BraTS 2021: FLAIR volumes with tumour labels."""

from __future__ import annotations

import re
from pathlib import Path

from aaclip_med.data.benchmarks.layouts import misfit, subfolders
from aaclip_med.data.benchmarks.lesions import read_labels
from aaclip_med.data.conversion.scans import Scan, Slices, binarise, is_marked, plane_of, scale_window, stretch
from aaclip_med.data.index import SplitName, join
from aaclip_med.data.planes import plan_volume
from aaclip_med.data.volumes import read_volume
from aaclip_med.errors import InputError

BRAIN_SLICES = (60, 99)
"""First and last axial slice that are used, inclusive, counted from 0 as stored (in BraTS from the feet)."""
BRATS_TREE = "BraTS2021_<n>/BraTS2021_<n>_flair.nii.gz and BraTS2021_<n>_seg.nii.gz"


def find_brats(folder: Path) -> list[Scan]:
    """The patients of BraTS 2021 in ``folder``.

    Raises:
        InputError: there is none, or one lacks its FLAIR or its segmentation.
    """
    scans, problems = [], []
    for one in subfolders(folder):
        if not re.fullmatch(r"BraTS2021_\d{5}", one.name):
            continue
        files = [_first_file(one, f"{one.name}_{part}") for part in ("flair", "seg")]
        problems += [f"{one}: no {one.name}_{p}.nii.gz" for p, f in zip(("flair", "seg"), files, strict=True) if f is None]
        if files[0] and files[1]:
            scans.append(Scan(one.name, one.name, files[0], files[1]))
    if problems:
        raise InputError(f"{join(problems)}; the layout should be {BRATS_TREE}")
    if not scans:
        raise misfit(folder, "no folder BraTS2021_<five digits> in it", BRATS_TREE)
    return scans


def cut_brain(scan: Scan, recipe: str, _: SplitName) -> Slices:
    """Axial slices 60 to 99 of a FLAIR volume; every label above 0 is tumour.

    Raises:
        InputError: a file cannot be used, or there are fewer than 100 slices.
    """
    volume = read_volume(scan.image)
    plan = plan_volume(volume, plane_of(recipe))
    first, last = BRAIN_SLICES
    if plan.stack_shape[0] <= last:
        raise InputError(
            f"{scan.image}: {plan.stack_shape[0]} axial slices, and slices {first} to {last} are used; take BraTS 2021 as it is"
        )
    numbers = list(range(first, last + 1))
    labels = plan.cut(read_labels(scan.labels, volume))[numbers]
    if recipe == "bmad":
        return Slices(numbers, stretch(plan.cut(volume.array)[numbers]), stretch(labels), is_marked(labels > 0), plan)
    return Slices(numbers, scale_window(volume, plan, "brain-mri")[numbers], binarise(labels > 0), is_marked(labels > 0), plan)


def _first_file(folder: Path, stem: str) -> Path | None:
    return next((path for ending in (".nii.gz", ".nii") if (path := folder / f"{stem}{ending}").is_file()), None)
