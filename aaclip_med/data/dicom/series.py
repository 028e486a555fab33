"""DICOM series: what lies in files and folders, what is wrong with it, and its volumes.

A series is put right where there is one honest way (order, gantry tilt, repeats, several volumes) and refused with the
reason where there is none; slices are never stacked on trust. ``docs/inputs.md`` lists what happens to which input.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from aaclip_med.data.dicom.frames import Frame, Instance, describe_instance
from aaclip_med.data.dicom.geometry import GeometryError, count_slices, name_plane, perpendicular_axes
from aaclip_med.data.dicom.headers import find_dicom, read_header
from aaclip_med.data.dicom.parts import NoScanError, Part, split_frames
from aaclip_med.data.dicom.pixels import read_stacks
from aaclip_med.data.dicom.stacking import NOT_COMPARED, Spacing, plan_stack
from aaclip_med.data.scans import number_names
from aaclip_med.data.volumes import Volume
from aaclip_med.errors import InputError


@dataclass(frozen=True)
class Series:
    """What a series is, by its headers alone.

    name: short, stable and without the patient: modality, series number, hash of the SeriesInstanceUID (where several studies
    have the same, of both UIDs); numbered where two would still have one name.
    description: SeriesDescription, printable, at most 40 characters.
    shape, spacing: (I, J, K) and mm of the first volume as it would be read; zeros where that is not known.
    plane: in which the slices lie: axial, coronal, sagittal, oblique (20 degrees or more off), none.
    problems: what is wrong, and what was put right. refused: why it cannot be read and what to do, or None. is_scan: False for
    objects of other kinds, localisers and screenshots, which nobody misses.
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
    is_scan: bool = True

    @property
    def path(self) -> Path:
        """The file where there is only one, else the deepest folder with all of them."""
        if len(self.files) == 1:
            return self.files[0]
        return Path(os.path.commonpath([file.parent for file in self.files]))

    @property
    def put_right(self) -> tuple[str, ...]:
        """``problems`` of a series that was read: its repeats, which are then known to show the same, were dropped."""
        return tuple(problem.replace(NOT_COMPARED, "dropped, it shows the same") for problem in self.problems)


def list_series(paths: Sequence[str | Path]) -> list[Series]:
    """Every series in files and folders, by headers alone, in the order of their first files.

    Objects that are no scan are listed too, refused with the reason, and so are damaged files.

    Raises:
        InputError: a path does not exist, a named file is not DICOM, or there is no DICOM file at all.
    """
    groups: dict[tuple[str, str], list[Instance]] = defaultdict(list)
    damaged = []
    for path in find_dicom(paths):
        try:
            header = read_header(path)
        except InputError as error:
            damaged.append(_describe_damaged(path, str(error).removeprefix(f"{path}: ")))
            continue
        if header is not None:
            instance = describe_instance(path, header)
            groups[instance.study, instance.series].append(instance)
    if not groups and not damaged:
        raise InputError(f"{', '.join(map(str, paths))}: a DICOMDIR without the files it lists; copy the whole folder")
    studies = Counter(series for _, series in groups)
    found = [_describe_series(group, studies[series] > 1) for (_, series), group in groups.items()]
    found = sorted(found + damaged, key=lambda series: series.files[0])
    names = number_names([series.name for series in found])
    return [replace(series, name=name) for series, name in zip(found, names, strict=True)]


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
    path = series.path
    if spacing_mm is not None and not all(0 < s < float("inf") for s in spacing_mm):
        raise InputError(f"{path}: spacing {spacing_mm} mm; give three positive numbers")
    if series.refused and (spacing_mm is None or not series.parts):
        raise InputError(f"{path}: series {series.name}: {series.refused}")
    try:
        stacks = [plan_stack(part, spacing_mm)[0] for part in series.parts]
    except GeometryError as error:
        raise InputError(f"{path}: series {series.name}: {error}") from None
    volumes = []
    for stack, array in zip(stacks, read_stacks(stacks), strict=True):
        if array.min() == array.max():
            raise InputError(f"{path}: series {series.name}: every voxel is {array.flat[0]}; check how it was exported")
        stored = (*stack.frames[0].size, len(stack.frames))
        volumes.append(Volume(array, stack.grid.affine, path, None, stored, is_picture=False))
    return volumes


def _describe_series(instances: list[Instance], with_study: bool) -> Series:
    """``with_study``: another study has a series of the same UID, as anonymisers leave behind that give all the same."""
    first = instances[0]
    digest = hashlib.sha256(_list_identity(first, with_study).encode()).hexdigest()[:8]
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
    problems = (
        []
        if first.has_uid
        else ["no SeriesInstanceUID: grouped by folder, series number, frame of reference, size and orientation"]
    )
    if not all(instance.has_units for instance in instances):
        problems.append("a CT without RescaleIntercept: its values are as stored, and may not be Hounsfield units")
    if any(instance.is_burned_in for instance in instances):
        problems.append("text is burned into the pixels: it may name the patient")
    broken = [instance.damaged for instance in instances if instance.damaged]
    if broken:
        more = f" (and {len(broken) - 1} more files)" if len(broken) > 1 else ""
        return replace(series, problems=tuple(problems), refused=f"{broken[0]}{more}")
    left_out = Counter(instance.left_out for instance in instances if instance.left_out)
    frames = [frame for instance in instances for frame in instance.frames]
    if not frames:
        one = next((instance for instance in instances if instance.is_scan), first)
        return replace(series, problems=tuple(problems), refused=one.left_out, is_scan=one.is_scan)
    problems += [f"{count} of {len(instances)} files left out: {reason}" for reason, count in left_out.items()]
    flat = next((frame.path.name for frame in frames if frame.slope == 0), None)
    if flat:
        return replace(series, problems=tuple(problems), refused=f"{flat} has RescaleSlope 0; export it again")
    frames, dropped = _drop_same_files(frames)
    problems += dropped
    try:
        parts = split_frames(frames, problems)
    except GeometryError as error:
        return replace(series, problems=tuple(problems), refused=str(error), is_scan=not isinstance(error, NoScanError))
    stacks, refused = [], None
    for part in parts:
        try:
            stack, notes = plan_stack(part, None)
        except GeometryError as error:
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


def _list_identity(first: Instance, with_study: bool) -> str:
    """What is hashed: the UIDs, or the grouping keys without the folder, which differs from machine to machine."""
    if not first.has_uid:
        return first.series.removeprefix(str(first.path.parent))
    return f"{first.study}|{first.series}" if with_study else first.series


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
    notes = [f"{count_slices(copies)} in a second copy of its file (same SOPInstanceUID): read once"] if copies else []
    return list(kept.values()), notes
