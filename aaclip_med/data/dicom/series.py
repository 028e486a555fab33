"""DICOM series: what lies in files and folders, what is wrong with it, and its volumes.

A series is put right where there is one honest way (order, gantry tilt, repeats, several volumes) and refused with the
reason where there is none; slices are never stacked on trust. ``docs/inputs.md`` lists what happens to which input.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from aaclip_med.data.dicom.frames import MAX_BYTES, Frame, Instance, describe_instance
from aaclip_med.data.dicom.geometry import (
    MAX_IN_PLANE_SHIFT,
    SAME_ORIENTATION,
    SAME_POSITION_MM,
    Array,
    Grid,
    describe_unevenness,
    make_affine,
    name_plane,
    perpendicular_axes,
    plan_grid,
)
from aaclip_med.data.dicom.headers import find_dicom, read_header
from aaclip_med.data.dicom.pixels import Stack, choose_dtype, read_stacks
from aaclip_med.data.volumes import Volume
from aaclip_med.errors import InputError

Spacing = tuple[float, float, float]

GIVE_SPACING = "or give the voxel spacing (I, J, K in mm)"
_TIMES = ("acquisition time", "content time")
_FEWEST_SLICES = 3
"""A direction with fewer slices is a localiser's when another has at least as many."""


@dataclass(frozen=True)
class Series:
    """What a series is, by its headers alone.

    name: short, stable and without the patient: modality, series number, hash of the SeriesInstanceUID.
    description: SeriesDescription, printable, at most 40 characters.
    shape, spacing: (I, J, K) and mm of the first volume as it would be read; zeros where that is not known.
    plane: in which the slices lie: axial, coronal, sagittal, oblique (20 degrees or more off), none.
    problems: what is wrong, and what was put right. refused: why it cannot be read and what to do, or None.
    """

    name: str
    modality: str
    description: str
    shape: tuple[int, int, int]
    spacing: Spacing
    plane: str
    problems: tuple[str, ...]
    refused: str | None
    volumes: int
    files: tuple[Path, ...]
    parts: tuple[Part, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Part:
    """The frames of one volume, before their order is known. label: what sets it apart from the others."""

    frames: tuple[Frame, ...]
    label: str = ""


def list_series(paths: Sequence[str | Path]) -> list[Series]:
    """Every series in files and folders, by headers alone, in the order of their first files.

    Objects that are no scan are listed too, refused with the reason, and so are damaged files.

    Raises:
        InputError: a path does not exist, a named file is not DICOM, or there is no DICOM file at all.
    """
    groups: dict[str, list[Instance]] = defaultdict(list)
    damaged = []
    for path in find_dicom(paths):
        try:
            header = read_header(path)
        except InputError as error:
            damaged.append(_describe_damaged(path, str(error).removeprefix(f"{path}: ")))
            continue
        if header is not None:
            instance = describe_instance(path, header)
            groups[instance.series].append(instance)
    if not groups and not damaged:
        raise InputError(f"{', '.join(map(str, paths))}: a DICOMDIR without the files it lists; copy the whole folder")
    return sorted([_describe_series(*group) for group in groups.items()] + damaged, key=lambda series: series.files[0])


def read_series(series: Series, spacing_mm: Spacing | None = None) -> list[Volume]:
    """The volumes of ``series``, each with a right-handed affine to RAS mm and axes (I, J, K).

    I runs along a row, J down a column, K along the slice normal. ``Volume.path`` is the file where there is only one,
    else the folder; name what you write by ``Series.name``.

    ``spacing_mm`` (I, J, K) is taken only where the series' own geometry is no use: pixel spacing that is missing,
    positions that are missing or all the same (slices in the order of InstanceNumber), and slices that are missing or
    unevenly spaced, which are then interpolated linearly onto a grid of K mm.

    Raises:
        InputError: the series is refused, the spacing is not positive, the pixels cannot be decoded, or hold one value.
    """
    path = _common_path(series.files)
    if spacing_mm is not None and not all(0 < s < float("inf") for s in spacing_mm):
        raise InputError(f"{path}: spacing {spacing_mm} mm; give three positive numbers")
    if series.refused and (spacing_mm is None or not series.parts):
        raise InputError(f"{path}: series {series.name}: {series.refused}")
    try:
        stacks = [plan_stack(part, spacing_mm)[0] for part in series.parts]
    except _GeometryError as error:
        raise InputError(f"{path}: series {series.name}: {error}") from None
    volumes = []
    for stack, array in zip(stacks, read_stacks(stacks), strict=True):
        if array.min() == array.max():
            raise InputError(f"{path}: series {series.name}: every voxel is {array.flat[0]}; check how it was exported")
        stored = (*stack.frames[0].size, len(stack.frames))
        volumes.append(Volume(array, stack.grid.affine, path, None, stored, is_picture=False))
    return volumes


class _GeometryError(InputError):
    """A part cannot be placed; a spacing may help."""


def _describe_series(key: str, instances: list[Instance]) -> Series:
    first = instances[0]
    digest = hashlib.sha256(_without_folder(first, key).encode()).hexdigest()[:8]
    series = Series(
        name="-".join([first.modality, *([] if first.number is None else [str(first.number)]), digest]),
        modality=first.modality,
        description=first.description,
        shape=(0, 0, 0),
        spacing=(0.0, 0.0, 0.0),
        plane="none",
        problems=(),
        refused=None,
        volumes=0,
        files=tuple(instance.path for instance in instances),
    )
    problems = [] if first.has_uid else ["no SeriesInstanceUID: grouped by folder, frame of reference, size and orientation"]
    if any(instance.is_burned_in for instance in instances):
        problems.append("text is burned into the pixels: it may name the patient")
    broken = [instance.damaged for instance in instances if instance.damaged]
    if broken:
        more = f" (and {len(broken) - 1} more files)" if len(broken) > 1 else ""
        return replace(series, problems=tuple(problems), refused=f"{broken[0]}{more}")
    left_out = Counter(instance.left_out for instance in instances if instance.left_out)
    frames = [frame for instance in instances for frame in instance.frames]
    if not frames:
        return replace(series, problems=tuple(problems), refused=next(reason for reason in left_out if reason))
    problems += [f"{count} of {len(instances)} files left out: {reason}" for reason, count in left_out.items()]
    frames, dropped = _drop_same_files(frames)
    problems += dropped
    try:
        parts = _split(frames, problems)
    except _GeometryError as error:
        return replace(series, problems=tuple(problems), refused=str(error))
    stacks, refused = [], None
    for part in parts:
        try:
            stack, notes = plan_stack(part, None)
        except _GeometryError as error:
            refused = refused or (f"{part.label}: {error}" if part.label else str(error))
        else:
            stacks.append(stack)
            problems += [note for note in notes if note not in problems]
    first_frame = parts[0].frames[0]
    if stacks and not refused:
        scales = np.linalg.norm(stacks[0].grid.affine[:3, :3], axis=0).tolist()
        series = replace(series, shape=stacks[0].grid.shape, spacing=(scales[0], scales[1], scales[2]))
    else:
        series = replace(series, shape=(*first_frame.size, len(parts[0].frames)))
    return replace(
        series,
        plane=name_plane(perpendicular_axes(first_frame.cosines)),
        problems=tuple(problems),
        refused=refused,
        volumes=len(parts),
        parts=tuple(parts),
    )


def _without_folder(first: Instance, key: str) -> str:
    """What is hashed: the UID, or the grouping keys without the folder, which differs from machine to machine."""
    return key if first.has_uid else key.removeprefix(str(first.path.parent))


def _describe_damaged(path: Path, reason: str) -> Series:
    name = "damaged-" + hashlib.sha256(path.name.encode()).hexdigest()[:8]
    return Series(name, "OT", "", (0, 0, 0), (0.0, 0.0, 0.0), "none", (), f"{path.name}: {reason}", 0, (path,))


def _drop_same_files(frames: list[Frame]) -> tuple[list[Frame], list[str]]:
    """Copies of one SOP instance with the same place: the file was copied twice, whichever name it got."""
    kept: dict[object, Frame] = {}
    for number, frame in enumerate(frames):
        told = (frame.uid, frame.index, frame.position, frame.instance, *frame.keys.values(), frame.path.stat().st_size)
        key = told if frame.uid else number
        kept.setdefault(key, frame)
    copies = len(frames) - len(kept)
    notes = [f"{_count(copies)} in a second copy of its file (same SOPInstanceUID): read once"] if copies else []
    return list(kept.values()), notes


def _count(slices: int) -> str:
    return f"{slices} slice{'s' * (slices != 1)}"


def _split(frames: list[Frame], problems: list[str]) -> list[Part]:
    """One part for each volume: by size and orientation, then by what tells repeats at one position apart."""
    groups: list[list[Frame]] = []
    for frame in frames:
        for group in groups:
            if _is_alike(group[0], frame):
                group.append(frame)
                break
        else:
            groups.append([frame])
    if len(groups) > 1:
        largest = max(map(len, groups))
        if largest < _FEWEST_SLICES:
            raise _GeometryError(
                f"{len(frames)} slices in {len(groups)} directions or sizes, at most {largest} of each: a localiser or a "
                "turning projection, not a scan; name the scan that was planned on it"
            )
        small = [group for group in groups if len(group) < _FEWEST_SLICES]
        groups = [group for group in groups if len(group) >= _FEWEST_SLICES]
        if small:
            count = sum(map(len, small))
            problems.append(f"{_count(count)} of another direction or size left out: like a localiser")
        if len(groups) > 1:
            problems.append(f"slices in {len(groups)} directions, sizes or pixel spacings: one volume each")
    parts = []
    for group in groups:
        found = _split_repeats(group, problems)
        label = name_plane(perpendicular_axes(group[0].cosines)) if len(groups) > 1 else ""
        parts += [replace(part, label=" ".join(filter(None, (label, part.label)))) for part in found]
    return parts


def _is_alike(a: Frame, b: Frame) -> bool:
    if a.size != b.size or a.is_tomography != b.is_tomography:
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
    depths = _number_depths(np.array([np.dot(frame.position or (), axes[2]) for frame in frames]))
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
    """Multi-frame files without positions (OCT): one volume each."""
    files: dict[Path, list[Frame]] = defaultdict(list)
    for frame in frames:
        files[frame.path].append(frame)
    if len(files) == 1 or any(len(part) == 1 for part in files.values()):
        return [Part(tuple(frames))]
    problems.append(f"{len(files)} multi-frame files without positions: one volume each")
    return [Part(tuple(part), path.name) for path, part in files.items()]


def _number_depths(distances: Array) -> list[int]:
    """For each distance along the normal the number of its position, from 0; closer than 0.001 mm is the same."""
    order = np.argsort(distances, kind="stable")
    numbers = np.empty(len(distances), dtype=int)
    numbers[order] = np.cumsum(np.diff(distances[order], prepend=distances[order[:1]]) > SAME_POSITION_MM)
    return [int(n) for n in numbers]


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


def plan_stack(part: Part, spacing_mm: Spacing | None) -> tuple[Stack, list[str]]:
    """Order and grid of one volume, and what to say about it.

    Raises:
        InputError: there is no even grid without ``spacing_mm``, or even with it.
    """
    frames, notes = list(part.frames), []
    axes = perpendicular_axes(frames[0].cosines)
    pixel_mm = frames[0].pixel_mm or (spacing_mm[:2] if spacing_mm else None)
    placed = axes is not None and all(frame.position is not None for frame in frames)
    if frames[0].is_tomography and not placed and spacing_mm is None and frames[0].count == len(frames):
        between = frames[0].distance_mm or frames[0].thickness_mm
        if pixel_mm and between:
            notes.append(f"no positions: frames in the order of the file, {between:.4g} mm apart, orientation assumed")
            return _stack_in_order(frames, axes, (*pixel_mm, between)), notes
    if pixel_mm is None:
        raise _GeometryError(f"no PixelSpacing; export the series with it, {GIVE_SPACING}")
    if axes is None or not placed:
        if spacing_mm is None:
            missing = "usable ImageOrientationPatient" if axes is None else "ImagePositionPatient in every slice"
            raise _GeometryError(f"no {missing}; export the series with it, {GIVE_SPACING}")
        return _stack_in_order(frames, axes, spacing_mm), notes
    positions = np.array([frame.position for frame in frames])
    distances = positions @ axes[2]
    depths = _number_depths(distances)
    if len(frames) > 1 and len(set(depths)) == 1:
        if spacing_mm is None:
            raise _GeometryError(
                f"all {len(frames)} slices lie at one position along the normal ({distances[0]:.3f} mm): positions were lost, "
                f"or this is one slice over time; export the series with ImagePositionPatient, {GIVE_SPACING}, and slices "
                "are taken in the order of InstanceNumber"
            )
        return _stack_in_order(frames, axes, spacing_mm), notes
    frames, copies = _order_by_depth(frames, depths)
    if copies:
        notes.append(f"{_count(len(copies))} at a position that is taken: dropped if it shows the same, else refused")
    positions = np.array([frame.position for frame in frames])
    distances = positions @ axes[2]
    notes += _describe_mixture(frames)
    uneven = describe_unevenness(distances)
    if uneven and spacing_mm is None:
        what = "copy the missing files" if "missing" in uneven else "name the parts with one spacing on their own"
        raise _GeometryError(f"{uneven}; {what}, {GIVE_SPACING}, and slices are interpolated")
    slice_mm = spacing_mm[2] if spacing_mm else 1.0
    if len(frames) == 1:
        known = frames[0].thickness_mm or frames[0].distance_mm
        slice_mm = known or slice_mm
        source = "its thickness" if known else ("as given" if spacing_mm else "assumed")
        notes.append(f"a single slice: {slice_mm:.4g} mm deep ({source})")
    elif len(frames) > 1 and (thick := frames[0].thickness_mm):
        apart = float(np.median(np.diff(distances)))
        if apart > 2 * thick:
            notes.append(f"slices are {apart:.4g} mm apart but {thick:.4g} mm thick: every other one may be missing")
    grid = plan_grid(axes, positions, frames[0].size, pixel_mm, slice_mm, uneven is None)
    needs = np.prod(grid.shape, dtype=float) * choose_dtype(frames).itemsize
    if needs > MAX_BYTES:
        raise _GeometryError(f"{needs / 1024**3:.0f} GiB of voxels {grid.shape}; at most 16 GiB are read, check positions")
    if grid.shifts is not None:
        notes.append(_describe_shift(axes, positions))
    return Stack(tuple(frames), grid, copies), notes


def _order_by_depth(frames: list[Frame], depths: list[int]) -> tuple[list[Frame], tuple[tuple[Frame, int], ...]]:
    """The first frame (by InstanceNumber) at each position, and the others with the position's number."""
    ordered: list[Frame] = []
    copies = []
    for n in sorted(range(len(frames)), key=lambda n: (depths[n], frames[n].instance or 0, frames[n].index)):
        if depths[n] == len(ordered):
            ordered.append(frames[n])
        else:
            copies.append((frames[n], depths[n]))
    return ordered, tuple(copies)


def _stack_in_order(frames: list[Frame], axes: Array | None, spacing: Spacing) -> Stack:
    """Slices in the order of InstanceNumber and frame. Without an orientation, I to the left, J back, K up."""
    order = [(frame.instance, frame.index) for frame in frames]
    if len(frames) > 1 and (len(set(order)) < len(frames) or (frames[0].count == 1 and any(n is None for n, _ in order))):
        raise _GeometryError("neither positions nor distinct InstanceNumbers: the order is not known; export the series again")
    ordered = sorted(frames, key=lambda frame: (frame.instance or 0, frame.index))
    origin = np.array(ordered[0].position or (0.0, 0.0, 0.0))
    affine = make_affine(np.eye(3) if axes is None else axes, spacing, origin)
    return Stack(tuple(ordered), Grid(affine, (*ordered[0].size, len(ordered))))


def _describe_mixture(frames: list[Frame]) -> list[str]:
    mixed = [name for name in ("echo time", "b-value", "temporal position") if len({f.keys[name] for f in frames}) > 1]
    return [f"{name} differs between slices of one volume" for name in mixed]


def _describe_shift(axes: Array, positions: Array) -> str:
    step = positions[-1] - positions[0]
    in_plane = step - (step @ axes[2]) * axes[2]
    angle = float(np.degrees(np.arctan2(np.linalg.norm(in_plane), abs(step @ axes[2]))))
    if angle < 0.1:
        return f"slices are moved sideways by more than {MAX_IN_PLANE_SHIFT:g} pixel: straightened by linear interpolation"
    return f"slices lie askew by {angle:.1f} degrees (gantry tilt): straightened by linear interpolation"


def _common_path(files: Sequence[Path]) -> Path:
    """The file where there is only one, else the deepest folder with all of them."""
    if len(files) == 1:
        return files[0]
    return Path(os.path.commonpath([file.parent for file in files]))
