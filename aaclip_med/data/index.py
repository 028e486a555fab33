"""Index files (JSON Lines): which images there are, what is known of them, and where their masks lie.

One case a line, as in the index files of AA-CLIP (CVPR 2025)::

    {"image_path": "img/001.png", "label": 1.0, "class_name": "Brain", "mask_path": "mask/001.png"}

and, each optional: ``plane``, ``patient``, ``split`` (train, val, test), ``preset``, ``slices`` ([first, last],
inclusive, along the input's own axis of the plane). Other keys are passed over.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast, get_args

from aaclip_med.data.dicom.headers import looks_like_dicom
from aaclip_med.data.volumes import case_name, find_images, is_image_file, read_mask, read_volume
from aaclip_med.data.writing import write_file
from aaclip_med.errors import InputError
from aaclip_med.presets import PLANES, PRESETS, PlaneName, get_preset

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

KEYS = ("image_path", "label", "class_name", "mask_path", "plane", "patient", "split", "preset", "slices", "organ_path")
MASK_SUFFIXES = ("_seg", "_segmentation", "_mask", "_label", "_lesion", "_tumour", "_tumor", "_gt")
MASK_FOLDERS = (("images", "masks"), ("images", "labels"), ("imagesTr", "labelsTr"))
MAX_PROBLEMS = 10

_LABELS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


@dataclass(frozen=True)
class Case:
    """One image of an index.

    label: 0 normal, 1 abnormal. mask_path: the lesion mask, None where there is none. slices: first and last slice
    (inclusive) that are used, None for all. row: its line in the index file, counted from 1. organ_path: the mask of the organ
    that is looked at, None for all of the scan.
    """

    image_path: Path
    label: int
    class_name: str
    mask_path: Path | None = None
    plane: PlaneName | None = None
    patient: str | None = None
    split: SplitName | None = None
    preset: str | None = None
    slices: tuple[int, int] | None = None
    row: int = 0
    organ_path: Path | None = None

    @property
    def name(self) -> str:
        """The image's file name without its ending."""
        return case_name(self.image_path)


def read_index(path: str | Path, root: str | Path | None = None) -> list[Case]:
    """Read and check an index file. Relative paths in it start at ``root``, without one at the index file's folder.

    Raises:
        InputError: the file cannot be read, holds no case, or has bad lines; all are counted, the first ten named as
            ``FILE:LINE: what``.
    """
    path = Path(path)
    folder = path.parent if root is None else Path(root)
    cases: list[Case] = []
    problems: list[str] = []
    first_lines: dict[tuple[Path, tuple[int, int] | None], int] = {}
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        case, wrong = _parse_line(line, number, folder)
        if case is not None:
            first = first_lines.setdefault((case.image_path.resolve(), case.slices), number)
            if first != number:
                wrong.append(f"the image of line {first} again ({case.image_path})")
            cases.append(case)
        problems += [f"{path}:{number}: {what}" for what in wrong]
    if problems:
        raise InputError(_join(problems))
    if not cases:
        raise InputError(f"{path}: no case in this index; write one JSON object a line")
    return cases


def write_index(cases: Sequence[Case], path: str | Path) -> None:
    """Write ``cases`` so that ``read_index`` gives them back. Paths below its folder are made relative to it.

    Raises:
        OutputError: the file cannot be written.
    """
    folder = Path(path).absolute().parent
    lines = [json.dumps(_row(case, folder), ensure_ascii=False) + "\n" for case in cases]
    write_file(path, lambda temporary: temporary.write_text("".join(lines), encoding="utf-8", newline="\n"))


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
        raise InputError(_join([f"{image}: no mask; add one, or say that unlabelled are normal" for image in bare]))
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


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: not UTF-8 text; save the index as UTF-8") from None


