"""Who each scan of a folder is of, told by its name and by the folders it lies in."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from aaclip_med.data.volumes import case_name
from aaclip_med.errors import InputError

_KINDS = (
    "t1|t2|t1w|t2w|t1n|t1c|t1ce|t1gd|t1post|t2f|t2star|pd|pdw|flair|mprage|dwi|adc|dti|asl|swi|tof|mra|stir|dixon|bold|mr|mri|"
    "ct|cta|cbct|ncct|cect|pet|suv|fdg|oct|pre|post|native|contrast|arterial|venous|portal|delayed|axial|coronal|sagittal|ax|cor|"
    "sag|tra|brain|head|anat|func|perf|left|right|orig|original|raw"
)
"""Words for the kind of a scan."""
_SETS = (
    "train|training|val|valid|validation|test|testing|normals?|abnormal|healthy|controls?|patients|subjects|cases|good|ungood|bad|"
    "ill"
)
"""Words for folders of many patients."""
_TIMES = r"baseline|followup|(ses|session|visit|timepoint|tp|day|week|month|year|run|acq)[\W_]*[0-9]*"
"""One scan of several of a patient."""
_GENERAL = "images?|img|scans?|vol|volumes?|series|data"
"""Words that say nothing. A number behind one says nothing in a scan's name, but may be a patient in a folder's."""
_FOLDER = re.compile(f"{_KINDS}|{_SETS}|{_TIMES}|{_GENERAL}")
_NAME = re.compile(f"{_KINDS}|{_SETS}|{_TIMES}|({_GENERAL})[0-9]*")
_TAIL = re.compile(rf"(?<=[^\W_])([\W_]+({_KINDS}|{_TIMES}))+$", re.IGNORECASE)
"""What tells the scans of a patient apart, at the end of a name."""


def find_patients(images: Sequence[Path], folder: Path, pattern: str | None = None) -> list[str]:
    """The patient of each of ``images``, which lie below ``folder``.

    pattern: a regular expression of one group, searched in the path below ``folder`` without its ending, with and without a
    slash before it, and in the case name. Without one a scan's name is its case name without the words for kind and time at
    its end, ``p1`` of ``p1_ses-2_t1``, and a patient is

    - the folder that begins the names of its scans: ``p1/p1_registered`` is of p1;
    - where a name is found in several folders or is a mere word for a kind of scan: the one part of the path that tells scans
      apart and is no word for a kind of scan, a session or a set. ``p1/t1`` and ``p1/flair`` beside ``p2/t1`` are of p1,
      ``t1/p1`` and ``flair/p1`` too;
    - else the name.

    Raises:
        InputError: the path does not tell it, or the pattern is none, does not match or means two things.
    """
    places = [(*image.parent.relative_to(folder).parts, case_name(image)) for image in images]
    if pattern is not None:
        return _search_patients(images, places, pattern)
    places = [(*folders, _TAIL.sub("", name)) for *folders, name in places]
    names = [place[-1] for place in places]
    shared = set.intersection(*map(set, places)) if len(places) > 1 else set()
    told = [
        [part for part in folders if (part not in shared or part == name) and not _is_word(part, _FOLDER)]
        for *folders, name in places
    ]
    doubtful = _find_doubtful(places)
    if not doubtful:
        heads = [[part for part in parts if _begins(part, name)] for parts, name in zip(told, names, strict=True)]
        return [(*head, name)[0] for head, name in zip(heads, names, strict=True)]
    words = [_is_word(name, _NAME) for name in names]
    if not any(is_word or name in shared for name, is_word in zip(names, words, strict=True) if name in doubtful):
        told = [parts if is_word else [*parts, name] for parts, name, is_word in zip(told, names, words, strict=True)]
    told = [_drop_begun(parts) for parts in told]
    unclear = [n for n, parts in enumerate(told) if len(parts) != 1]
    if unclear:
        raise InputError(
            f"{images[unclear[0]]}: its patient cannot be told, and {sorted(doubtful)[0]} is the name of a kind of scan, or of "
            "scans in several folders; say where it stands, with index build --patient-pattern '([^/]+)/[^/]+$' for a scan's "
            "folder, '^([^/]+)/' for the outermost, '([^/]+)$' for its name, or by hand as patient in each row"
        )
    return [parts[0] for parts in told]


def _find_doubtful(places: Sequence[tuple[str, ...]]) -> set[str]:
    """The names that cannot stand for a patient: those in several folders (but for case), and mere words."""
    folders: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for *folder, name in places:
        folders[name.casefold()].add(tuple(folder))
    several = len(set.union(*folders.values())) > 1 if folders else False
    return {
        place[-1] for place in places if len(folders[place[-1].casefold()]) > 1 or (several and _is_word(place[-1], _FOLDER))
    }


def _is_word(part: str, word: re.Pattern[str]) -> bool:
    """Whether a part of a path is made of words that name no patient."""
    joined = re.sub(r"[\W_]+(?=\d+(?![^\W_]))", "", part.casefold())  # ses-01 is ses01
    tokens = [token for token in re.split(r"[\W_]+", joined) if token]
    return bool(tokens) and all(map(word.fullmatch, tokens))


def _begins(head: str, part: str) -> bool:
    """Whether ``part`` is ``head``, alone or with more behind a sign."""
    return part.startswith(head) and not part[len(head) : len(head) + 1].isalnum()


def _drop_begun(parts: Sequence[str]) -> list[str]:
    """``parts`` without those that an earlier one begins."""
    return [part for n, part in enumerate(parts) if not any(_begins(head, part) for head in parts[:n])]


def _search_patients(images: Sequence[Path], places: Sequence[tuple[str, ...]], pattern: str) -> list[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"patient pattern '{pattern}' is not a regular expression: {error}") from None
    if expression.groups != 1:
        raise InputError(f"patient pattern '{pattern}' has {expression.groups} groups; write one, as in '(sub-[0-9]+)'")

    def search(*texts: str) -> str | None:
        return next((match[1] for text in texts if (match := expression.search(text)) and match[1]), None)

    in_names = [search(place[-1]) for place in places]
    in_paths = [search("/".join(place), "/" + "/".join(place)) for place in places]
    by_name, by_path = ([found for found in every if found] for every in (in_names, in_paths))
    if len(by_name) == len(by_path) == len(places):
        pairs = dict.fromkeys(zip(by_name, by_path, strict=True))
        if not len(pairs) == len(set(by_name)) == len(set(by_path)):
            n = next(n for n, (name, path) in enumerate(zip(by_name, by_path, strict=True)) if name != path)
            raise InputError(
                f"{images[n]}: patient pattern '{pattern}' finds '{by_name[n]}' in the name and '{by_path[n]}' in the path "
                f"'{'/'.join(places[n])}'; write one that finds the patient alone, as '/(p[0-9]+)/' for a folder or "
                "'(p[0-9]+)[^/]*$' for a name"
            )
    for found in (by_name, by_path):
        if len(found) == len(places):
            return found
    n = next(n for n, found in enumerate(in_paths) if not found)
    raise InputError(f"{images[n]}: patient pattern '{pattern}' does not match '{'/'.join(places[n])}'")
