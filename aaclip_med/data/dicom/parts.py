"""Which frames of a series make up one volume: by size and orientation, then by what tells repeats at one position apart."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from aaclip_med.data.dicom.frames import Frame
from aaclip_med.data.dicom.geometry import (
    SAME_ORIENTATION,
    Array,
    GeometryError,
    count_slices,
    describe_unevenness,
    name_plane,
    number_depths,
    perpendicular_axes,
)

_TIMES = ("acquisition time", "content time")
_FEWEST_SLICES = 3
"""A direction with fewer slices is a localiser's when another has at least as many."""


class NoScanError(GeometryError):
    """Slices that are those of a localiser, which nobody misses."""


@dataclass(frozen=True)
class Part:
    """The frames of one volume, before their order is known. label: what sets it apart from the others."""

    frames: tuple[Frame, ...]
    label: str = ""


def split_frames(frames: list[Frame], problems: list[str]) -> list[Part]:
    """One part for each volume: by size and orientation, then by what tells repeats at one position apart.

    Raises:
        NoScanError: there are no three slices of one direction and size.
        GeometryError: the same, for frames of reference alone differ.
    """
    if len(frames) > 1 and all(frame.is_projection for frame in frames):
        problems.append(f"{len(frames)} projections: one volume each")
        return [Part((frame,), frame.path.name) for frame in frames]
    groups = _group(frames)
    if len(groups) > 1:
        largest = max(map(len, groups))
        if largest < _FEWEST_SLICES:
            if len(_group([replace(frame, reference="") for frame in frames])) == 1:
                raise GeometryError(f"{len(groups)} frames of reference in one series; export it with one FrameOfReferenceUID")
            raise NoScanError(
                f"{len(frames)} slices in {len(groups)} directions or sizes, at most {largest} of each: a localiser or a "
                "turning projection, not a scan; name the scan that was planned on it"
            )
        small = [group for group in groups if len(group) < _FEWEST_SLICES]
        groups = [group for group in groups if len(group) >= _FEWEST_SLICES]
        if small:
            count = sum(map(len, small))
            problems.append(
                f"{count_slices(count)} of another direction, size or frame of reference left out: like a localiser"
            )
        if len(groups) > 1:
            problems.append(f"slices in {len(groups)} directions, sizes, spacings or frames of reference: one volume each")
    parts = []
    for group in groups:
        found = _split_repeats(group, problems)
        label = name_plane(perpendicular_axes(group[0].cosines)) if len(groups) > 1 else ""
        parts += [replace(part, label=" ".join(filter(None, (label, part.label)))) for part in found]
    return parts


def _group(frames: list[Frame]) -> list[list[Frame]]:
    """Frames that are alike but for their positions."""
    groups: list[list[Frame]] = []
    for frame in frames:
        for group in groups:
            if _is_alike(group[0], frame):
                group.append(frame)
                break
        else:
            groups.append([frame])
    return groups


def _is_alike(a: Frame, b: Frame) -> bool:
    if a.size != b.size or a.is_tomography != b.is_tomography:
        return False
    if a.reference and b.reference and a.reference != b.reference:
        return False
    for one, other, allowed in ((a.cosines, b.cosines, SAME_ORIENTATION), (a.pixel_mm, b.pixel_mm, 1e-3)):
        if (one is None) != (other is None):
            return False
        if one is not None and other is not None and max(abs(x - y) for x, y in zip(one, other, strict=True)) > allowed:
            return False
    return True


