"""The sets that protocols name: where they lie, how they are read, where they are to be had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from aaclip_med.data.benchmarks.registry import FORMATS, build_benchmark_index
from aaclip_med.data.index import Case, read_index, write_index
from aaclip_med.data.sampling import few_shot, patient_of
from aaclip_med.errors import InputError
from aaclip_med.protocols.config import FULL, Shots
from aaclip_med.scoring.metrics import Domain

PICTURES = "retinal-oct"
"""The preset under which pictures are shown as they are stored; what their prompts say depends on their class."""


@dataclass(frozen=True)
class PublishedSet:
    """A published set. folders: what its folder may be called. home: who gives it out, in words. teaches: the rows that are
    learned from, ``test`` where all anomalies of the published split are in its test part, else ``rest``: those that are not
    tested on.
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
        """Paper and giver."""
        return f"{FORMATS[self.format].source}; from {self.home}"


BMAD = "the archive that BMAD's authors link to in their repository, or made of {} with 'aaclip-med convert'"
BARCELONA = "the Computer Vision Center, Barcelona"

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
        "CVC-ClinicDB", ("CVC-ClinicDB", "Colon/CVC-ClinicDB"), "cvc-clinicdb", "Grand Challenge's pages on polyps"
    ),
    "colondb": PublishedSet("CVC-ColonDB", ("CVC-ColonDB", "Colon/CVC-ColonDB"), "cvc-colondb", BARCELONA),
    "cvc300": PublishedSet("CVC-300", ("CVC-300", "Colon/CVC-300"), "cvc-300", BARCELONA),
    "kvasir": PublishedSet("Kvasir-SEG", ("Kvasir-SEG", "Kvasir", "Colon/Kvasir"), "kvasir", "Simula's datasets"),
    "mvtec": PublishedSet(
        "MVTec AD", ("MVTec", "mvtec_anomaly_detection"), "mvtec", "MVTec's own site", domain="industrial", teaches="test"
    ),
    "visa": PublishedSet(
        "VisA", ("VisA",), "visa", "Amazon Science's repository of the paper", domain="industrial", teaches="test"
    ),
    "mpdd": PublishedSet("MPDD", ("MPDD",), "mpdd", "its authors' repository", domain="industrial", teaches="test"),
    "btad": PublishedSet(
        "BTAD",
        ("BTAD", "BTech_Dataset_transformed"),
        "btad",
        "its authors' repository (VT-ADL)",
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

    def choose_lessons(self, cases: Sequence[Case]) -> list[Case]:
        """The rows that may be learned from, without their splits.

        Raises:
            InputError: there is none.
        """
        teaches_test = self.published is not None and self.published.teaches == "test"
        chosen = [replace(case, split=None) for case in cases if case.split and (case.split == "test") is teaches_test]
        if not chosen:
            raise InputError(f"{self.path}: no row to learn from beside those of the test; give rows the splits train and test")
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


def draw_lessons(
    cases: Sequence[Case], shots: Shots, validation_shots: int, seed: int, normal_only: bool = False
) -> list[Case]:
    """The rows that are trained on, and those that choose the epoch (split ``val``), of other patients.

    ``shots`` normal and as many abnormal ones of each class, drawn by ``seed``; of a class that has fewer, as many as leave
    ``validation_shots``. ``full``: all rows, without a choice for validation.

    Raises:
        InputError: a class has too few.
    """
    if shots == FULL:
        return [case for case in cases if not (normal_only and case.label)]
    drawn: list[Case] = []
    for class_name in sorted({case.class_name for case in cases}):
        group = [case for case in cases if case.class_name == class_name]
        have = _count_pairs(group)
        chosen = few_shot(group, max(1, min(shots, have - validation_shots)), seed)
        patients = {patient_of(case) for case in chosen}
        rest = [case for case in group if patient_of(case) not in patients]
        kept = min(validation_shots, _count_pairs(rest))
        drawn += [replace(case, split="train") for case in chosen]
        drawn += [replace(case, split="val") for case in (few_shot(rest, kept, seed) if kept else [])]
    return drawn


def _count_pairs(cases: Sequence[Case]) -> int:
    """The lower of the numbers of normal and abnormal cases."""
    abnormal = sum(case.label for case in cases)
    return min(abnormal, len(cases) - abnormal)
