"""Where a synthetic lesion lies and how it is shaped, in two or three dimensions alike.

Grids are (H, W) or (I, J, K); ``spacing`` is the distance of neighbours along each axis in mm (1 where only pixels are known).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

REACH = 2.0
"""A lesion lies within this many radii of its centre, radii of its stretched ball."""
STRETCH = 0.35
"""The ball's axes are multiplied by up to exp of this, or divided."""
EDGE = 0.1
"""How much of a lesion shows at the edge of its mask, of 1 inside; beyond the edge nothing does."""


@dataclass(frozen=True)
class Shape:
    """One irregular blob.

    box: its part of the grid. offsets: (N, *box) mm from the centre ``centre`` (grid index). mask: (*box) what belongs to it.
    height: (*box) 0 at the mask's edge and rising inwards, by about 1 a ``radius`` (mm).
    """

    box: tuple[slice, ...]
    centre: tuple[int, ...]
    offsets: Array
    mask: Mask
    height: Array
    radius: float
    spacing: tuple[float, ...]

    @property
    def window(self) -> tuple[slice, ...]:
        """The box of an image with channels, (C, *grid)."""
        return (slice(None), *self.box)

    def weight(self, softness: float, depth: float = 0.0) -> Array:
        """(*box) from 0 outside to 1 inside: ``EDGE`` at ``depth`` radii below the mask's edge, 1 ``softness`` further in."""
        start = 0.1958 * softness  # where a smooth step has risen to EDGE
        position = np.clip((self.height - depth + start) / softness, 0, 1)
        return np.asarray(position * position * (3 - 2 * position), dtype=np.float32)


def find_foreground(values: Array, spacing: Sequence[float]) -> Mask:
    """The body in a windowed image: values (C, *grid) in [0, 1] -> (*grid).

    The largest piece above 0 that is brighter than the background when smoothed over a hundredth of the longest side, with
    its holes closed: in the plane of a slice, or across the coarsest axis of a volume. What counts as brighter is half way
    from the dark pixels' mean to Otsu's threshold, so the noise of air and of vitreous is left out.
    """
    grey = values.mean(axis=0)
    sides = np.array(grey.shape) * np.array(spacing)
    smooth = ndimage.gaussian_filter(grey, sides.max() / 100 / np.array(spacing), truncate=3)
    threshold = _otsu(smooth)
    dark = smooth[smooth <= threshold]
    level = (float(dark.mean()) + threshold) / 2 if dark.size else threshold
    pieces, count = ndimage.label((smooth > level) & (grey > 0))
    if count == 0:
        return np.zeros(grey.shape, dtype=bool)
    largest = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
    flat = ndimage.generate_binary_structure(grey.ndim, 1)
    if grey.ndim == 3:
        coarsest = int(np.argmax(np.array(spacing)[::-1]))
        flat = np.moveaxis(flat, 2 - coarsest, 0)
        flat[[0, 2]] = False
        flat = np.moveaxis(flat, 0, 2 - coarsest)
    return np.asarray(ndimage.binary_fill_holes(largest, flat), dtype=bool)


def _otsu(values: Array) -> float:
    """The threshold that parts ``values`` best in two (Otsu, IEEE Trans. SMC 1979); just below them where all are the same."""
    low, high = float(values.min()), float(values.max())
    if not low < high:
        return low - 1.0
    counts, edges = np.histogram(values, 256, (low, high))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    total = np.cumsum(counts * middles)
    above = values.size - below
    spread = below * above * (total[:-1] / np.maximum(below, 1) - (total[-1] - total[:-1]) / np.maximum(above, 1)) ** 2
    return float(edges[1 + spread.argmax()])


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float], scale: float) -> Array:
    """A random field of mean 0 and standard deviation 1 that varies over about ``scale`` mm."""
    widths = np.array([scale / 2 / mm for mm in spacing])
    steps = np.maximum(np.floor(widths / 2).astype(int), 1)  # smooth fields are made on a coarser grid
    coarse = [math.ceil(n / step) + 3 for n, step in zip(shape, steps, strict=True)]
    field = ndimage.gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), widths / steps, truncate=3, mode="wrap")
    if (steps > 1).any():
        axes = [(np.arange(n) + 0.5) / step for n, step in zip(shape, steps, strict=True)]
        field = ndimage.map_coordinates(field, np.meshgrid(*axes, indexing="ij"), np.float32, order=1)
    else:
        field = field[tuple(slice(n) for n in shape)]
    field = field - field.mean()
    return np.asarray(field / max(float(field.std()), 1e-6), dtype=np.float32)


def draw_rotation(rng: np.random.Generator, dimensions: int) -> NDArray[np.float64]:
    """A random orthogonal matrix, mirrored or not."""
    return np.asarray(np.linalg.qr(rng.standard_normal((dimensions, dimensions)))[0])


def draw_shape(
    rng: np.random.Generator, foreground: Mask, centre: tuple[int, ...], size: int, spacing: Sequence[float]
) -> Shape:
    """An irregular blob of ``size`` pixels or voxels around ``centre``, all of it in ``foreground``.

    A stretched and turned ball whose surface noise moves; of the foreground around it the ``size`` highest pixels are
    taken, and of these the piece that holds the highest. So it gives way at the body's edge and fills a thin layer lengthwise.
    """
    dimensions = foreground.ndim
    amount = size * float(np.prod(spacing))
    radius = math.sqrt(amount / math.pi) if dimensions == 2 else (0.75 * amount / math.pi) ** (1 / 3)
    radius = max(radius, min(spacing))
    reaches = [math.ceil(REACH * math.exp(STRETCH) * radius / mm) for mm in spacing]
    box = tuple(slice(max(0, c - n), c + n + 1) for c, n in zip(centre, reaches, strict=True))
    around = foreground[box]
    axes = [
        (np.arange(part.start, part.start + n, dtype=np.float32) - c) * np.float32(mm)
        for part, n, c, mm in zip(box, around.shape, centre, spacing, strict=True)
    ]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    stretch = np.exp(rng.uniform(-STRETCH, STRETCH, dimensions))
    turned = np.tensordot(draw_rotation(rng, dimensions) / stretch[:, None], offsets, 1)
    distance = np.sqrt((turned**2).sum(axis=0)) / radius
    inside = around & (distance < REACH)
    height = 1 - distance + rng.uniform(0.1, 0.3) * smooth_noise(rng, around.shape, spacing, radius)
    height = height + rng.uniform(0.0, 0.12) * smooth_noise(rng, around.shape, spacing, 0.4 * radius)
    heights = np.sort(height[inside])[::-1]
    height = height - heights[min(size, len(heights) - 1)]
    pieces, _ = ndimage.label(inside & (height > 0))
    mask = pieces == pieces.flat[int(np.where(inside, height, -np.inf).argmax())]
    return Shape(box, centre, offsets, mask & inside & (height > 0), height.astype(np.float32), radius, tuple(spacing))


def sample(values: Array, positions: NDArray[Any]) -> Array:
    """Values (C, *grid) at ``positions`` (N, *box), grid indices, linearly; mirrored at the border."""
    return np.stack([ndimage.map_coordinates(channel, positions, np.float32, order=1, mode="mirror") for channel in values])