def _split_repeats(frames: list[Frame], problems: list[str]) -> list[Part]:
    axes = perpendicular_axes(frames[0].cosines)
    if axes is None or any(frame.position is None for frame in frames):
        return _split_files(frames, problems)
    depths = number_depths(np.array([np.dot(frame.position or (), axes[2]) for frame in frames]))
    repeats = max(Counter(depths).values())
    if len(set(depths)) == 1:
        return [Part(tuple(frames))]
    if repeats == 1:
        return _split_blocks(frames, problems) or [Part(tuple(frames))]
    names = [name for name in frames[0].keys if len({frame.keys[name] for frame in frames}) > 1]
    for count in (1, 2, 3):
        for chosen in itertools.combinations([name for name in names if name not in _TIMES], count):
            parts: dict[tuple[str, ...], list[int]] = defaultdict(list)
            for n, frame in enumerate(frames):
                parts[tuple(frame.keys[name] for name in chosen)].append(n)
            if len(parts) == repeats and all(_is_one_volume([depths[n] for n in part]) for part in parts.values()):
                problems.append(f"{repeats} volumes in one series, told apart by {' and '.join(chosen)}")
                return [
                    Part(
                        tuple(frames[n] for n in parts[key]),
                        ", ".join(f"{name} {_shorten(part)}" for name, part in zip(chosen, key, strict=True)),
                    )
                    for key in sorted(parts, key=_sort_numbers)
                ]
    return _split_times(frames, depths, repeats, problems) or [Part(tuple(frames))]


def _split_blocks(frames: list[Frame], problems: list[str]) -> list[Part] | None:
    """Blocks at distinct positions that are even only one by one: a head with 5 mm slices above, 3 mm below."""
    axes = perpendicular_axes(frames[0].cosines)
    if axes is None or describe_unevenness(_distances(frames, axes)) is None:
        return None
    for name in frames[0].keys:
        blocks: dict[str, list[Frame]] = defaultdict(list)
        for frame in frames:
            blocks[frame.keys[name]].append(frame)
        if len(blocks) > 1 and all(
            len(block) >= _FEWEST_SLICES and describe_unevenness(_distances(block, axes)) is None for block in blocks.values()
        ):
            problems.append(f"{len(blocks)} blocks of slices, each even by itself, told apart by {name}: one volume each")
            return [Part(tuple(blocks[key]), f"{name} {_shorten(key)}") for key in sorted(blocks)]
    return None


def _distances(frames: Sequence[Frame], axes: Array) -> Array:
    """(N,) ascending, mm along the normal."""
    return np.sort(np.array([np.dot(frame.position or (), axes[2]) for frame in frames]))


def _split_times(frames: list[Frame], depths: list[int], repeats: int, problems: list[str]) -> list[Part] | None:
    """The first frame in time at each position, the second, ...: only if all positions have as many."""
    if set(Counter(depths).values()) != {repeats}:
        return None
    for name in _TIMES:
        if len({(depth, frame.keys[name]) for depth, frame in zip(depths, frames, strict=True)}) < len(frames):
            continue
        order = sorted(range(len(frames)), key=lambda n: (depths[n], frames[n].keys[name]))
        problems.append(f"{repeats} volumes in one series, told apart by the order of {name} at each position")
        return [Part(tuple(frames[n] for n in order[rank::repeats]), f"time {rank + 1}") for rank in range(repeats)]
    return None


def _split_files(frames: list[Frame], problems: list[str]) -> list[Part]:
    """Multi-frame objects without positions (OCT): one volume each."""
    objects: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        objects[frame.source].append(frame)
    if len(objects) == 1 or any(len(part) == 1 for part in objects.values()):
        return [Part(tuple(frames))]
    problems.append(f"{len(objects)} multi-frame objects without positions: one volume each")
    return [Part(tuple(part), part[0].path.name) for part in objects.values()]


def _is_one_volume(depths: list[int]) -> bool:
    return len(depths) > 1 and len(set(depths)) == len(depths)


def _sort_numbers(key: tuple[str, ...]) -> tuple[tuple[float, str], ...]:
    def as_number(part: str) -> float:
        try:
            return float(part)
        except ValueError:
            return float("inf")

    return tuple((as_number(part), part) for part in key)


def _shorten(part: str) -> str:
    return part if len(part) <= 32 else part[:14] + "..." + part[-14:]
