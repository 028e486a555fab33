"""The candidates at another threshold than the run's, by the package's rules, so that a new threshold needs no new run."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from .mask import Mask, box

_FORWARD = [step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0)]
"""Half of the 26 neighbours (faces, edges, corners); the other half are the same pairs from the other side."""

MOST_VOXELS = 2_000_000
"""More hot voxels than these are no lesions, and numpy would keep the panel waiting for over 50 ms at a time."""


class TooHotError(ValueError):
    """The threshold lets through more than can be told apart."""


def find_candidates(
    heatmap: np.ndarray, threshold: float, ijk_to_ras: np.ndarray, minimum_ml: float = 0.0
) -> tuple[list[dict[str, Any]], Mask]:
    """Connected regions with heat at or above ``threshold``, hottest first, as ``result.json`` lists them, and their mask.

    Args:
        heatmap: (K, J, I).
        threshold: in the heatmap's unit.
        ijk_to_ras: (4, 4), RAS mm.
        minimum_ml: smaller regions are left out.

    Returns:
        The candidates (without slice ranges), and their voxels.

    Raises:
        TooHotError: more than ``MOST_VOXELS`` voxels are at or above the threshold.
    """
    hot = _find_hot(heatmap, threshold)
    # In (I, J, K) order, as the package: where peaks tie and none of them is nearest to their middle, the first voxel counts.
    places = np.stack(np.unravel_index(hot, heatmap.shape)[::-1], axis=1)
    shape = heatmap.shape[::-1]
    flat = np.ravel_multi_index(tuple(places.T), shape)
    order = np.argsort(flat)
    hot, places = hot[order], places[order]
    region = _label(flat[order], places, shape)
    count = int(region.max()) + 1 if hot.size else 0
    voxels = np.bincount(region, minlength=count)
    voxel_ml = abs(float(np.linalg.det(ijk_to_ras[:3, :3]))) / 1000.0
    values = heatmap.reshape(-1)[hot].astype(np.float64)
    peak_at = _find_peaks(region, places, values, ijk_to_ras)
    centroids = (
        np.stack([np.bincount(region, places[:, axis], count) for axis in range(3)], axis=1) / np.maximum(voxels, 1)[:, None]
    )
    means = np.bincount(region, values, count) / np.maximum(voxels, 1)
    kept = [int(one) for one in np.lexsort((-voxels, -values[peak_at])) if voxels[one] * voxel_ml >= minimum_ml]
    candidates = [
        {
            "id": number,
            "centroid_ras": _to_ras(ijk_to_ras, centroids[one]),
            "centroid_voxel": centroids[one].tolist(),
            "peak_ras": _to_ras(ijk_to_ras, places[peak_at[one]]),
            "volume_ml": float(voxels[one] * voxel_ml),
            "peak": float(values[peak_at[one]]),
            "mean": float(means[one]),
            "voxels": int(voxels[one]),
        }
        for number, one in enumerate(kept, start=1)
    ]
    return candidates, box(hot[np.isin(region, kept)], heatmap.shape)


def _find_hot(heatmap: np.ndarray, threshold: float) -> np.ndarray:
    """The flat indices, ascending, found slice by slice: each step is short, so other threads come to their turn."""
    found, count = [], 0
    for number, part in enumerate(heatmap):
        found.append(number * part.size + np.flatnonzero(part >= threshold))
        count += found[-1].size
        if count > MOST_VOXELS:
            raise TooHotError(f"more than {MOST_VOXELS} voxels are at or above {threshold:g}; take a higher threshold")
    return np.concatenate(found)


def _label(hot: np.ndarray, places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The region, from 0, of each hot voxel: neighbours take the lowest label until nothing changes.

    ``hot``: flat indices, ascending; ``places``: the same as indices along each axis of ``shape``.
    """
    label = np.arange(hot.size)
    if not hot.size:
        return label
    pairs = []
    for step in _FORWARD:
        beside = places + step
        inside = np.flatnonzero(((beside >= 0) & (beside < shape)).all(axis=1))
        wanted = np.ravel_multi_index(tuple(beside[inside].T), shape)
        at = np.searchsorted(hot, wanted)
        found = hot[np.minimum(at, hot.size - 1)] == wanted
        pairs.append(np.stack([inside[found], at[found]]))
    one, other = np.concatenate(pairs, axis=1)
    while True:
        lowest = np.minimum(label[one], label[other])
        new = label.copy()
        np.minimum.at(new, label[one], lowest)
        np.minimum.at(new, label[other], lowest)
        while not np.array_equal(new[new], new):
            new = new[new]
        if np.array_equal(new, label):
            return np.unique(label, return_inverse=True)[1]
        label = new[label]


def _find_peaks(region: np.ndarray, places: np.ndarray, values: np.ndarray, ijk_to_ras: np.ndarray) -> np.ndarray:
    """The hottest voxel of each region; of several the one nearest to their middle in mm (to 1e-6 mm^2), then the first."""
    count = int(region.max()) + 1 if region.size else 0
    peak = np.full(count, -np.inf)
    np.maximum.at(peak, region, values)
    top = np.flatnonzero(values == peak[region])
    own = region[top]
    middle = np.stack([np.bincount(own, places[top, axis], count) for axis in range(3)], axis=1)
    middle = middle / np.bincount(own, minlength=count)[:, None]
    away = np.square((places[top] - middle[own]) @ ijk_to_ras[:3, :3].T).sum(axis=1).round(6)
    order = np.lexsort((away, own))
    return top[order[np.searchsorted(own[order], np.arange(count))]]


def _to_ras(ijk_to_ras: np.ndarray, ijk: np.ndarray) -> list[float]:
    return (ijk_to_ras[:3, :3] @ ijk + ijk_to_ras[:3, 3]).tolist()
