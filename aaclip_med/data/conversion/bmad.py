"""From the published volumes to slices in BMAD's layout (Bao et al., arXiv 2306.11876).

Two recipes. ``bmad`` follows what the benchmark describes, with its flaws, for comparison with published figures; its
own choice of patients and slices is not published, so the pictures are alike and not the same files. ``corrected``
undoes the flaws:

==============  =====================================  ==========================================================
                bmad                                   corrected
==============  =====================================  ==========================================================
orientation     as stored (``native``): rows along J,  ``axial`` in radiological convention: anterior at the top,
                columns along I                        the patient's right on the left
brain, scaling  min-max of each slice                  0.5th to 99.5th percentile of the whole head
liver, scaling  test clipped to -200..250 HU, train    -200..250 HU in train and test, the same grey for the same
                not; then min-max of each slice        HU everywhere
masks           stored values, brain's by slice        0 and 255
==============  =====================================  ==========================================================

Under both, a slice is normal if no voxel of its own mask is a lesion, slices with a lesion are kept out of training, and
all slices of a patient fall into one split. Nothing is resampled: a picture has the size of its slice. Pixel (row,
column) of slice s shows the voxel ``SlicePlan.voxel_index(s, row, column)``; ``conversion.json`` holds each scan's plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aaclip_med.data.benchmarks.layouts import check_folder, count_cases, number_rows
from aaclip_med.data.benchmarks.names import RECIPES, SOURCES
from aaclip_med.data.conversion.brats import BRATS_TREE, cut_brain, find_brats
from aaclip_med.data.conversion.liver import LIVER_TREE, cut_liver, find_liver
from aaclip_med.data.conversion.resc import RESC_TREE, cut_retina, find_resc
from aaclip_med.data.conversion.scans import Array, Scan, Slices
from aaclip_med.data.index import Case, SplitName, write_index
from aaclip_med.data.sampling import check_leaks, split_by_patient
from aaclip_med.data.staging import staged_folder
from aaclip_med.data.writing import write_file, write_json
from aaclip_med.errors import InputError
from aaclip_med.presets import get_preset

FRACTIONS = (0.7, 0.1, 0.2)
"""Shares of patients in train, val and test. Of LiTS, which gives none to train, the last two in their proportion."""

_SPLIT_FOLDERS: dict[SplitName, str] = {"train": "train", "val": "valid", "test": "test"}

Track = Callable[[Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True)
class ConversionSummary:
    """What was written. counts: split -> normal, abnormal, abnormal_without_mask. index: the index file in ``folder``."""

    source: str
    recipe: str
    folder: Path
    index: Path
    scans: int
    patients: int
    counts: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class _Source:
    preset: str
    tree: str
    find: Callable[[Path], list[Scan]]
    cut: Callable[[Scan, str, SplitName], Slices]


def convert(
    source: str,
    folder: str | Path,
    out: str | Path,
    recipe: str = "corrected",
    fractions: tuple[float, float, float] = FRACTIONS,
    seed: int = 0,
    track: Track = iter,
) -> ConversionSummary:
    """Write the slices of a published set into ``out``: BMAD's layout, ``index.jsonl`` and ``conversion.json``.

    source: ``brats2021`` (FLAIR), ``liver`` (BTCV for train, LiTS for val and test) or ``resc`` (OCT). ``out`` appears
    when all is done; after a failure there is nothing. ``fractions`` and ``seed`` are those of ``split_by_patient``.
    ``track`` goes through the scans, to show progress.

    Raises:
        InputError: an unknown source or recipe, another layout, a scan or label map that cannot be used, too few
            patients, or no normal or no abnormal slice for a split that needs it.
        OutputError: ``out`` holds something already, or cannot be written.
    """
    if source not in SOURCES:
        raise InputError(f"unknown source '{source}'; choose one of {', '.join(SOURCES)}")
    if recipe not in RECIPES:
        raise InputError(f"unknown recipe '{recipe}'; choose one of {', '.join(RECIPES)}")
    folder, out = Path(folder), Path(out).absolute()
    kind = _SOURCES[source]
    check_folder(folder, kind.tree)
    scans = kind.find(folder)
    splits = _split(scans, fractions, seed)
    cases: list[Case] = []
    accounts = {}
    with staged_folder(out) as staging:
        for scan in track(scans):
            split = splits[scan.patient]
            slices = kind.cut(scan, recipe, split)
            written = _write_slices(scan, slices, split, staging, kind.preset)
            cases += written
            accounts[scan.name] = _describe(scan, slices, split, len(written))
        _check_kinds(cases, folder)
        check_leaks(cases)
        cases = number_rows(cases)
        write_index(cases, staging / "index.jsonl")
        counts = count_cases(cases)
        account = {
            "source": source,
            "recipe": recipe,
            "aaclip_med": _version(),
            "fractions": fractions,
            "seed": seed,
            "counts": counts,
            "scans": accounts,
        }
        write_json(staging / "conversion.json", account)
    return ConversionSummary(source, recipe, out, out / "index.jsonl", len(scans), len(splits), counts)


_SOURCES = {
    "brats2021": _Source("brain-mri", BRATS_TREE, find_brats, cut_brain),
    "liver": _Source("liver-ct", LIVER_TREE, find_liver, cut_liver),
    "resc": _Source("retinal-oct", RESC_TREE, find_resc, cut_retina),
}


def _split(scans: Sequence[Scan], fractions: tuple[float, float, float], seed: int) -> dict[str, SplitName]:
    """Patient -> split. BTCV is all for training, and LiTS all for the rest."""
    splits: dict[str, SplitName] = {scan.patient: "train" for scan in scans if scan.name.startswith("BTCV_")}
    others = [Case(scan.image, 1, "", patient=scan.patient) for scan in scans if scan.patient not in splits]
    if splits:
        rest = sum(fractions[1:])
        if rest <= 0:
            raise InputError(f"fractions {fractions}; give val or test a share, LiTS is for these alone")
        fractions = (0.0, fractions[1] / rest, fractions[2] / rest)
    for case in split_by_patient(others, fractions, seed):
        if case.patient is not None and case.split is not None:
            splits[case.patient] = case.split
    return splits


def _write_slices(scan: Scan, slices: Slices, split: SplitName, folder: Path, preset: str) -> list[Case]:
    """Write the slices into BMAD's layout and return their cases; those with a lesion are left out of training."""
    cases = []
    for number, picture, mask, is_ill in zip(slices.numbers, slices.pictures, slices.masks, slices.is_ill, strict=True):
        if is_ill and split == "train":
            continue
        place = folder / _SPLIT_FOLDERS[split] / ("Ungood" if is_ill else "good")
        name = f"{scan.name}_{number}.png"
        image_path = (place if split == "train" else place / "img") / name
        mask_path = place / "label" / name if is_ill else None
        _write_picture(image_path, picture)
        if mask_path is not None:
            _write_picture(mask_path, mask)
        class_name = get_preset(preset).class_name
        cases.append(Case(image_path, int(is_ill), class_name, mask_path, patient=scan.patient, split=split, preset=preset))
    return cases


