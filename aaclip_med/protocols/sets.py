"""The sets that protocols name: where they lie, how they are read, where they are to be had."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from aaclip_med.data.benchmarks.registry import FORMATS, build_benchmark_index
from aaclip_med.data.index import Case, read_index, write_index
from aaclip_med.data.sampling import check_leaks, few_shot, name_patients, patient_of
from aaclip_med.errors import InputError
from aaclip_med.protocols.config import FULL, Shots
from aaclip_med.scoring.metrics import Domain

PICTURES = "retinal-oct"
"""The preset under which pictures are shown as they are stored; what their prompts say depends on their class."""
HELD_OUT = " (held out)"
"""Ends the name under which slices of a patient who is trained on as well choose the epoch."""
GAP_SHARE = 20
"""Between these and those trained on, one slice in so many is left out, and one at least."""


@dataclass(frozen=True)
class PublishedSet:
    """A published set. folders: what its folder may be called. home: where it is given out, with an address. teaches: the
    rows that are learned from, ``test`` where all anomalies of the published split are in its test part, else ``rest``: those
    that are not tested on.
    """

    title: str
    folders: tuple[str, ...]
    format: str
    home: str
    preset: str = PICTURES
    domain: Domain = "medical"
    teaches: Literal["test", "rest"] = "rest"

    @property
    def source(self) -> str:
        """Paper and where to get it."""
        return f"{FORMATS[self.format].source}; {self.home}"


BMAD = "https://github.com/DorisBao/BMAD, or made of {} with 'aaclip-med convert'"
POLYPS = "in the collection that AA-CLIP's authors link to, https://figshare.com/articles/figure/Polyp_DataSet_zip/21221579"

SETS = {
    "brain": PublishedSet(
        "Brain (BMAD)", ("BMAD/Brain", "Brain", "Brain_AD"), "bmad-brain", BMAD.format("BraTS 2021"), "brain-mri"
    ),
    "liver": PublishedSet(
        "Liver (BMAD)", ("BMAD/Liver", "Liver", "Liver_AD"), "bmad-liver", BMAD.format("BTCV and LiTS"), "liver-ct"
    ),
    "retina": PublishedSet(
        "Retina (BMAD, RESC)",
        ("BMAD/Retina_RESC", "BMAD/Retina", "Retina_RESC", "Retina"),
        "bmad-retina-resc",
        BMAD.format("RESC"),
    ),
    "clinicdb": PublishedSet(
        "CVC-ClinicDB", ("CVC-ClinicDB", "Colon/CVC-ClinicDB"), "cvc-clinicdb", "https://polyp.grand-challenge.org/CVCClinicDB/"
    ),
    "colondb": PublishedSet("CVC-ColonDB", ("CVC-ColonDB", "Colon/CVC-ColonDB"), "cvc-colondb", POLYPS),
    "cvc300": PublishedSet("CVC-300", ("CVC-300", "Colon/CVC-300"), "cvc-300", POLYPS),
    "kvasir": PublishedSet(
        "Kvasir-SEG", ("Kvasir-SEG", "Kvasir", "Colon/Kvasir"), "kvasir", "https://datasets.simula.no/kvasir-seg/"
    ),
    "mvtec": PublishedSet(
        "MVTec AD",
        ("MVTec", "mvtec_anomaly_detection"),
        "mvtec",
        "https://www.mvtec.com/company/research/datasets/mvtec-ad",
        domain="industrial",
        teaches="test",
    ),
    "visa": PublishedSet(
        "VisA", ("VisA",), "visa", "https://github.com/amazon-science/spot-diff", domain="industrial", teaches="test"
    ),
    "mpdd": PublishedSet("MPDD", ("MPDD",), "mpdd", "https://github.com/stepanje/MPDD", domain="industrial", teaches="test"),
    "btad": PublishedSet(
        "BTAD",
        ("BTAD", "BTech_Dataset_transformed"),
        "btad",
        "https://github.com/pankajmishra000/VT-ADL",
        domain="industrial",
        teaches="test",
    ),
}
"""Every published set by the name that protocols call it."""


@dataclass(frozen=True)
class FoundSet:
    """A set that is on disk. path: its folder, or an index of one's own."""

    name: str
    title: str
    path: Path
    published: PublishedSet | None

    @property
    def domain(self) -> Domain:
        """Which of the released program's protocols it is judged by."""
        return self.published.domain if self.published else "medical"

    def identify(self, data: Path) -> str:
        """What a later run must find again: the folder below ``data``, or the SHA-256 of an index of one's own."""
        is_folder = self.path.is_dir()
        return self.path.relative_to(data).as_posix() if is_folder else hashlib.sha256(self.path.read_bytes()).hexdigest()

    def read(self, index: Path) -> list[Case]:
        """Its rows, each with its preset. A published layout is read once, and then taken from ``index``.

        Raises:
            InputError: its layout or its index is not what it should be, or a row says no preset.
            OutputError: the index cannot be written.
        """
        if self.path.is_file():
            cases = read_index(self.path)
        elif index.is_file():
            cases = read_index(index)
        else:
            assert self.published is not None
            cases = build_benchmark_index(self.published.format, self.path)
            write_index(cases, index)
        preset = self.published.preset if self.published else None
        cases = [replace(case, preset=case.preset or preset) for case in cases]
        if any(case.preset is None for case in cases):
            raise InputError(f"{self.path}: rows without a preset; name one in each")
        return cases

    def choose_test(self, cases: Sequence[Case]) -> list[Case]:
        """The rows that are tested on: the test split, or all where there is none.

        Raises:
            InputError: there are splits, and no test split.
        """
        whole = all(case.split is None for case in cases)
        chosen = [case for case in cases if whole or case.split == "test"]
        if not chosen:
            raise InputError(f"{self.path}: no row of split 'test'")
        return chosen

    def choose_lessons(self, cases: Sequence[Case], tested: bool = False) -> list[Case]:
        """The rows that may be learned from, without their splits. ``tested``: the set's test rows are tested on afterwards.

        Raises:
            InputError: there is none; or, where they are ``tested``, a patient of theirs is in the test too, or cannot be told.
        """
        teaches_test = self.published is not None and self.published.teaches == "test"
        chosen = [replace(case, split=None) for case in cases if case.split and (case.split == "test") is teaches_test]
        if not chosen:
            raise InputError(f"{self.path}: no row to learn from beside those of the test; give rows the splits train and test")
        if tested:
            test = [case for case in cases if case.split == "test"]
            check_leaks(name_patients([*(replace(case, split="train") for case in chosen), *test]))
        return chosen


