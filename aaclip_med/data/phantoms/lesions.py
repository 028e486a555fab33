"""Lesions for phantoms: where they lie (contiguous runs of slices, inside the organ) and what they look like.

Every lesion is a stack of blobs with wobbly outlines, one in each slice of its run, with blunt first and last slices.
Its kinds are drawn so that intensity alone does not give them away: some are brighter than the tissue around them, some
darker, some have its mean and another texture, some bend or misfold the anatomy. Nearly all carry a texture of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from aaclip_med.data.phantoms.fields import Field, Grid, Point, smooth_field

MIN_AREA = 0.01
"""Smallest lesion cross-section, as a fraction of the slice; slices with less carry no lesion at all."""


@dataclass(frozen=True)
class Lesion:
    """One lesion: ``radius`` (I, J, K) is 0 at its centre and 1 on its outline, infinite where it cannot be.

    ``centre`` is its in-plane position and ``size`` its in-plane radius, in mm.
    """

    kind: str
    radius: Field
    centre: tuple[float, float]
    size: float

    @property
    def inside(self) -> NDArray[np.bool_]:
        """The voxels the mask marks."""
        return self.radius <= 1.0

    def filled(self, softness: float = 0.12) -> Field:
        """Blending weight 0-1: 1 inside, a ramp over ``softness`` of the radius at the outline, 0 outside."""
        return np.clip((1.0 - self.radius) / softness + 0.5, 0.0, 1.0)

    def core(self, share: float, softness: float = 0.15) -> Field:
        """The same for the inner part, up to ``share`` of the radius."""
        return np.clip((share - self.radius) / softness + 0.5, 0.0, 1.0)


@dataclass(frozen=True)
class Run:
    """The slices ``first`` to ``last`` (both included) that a lesion spans."""

    first: int
    last: int

    def profile(self, count: int) -> Field:
        """Its relative width on each of ``count`` slices: 1 in the middle, about 0.75 at the ends, 0 beyond."""
        u = (np.arange(count) - (self.first + self.last) / 2) / ((self.last - self.first + 1) / 2)
        return np.where(np.abs(u) < 1, np.sqrt(np.clip(1 - 0.45 * u**2, 0, 1)), 0.0)


def plan_lesions(
    rng: np.random.Generator, kinds: tuple[str, ...], turn: int, slices: NDArray[np.intp], total: int
) -> list[tuple[str, Run]]:
    """1-3 lesions of different kinds in 1-3 runs of slices, which cover 38-54 % of a scan.

    Args:
        rng: the source of chance.
        kinds: the kinds to choose from.
        turn: the first lesion's kind is number ``turn`` modulo their number, so that a few phantoms show all kinds.
        slices: the slice numbers the organ is wide enough on, contiguous.
        total: the number of slices of the scan.
    """
    wanted = min(round(total * rng.uniform(0.4, 0.52)), len(slices))
    shortest = 3 if total >= 16 else 2
    lesions = int(rng.choice([1, 2, 3], p=[0.15, 0.45, 0.4]))
    parts = min(int(rng.integers(1, lesions + 1)), max(wanted // shortest, 1))
    lengths = np.full(parts, min(shortest, wanted))
    for _ in range(wanted - int(lengths.sum())):
        lengths[rng.integers(parts)] += 1
    gaps = rng.multinomial(len(slices) - int(lengths.sum()), np.full(parts + 1, 1 / (parts + 1)))
    runs, first = [], int(slices[0])
    for gap, length in zip(gaps.tolist(), lengths.tolist(), strict=False):
        runs.append(Run(first + gap, first + gap + length - 1))
        first += gap + length
    chosen = turn % len(kinds)
    others = rng.permutation([number for number in range(len(kinds)) if number != chosen]).tolist()
    return [(kinds[number], runs[i % parts]) for i, number in enumerate([chosen, *others][:lesions])]


def place_lesions(
    rng: np.random.Generator,
    grid: Grid,
    organ: NDArray[np.bool_],
    kinds: tuple[str, ...],
    turn: int,
    size_range: tuple[float, float],
) -> list[Lesion]:
    """1-3 lesions within the organ (I, J, K), none on top of another, with in-plane radii of ``size_range`` mm."""
    room = np.stack(
        [ndimage.distance_transform_edt(organ[:, :, k], sampling=grid.spacing[:2]) for k in range(grid.shape[2])], 2
    )
    wide = np.flatnonzero((room >= size_range[0]).any(axis=(0, 1)))
    if len(wide) < 3:
        return []
    lesions = []
    for kind, run in plan_lesions(rng, kinds, turn, np.arange(wide[0], wide[-1] + 1), grid.shape[2]):
        lesion = _grow(rng, grid, room, kind, run, rng.uniform(*size_range))
        if lesion.inside.any():
            lesions.append(lesion)
            np.minimum(room, np.where(np.isfinite(lesion.radius), (lesion.radius - 1.1) * lesion.size, room), out=room)
    return lesions


def _grow(rng: np.random.Generator, grid: Grid, room: Field, kind: str, run: Run, size: float) -> Lesion:
    """A lesion in a random place where it fits, smaller than ``size`` mm where the organ has no more room."""
    x, y, _ = grid.axes()
    profile = run.profile(grid.shape[2])
    common = room[:, :, run.first : run.last + 1].min(axis=2)
    widest = float(common.max())
    size = min(size, max(widest, 1e-3) / 0.8)
    places = np.argwhere(common >= min(0.8 * size, widest))
    i, j = places[rng.integers(len(places))]
    dx, dy = x - x[i, 0, 0], y - y[0, j, 0]
    stretch, turn = rng.uniform(0.8, 1.0), rng.uniform(0, np.pi)
    a, b = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    wobble = np.clip(smooth_field(rng, grid, (size, size, 4 * grid.spacing[2]), 0.12), -0.3, 0.3)
    radius = np.hypot(a * stretch, b / stretch) / (size * np.maximum(profile, 0.1)) + wobble
    radius = np.where((room > 0) & (profile > 0), np.maximum(radius, 0), np.inf)
    return Lesion(kind, drop_slivers(radius), (float(x[i, 0, 0]), float(y[0, j, 0])), size)


def drop_slivers(radius: Field) -> Field:
    """The radius field without the slices on which the lesion covers less than `MIN_AREA` of the picture."""
    area = (radius <= 1).mean(axis=(0, 1))
    return np.asarray(np.where(area < MIN_AREA, np.inf, radius), np.float64)


def mottle(rng: np.random.Generator, grid: Grid, scale: float | Point) -> Field:
    """Coarse clumps of about ``scale`` mm, with values pushed towards -1 and 1."""
    return np.tanh(2.0 * smooth_field(rng, grid, scale))


def stripes(rng: np.random.Generator, grid: Grid, period: float) -> Field:
    """Wavy parallel bands ``period`` mm apart, between -1 and 1."""
    x, y, _ = grid.axes()
    turn = rng.uniform(0, np.pi)
    phase = (x * np.cos(turn) + y * np.sin(turn)) * (2 * np.pi / period)
    return np.asarray(np.sin(phase + smooth_field(rng, grid, 4 * period, 1.2)))


def swell(image: Field, lesion: Lesion, grid: Grid, strength: float) -> Field:
    """The image with the anatomy inside the lesion pushed outwards from its centre, as by a mass of equal signal.

    Args:
        image: (I, J, K), left as it is.
        lesion: the region that swells; its outline stays where it is.
        grid: the phantom's grid.
        strength: 0 (none) to below 1; near the centre lengths grow by 1 / (1 - strength).
    """
    x, y, _ = grid.axes()
    shrink = 1 - strength * (1 - np.minimum(lesion.radius, 1.0) ** 2)
    out: Field = image.copy()
    for k in np.flatnonzero(lesion.inside.any(axis=(0, 1))):
        inside = lesion.inside[:, :, k]
        moved = []
        for axis, position in enumerate((x[:, :, 0], y[:, :, 0])):
            source = lesion.centre[axis] + (position - lesion.centre[axis]) * shrink[:, :, k]
            middle = (grid.shape[axis] - 1) / 2
            moved.append(((source - grid.middle[axis]) / grid.spacing[axis] + middle)[inside])
        out[inside, k] = ndimage.map_coordinates(image[:, :, k], moved, order=1, mode="nearest")
    return out
