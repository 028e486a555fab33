"""Which cases are learned from: few-shot choices and splits by patient, the same for the same seed."""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aaclip_med.data.digests import hash_file
from aaclip_med.data.index import SPLITS, Case, SplitName, join
from aaclip_med.data.patients import find_patients
from aaclip_med.data.volumes import PICTURE_ENDINGS, list_files
from aaclip_med.errors import InputError


def few_shot(cases: Sequence[Case], shots: int, seed: int) -> list[Case]:
    """``shots`` normal and ``shots`` abnormal cases of each class, whatever the order of ``cases``.

    A class's choice depends on the seed and on its own cases alone, and the choice of fewer shots is part of the choice
    of more. Sorted by class, label and place in the draw.

    Raises:
        InputError: ``shots`` is below 1, or a class has too few normal or abnormal cases.
    """
    if shots < 1:
        raise InputError(f"{shots} shots; take at least 1")
    groups: dict[str, tuple[list[Case], list[Case]]] = defaultdict(lambda: ([], []))
    for case in sorted(cases, key=_order):
        groups[case.class_name][case.label].append(case)
    chosen = []
    for class_name, (normal, abnormal) in sorted(groups.items()):
        if min(len(normal), len(abnormal)) < shots:
            raise InputError(
                f"class {class_name} has {len(normal)} normal and {len(abnormal)} abnormal cases, too few for {shots} "
                "shots of each; add cases or take fewer shots"
            )
        rng = np.random.default_rng([seed, zlib.crc32(class_name.encode())])
        for group in (normal, abnormal):
            chosen += [group[i] for i in rng.permutation(len(group))[:shots]]
    return chosen


def split_by_patient(
    cases: Sequence[Case], fractions: tuple[float, float, float] = (0.7, 0.15, 0.15), seed: int = 0
) -> list[Case]:
    """The same cases, in the same order, with ``split`` set: all cases of a patient fall into one split.

    ``fractions`` are the shares of patients in train, val and test. Patients with an abnormal case are spread over the
    splits in the same proportions as patients without. Each split with a share gets a patient, and one with an abnormal
    case as far as there are enough. Rows without ``patient`` get one, see ``name_patients``; a picture stands for itself.

    Raises:
        InputError: the fractions are not shares of 1, there are fewer patients than splits, or a volume's is not told.
    """
    cases = name_patients(cases)
    if len(fractions) != 3 or min(fractions) < 0 or not np.isclose(sum(fractions), 1.0):
        raise InputError(f"fractions {tuple(fractions)}; give the shares of train, val and test, which sum to 1")
    abnormal: dict[str, bool] = defaultdict(bool)
    for case in cases:
        abnormal[patient_of(case)] |= case.label == 1
    needed = sum(fraction > 0 for fraction in fractions)
    if len(abnormal) < needed:
        raise InputError(
            f"{len(abnormal)} patients cannot be split over {needed} splits; add some, or name the patient of each case "
            "(index build --patient-pattern)"
        )
    rng = np.random.default_rng(seed)
    ill, well = ([patient for patient in sorted(abnormal) if abnormal[patient] is flag] for flag in (True, False))
    counts = _apportion(len(abnormal), np.array(fractions))
    ill_counts = _apportion(len(ill), counts)
    split_of: dict[str, SplitName] = {}
    for patients, shares in ((ill, ill_counts), (well, counts - ill_counts)):
        names = np.repeat(np.arange(len(SPLITS)), shares)
        split_of |= {patients[i]: SPLITS[n] for i, n in zip(rng.permutation(len(patients)), names, strict=True)}
    return [replace(case, split=split_of[patient_of(case)]) for case in cases]


def check_leaks(cases: Sequence[Case]) -> None:
    """Make sure that no patient and no image is in two splits. Cases without a split do not count.

    Test rows of a scan whose other ``slices`` are trained or validated on pass: who names both has parted it on purpose.

    Raises:
        InputError: one is; the first ten are named.
    """
    splits: dict[str, set[SplitName]] = defaultdict(set)
    for case in _leave_parted(cases):
        if case.split is not None:
            splits[f"patient {patient_of(case)}"].add(case.split)
            splits[f"image {case.image_path.resolve()}"].add(case.split)
    leaks = [
        f"{what} is in {' and '.join(split for split in SPLITS if split in found)}"
        for what, found in splits.items()
        if len(found) > 1
    ]
    if leaks:
        raise InputError(f"{join(leaks)}; keep each patient in one split")


