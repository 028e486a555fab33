"""BIDS (Brain Imaging Data Structure, bids-specification.readthedocs.io): anatomical scans, lesion masks as derivatives."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from aaclip_med.data.benchmarks.layouts import Layout, Listing, check_folder, misfit, number_rows
from aaclip_med.data.benchmarks.lesions import write_lesion_mask
from aaclip_med.data.index import Case, join
from aaclip_med.data.volumes import NIFTI_ENDINGS, case_name, read_mask, read_volume
from aaclip_med.errors import InputError
from aaclip_med.presets import PRESETS

TREE = (
    "sub-<id>/[ses-<id>/]anat/*_<FLAIR, T1w...>.nii.gz and derivatives/<name>/sub-<id>/**/*_[label-lesion_]{mask,dseg}.nii.gz"
)
LESION_WORDS = ("lesion", "tumor", "tumour", "infarct", "stroke", "wmh")
"""A mask with a ``label`` or ``desc`` is a lesion's if one of these is in it: ``desc-brain_mask`` is not."""

DERIVED_ENTITIES = {"space", "res", "den", "label", "desc", "atlas", "seg"}
"""What the name of a derivative may have beside the entities of its source."""


def build_bids(
    folder: Path,
    suffix: str | None = None,
    lesion_labels: Sequence[int] | None = None,
    masks_folder: Path | None = None,
    class_name: str | None = None,
    group_column: str | None = None,
    normal_groups: Sequence[str] | None = None,
) -> Listing:
    """The scans of one kind, a case each, with the patient ``sub-<id>``. No case gets a split.

    suffix: the kind of scan (``FLAIR``, ``T1w``); needed where there are several. class_name: default ``Brain``.
    lesion_labels: the values of a ``dseg`` that are lesions; their masks are derived and written to ``masks_folder``.
    group_column, normal_groups: the column of participants.tsv, and its values that mean normal. A scan of a normal
        participant needs no mask; one of another is abnormal even without. A mask's content decides before the column.

    The mask of a scan is a derivative of its subject and session, whose other entities (``acq``, ``run``...) are the scan's
    as far as it has any; a kind of scan in its name (``sub-01_FLAIR_mask``) must be this one's. A ``_mask`` of a lesion
    goes before a plain ``_mask``, which goes before a ``_dseg``.

    Raises:
        InputError: another layout, several kinds of scans and no ``suffix``, scans without a mask and nothing else that
            tells what they are, several masks for a scan, a mask of another geometry or on a normal participant's
            scan, a dseg without ``lesion_labels``.
        OutputError: a derived mask cannot be written.
    """
    check_folder(folder, TREE)
    scans = _list_scans(folder, suffix)
    groups = _read_groups(folder, group_column, normal_groups)
    masks = [path for path in sorted((folder / "derivatives").glob("*/sub-*/**/*")) if _kind(path) in ("mask", "dseg")]
    pairs, problems = {}, []
    for scan in scans:
        candidates = _find_masks(scan, masks)
        if len(candidates) > 1:
            names = ", ".join(path.relative_to(folder).as_posix() for path in candidates)
            problems.append(f"{scan}: several masks ({names}); keep one below derivatives")
        elif not candidates and _entities(scan)["sub"] not in groups:
            problems.append(f"{scan}: no lesion mask below derivatives, nor a group in participants.tsv")
        pairs[scan] = candidates[0] if candidates else None
    if problems:
        raise InputError(f"{join(problems)}; the layout should be {TREE}")
    name = class_name or "Brain"
    preset = next((preset.name for preset in PRESETS.values() if preset.class_name == name), None)
    cases = []
    for scan, found in pairs.items():
        subject = _entities(scan)["sub"]
        is_normal = groups.get(subject)
        is_ill, mask = not is_normal, found
        if found is not None:
            is_ill, mask = _read_lesion(scan, found, lesion_labels, masks_folder)
            if is_ill and is_normal:
                raise InputError(
                    f"{found}: a lesion in a participant whose group is normal; correct participants.tsv or the mask"
                )
        cases.append(Case(scan, int(is_ill), name, mask, patient=f"sub-{subject}", preset=preset))
    return Listing(number_rows(cases))


