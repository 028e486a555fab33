"""What the layouts have in common: how one is described, how its pictures are listed, how a wrong one is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aaclip_med.data.index import SPLITS, Case, join
from aaclip_med.data.volumes import PICTURE_ENDINGS, case_name
from aaclip_med.errors import InputError

UNREAD_ENDINGS = (".gif", ".webp", ".jp2")
"""Picture files that occur in published sets and that this package does not read."""


@dataclass(frozen=True)
class Listing:
    """The cases of a folder, and files of it that cannot become one (a scan whose label is not published)."""

    cases: list[Case]
    passed_over: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One way in which a data set is laid out in folders.

    tree: the expected layout in one line, as an error quotes it. source: where it is published. options: the keywords
    that ``build`` takes beside the folder.
    """

    title: str
    tree: str
    source: str
    build: Callable[..., Listing]
    options: tuple[str, ...] = ()


def misfit(folder: Path, missing: str, tree: str) -> InputError:
    """The refusal of ``folder``: what was looked for in it, and what the layout should be."""
    return InputError(f"{folder}: {missing}; the layout should be {tree}")


def check_folder(folder: Path, tree: str) -> None:
    """Make sure that there is such a folder.

    Raises:
        InputError: there is none.
    """
    if not folder.is_dir():
        raise misfit(folder, "no such folder", tree)


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in ``folder``, sorted; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def list_pictures(folder: Path, tree: str) -> list[Path]:
    """The pictures right in ``folder``, sorted. Other files are passed over; so is ``x.bmp`` or ``x.gif`` beside ``x.png``.

    Raises:
        InputError: there is no such folder or no picture in it, or a picture is of a kind that is not read: leaving it
            out would quietly change the benchmark.
    """
    if not folder.is_dir():
        raise misfit(folder, "no such folder", tree)
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    pictures = [path for path in files if path.name.lower().endswith(PICTURE_ENDINGS)]
    read = {path.stem for path in pictures if path.suffix.lower() != ".bmp"}
    pictures = [path for path in pictures if path.suffix.lower() != ".bmp" or path.stem not in read]
    read |= {path.stem for path in pictures}
    unread = [path for path in files if path.suffix.lower() in UNREAD_ENDINGS and path.stem not in read]
    if unread:
        raise InputError(
            f"{unread[0]}: {len(unread)} pictures of {folder} are {unread[0].suffix} files, which are not read; "
            f"save each beside itself as PNG (as with: magick mogrify -format png *{unread[0].suffix})"
        )
    if not pictures:
        raise misfit(folder, "no picture in it", tree)
    return pictures


def pair_masks(images: Sequence[Path], masks: Iterable[Path], suffix: str = "_mask") -> dict[Path, Path]:
    """The mask of each image: the one of its name, with or without ``suffix``.

    Raises:
        InputError: an image without a mask, a mask without an image, two masks of one name; the first ten are named.
    """
    found: dict[str, Path] = {}
    problems: list[str] = []
    names = {case_name(image) for image in images}
    for mask in masks:
        name = case_name(mask)
        owner = name if name in names else name.removesuffix(suffix)
        if owner not in names:
            problems.append(f"{mask}: a mask without an image of its name")
        elif owner in found:
            problems.append(f"{mask}: a second mask beside {found[owner].name}; keep one")
        else:
            found[owner] = mask
    problems += [f"{image}: no mask of this name" for image in images if case_name(image) not in found]
    if problems:
        raise InputError(f"{join(problems)}; unpack or download the set again")
    return {image: found[case_name(image)] for image in images}


def number_rows(cases: Iterable[Case]) -> list[Case]:
    """The same cases with ``row`` counted from 1."""
    return [replace(case, row=row) for row, case in enumerate(cases, start=1)]


def count_cases(cases: Iterable[Case]) -> Mapping[str, Mapping[str, int]]:
    """How many cases there are: split (in order; ``none`` without one) -> normal, abnormal, and abnormal without a mask."""
    counts: dict[str, dict[str, int]] = {}
    for case in cases:
        row = counts.setdefault(case.split or "none", {"normal": 0, "abnormal": 0, "abnormal_without_mask": 0})
        row["abnormal" if case.label else "normal"] += 1
        row["abnormal_without_mask"] += int(case.label == 1 and case.mask_path is None)
    return {split: counts[split] for split in (*SPLITS, "none") if split in counts}
