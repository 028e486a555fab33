"""Smooth random fields, signed distances and a canvas to paint them on: the raw material of every phantom.

Arrays are (I, J, K) with K the slice axis; lengths are in mm; a signed distance is negative inside the shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]
Point = tuple[float, float, float]
Box = tuple[slice, slice, slice]

FAR = 1e3
"""Stands for "nowhere near" in a signed distance, in mm."""
LONG = 1e4
"""Radius in mm along an axis the shape does not change on."""


@dataclass(frozen=True)
class Grid:
    """A regular grid: ``shape`` voxels (I, J, K), ``spacing`` mm between their centres, its middle at ``middle`` mm."""

    shape: tuple[int, int, int]
    spacing: Point
    middle: Point = (0.0, 0.0, 0.0)

    def axes(self) -> tuple[Field, Field, Field]:
        """Voxel centre positions in mm, shaped to broadcast: (I, 1, 1), (1, J, 1), (1, 1, K)."""
        x, y, z = (
            np.asarray((np.arange(n) - (n - 1) / 2) * mm + at, np.float64)
            for n, mm, at in zip(self.shape, self.spacing, self.middle, strict=True)
        )
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def box(self, low: Point, high: Point) -> Box:
        """The slices of the array that cover everything from corner ``low`` to corner ``high`` (mm)."""
        sides = []
        for n, mm, at, a, b in zip(self.shape, self.spacing, self.middle, low, high, strict=True):
            first, last = ((edge - at) / mm + (n - 1) / 2 for edge in (a, b))
            sides.append(slice(min(max(int(first), 0), n), max(min(int(last) + 2, n), 0)))
        return sides[0], sides[1], sides[2]


def _spline_weights(count: int, spacing: float, scale: float, offset: float) -> Field:
    """Uniform cubic B-spline weights (count, knots): ``count`` positions ``spacing`` apart, knots ``scale`` apart."""
    position = np.arange(count) * spacing / scale + offset + 1.0
    knots = np.arange(int(np.ceil(position[-1])) + 3)
    t = np.abs(position[:, None] - knots[None, :])
    return np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.where(t < 2, (2 - t) ** 3 / 6, 0.0))


def smooth_field(rng: np.random.Generator, grid: Grid, scale: float | Point, amplitude: float = 1.0) -> Field:
    """A random field (I, J, K) of mean 0 and standard deviation ``amplitude`` that varies over about ``scale`` mm.

    It is a cubic B-spline through normal random knots ``scale`` mm apart (one number, or one for each axis).
    """
    scales = (scale, scale, scale) if isinstance(scale, float | int) else scale
    weights = [_spline_weights(n, mm, s, rng.uniform(0, 1)) for n, mm, s in zip(grid.shape, grid.spacing, scales, strict=True)]
    knots = rng.standard_normal([w.shape[1] for w in weights])
    for w in weights:  # each pass uses up the leading axis and appends the dense one, so three passes keep the order
        knots = np.tensordot(knots, w, axes=(0, 1))
    return np.asarray((knots - knots.mean()) * (amplitude / (knots.std() + 1e-9)))


def ellipsoid(x: Field, y: Field, z: Field, centre: Point, radii: Point) -> Field:
    """Signed distance in mm (first order, exact at the surface) to an axis-aligned ellipsoid."""
    level, slope = np.zeros(()), np.zeros(())
    for p, c, r in zip((x, y, z), centre, radii, strict=True):
        if r < LONG:
            q = ((p - c) / r) ** 2
            level, slope = level + q, slope + q / r**2
    level = np.sqrt(level)
    return np.asarray(level * (level - 1) / np.sqrt(slope + 1e-12) - (level < 1e-3) * min(radii))


def cover(distance: Field, edge: float) -> Field:
    """How much of each voxel the shape fills, 0-1: a linear ramp ``edge`` mm wide across the surface."""
    return np.clip(0.5 - distance / edge, 0.0, 1.0)


def paint(image: Field, filled: Field, value: Field | float) -> None:
    """Blend ``value`` into ``image`` in place, by the filled fraction of each voxel."""
    image += filled * (value - image)


@dataclass(frozen=True)
class Canvas:
    """A picture in progress, and the (slightly warped) positions of its voxels.

    ``image``, ``x``, ``y``, ``z`` are (I, J, K); positions in mm. ``edge`` is the width in mm over which outlines blur.
    """

    grid: Grid
    image: Field
    x: Field
    y: Field
    z: Field
    edge: float

    @classmethod
    def blank(cls, rng: np.random.Generator, grid: Grid, value: float, warp: float, scale: float, edge: float) -> Canvas:
        """A canvas of one ``value``, its in-plane positions warped by about ``warp`` mm over ``scale`` mm."""
        x, y, z = grid.axes()
        return cls(
            grid,
            np.full(grid.shape, value),
            x + smooth_field(rng, grid, scale, warp),
            y + smooth_field(rng, grid, scale, warp),
            np.broadcast_to(z, grid.shape),
            edge,
        )

    def fill(self, distance: Field, value: Field | float, opacity: float = 1.0, softness: float = 1.0) -> None:
        """Paint everything inside a shape given by its signed distance (I, J, K)."""
        paint(self.image, cover(distance, self.edge * softness) * opacity, value)

    def blob(self, centre: Point, radii: Point, grow: float = 0.0) -> tuple[Box, Field]:
        """An ellipsoid: the box around it (``grow`` mm wider) and the signed distances in that box."""
        reach = [r + grow + 9.0 for r in radii]
        box = self.grid.box(
            (centre[0] - reach[0], centre[1] - reach[1], centre[2] - reach[2]),
            (centre[0] + reach[0], centre[1] + reach[1], centre[2] + reach[2]),
        )
        return box, ellipsoid(self.x[box], self.y[box], self.z[box], centre, radii)

    def fill_box(self, box: Box, distance: Field, value: float, opacity: float = 1.0, softness: float = 1.0) -> None:
        """Paint inside a shape given by its signed distance in ``box``."""
        paint(self.image[box], cover(distance, self.edge * softness) * opacity, value)

    def tube(self, path: Field, radii: Field) -> tuple[Box, Field]:
        """A chain of capsules through ``path`` (N, 3) with radii (N,): its box and the signed distances in that box."""
        reach = float(radii.max()) + 12.0
        low, high = path.min(axis=0) - reach, path.max(axis=0) + reach
        box = self.grid.box(tuple(low.tolist()), tuple(high.tolist()))
        x, y, z = self.x[box], self.y[box], self.z[box]
        nearest = np.full(x.shape, FAR)
        for a, b, ra, rb in zip(path[:-1], path[1:], radii[:-1], radii[1:], strict=True):
            axis = b - a
            t = ((x - a[0]) * axis[0] + (y - a[1]) * axis[1] + (z - a[2]) * axis[2]) / (axis @ axis + 1e-9)
            t = np.clip(t, 0, 1)
            gap = (x - a[0] - t * axis[0]) ** 2 + (y - a[1] - t * axis[1]) ** 2 + (z - a[2] - t * axis[2]) ** 2
            np.minimum(nearest, np.sqrt(gap) - (ra + t * (rb - ra)), out=nearest)
        return box, nearest
