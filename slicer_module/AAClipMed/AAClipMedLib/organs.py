"""Where to look, drawn onto a volume's grid voxel by voxel; arrays alone, so that any thread can do it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np


@dataclass(frozen=True)
class Source:
    """A box or a labelled grid. to_source: (4, 4), the volume's (I, J, K) to the box's mm or to the grid's own (I, J, K).

    half: half the box's edges in mm, its middle at 0. labels: (K, J, I); value: the label that counts, None: all above 0.
    """

    to_source: np.ndarray
    half: np.ndarray | None = None
    labels: np.ndarray | None = None
    value: int | None = None

    def draw(self, mask: np.ndarray) -> None:
        """Set the voxels of the (K, J, I) mask whose centres lie inside, slice by slice; of a grid the nearest label counts."""
        low, high = self._find_bounds()
        corners = np.array([[*corner, 1.0] for corner in product(*zip(low, high, strict=True))])
        reach = (corners @ np.linalg.inv(self.to_source).T)[:, :3]
        first = np.clip(np.floor(reach.min(axis=0)), 0, None).astype(int)
        last = np.minimum(np.ceil(reach.max(axis=0)).astype(int), np.array(mask.shape[::-1]) - 1)
        if (last < first).any():
            return
        rows = self.to_source[:3].astype(np.float32)
        i, j = (np.arange(first[axis], last[axis] + 1, dtype=np.float32) for axis in (0, 1))
        for k in range(first[2], last[2] + 1):
            places = [(a * i)[None, :] + (b * j + (c * k + origin))[:, None] for a, b, c, origin in rows]
            inside = np.ones(places[0].shape, dtype=bool)
            for place, least, most in zip(places, low, high, strict=True):
                inside &= (place >= least) & (place <= most)
            if self.labels is not None:
                inside[inside] = self._look(*(place[inside] for place in places))
            mask[k, first[1] : last[1] + 1, first[0] : last[0] + 1] |= inside

    def _find_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        if self.half is not None:
            return -self.half - 1e-4, self.half + 1e-4
        assert self.labels is not None
        return np.full(3, -0.499), np.array(self.labels.shape[::-1]) - 0.501

    def _look(self, *places: np.ndarray) -> np.ndarray:
        assert self.labels is not None
        i, j, k = (np.rint(place).astype(np.intp) for place in places)
        found = self.labels[k, j, i]
        return found > 0 if self.value is None else found == self.value
