"""One volume's frames in order, and the grid they lie in; refused where there is no honest one."""

from __future__ import annotations

import numpy as np

from aaclip_med.data.dicom.exclusions import MAX_BYTES
from aaclip_med.data.dicom.frames import Frame
from aaclip_med.data.dicom.geometry import (
    MAX_IN_PLANE_SHIFT,
    Array,
    GeometryError,
    Grid,
    count_slices,
    describe_unevenness,
    make_affine,
    number_depths,
    perpendicular_axes,
    plan_grid,
)
from aaclip_med.data.dicom.parts import Part
from aaclip_med.data.dicom.pixels import Stack, choose_dtype

Spacing = tuple[float, float, float]

NOT_COMPARED = "dropped if it shows the same, else refused"
"""Said of a repeat by its header alone."""

GIVE_SPACING = "or give the voxel spacing (I, J, K in mm)"


def plan_stack(part: Part, spacing_mm: Spacing | None) -> tuple[Stack, list[str]]:
    """Order and grid of one volume, and what to say about it.

    Raises:
        InputError: there is no even grid without ``spacing_mm``, or even with it.
    """
    frames, notes = list(part.frames), []
    axes = perpendicular_axes(frames[0].cosines)
    pixel_mm = frames[0].pixel_mm or (spacing_mm[:2] if spacing_mm else None)
    placed = axes is not None and all(frame.position is not None for frame in frames)
    if frames[0].is_tomography and not placed and spacing_mm is None and _is_one_object(frames):
        between = frames[0].distance_mm or frames[0].thickness_mm
        if pixel_mm and between:
            notes.append(f"no positions: frames in the order of the file, {between:.4g} mm apart, orientation assumed")
            return _stack_in_order(frames, axes, (*pixel_mm, between)), notes
    if frames[0].is_projection and pixel_mm:
        notes.append("a projection, without a place in the patient: orientation assumed, and mm as at the detector")
        return _stack_in_order(frames, axes, (*pixel_mm, spacing_mm[2] if spacing_mm else 1.0)), notes
    if pixel_mm is None:
        raise GeometryError(f"no PixelSpacing above 0; export the series with it, {GIVE_SPACING}")
    if axes is None or not placed:
        if spacing_mm is None:
            bare = [frame.path.name for frame in frames if frame.position is None]
            missing = f"ImagePositionPatient in {len(bare)} of {len(frames)} slices, as in {bare[0]}" if bare else ""
            if axes is None:
                missing = "usable ImageOrientationPatient"
            raise GeometryError(f"no {missing}; export the series with it, {GIVE_SPACING}")
        return _stack_in_order(frames, axes, spacing_mm), notes
    positions = np.array([frame.position for frame in frames])
    distances = positions @ axes[2]
    depths = number_depths(distances)
    if len(frames) > 1 and len(set(depths)) == 1:
        if spacing_mm is None:
            raise GeometryError(
                f"all {len(frames)} slices lie at one position along the normal ({distances[0]:.3f} mm): positions were lost, "
                f"or this is one slice over time; export the series with ImagePositionPatient, {GIVE_SPACING}, and slices "
                "are taken in the order of InstanceNumber"
            )
        return _stack_in_order(frames, axes, spacing_mm), notes
    frames, copies = _order_by_depth(frames, depths)
    if copies:
        notes.append(f"{count_slices(len(copies))} at a position that is taken: {NOT_COMPARED}")
    positions = np.array([frame.position for frame in frames])
    distances = positions @ axes[2]
    notes += _describe_mixture(frames)
    uneven = describe_unevenness(distances)
    if uneven and spacing_mm is None:
        what = "copy the missing files" if "missing" in uneven else "name the parts with one spacing on their own"
        raise GeometryError(f"{uneven}; {what}, {GIVE_SPACING}, and slices are interpolated")
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
        raise GeometryError(f"{needs / 1024**3:.0f} GiB of voxels {grid.shape}; at most 16 GiB are read, check positions")
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
    order = [(0 if _is_one_object(frames) else frame.instance, frame.place) for frame in frames]
    if len(frames) > 1 and (len(set(order)) < len(frames) or (frames[0].count == 1 and any(n is None for n, _ in order))):
        raise GeometryError("neither positions nor distinct InstanceNumbers: the order is not known; export the series again")
    ordered = [frames[n] for n in sorted(range(len(frames)), key=lambda n: (order[n][0] or 0, order[n][1]))]
    origin = np.array(ordered[0].position or (0.0, 0.0, 0.0))
    affine = make_affine(np.eye(3) if axes is None else axes, spacing, origin)
    return Stack(tuple(ordered), Grid(affine, (*ordered[0].size, len(ordered))))


def _is_one_object(frames: list[Frame]) -> bool:
    """Whether they are all the frames of one multi-frame object."""
    return len({frame.source for frame in frames}) == 1 and sorted(f.place for f in frames) == list(range(len(frames)))


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
