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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from aaclip_med.data.dicom.headers import looks_like_dicom
from aaclip_med.data.volumes import case_name, is_image_file
from aaclip_med.data.writing import write_file
from aaclip_med.errors import InputError
from aaclip_med.presets import PLANES, PRESETS, PlaneName

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

KEYS = ("image_path", "label", "class_name", "mask_path", "plane", "patient", "split", "preset", "slices", "organ_path")
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
        raise InputError(join(problems))
    if not cases:
        raise InputError(f"{path}: no case in this index; write one JSON object a line")
    return cases


def write_index(cases: Sequence[Case], path: str | Path) -> None:
    """Write ``cases`` so that ``read_index`` gives them back. Paths below its folder are made relative to it.

    Raises:
        OutputError: the file cannot be written.
    """
    folder = Path(path).absolute().parent
    text = "".join(json.dumps(_row(case, folder), ensure_ascii=False) + "\n" for case in cases)
    content = text.encode(errors="backslashreplace")  # bytes of a path that are no UTF-8 become escapes, which JSON reads back
    write_file(path, lambda temporary: temporary.write_bytes(content))


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


def join(problems: Sequence[str]) -> str:
    """One line of at most ten problems, and how many more there are."""
    more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
    return "; ".join([*problems[:MAX_PROBLEMS], *more])