def check_copies(cases: Sequence[Case]) -> None:
    """Make sure that no file's content is in two splits. Cases without a split, and folders, do not count, nor do parts of a
    scan, see ``check_leaks``.

    Only files of equal size are read: SHA-256 of their bytes tells whether they are the same, for a volume of several files
    that of each. The same picture saved in another way is not found.

    Raises:
        InputError: one is; the first ten are named.
    """
    leaks = []
    for same in _group_by_content([case for case in _leave_parted(cases) if case.image_path.is_file()]):
        splits = {case.split for case in same}
        if len(splits) > 1:
            where = " and ".join(split for split in SPLITS if split in splits)
            one, *others = sorted(same, key=lambda case: case.image_path)
            other = next(case for case in others if case.split != one.split)
            leaks.append(f"{one.image_path} and {other.image_path} are the same file, in {where}")
    if leaks:
        raise InputError(f"{join(leaks)}; keep it in one split")


def name_patients(cases: Sequence[Case]) -> list[Case]:
    """The same cases, each volume without ``patient`` with the one that names and folders tell, see ``find_patients``.

    Raises:
        InputError: they do not tell it.
    """
    bare = {case.image_path.absolute() for case in cases if case.patient is None and not _is_picture(case)}
    if not bare:
        return list(cases)
    images = sorted(bare)
    folder = Path(os.path.commonpath([image.parent for image in images]))
    found = dict(zip(images, find_patients(images, folder), strict=True))
    return [replace(case, patient=case.patient or found.get(case.image_path.absolute())) for case in cases]


def patient_of(case: Case) -> str:
    """Who the case is of: its ``patient``; without one a volume's name, or a picture's path.

    Copies of a volume keep its name, whereas pictures are often just numbered, again in each folder.
    """
    if case.patient is not None:
        return case.patient
    return str(case.image_path.resolve()) if _is_picture(case) else case.name


def _leave_parted(cases: Sequence[Case]) -> list[Case]:
    """The cases of a split without the test rows that are parts of a scan which is learned from: rows of both kinds name its
    ``slices``, and none twice. Who parts a scan so, with a gap, knows that one patient is on both sides.
    """
    split = [case for case in cases if case.split is not None]
    learned: dict[Path, list[tuple[int, int] | None]] = defaultdict(list)
    for case in split:
        if case.split != "test":
            learned[case.image_path.resolve()].append(case.slices)

    def is_part(case: Case) -> bool:
        others = learned.get(case.image_path.resolve()) if case.split == "test" else None
        own = case.slices
        if not others or own is None:
            return False
        return all(other is not None and (other[1] < own[0] or own[1] < other[0]) for other in others)

    return [case for case in split if not is_part(case)]


def _is_picture(case: Case) -> bool:
    return case.image_path.name.lower().endswith(PICTURE_ENDINGS)


def _group_by_content(cases: Sequence[Case]) -> list[list[Case]]:
    by_size: dict[tuple[int, ...], list[Case]] = defaultdict(list)
    for case in cases:
        by_size[tuple(file.stat().st_size for file in list_files(case.image_path))].append(case)
    by_content: dict[tuple[str, ...], list[Case]] = defaultdict(list)
    for alike in by_size.values():
        if len({case.split for case in alike}) > 1:
            for case in alike:
                by_content[tuple(map(hash_file, list_files(case.image_path)))].append(case)
    return [group for group in by_content.values() if len(group) > 1]


def _order(case: Case) -> tuple[str, tuple[int, int]]:
    return case.image_path.as_posix(), case.slices or (-1, -1)


def _apportion(total: int, weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Whole numbers in proportion to ``weights`` that sum to ``total``, by largest remainder.

    Where ``total`` allows it, each weight above 0 gets at least 1, taken from the largest.
    """
    exact = total * weights / weights.sum()
    counts: np.ndarray[Any, Any] = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    for i in np.flatnonzero((weights > 0) & (counts == 0)):
        if counts.max() > 1:
            counts[counts.argmax()] -= 1
            counts[i] = 1
    return counts
