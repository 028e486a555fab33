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

import re
import secrets
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aaclip_med.data.benchmarks.layouts import check_folder, count_cases, join, misfit, number_rows, subfolders
from aaclip_med.data.benchmarks.lesions import read_labels
from aaclip_med.data.benchmarks.names import RECIPES, SOURCES
from aaclip_med.data.index import Case, SplitName, write_index
from aaclip_med.data.planes import SlicePlan, plan_volume
from aaclip_med.data.sampling import check_leaks, split_by_patient
from aaclip_med.data.volumes import Volume, case_name, read_volume
from aaclip_med.data.windowing import apply_window
from aaclip_med.data.writing import prepare_output_folder, write_file, write_json
from aaclip_med.errors import InputError, OutputError
from aaclip_med.presets import PlaneName, get_preset

BRAIN_SLICES = (60, 99)
"""First and last axial slice of BraTS 2021 that are used, inclusive, counted from 0 as stored (in BraTS from the feet)."""
BTCV_LIVER = 6
LITS_TUMOUR = 2
FRACTIONS = (0.7, 0.1, 0.2)
"""Shares of patients in train, val and test. Of LiTS, which gives none to train, the last two in their proportion."""

BRATS_TREE = "BraTS2021_<n>/BraTS2021_<n>_flair.nii.gz and BraTS2021_<n>_seg.nii.gz"
LIVER_TREE = "LiTS's volume-<n>.nii with segmentation-<n>.nii, and BTCV's img<n>.nii.gz with label<n>.nii.gz, in any folders"
RESC_TREE = "[train|valid|test/]original_images/<scan>/<number>.png and label_images/<scan>/<number>.png (or .bmp)"

_PICTURES = (".png", ".bmp", ".tif", ".tiff")
_SPLIT_FOLDERS: dict[SplitName, str] = {"train": "train", "val": "valid", "test": "test"}

