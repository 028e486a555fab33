"""Scans among files: which files are scans and which lie beside one, and what a scan's output is called."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from aaclip_med.data.volumes import case_name, find_images
from aaclip_med.errors import InputError

MASK_SUFFIXES = ("_seg", "_segmentation", "_mask", "_label", "_lesion", "_tumour", "_tumor", "_gt")


def find_scans(paths: Sequence[str | Path]) -> tuple[list[Path], list[Path]]:
    """The images to score among files and folders, and those passed over.

    Passed over in a folder are our own heatmaps (``X_heatmap``) and files named as the mask of a scan that lies beside them
    (see ``data.pairs.build_index``). A file named by itself is always taken.

    Raises:
        InputError: as ``find_images``; or a folder holds nothing else.
    """
    found = find_images(paths)
    named = {Path(path).resolve() for path in paths}
    names: dict[Path, set[str]] = {}
    for file in found:
        names.setdefault(file.parent, set()).add(case_name(file))
    scans: list[Path] = []
    passed_over: list[Path] = []
    for file in found:
        beside = names[file.parent] - {case_name(file)}
        (passed_over if file.resolve() not in named and _is_by_product(file, beside) else scans).append(file)
    if not scans:
        raise InputError(f"{passed_over[0].parent}: only masks and heatmaps in this folder; name a scan")
    return scans, passed_over


def _is_by_product(file: Path, beside: set[str]) -> bool:
    name = case_name(file)
    if name.endswith("_heatmap"):
        return True
    stem = mask_stem(name, MASK_SUFFIXES)
    return stem is not None and any(stem in (other, other.rpartition("_")[0]) for other in beside)


def mask_stem(name: str, suffixes: Sequence[str]) -> str | None:
    """``X`` of the mask name ``X_seg``; None for another name."""
    lengths = [len(suffix) for suffix in suffixes if name.lower().endswith(suffix)]
    return name[: -max(lengths)] if lengths else None


def unique_names(paths: Sequence[str | Path]) -> list[str]:
    """One output name a path, no two alike (not even but for case), each the same whatever the order of ``paths``.

    It is the case name. Where several are the same, their folders' names are put before it (``b/a.nii.gz`` -> ``b_a``),
    as many as it takes; files of one folder that differ in their ending alone keep that (``a_nii_gz``, ``a_nrrd``). The
    same path given twice is numbered.
    """
    places = [Path(path).parent.resolve() / Path(path).name for path in paths]
    folders = [place.parent.parts[1:] for place in places]
    in_folder = Counter((place.parent, case_name(place).casefold()) for place in set(places))
    stems = [case_name(p) if in_folder[p.parent, case_name(p).casefold()] == 1 else p.name.replace(".", "_") for p in places]
    depths = [0] * len(places)
    while True:
        names = ["_".join((*f[len(f) - d :], s)) for f, d, s in zip(folders, depths, stems, strict=True)]
        groups: dict[str, list[int]] = defaultdict(list)
        for i, name in enumerate(names):
            groups[name.casefold()].append(i)
        clashes = [group for group in groups.values() if len(group) > 1]
        deeper = [
            i for group in clashes for i in group if depths[i] == max(depths[j] for j in group) and depths[i] < len(folders[i])
        ]
        if not deeper:
            break
        for i in deeper:
            depths[i] += 1
    for group in clashes:
        for i in sorted(group, key=lambda i: places[i])[1:]:
            taken = {name.casefold() for name in names}
            number = next(n for n in count(2) if f"{names[i]}_{n}".casefold() not in taken)
            names[i] += f"_{number}"
    return names