def find_set(name: str, data: Path) -> FoundSet | None:
    """The set ``name`` below ``data``: a folder, or an index of one's own, ``<folder>.jsonl`` or ``<name>.jsonl``."""
    published = SETS.get(name)
    for place in (*(published.folders if published else ()), name):
        index = data / f"{place}.jsonl"
        if index.is_file():
            return FoundSet(name, index.name, index, published)
        if published and (data / place).is_dir():
            return FoundSet(name, published.title, data / place, published)
    return None


def describe_missing(name: str) -> str:
    """What is missing, what it may be called, and where it is to be had. Holds no folder of this machine."""
    published = SETS.get(name)
    if published is None:
        return f"{name}: no {name}.jsonl, an index of your own; the published sets are {', '.join(SETS)}"
    places = " or ".join(published.folders)
    return f"{published.title}: no folder {places}, nor {published.folders[0]}.jsonl; see {published.source}"


class Lessons(NamedTuple):
    """What is learned from. cases: rows of split ``train``, and of ``val`` those that choose the epoch; of ``full`` without.
    notes: where there were fewer than asked for, or the epoch is not chosen on other patients.
    """

    cases: list[Case]
    notes: list[str]


def draw_lessons(cases: Sequence[Case], shots: Shots, validation_shots: int, seed: int, normal_only: bool = False) -> Lessons:
    """The rows that are trained on, and those that choose the epoch, of other patients.

    Patients for validation are set aside first, by ``seed``: as few as give ``validation_shots`` normal and abnormal cases of
    each class. ``shots`` of each are drawn from the others, as many as there are. Where one patient alone has the normal or
    abnormal cases of a class, other slices of it choose the epoch, a gap away; its name in ``val`` then says so. ``full``: all
    rows, without a choice for validation.

    Raises:
        InputError: a class has too few, or a volume's patient cannot be told.
    """
    if shots == FULL:
        return Lessons([case for case in cases if not (normal_only and case.label)], [])
    drawn: list[Case] = []
    notes: list[str] = []
    cases = name_patients(cases)
    for class_name in sorted({case.class_name for case in cases}):
        group = [case for case in cases if case.class_name == class_name]
        if validation_shots:
            group = _part_lone_patients(group, validation_shots)
        aside = _set_aside(group, validation_shots, np.random.default_rng([seed, zlib.crc32(class_name.encode())]))
        rest = [case for case in group if patient_of(case) not in aside]
        held = [case for case in group if patient_of(case) in aside]
        taken, kept = max(1, min(shots, _count_pairs(rest))), min(validation_shots, _count_pairs(held))
        drawn += [replace(case, split="train") for case in few_shot(rest, taken, seed)]
        drawn += [replace(case, split="val") for case in (few_shot(held, kept, seed) if kept else [])]
        if taken < shots:
            why = "it has no more beside what is set aside for validation" if aside else "it has no more"
            notes.append(f"{class_name}: {taken} shots where {shots} were asked for; {why}")
        if kept < validation_shots:
            notes.append(f"{class_name}: {kept} validation shots where {validation_shots} were asked for; it has no more")
        if any(patient.endswith(HELD_OUT) for patient in aside):
            notes.append(f"{class_name}: the epoch is chosen on slices of a patient who is trained on too; there is no other")
    return Lessons(drawn, notes)


