"""Scans among files: which files are scans and which lie beside one, and what a scan's output is called."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from itertools import count, takewhile
from pathlib import Path

from aaclip_med.data.volumes import case_name, find_images, is_image_file, printable

MASK_SUFFIXES = ("_seg", "_segmentation", "_mask", "_label", "_lesion", "_tumour", "_tumor", "_gt")
MASK_FOLDERS = (("images", "masks"), ("images", "labels"), ("imagesTr", "labelsTr"))
"""Folders side by side: scans, and masks of the same names."""
MAX_NAME_BYTES = 200
"""A file's name has 255 at most, and outputs add up to 43 to a case's, a temporary file's mark among them."""


def find_scans(paths: Sequence[str | Path]) -> tuple[list[Path], list[Path]]:
    """The images to score among files and folders, and those passed over.

    Passed over in a folder are our own heatmaps (``X_heatmap``) and files that are the mask of a scan by their names and
    folders (see ``data.pairs.build_index``). A file named by itself is always taken.

    Raises:
        InputError: as ``find_images``.
    """
    found = find_images(paths)
    given = set(map(Path, paths))
    named = {path.resolve() for path in given}
    list_names = cache(_list_names)
    scans: list[Path] = []
    passed_over: list[Path] = []
    for file in found:
        is_passed = file.resolve() not in named and _is_by_product(file, given, list_names)
        (passed_over if is_passed else scans).append(file)
    return scans, passed_over


def _list_names(folder: Path) -> set[str]:
    """What scans in ``folder``, files or folders of DICOM files, are called."""
    if not folder.is_dir():
        return set()
    return {case_name(path) for path in folder.iterdir() if is_image_file(path) or path.is_dir()}


def _is_by_product(file: Path, given: set[Path], list_names: Callable[[Path], set[str]]) -> bool:
    name = case_name(file)
    stem = mask_stem(name, MASK_SUFFIXES)
    beside = list_names(file.parent) - {name}
    if name.endswith("_heatmap") or any(stem in (other, other.rpartition("_")[0]) for other in beside):
        return True
    for folder in takewhile(lambda folder: folder not in given, file.parents):
        scans = [
            folder.parent / images / file.parent.relative_to(folder) for images, masks in MASK_FOLDERS if folder.name == masks
        ]
        if any(name in list_names(place) for place in scans):
            return True
    return False


def mask_stem(name: str, suffixes: Sequence[str]) -> str | None:
    """``X`` of the mask name ``X_seg``; None for another name."""
    lengths = [len(suffix) for suffix in suffixes if name.lower().endswith(suffix)]
    return name[: -max(lengths)] if lengths else None


def unique_names(paths: Sequence[str | Path]) -> list[str]:
    """One output name a path, no two alike (not even but for case), each the same whatever the order of ``paths``.

    It is the case name. Where several are the same, their folders' names are put before it (``b/a.nii.gz`` -> ``b_a``),
    as many as it takes, up to that of the folder that holds them all; files of one folder that differ in their ending alone
    keep that (``a_nii_gz``, ``a_nrrd``). What is still the same is numbered, and long names are cut (see ``number_names``).
    """
    places = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100  (a link's target is no name that was given)
    levels = zip(*(place.parent.parts for place in places), strict=False)
    shared = len(list(takewhile(lambda level: len(set(level)) == 1, levels)))
    folders = [tuple(map(printable, place.parent.parts[max(1, shared - 1) :])) for place in places]
    in_folder = Counter((place.parent, case_name(place).casefold()) for place in set(places))
    is_alone = [in_folder[place.parent, case_name(place).casefold()] == 1 for place in places]
    stems = [case_name(p) if alone else printable(p.name).replace(".", "_") for p, alone in zip(places, is_alone, strict=True)]
    depths = [0] * len(places)
    while True:
        names = ["_".join((*f[len(f) - d :], s)) for f, d, s in zip(folders, depths, stems, strict=True)]
        groups: dict[str, list[int]] = defaultdict(list)
        for i, name in enumerate(names):
            groups[name.casefold()].append(i)
        clashes = [group for group in groups.values() if len({places[i].parent for i in group}) > 1]
        deeper = [
            i for group in clashes for i in group if depths[i] == max(depths[j] for j in group) and depths[i] < len(folders[i])
        ]
        if not deeper:
            break
        for i in deeper:
            depths[i] += 1
    order = sorted(range(len(places)), key=lambda i: places[i])
    numbered = dict(zip(order, number_names([names[i] for i in order]), strict=True))
    return [numbered[i] for i in range(len(places))]


def number_names(names: Sequence[str]) -> list[str]:
    """Names that outputs can have: above 200 bytes cut, with a hash; of those alike but for case, the later ones numbered."""
    cut = [_shorten(name) for name in names]
    taken = {name.casefold() for name in cut}
    given: set[str] = set()
    unique = []
    for name in cut:
        if name.casefold() in given:
            name = next(new for n in count(2) if (new := f"{name}_{n}").casefold() not in taken)
            taken.add(name.casefold())
        given.add(name.casefold())
        unique.append(name)
    return unique


def _shorten(name: str) -> str:
    stored = name.encode()
    if len(stored) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(stored).hexdigest()[:8]
    return f"{stored[: MAX_NAME_BYTES - 9].decode(errors='ignore')}-{digest}"
