"""The slices of many cases, cut and windowed once and kept on disk for the epochs to come."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aaclip_med.data.digests import Digests
from aaclip_med.data.index import Case, join
from aaclip_med.data.planes import SlicePlan, plan_volume
from aaclip_med.data.sources import read_source
from aaclip_med.data.volumes import Volume, read_mask
from aaclip_med.data.windowing import apply_window, find_range, flat_error, scale_values
from aaclip_med.data.writing import atomic_path
from aaclip_med.errors import InputError
from aaclip_med.presets import Preset, get_preset

Array = np.ndarray[Any, Any]

LAYOUT = 3
"""Of a case's folder in a store; a folder of another layout is not found."""
CROP_MARGIN = 0.05
"""Of the foreground's height and width, on each side."""
BLOCK = 16
"""Slices looked at together."""


@dataclass(frozen=True)
class WindowedSlices:
    """A stack of slices (S, H, W) or (S, H, W, 3), windowed to float32 in [0, 1] as they are asked for by their numbers.

    A whole volume of floats is never held, unless it is asked for as an array. stack: the values as stored, a view. low, high:
    what becomes 0 and 1. organ: (S, H, W) bool, outside of which all is 0; None: everything is shown.
    """

    stack: Array
    low: float
    high: float
    organ: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(S, H, W) or (S, H, W, 3)."""
        shape: tuple[int, ...] = self.stack.shape
        return shape

    @property
    def ndim(self) -> int:
        """3, in colour 4."""
        return self.stack.ndim

    def __len__(self) -> int:
        return len(self.stack)

    def __getitem__(self, numbers: int | slice | Sequence[int]) -> Array:
        values = scale_values(self.stack[numbers], self.low, self.high)
        if self.organ is not None:
            values[~self.organ[numbers]] = 0.0
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self[:] if dtype is None else self[:].astype(dtype)

    def choose(self, numbers: Sequence[int]) -> WindowedSlices:
        """The slices ``numbers``, ascending, as a stack of their own; without a copy where none between them is left out."""
        chosen: Any = list(numbers)
        if chosen == list(range(chosen[0], chosen[-1] + 1)):
            chosen = slice(chosen[0], chosen[-1] + 1)
        return replace(self, stack=self.stack[chosen], organ=self.organ[chosen] if self.organ is not None else None)

    def find_filled(self) -> Array:
        """(S,) bool: which slices are not the same throughout."""
        within = tuple(range(1, self.ndim))
        if self.organ is None:  # stretching keeps the order of values, so two of each slice say it
            lowest, highest = self.stack.min(axis=within), self.stack.max(axis=within)
            return scale_values(lowest, self.low, self.high) < scale_values(highest, self.low, self.high)
        blocks = (self[start : start + BLOCK] for start in range(0, len(self), BLOCK))
        return np.concatenate([block.min(axis=within) < block.max(axis=within) for block in blocks])

    def find_foreground(self, numbers: Sequence[int]) -> tuple[int, int, int, int]:
        """First row, end, first column, end of what is above 0 in any of the slices ``numbers``, and a margin around it."""
        above = np.zeros(self.shape[1:3], dtype=bool)
        for number in numbers:
            lit = self[number] > 0
            above |= lit.any(axis=-1) if lit.ndim == 3 else lit
        box: list[int] = []
        for axis in (0, 1):
            inside = np.flatnonzero(above.any(axis=1 - axis))
            margin = round(CROP_MARGIN * (inside[-1] + 1 - inside[0]))
            box += [max(0, int(inside[0]) - margin), min(above.shape[axis], int(inside[-1]) + 1 + margin)]
        return box[0], box[1], box[2], box[3]


def to_grey(images: Array) -> Array:
    """Slices (S, H, W) or (S, H, W, 3) as (S, H, W): the mean over colours."""
    return images.mean(axis=-1) if images.ndim == 4 else images


def find_lit(images: Array) -> Array:
    """Where slices (S, H, W) or (S, H, W, 3) are above 0 in any colour, (S, H, W) bool."""
    return np.asarray((images > 0).any(axis=-1) if images.ndim == 4 else images > 0)


@dataclass(frozen=True)
class CutCase:
    """One case as the model sees it.

    images: (S, H, W) or (S, H, W, 3), float32 in [0, 1]; slice s is index s along ``plan.axis`` of the volume. Under a preset
        that crops, H and W are those of ``box``: (first row, end, first column, end) of the plan's full slices.
    masks: (S, H, W) bool, or None where the index names no mask and the case is not known to be normal.
    used: the slice numbers that are not empty and within the case's range.
    organ: (S, H, W) bool, the part of the volume that is looked at; None: all of it.
    """

    volume: Volume
    plan: SlicePlan
    images: WindowedSlices
    masks: Array | None
    used: list[int]
    organ: Array | None = None
    box: tuple[int, int, int, int] | None = None

    def crop(self, stack: Array) -> Array:
        """The part of full slices (S, H, W, ...) that ``images`` shows, a view."""
        if self.box is None:
            return stack
        top, bottom, left, right = self.box
        return stack[:, top:bottom, left:right]


def cut_volume(
    volume: Volume,
    preset: Preset,
    plane: str | None = None,
    limits: tuple[int, int] | None = None,
    organ: Array | None = None,
) -> CutCase:
    """Cut and window ``volume`` in ``plane`` (default: the preset's), no masks.

    A slice is empty when all its pixels are the same under the window. ``limits``: first and last slice used, inclusive.
    ``organ`` (I, J, K) bool: the window is taken within it, everything outside is 0, and slices without it are empty, as in
    BMAD's liver set (arXiv 2306.11876).

    Raises:
        InputError: the volume does not suit the window, the limits lie outside, or no slice is left.
    """
    plan = plan_volume(volume, plane or preset.plane)  # type: ignore[arg-type]
    inside = plan.cut(organ) if organ is not None else None
    if volume.is_picture:
        images = WindowedSlices(plan.cut(apply_window(volume, preset.window)), 0.0, 1.0, inside)
    else:
        images = WindowedSlices(plan.cut(volume.array), *find_range(volume, preset.window, organ), inside)
    first, last = limits or (0, len(images) - 1)
    if last >= len(images):
        raise InputError(f"{volume.path}: slices {first} to {last} were asked for, but it has {len(images)} in this plane")
    filled = images.find_filled()
    used = [s for s in range(first, last + 1) if volume.is_picture or filled[s]]
    if not used:
        values = {float(images[s].flat[0]) for s in range(len(images))} if not filled.any() else set()
        if len(values) == 1:
            raise flat_error(volume, preset.window, values.pop())
        raise InputError(f"{volume.path}: every slice from {first} to {last} is empty under preset '{preset.name}'")
    cut = CutCase(volume, plan, images, None, used, box=images.find_foreground(used) if preset.crop else None)
    inside = cut.crop(inside) if inside is not None else None
    return replace(cut, images=replace(images, stack=cut.crop(images.stack), organ=inside), organ=inside)


def choose_preset(case: Case, preset: Preset) -> Preset:
    """The row's own preset, cropped as the caller's is; else the caller's."""
    return replace(get_preset(case.preset), crop=preset.crop) if case.preset else preset


def read_organ(path: Path, volume: Volume) -> Array:
    """The organ mask in ``path``: (I, J, K) bool on the grid of ``volume``.

    Raises:
        InputError: it cannot be read, lies elsewhere than the volume, or is empty.
    """
    organ = read_mask(path, volume)
    if not organ.any():
        raise InputError(f"{path}: the organ mask is empty; nothing of {volume.path} is left")
    return organ


def cut_case(case: Case, preset: Preset) -> CutCase:
    """Read, cut and window one row of an index, with its mask. The row's own preset and plane come first.

    A blank picture is a slice like any other: benchmarks of pictures hold some, and count them.

    Raises:
        InputError: an image or mask cannot be used.
    """
    preset = choose_preset(case, preset)
    volume = read_source(case.image_path, allow_blank_picture=True)
    organ = read_organ(case.organ_path, volume) if case.organ_path else None
    cut = cut_volume(volume, preset, case.plane, case.slices, organ)
    if case.mask_path is not None:
        masks: Array | None = cut.crop(cut.plan.cut(read_mask(case.mask_path, volume)))
    else:
        masks = np.zeros(cut.images.shape[:3], dtype=bool) if case.label == 0 else None
    return replace(cut, masks=masks)


@dataclass(frozen=True)
class Slice:
    """One slice of a store: its case, its number in the volume, whether its mask holds a lesion, its place in the files."""

    case: Case
    number: int
    label: int
    folder: Path
    place: int


class SliceStore:
    """Slices with masks, read back from memory-mapped files: a second epoch decodes no volume again.

    A case's files hold the slices it uses. They lie in a folder named by the content of its image and masks, its preset and its
    plane, written whole or not at all; so a store can be shared by runs, and a file that was moved is not read again.
    """

    def __init__(
        self, cases: Sequence[Case], preset: Preset, cache: Path, track: Callable[[Iterable[Case]], Iterable[Case]] = iter
    ) -> None:
        """Fill ``cache`` with what is not there yet; ``track`` wraps the loop, for a progress bar. Labels that masks contradict
        are noted on the error stream.

        Raises:
            InputError: a case cannot be read, or is abnormal and has no mask.
        """
        self.preset = preset
        self.slices: list[Slice] = []
        digests = Digests(cache / "digests.json")
        conflicts: list[str] = []
        for case in track(cases):
            folder = cache / _key(case, preset, digests)
            if not (folder / "slices.json").is_file():
                _write_case(case, preset, folder)
            stored = json.loads((folder / "slices.json").read_text())
            self.slices += [Slice(case, number, label, folder, place) for place, (number, label) in enumerate(stored)]
            if case.label != any(label for _, label in stored):
                said, shown = ("abnormal", "empty") if case.label else ("normal", "not empty")
                conflicts.append(
                    f"row {case.row} is labelled {said}, its mask is {shown} in the slices used ({case.mask_path})"
                )
        digests.save()
        if conflicts:
            print(
                f"aaclip-med: note: {join(conflicts)}; correct labels or masks, index check names all that do not agree",
                file=sys.stderr,
                flush=True,
            )

    def image(self, item: Slice) -> Array:
        """The windowed slice, (1 or 3, H, W), float32 in [0, 1]."""
        picture = np.load(item.folder / "images.npy", mmap_mode="r")[item.place].astype(np.float32)
        return picture[None] if picture.ndim == 2 else np.moveaxis(picture, -1, 0)

    def organ(self, item: Slice) -> Array | None:
        """The slice's part of the organ that is looked at, (H, W) bool; None: all of it is."""
        path = item.folder / "organ.npy"
        return np.load(path, mmap_mode="r")[item.place] if path.is_file() else None

    def mask(self, item: Slice) -> Array:
        """The slice's lesion mask, (1, H, W), float32 of 0 and 1."""
        return np.load(item.folder / "masks.npy", mmap_mode="r")[item.place].astype(np.float32)[None]  # type: ignore[no-any-return]


def _key(case: Case, preset: Preset, digests: Digests) -> str:
    chosen = choose_preset(case, preset)
    settings = [
        LAYOUT,
        digests.of(case.image_path),
        digests.of(case.mask_path) if case.mask_path else None,
        digests.of(case.organ_path) if case.organ_path else None,
        chosen.name,
        repr(chosen.window),
        chosen.crop,
        case.plane,
        case.slices,
        case.label,
    ]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:24]


def _write_case(case: Case, preset: Preset, folder: Path) -> None:
    cut = cut_case(case, preset)
    if cut.masks is None:
        raise InputError(f"{case.image_path} is abnormal and has no mask; training needs one (mask_path in its index row)")
    folder.mkdir(parents=True, exist_ok=True)
    labels = [[s, int(cut.masks[s].any())] for s in cut.used]
    arrays = {"images.npy": cut.images[cut.used].astype(np.float16), "masks.npy": cut.masks[cut.used]}
    if cut.organ is not None:
        arrays["organ.npy"] = cut.organ[cut.used]
    for name, array in arrays.items():
        with atomic_path(folder / name) as path, path.open("wb") as file:
            np.save(file, np.ascontiguousarray(array))
    with atomic_path(folder / "slices.json") as path:
        path.write_text(json.dumps(labels))
