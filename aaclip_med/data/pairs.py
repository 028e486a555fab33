"""Scans and their masks among files: which belongs to which, and what a case is called."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from aaclip_med.data.index import Case, join
from aaclip_med.data.volumes import case_name, find_images, read_mask, read_volume
from aaclip_med.errors import InputError
from aaclip_med.presets import get_preset

MASK_SUFFIXES = ("_seg", "_segmentation", "_mask", "_label", "_lesion", "_tumour", "_tumor", "_gt")
MASK_FOLDERS = (("images", "masks"), ("images", "labels"), ("imagesTr", "labelsTr"))


def build_index(
    folder: str | Path,
    preset_name: str,
    mask_suffixes: Sequence[str] = MASK_SUFFIXES,
    unlabelled_are_normal: bool = False,
    patient_pattern: str | None = None,
) -> list[Case]:
    """Make the cases of a folder of scans and masks. A scan is abnormal (1) if its mask has a voxel above 0, else 0.

    Masks are found in one of two ways. If ``folder`` holds ``images`` with ``masks`` or ``labels``, or ``imagesTr``
    with ``labelsTr``: by the same name there. Otherwise by suffix in the scan's own folder: ``X_mask`` belongs to
    ``X``, or else to the only scan named ``X_something``. ``patient`` is the case name, or what the one group of the
    regular expression ``patient_pattern`` finds in it.

    Raises:
        InputError: no images, a scan without a mask (unless ``unlabelled_are_normal``), a mask without a scan or with
            several, a mask of another geometry, an unreadable file, a pattern that does not match.
    """
    folder = Path(folder)
    class_name = get_preset(preset_name).class_name
    siblings = next(((a, b) for a, b in MASK_FOLDERS if (folder / a).is_dir() and (folder / b).is_dir()), None)
    if siblings:
        pairs = _pair_folders(folder / siblings[0], folder / siblings[1])
    else:
        pairs = _pair_suffixes(find_images([folder]), tuple(suffix.lower() for suffix in mask_suffixes))
    bare = [image for image, mask in pairs.items() if mask is None]
    if bare and not unlabelled_are_normal:
        raise InputError(join([f"{image}: no mask; add one, or say that unlabelled are normal" for image in bare]))
    return [
        Case(
            image,
            label=int(mask is not None and read_mask(mask, read_volume(image)).any()),
            class_name=class_name,
            mask_path=mask,
            patient=_patient(image, patient_pattern),
            preset=preset_name,
            row=row,
        )
        for row, (image, mask) in enumerate(pairs.items(), start=1)
    ]


def find_scans(paths: Sequence[str | Path]) -> tuple[list[Path], list[Path]]:
    """The images to score among files and folders, and those passed over.

    Passed over in a folder are our own heatmaps (``X_heatmap``) and files named as the mask of a scan that lies beside them
    (see ``build_index``). A file named by itself is always taken.

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
    stem = _mask_stem(name, MASK_SUFFIXES)
    return stem is not None and any(stem in (other, other.rpartition("_")[0]) for other in beside)


def _mask_stem(name: str, suffixes: Sequence[str]) -> str | None:
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


def _pair_folders(images: Path, masks: Path) -> dict[Path, Path | None]:
    found = {mask.parent.relative_to(masks) / case_name(mask): mask for mask in find_images([masks])}
    pairs = {image: found.pop(image.parent.relative_to(images) / case_name(image), None) for image in find_images([images])}
    if found:
        raise InputError(join([f"{mask}: no image of this name in {images}" for mask in found.values()]))
    return pairs


def _pair_suffixes(files: Sequence[Path], suffixes: tuple[str, ...]) -> dict[Path, Path | None]:
    stems = {file: _mask_stem(case_name(file), suffixes) for file in files}
    pairs: dict[Path, Path | None] = {file: None for file in files if stems[file] is None}
    problems = []
    for mask, stem in stems.items():
        if stem is None:
            continue
        beside = [image for image in pairs if image.parent == mask.parent]
        owners = [image for image in beside if case_name(image) == stem] or [
            image for image in beside if case_name(image).rpartition("_")[0] == stem
        ]
        if len(owners) != 1:
            belongs = f"could belong to {', '.join(image.name for image in owners)}" if owners else "belongs to no scan"
            problems.append(f"{mask}: this mask {belongs}; name it after its scan")
        elif pairs[owners[0]] is not None:
            problems.append(f"{mask}: {owners[0].name} has another mask, {pairs[owners[0]]}; keep one")
        else:
            pairs[owners[0]] = mask
    if problems:
        raise InputError(join(problems))
    return pairs


def _patient(image: Path, pattern: str | None) -> str:
    name = case_name(image)
    if pattern is None:
        return name
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"patient pattern '{pattern}' is not a regular expression: {error}") from None
    if expression.groups != 1:
        raise InputError(f"patient pattern '{pattern}' has {expression.groups} groups; write one, as in '(sub-[0-9]+)'")
    match = expression.search(name)
    if match is None or not match[1]:
        raise InputError(f"{image}: patient pattern '{pattern}' does not match '{name}'")
    return match[1]