def _set_aside(cases: Sequence[Case], wanted: int, rng: np.random.Generator) -> set[str]:
    """Patients with ``wanted`` abnormal and normal cases or as many as there are; others are left with one of each at least.

    As few as will do: first those that give most of what is lacking, of these rather one without abnormal cases that are not
    wanted, and none with more than half of all; then by lot.
    """
    patients = sorted({patient_of(case) for case in cases})
    counts = {label: Counter(patient_of(case) for case in cases if case.label == label) for label in (0, 1)}
    order = [patients[number] for number in rng.permutation(len(patients))]
    aside = {patient for patient in order if patient.endswith(HELD_OUT)}

    def leaves_enough(patient: str) -> bool:
        return all(counts[label].keys() - aside - {patient} for label in (0, 1))

    for label in (1, 0):
        while (lacking := wanted - sum(counts[label][patient] for patient in aside)) > 0:
            able = [one for one in order if one not in aside and counts[label][one] and leaves_enough(one)]
            if not able:
                break
            total = counts[label].total()
            aside.add(
                min(
                    able,
                    key=lambda one: (
                        not label and counts[1][one] > 0,
                        -min(counts[label][one], lacking),
                        2 * counts[label][one] > total,
                    ),
                )
            )
    return aside


def _part_lone_patients(cases: Sequence[Case], wanted: int) -> list[Case]:
    """The same cases, but where one patient alone has those of a label, the first few in its scan are held out, and a gap."""
    parted = list(cases)
    for label in (1, 0):
        own = sorted((case for case in parted if case.label == label), key=_place)
        held = min(wanted, (len(own) - 1) // 2)
        if held < 1 or len({patient_of(case) for case in own}) > 1 or len({case.image_path for case in own}) < len(own):
            continue
        start = min(held + max(1, len(own) // GAP_SHARE), len(own) - 1)
        named = [replace(case, patient=f"{patient_of(case)}{HELD_OUT}") for case in own[:held]]
        parted = [*(case for case in parted if case.label != label), *named, *own[start:]]
    return parted


def _place(case: Case) -> tuple[int, str]:
    """Where a slice lies in its scan: the last number in its name."""
    numbers = re.findall(r"\d+", case.name)
    return int(numbers[-1]) if numbers else 0, case.image_path.as_posix()


def _count_pairs(cases: Sequence[Case]) -> int:
    """The lower of the numbers of normal and abnormal cases."""
    abnormal = sum(case.label for case in cases)
    return min(abnormal, len(cases) - abnormal)
