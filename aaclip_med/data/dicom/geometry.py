"""Where slices lie: from DICOM positions and orientations (PS3.3 C.7.6.2) to one even grid with an affine to RAS mm.

DICOM gives, in LPS mm, the centre of each slice's first pixel and the directions of its rows and columns. The grid's
axes are I along a row (from column to column), J down a column, K along the slice normal ``row x column``, so that it
is right-handed. Slices that lie askew (gantry tilt) or at uneven distances are moved onto it by linear interpolation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from aaclip_med.data.volumes import LPS_TO_RAS
from aaclip_med.errors import InputError

Array = np.ndarray[Any, Any]

SAME_POSITION_MM = 1e-3
SAME_ORIENTATION = 1e-3
"""Largest difference of a direction cosine within one stack."""
MAX_IN_PLANE_SHIFT = 0.1
"""In pixels: slices that lie askew by no more than this are taken as straight."""
_MAX_NOT_PERPENDICULAR = 0.01
_PLANE_COSINE = math.cos(math.radians(20))


class GeometryError(InputError):
    """A part cannot be placed; a spacing may help."""


@dataclass(frozen=True)
class Grid:
    """An even grid and where the slices lie in it.

    affine: (4, 4) voxel index to RAS mm, orthogonal and right-handed.
    shape: (I, J, K).
    shifts: (N, 2) by how many voxels slice n is moved along I and J, none negative; None where none is.
    depths: (N,) at which K slice n lies; None where slice n is exactly K = n.
    """

    affine: Array
    shape: tuple[int, int, int]
    shifts: Array | None = None
    depths: Array | None = None

    def resample(self, stack: Array, fill: float) -> Array:
        """Move slices (I, J, N) onto the grid by linear interpolation; ``fill`` where no slice reaches.

        The dtype is kept, so integers are rounded.
        """
        if self.shifts is None and self.depths is None:
            return stack
        out = np.empty(self.shape, dtype=stack.dtype)
        count = stack.shape[2]
        depths = np.arange(count) if self.depths is None else self.depths
        for k in range(self.shape[2]):
            upper = int(np.clip(np.searchsorted(depths, k), 1, count - 1)) if count > 1 else 0
            lower = max(upper - 1, 0)
            weight = 0.0 if count == 1 else float(np.clip((k - depths[lower]) / (depths[upper] - depths[lower]), 0, 1))
            mixed = np.zeros(self.shape[:2], dtype=np.float64)
            for n, share in ((lower, 1.0 - weight), (upper, weight)):
                if share > 0:
                    mixed += share * self._place(stack[:, :, n], n, fill)
            out[:, :, k] = mixed if np.issubdtype(out.dtype, np.floating) else np.rint(mixed)
        return out

    def _place(self, plane: Array, n: int, fill: float) -> Array:
        canvas = np.full(self.shape[:2], fill, dtype=np.float64)
        i, j = (0.0, 0.0) if self.shifts is None else self.shifts[n]
        left, top = math.floor(i), math.floor(j)
        canvas[left : left + plane.shape[0], top : top + plane.shape[1]] = plane
        if i == left and j == top:
            return canvas
        moved: Array = ndimage.shift(canvas, (i - left, j - top), order=1, mode="nearest")
        return moved


def perpendicular_axes(cosines: tuple[float, ...] | None) -> Array | None:
    """(3, 3) rows: unit vectors along a row, down a column and along the slice normal, LPS.

    ``cosines`` are the six of ImageOrientationPatient. None where they are missing or not two unit vectors at a right
    angle (to 1 %).
    """
    if cosines is None:
        return None
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(row @ column))) > _MAX_NOT_PERPENDICULAR:
        return None
    row = row / lengths[0]
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    return np.stack([row, column, np.cross(row, column)])


def name_plane(axes: Array | None) -> str:
    """``axial``, ``coronal`` or ``sagittal`` where the normal is within 20 degrees of that axis, else ``oblique``."""
    if axes is None:
        return "none"
    nearest = int(np.argmax(np.abs(axes[2])))
    return ("sagittal", "coronal", "axial")[nearest] if abs(axes[2][nearest]) > _PLANE_COSINE else "oblique"


def make_affine(axes: Array, spacing: tuple[float, float, float], origin: Array) -> Array:
    """(4, 4) voxel index to RAS mm; ``axes`` and ``origin`` (the first voxel's centre) are LPS."""
    affine = np.eye(4)
    affine[:3, :3] = axes.T * np.array(spacing)
    affine[:3, 3] = origin
    turned: Array = LPS_TO_RAS @ affine
    return turned


def tolerance(spacing: float) -> float:
    """By how many mm a slice may lie off an even grid: 1 % of ``spacing``, or 0.01 mm (rounding), never above 5 %."""
    return min(max(0.01 * spacing, 0.01), 0.05 * spacing)


def describe_unevenness(distances: Array) -> str | None:
    """What keeps slices at ``distances`` (N,), ascending and distinct, in mm, from an even grid; None if nothing does."""
    if len(distances) < 3:
        return None
    gaps = np.diff(distances)
    spacing = float(np.median(gaps))
    even = np.linspace(distances[0], distances[-1], len(distances))
    allowed = tolerance(spacing)
    if (np.abs(gaps - spacing) <= 2 * allowed).all() and (np.abs(distances - even) <= max(allowed, 0.1 * spacing)).all():
        return None
    steps = np.rint(gaps / spacing)
    if (steps >= 1).all() and (np.abs(gaps - steps * spacing) <= 2 * allowed * steps).all() and steps.max() > 1:
        where = [f"{distances[n]:.2f} and {distances[n + 1]:.2f} mm" for n in np.flatnonzero(steps > 1)]
        shown = ", ".join(where[:3]) + (f" and {len(where) - 3} more gaps" if len(where) > 3 else "")
        missing = int((steps - 1).sum())
        return f"{missing} slice{'s' * (missing > 1)} missing at a spacing of {spacing:.3g} mm, between {shown}"
    return f"the distance between slices varies from {gaps.min():.3g} to {gaps.max():.3g} mm"


def plan_grid(
    axes: Array, positions: Array, size: tuple[int, int], pixel_mm: tuple[float, float], slice_mm: float, is_even: bool
) -> Grid:
    """The grid of slices at ``positions`` (N, 3), LPS mm, sorted along the normal.

    size, pixel_mm: along I and J. slice_mm: of a single slice, and of the grid for slices that are not ``is_even``.
    """
    count = len(positions)
    moved = (positions - positions[0]) @ axes.T
    shifts = moved[:, :2] / np.array(pixel_mm)
    start = shifts.min(axis=0)
    origin = positions[0]
    in_plane: Array | None = None
    if float(np.abs(shifts).max()) > MAX_IN_PLANE_SHIFT:
        in_plane = shifts - start
        origin = origin + (start * np.array(pixel_mm)) @ axes[:2]
        size = (size[0] + math.ceil(in_plane[:, 0].max() - 1e-6), size[1] + math.ceil(in_plane[:, 1].max() - 1e-6))
        in_plane = np.minimum(in_plane, np.array(in_plane.max(axis=0)))
    depth = float(moved[-1, 2])
    if is_even or count == 1:
        slice_mm = depth / (count - 1) if count > 1 else slice_mm
        return Grid(make_affine(axes, (*pixel_mm, slice_mm), origin), (*size, count), in_plane)
    slices = math.floor(depth / slice_mm + 1e-6) + 1
    return Grid(make_affine(axes, (*pixel_mm, slice_mm), origin), (*size, slices), in_plane, moved[:, 2] / slice_mm)


def number_depths(distances: Array) -> list[int]:
    """For each distance along the normal the number of its position, from 0; closer than 0.001 mm is the same."""
    order = np.argsort(distances, kind="stable")
    numbers = np.empty(len(distances), dtype=int)
    numbers[order] = np.cumsum(np.diff(distances[order], prepend=distances[order[:1]]) > SAME_POSITION_MM)
    return [int(n) for n in numbers]


def count_slices(slices: int) -> str:
    """``1 slice``, ``2 slices``."""
    return f"{slices} slice{'s' * (slices != 1)}"
