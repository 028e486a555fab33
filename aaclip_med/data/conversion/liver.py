"""BTCV, whose livers are healthy, and LiTS, whose livers have tumours: CT volumes with label maps."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from aaclip_med.data.benchmarks.layouts import misfit
from aaclip_med.data.benchmarks.lesions import read_labels
from aaclip_med.data.conversion.scans import Scan, Slices, binarise, is_marked, plane_of, scale_window, stretch
from aaclip_med.data.index import SplitName, join
from aaclip_med.data.planes import plan_volume
from aaclip_med.data.volumes import read_volume
from aaclip_med.errors import InputError
from aaclip_med.presets import get_preset

BTCV_LIVER = 6
LITS_TUMOUR = 2
LIVER_TREE = "LiTS's volume-<n>.nii with segmentation-<n>.nii, and BTCV's img<n>.nii.gz with label<n>.nii.gz, in any folders"


def find_liver(folder: Path) -> list[Scan]:
    """The scans of BTCV and LiTS below ``folder``.

    Raises:
        InputError: one of the two is missing, a scan lacks its label map, or two files have one number.
    """
    scans = []
    for name, image, label in (("BTCV", "img", "label"), ("LiTS", "volume-", "segmentation-")):
        images, labels = (_number_files(folder, prefix) for prefix in (image, label))
        if not images:
            raise misfit(folder, f"no file {image}<number>.nii.gz of {name} below it", LIVER_TREE)
        bare = [f"{path}: no {label}{number}" for number, path in images.items() if number not in labels]
        if bare:
            raise InputError(f"{join(bare)}; the layout should be {LIVER_TREE}")
        scans += [Scan(f"{name}_{n}", f"{name}_{n}", images[n], labels[n]) for n in sorted(images)]
    return scans


def cut_liver(scan: Scan, recipe: str, split: SplitName) -> Slices:
    """Axial slices of a CT (HU) with liver in them, 0 outside of the liver. In BTCV liver is 6, in LiTS 1 and its tumours 2.

    Raises:
        InputError: a file cannot be used, or its label map has no liver.
    """
    volume = read_volume(scan.image)
    plan = plan_volume(volume, plane_of(recipe))
    labels = plan.cut(read_labels(scan.labels, volume))
    is_lits = scan.name.startswith("LiTS")
    liver = labels > 0 if is_lits else labels == BTCV_LIVER
    numbers = np.flatnonzero(is_marked(liver)).tolist()
    if not numbers:
        raise InputError(f"{scan.labels}: no liver in it (label {'1 or 2' if is_lits else BTCV_LIVER}); is it the label map?")
    liver = liver[numbers]
    tumour = labels[numbers] == LITS_TUMOUR if is_lits else np.zeros_like(liver)
    if recipe == "bmad":
        values = plan.cut(volume.array)[numbers].astype(np.float32)
        if split != "train":
            window = get_preset("liver-ct").window
            values = values.clip(window.low, window.high)
        pictures = stretch(values)
    else:
        pictures = scale_window(volume, plan, "liver-ct")[numbers]
    return Slices(numbers, pictures * liver.astype(np.uint8), binarise(tumour), is_marked(tumour), plan)


def _number_files(folder: Path, prefix: str) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in sorted(folder.rglob(f"{prefix}*")):
        match = re.fullmatch(rf"{prefix}(\d+)\.nii(\.gz)?", path.name)
        if match and path.is_file():
            if int(match[1]) in found:
                raise InputError(f"{path}: {found[int(match[1])]} has the same number; keep one")
            found[int(match[1])] = path
    return found