def _list_scans(folder: Path, suffix: str | None) -> list[Path]:
    found = sorted([*folder.glob("sub-*/anat/*"), *folder.glob("sub-*/ses-*/anat/*")])
    scans = [path for path in found if path.name.startswith("sub-") and _kind(path)]
    if not scans:
        raise misfit(folder, "no scan sub-<id>/[ses-<id>/]anat/*.nii.gz in it", TREE)
    kinds = sorted({_kind(path) for path in scans})
    if suffix is None and len(kinds) > 1:
        raise InputError(f"{folder}: scans of several kinds, {', '.join(kinds)}; choose one with suffix")
    if suffix is not None and suffix not in kinds:
        raise InputError(f"{folder}: no scan ends in _{suffix}.nii.gz; there are {', '.join(kinds)}")
    return [path for path in scans if suffix in (None, _kind(path))]


def _kind(path: Path) -> str:
    """The suffix in the sense of BIDS, what follows the last underscore: ``FLAIR``, ``mask``; empty for other files."""
    is_scan = path.name.lower().endswith(NIFTI_ENDINGS) and "_" in path.name
    return case_name(path).rpartition("_")[2] if is_scan else ""


def _entities(path: Path) -> dict[str, str]:
    """The pairs of a BIDS name: ``sub-01_ses-2_FLAIR`` -> sub 01, ses 2."""
    parts = [part.partition("-") for part in case_name(path).split("_")]
    return {key: value for key, dash, value in parts if dash}


def _find_masks(scan: Path, masks: Sequence[Path]) -> list[Path]:
    """The masks of the best kind that can belong to ``scan``."""
    of_scan = _entities(scan)
    ranked: dict[int, list[Path]] = {}
    for mask in masks:
        of_mask = _entities(mask)
        if any(of_mask.get(key) != of_scan.get(key) for key in ("sub", "ses")):
            continue
        if any(of_scan.get(key) != of_mask[key] for key in of_mask.keys() - DERIVED_ENTITIES):
            continue
        kinds = [part for part in case_name(mask).split("_")[:-1] if "-" not in part]
        if kinds and _kind(scan) not in kinds:
            continue
        rank = _rank(mask, of_mask)
        if rank is not None:
            ranked.setdefault(rank, []).append(mask)
    return ranked[min(ranked)] if ranked else []


def _rank(mask: Path, entities: dict[str, str]) -> int | None:
    """0 the mask of a lesion, 1 a plain mask, 2 a segmentation of several values, None something else."""
    words = " ".join(entities.get(key, "") for key in ("label", "desc")).casefold().strip()
    if any(word in words for word in LESION_WORDS):
        return 0 if _kind(mask) == "mask" else 2
    if _kind(mask) == "mask":
        return None if words else 1
    return 2


def _read_lesion(scan: Path, mask: Path, lesion_labels: Sequence[int] | None, masks_folder: Path | None) -> tuple[bool, Path]:
    """Whether the scan has a lesion, and the mask of it."""
    volume = read_volume(scan)
    if _kind(mask) == "mask":
        return bool(read_mask(mask, volume).any()), mask
    if not lesion_labels:
        raise InputError(f"{mask}: a segmentation of several values; say which are lesions with lesion_labels")
    if masks_folder is None:
        raise InputError(
            f"{mask}: masks of labels {', '.join(map(str, lesion_labels))} are derived; say where to with masks_folder"
        )
    derived = masks_folder / f"{case_name(scan)}_lesion.nii.gz"
    return write_lesion_mask(mask, volume, lesion_labels, derived), derived


def _read_groups(folder: Path, column: str | None, normal_groups: Sequence[str] | None) -> dict[str, bool]:
    """Subject id -> whether its group is a normal one; empty without a column."""
    if column is None and normal_groups is None:
        return {}
    if column is None or not normal_groups:
        raise InputError(f"{folder}: give group_column and normal_groups together")
    path = folder / "participants.tsv"
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path}: cannot be read as a table with tabs ({error}); it should name each participant's {column}"
        ) from None
    missing = [name for name in ("participant_id", column) if not rows or name not in rows[0]]
    if missing:
        named = [name for name in rows[0] if name] if rows else ["no rows"]
        raise InputError(f"{path}: no column {', '.join(missing)}; there are {', '.join(named)}")
    values = {row[column] for row in rows}
    unknown = [group for group in normal_groups if group not in values]
    if unknown:
        raise InputError(f"{path}: nobody's {column} is {', '.join(unknown)}; there are {', '.join(sorted(map(str, values)))}")
    known = [row for row in rows if row["participant_id"] and row[column] not in (None, "", "n/a")]
    return {row["participant_id"].removeprefix("sub-"): row[column] in normal_groups for row in known}


LAYOUTS = {
    "bids": Layout(
        "BIDS with derivatives",
        TREE,
        "bids-specification.readthedocs.io",
        build_bids,
        options=("class_name", "lesion_labels", "masks_folder", "suffix", "group_column", "normal_groups"),
    )
}