def _parse_line(line: str, number: int, folder: Path) -> tuple[Case | None, list[str]]:
    """The case of one line and what is wrong with it; without a usable image there is no case."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return None, [f"not JSON ({error})"]
    if not isinstance(row, dict):
        return None, ["not a JSON object; write {...} with image_path, label and class_name"]
    wrong = [f"unknown key '{key}'; did you mean '{known}'?" for key in row if (known := _near_miss(key, row))]
    image = _find_file(row, "image_path", folder, wrong)
    mask = _find_file(row, "mask_path", folder, wrong)
    organ = _find_file(row, "organ_path", folder, wrong)
    label = _LABELS.get(str(row.get("label")).lower())
    if label is None:
        wrong.append(f"label {json.dumps(row['label'])}; it must be 0 or 1" if "label" in row else "no label; give 0 or 1")
    class_name = row.get("class_name")
    if not isinstance(class_name, str) or not class_name:
        wrong.append("no class_name; name the organ, for example Brain")
    patient = row.get("patient")
    if isinstance(patient, bool) or not isinstance(patient, (str, int, type(None))):
        wrong.append(f"patient {json.dumps(patient)}; it must be a string")
    plane = _choose(row, "plane", PLANES, wrong)
    split = _choose(row, "split", SPLITS, wrong)
    preset = _choose(row, "preset", tuple(PRESETS), wrong)
    slices = _read_slices(row, wrong)
    if image is None:
        return None, wrong
    case = Case(
        image,
        label or 0,
        str(class_name),
        mask,
        cast("PlaneName | None", plane),
        None if patient in (None, "") else str(patient),
        cast("SplitName | None", split),
        preset,
        slices,
        number,
        organ,
    )
    return case, wrong


def _near_miss(key: str, row: dict[str, Any]) -> str | None:
    """The known key, missing from ``row``, that the unknown ``key`` was probably meant to be."""
    if key in KEYS:
        return None
    plain = re.sub(r"[^a-z]", "", key.lower())
    for known in KEYS:
        names = [known.replace("_", ""), known.partition("_")[0]]
        if known not in row and difflib.get_close_matches(plain, names, n=1, cutoff=0.85):
            return known
    return None


def _find_file(row: dict[str, Any], key: str, folder: Path, wrong: list[str]) -> Path | None:
    name = row.get(key)
    if name in (None, ""):
        if key == "image_path":
            wrong.append("no image_path; name the image file")
        return None
    if not isinstance(name, str):
        wrong.append(f"{key} {json.dumps(name)}; it must be a string")
        return None
    path = folder / name
    if key == "image_path" and path.is_dir():
        return path  # a DICOM series
    if not path.is_file():
        wrong.append(f"{key} {path}: no such file")
        return None
    if not is_image_file(path) and not (key == "image_path" and looks_like_dicom(path)):
        wrong.append(f"{key} {path}: not an image of a known ending")
        return None
    return path


def _choose(row: dict[str, Any], key: str, choices: Sequence[str], wrong: list[str]) -> str | None:
    value = row.get(key)
    if value in (None, ""):
        return None
    if value not in choices:
        wrong.append(f"unknown {key} {json.dumps(value)}; choose one of {', '.join(choices)}")
        return None
    return str(value)


def _read_slices(row: dict[str, Any], wrong: list[str]) -> tuple[int, int] | None:
    slices = row.get("slices")
    if slices is None:
        return None
    match slices:
        case [int(first), int(last)] if 0 <= first <= last and not isinstance(first, bool):
            return first, last
    wrong.append(f"slices {json.dumps(slices)}; write [first, last] with 0 <= first <= last")
    return None


def _row(case: Case, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {
        "image_path": _relative(case.image_path, folder),
        "label": case.label,
        "class_name": case.class_name,
        "mask_path": "" if case.mask_path is None else _relative(case.mask_path, folder),
    }
    optional = {key: getattr(case, key) for key in ("plane", "patient", "split", "preset", "slices")}
    if case.organ_path is not None:
        optional["organ_path"] = _relative(case.organ_path, folder)
    return row | {key: value for key, value in optional.items() if value is not None}


def _relative(path: Path, folder: Path) -> str:
    path = path.absolute()
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


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


def _pair_folders(images: Path, masks: Path) -> dict[Path, Path | None]:
    found = {mask.parent.relative_to(masks) / case_name(mask): mask for mask in find_images([masks])}
    pairs = {image: found.pop(image.parent.relative_to(images) / case_name(image), None) for image in find_images([images])}
    if found:
        raise InputError(_join([f"{mask}: no image of this name in {images}" for mask in found.values()]))
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
        raise InputError(_join(problems))
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


def _join(problems: Sequence[str]) -> str:
    more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
    return "; ".join([*problems[:MAX_PROBLEMS], *more])
