"""The hot voxels of a large grid, as the box that holds them: a few voxels instead of a whole volume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mask:
    """voxels: (K, J, I) uint8 of the box alone, 1 inside. first: the grid's (k, j, i) of the box's first voxel."""

    voxels: np.ndarray
    first: tuple[int, int, int]

    @property
    def extent(self) -> tuple[int, int, int, int, int, int]:
        """The box as VTK says it: first and last i, j, k, both included."""
        (k, j, i), (depth, height, width) = self.first, self.voxels.shape
        return i, i + width - 1, j, j + height - 1, k, k + depth - 1

    def fill(self, shape: tuple[int, ...]) -> np.ndarray:
        """(K, J, I) uint8, the mask on a whole grid of this shape."""
        whole = np.zeros(shape, dtype=np.uint8)
        i, last_i, j, last_j, k, last_k = self.extent
        whole[k : last_k + 1, j : last_j + 1, i : last_i + 1] = self.voxels
        return whole


EMPTY = Mask(np.zeros((1, 1, 1), dtype=np.uint8), (0, 0, 0))


def cut(heatmap: np.ndarray, threshold: float) -> Mask:
    """The mask of the voxels of (K, J, I) heat at or above ``threshold``, whatever their number.

    Slice by slice: each step is short, so the panel's thread is never kept long from the interpreter.
    """
    rows, columns, slices = np.zeros(heatmap.shape[1], bool), np.zeros(heatmap.shape[2], bool), []
    for number, part in enumerate(heatmap):
        hot = part >= threshold
        if hot.any():
            slices.append(number)
            rows |= hot.any(axis=1)
            columns |= hot.any(axis=0)
    if not slices:
        return EMPTY
    (j, *_, last_j), (i, *_, last_i) = (np.flatnonzero(axis)[[0, -1]].tolist() for axis in (rows, columns))
    voxels = np.zeros((slices[-1] + 1 - slices[0], last_j + 1 - j, last_i + 1 - i), dtype=np.uint8)
    for number in slices:
        voxels[number - slices[0]] = heatmap[number, j : last_j + 1, i : last_i + 1] >= threshold
    return Mask(voxels, (slices[0], j, i))


def box(hot: np.ndarray, shape: tuple[int, ...]) -> Mask:
    """The mask of the voxels with these flat indices of a (K, J, I) grid."""
    if not hot.size:
        return EMPTY
    places = np.unravel_index(hot, shape)
    first = [int(axis.min()) for axis in places]
    size = [int(axis.max()) - start + 1 for axis, start in zip(places, first, strict=True)]
    voxels = np.zeros(size, dtype=np.uint8)
    voxels[tuple(axis - start for axis, start in zip(places, first, strict=True))] = 1
    return Mask(voxels, (first[0], first[1], first[2]))