Array = np.ndarray[Any, Any]
Track = Callable[[Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Scan:
    """One source scan: a volume and its label map, or a folder of B-scans and the folder of theirs."""

    name: str
    patient: str
    image: Path
    labels: Path


@dataclass(frozen=True)
class Slices:
    """The slices of a scan that are used.

    numbers: (S,) each one's index in the scan, along ``plan.axis``. pictures, masks: (S, H, W) uint8. is_ill: (S,) bool,
    whether the slice has a lesion. plan: how the scan was cut; None for B-scans, which are pictures already.
    """

    numbers: list[int]
    pictures: Array
    masks: Array
    is_ill: Array
    plan: SlicePlan | None


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
    _check_free(out)
    staging = prepare_output_folder(out.parent) / f".{secrets.token_hex(4)}.{out.name}"
    try:
        prepare_output_folder(staging)
        cases: list[Case] = []
        accounts = {}
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
        _move(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return ConversionSummary(source, recipe, out, out / "index.jsonl", len(scans), len(splits), counts)


def cut_brain(scan: Scan, recipe: str, _: SplitName) -> Slices:
    """Axial slices 60 to 99 of a FLAIR volume; every label above 0 is tumour.

    Raises:
        InputError: a file cannot be used, or there are fewer than 100 slices.
    """
    volume = read_volume(scan.image)
    plan = plan_volume(volume, _plane(recipe))
    first, last = BRAIN_SLICES
    if plan.stack_shape[0] <= last:
        raise InputError(
            f"{scan.image}: {plan.stack_shape[0]} axial slices, and slices {first} to {last} are used; take BraTS 2021 as it is"
        )
    numbers = list(range(first, last + 1))
    labels = plan.cut(read_labels(scan.labels, volume))[numbers]
    if recipe == "bmad":
        return Slices(numbers, _stretch(plan.cut(volume.array)[numbers]), _stretch(labels), _has(labels > 0), plan)
    return Slices(numbers, _window(volume, plan, "brain-mri")[numbers], _binary(labels > 0), _has(labels > 0), plan)


def cut_liver(scan: Scan, recipe: str, split: SplitName) -> Slices:
    """Axial slices of a CT (HU) with liver in them, 0 outside of the liver. In BTCV liver is 6, in LiTS 1 and its tumours 2.

    Raises:
        InputError: a file cannot be used, or its label map has no liver.
    """
    volume = read_volume(scan.image)
    plan = plan_volume(volume, _plane(recipe))
    labels = plan.cut(read_labels(scan.labels, volume))
    is_lits = scan.name.startswith("LiTS")
    liver = labels > 0 if is_lits else labels == BTCV_LIVER
    numbers = np.flatnonzero(_has(liver)).tolist()
    if not numbers:
        raise InputError(f"{scan.labels}: no liver in it (label {'1 or 2' if is_lits else BTCV_LIVER}); is it the label map?")
    liver = liver[numbers]
    tumour = labels[numbers] == LITS_TUMOUR if is_lits else np.zeros_like(liver)
    if recipe == "bmad":
        values = plan.cut(volume.array)[numbers].astype(np.float32)
        if split != "train":
            window = get_preset("liver-ct").window
            values = values.clip(window.low, window.high)
        pictures = _stretch(values)
    else:
        pictures = _window(volume, plan, "liver-ct")[numbers]
    return Slices(numbers, pictures * liver.astype(np.uint8), _binary(tumour), _has(tumour), plan)


def cut_retina(scan: Scan, recipe: str, _: SplitName) -> Slices:
    """The B-scans of an OCT scan as they are, in 8 bits; every label above 0 is oedema or fluid.

    Raises:
        InputError: a picture cannot be read, has no label picture or one of another size, or B-scans differ in size.
    """
    labels = {case_name(path): path for path in _list_b_scans(scan.labels)}
    pictures: list[Array] = []
    masks: list[Array] = []
    numbers: list[int] = []
    for path in _list_b_scans(scan.image):
        name = case_name(path)
        if name not in labels:
            raise InputError(f"{path}: no label picture {name} in {scan.labels}; the layout should be {RESC_TREE}")
        picture, mask = _read_grey(path), _read_grey(labels[name])
        if picture.shape != mask.shape or (pictures and picture.shape != pictures[0].shape):
            raise InputError(
                f"{path}: {picture.shape[0]} x {picture.shape[1]} pixels, its label picture {mask.shape[0]} x {mask.shape[1]}, "
                f"the first B-scan {(pictures or [picture])[0].shape}; they must be the same"
            )
        pictures.append(picture)
        masks.append(mask)
        numbers.append(int(name))
    stack = np.stack(masks)
    return Slices(numbers, np.stack(pictures), stack if recipe == "bmad" else _binary(stack > 0), _has(stack > 0), None)


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


def find_resc(folder: Path) -> list[Scan]:
    """The OCT scans of RESC in ``folder``. The patient is the scan's name up to its first underscore.

    Names of scans hold dates; they are replaced by ``RESC_<patient>-<number>``.

    Raises:
        InputError: there is none, or one has no folder of label pictures.
    """
    found = []
    for place in (folder, *subfolders(folder)):
        for scan in subfolders(place / "original_images"):
            labels = place / "label_images" / scan.name
            if not labels.is_dir():
                raise misfit(scan, f"no folder {labels}", RESC_TREE)
            found.append((scan, labels))
    if not found:
        raise misfit(folder, "no folder original_images/<scan> in it", RESC_TREE)
    by_patient: dict[str, list[tuple[Path, Path]]] = defaultdict(list)
    for scan, labels in sorted(found, key=lambda pair: pair[0].name):
        by_patient[scan.name.partition("_")[0] or scan.name].append((scan, labels))
    return [
        Scan(f"RESC_{patient}-{number}", patient, scan, labels)
        for patient, pairs in by_patient.items()
        for number, (scan, labels) in enumerate(pairs, start=1)
    ]


_SOURCES = {
    "brats2021": _Source("brain-mri", BRATS_TREE, find_brats, cut_brain),
    "liver": _Source("liver-ct", LIVER_TREE, find_liver, cut_liver),
    "resc": _Source("retinal-oct", RESC_TREE, find_resc, cut_retina),
}


def _first_file(folder: Path, stem: str) -> Path | None:
    return next((path for ending in (".nii.gz", ".nii") if (path := folder / f"{stem}{ending}").is_file()), None)


def _number_files(folder: Path, prefix: str) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in sorted(folder.rglob(f"{prefix}*")):
        match = re.fullmatch(rf"{prefix}(\d+)\.nii(\.gz)?", path.name)
        if match and path.is_file():
            if int(match[1]) in found:
                raise InputError(f"{path}: {found[int(match[1])]} has the same number; keep one")
            found[int(match[1])] = path
    return found


def _list_b_scans(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if path.suffix.lower() in _PICTURES and case_name(path).isdecimal()]
    if not files:
        raise misfit(folder, "no picture <number>.png in it", RESC_TREE)
    return sorted(files, key=lambda path: int(case_name(path)))


def _read_grey(path: Path) -> Array:
    """(H, W) uint8."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as a picture ({error}); unpack it again") from None


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


def _plane(recipe: str) -> PlaneName:
    return "axial" if recipe == "corrected" else "native"


def _stretch(stack: Array) -> Array:
    """(S, H, W) -> uint8: the least value of each slice becomes 0, its greatest 255; a slice of one value becomes 0."""
    values = stack.astype(np.float32)
    low = values.min(axis=(1, 2), keepdims=True)
    span = values.max(axis=(1, 2), keepdims=True) - low
    scaled: Array = np.rint((values - low) / np.where(span > 0, span, 1.0) * 255.0).astype(np.uint8)
    return scaled


def _window(volume: Volume, plan: SlicePlan, preset: str) -> Array:
    """The volume under the window of ``preset``: (S, H, W) uint8."""
    scaled: Array = np.rint(plan.cut(apply_window(volume, get_preset(preset).window)) * 255.0).astype(np.uint8)
    return scaled


def _binary(mask: Array) -> Array:
    return np.asarray(np.where(mask, np.uint8(255), np.uint8(0)))


def _has(mask: Array) -> Array:
    """(S, H, W) bool -> (S,) bool: whether anything of the slice is in the mask."""
    return np.asarray(mask.any(axis=(1, 2)))


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


def _check_free(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise OutputError(f"{out}: there is something already; choose another --out")


def _move(staging: Path, out: Path) -> None:
    try:
        if out.is_dir():
            out.rmdir()
        staging.rename(out)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}; choose another --out") from error