def _write_picture(path: Path, picture: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, Image.fromarray(np.ascontiguousarray(picture)).save)


def _describe(scan: Scan, slices: Slices, split: SplitName, written: int) -> dict[str, Any]:
    """The account of one scan: no path, and file names only where the set's own number is all they hold."""
    files = {} if slices.plan is None else {"image": scan.image.name, "labels": scan.labels.name}
    plan = None if slices.plan is None else asdict(slices.plan)
    return {"patient": scan.patient, "split": split, **files, "slices": slices.numbers, "written": written, "plan": plan}


def _version() -> str:
    """The installed package's version; the package itself would bring torch's importers along."""
    try:
        return metadata.version("aaclip-med")
    except metadata.PackageNotFoundError:
        return "not installed"


def _check_kinds(cases: Sequence[Case], folder: Path) -> None:
    """BMAD's train needs normal slices, its test normal and abnormal ones."""
    needed: tuple[tuple[SplitName, int], ...] = (("train", 0), ("test", 0), ("test", 1))
    missing = [
        f"no {('normal', 'abnormal')[label]} slice in {split}"
        for split, label in needed
        if not any(case.split == split and case.label == label for case in cases)
    ]
    if missing:
        raise InputError(f"{folder}: {' and '.join(missing)}; add patients, or choose other fractions or another seed")
