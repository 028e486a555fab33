"""Lesion candidates: the connected hot regions of a heatmap, their place in millimetres, their size in millilitres."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from aaclip_med.arrays import make_array, split_slabs
from aaclip_med.errors import InputError

Array = NDArray[Any]
LabelMap = NDArray[np.integer]

CHUNK = 2**18
"""Voxels looked at at once: however many are hot, that takes no more than 20 MB."""


@dataclass(frozen=True)
class Candidate:
    """One connected region of voxels at or above the threshold.

    Attributes:
        id: 1 for the highest peak; its value in the label map.
        centroid_ras: mean position of the voxels (each counting the same, not weighted by heat), RAS mm. It can lie
            outside a curved region.
        centroid_voxel: the same as voxel indices (i, j, k), voxel centres at whole numbers.
        peak_ras: position of the hottest voxel, RAS mm; where several tie, of the one nearest to their middle.
        volume_ml: voxels times the voxel's volume, millilitres.
        peak: highest heat in the region.
        mean: mean heat over the region.
        lowest_voxel: lowest index (i, j, k) along each array axis: with ``highest_voxel`` the bounding box, both inclusive.
        highest_voxel: highest index along each.
        first_slice: lowest index along the slice axis, inclusive.
        last_slice: highest index along the slice axis, inclusive.
        voxels: number of voxels.
    """

    id: int
    centroid_ras: tuple[float, float, float]
    centroid_voxel: tuple[float, float, float]
    peak_ras: tuple[float, float, float]
    volume_ml: float
    peak: float
    mean: float
    lowest_voxel: tuple[int, int, int]
    highest_voxel: tuple[int, int, int]
    first_slice: int
    last_slice: int
    voxels: int


def label_candidates(
    heatmap: NDArray[np.floating],
    threshold: float,
    affine: NDArray[np.floating],
    slice_axis: int,
    minimum_ml: float = 0.0,
) -> tuple[list[Candidate], LabelMap]:
    """Connected regions (26 neighbours: faces, edges and corners) with heat >= ``threshold``.

    Args:
        heatmap: (I, J, K) heat; K is 1 for a picture.
        threshold: in the heatmap's unit.
        affine: (4, 4), voxel index (centre) to RAS mm.
        slice_axis: the array axis (0, 1, 2) along which slices are numbered.
        minimum_ml: smaller regions are left out.

    Returns:
        The candidates by falling peak, then falling volume; and the label map (I, J, K), 0 outside and ``Candidate.id``
        inside, uint16 (int32 where there are more than 65,535 candidates).

    Raises:
        InputError: the heatmap is not three-dimensional or holds NaN, or an option is out of its range.
    """
    _check(heatmap, threshold, affine, slice_axis)
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000.0
    above = make_array(heatmap.shape, np.bool_)
    for slab in split_slabs(heatmap):
        above[slab] = heatmap[slab] >= threshold
    labels = make_array(heatmap.shape, np.int32)
    count = ndimage.label(above, structure=np.ones((3, 3, 3), dtype=bool), output=labels)
    del above

    voxels, mean, centroid, peak = _measure(labels, heatmap, count)
    peak_voxel = _find_peaks(labels, heatmap, peak, affine)
    boxes = [[(span.start, span.stop - 1) for span in box] for box in ndimage.find_objects(labels)]

    kept = [int(one) for one in np.lexsort((-voxels, -peak)) if voxels[one] * voxel_ml >= minimum_ml]
    candidates = [
        Candidate(
            id=number,
            centroid_ras=_to_ras(affine, centroid[one]),
            centroid_voxel=_triple(centroid[one]),
            peak_ras=_to_ras(affine, peak_voxel[one]),
            volume_ml=float(voxels[one] * voxel_ml),
            peak=float(peak[one]),
            mean=float(mean[one]),
            lowest_voxel=(boxes[one][0][0], boxes[one][1][0], boxes[one][2][0]),
            highest_voxel=(boxes[one][0][1], boxes[one][1][1], boxes[one][2][1]),
            first_slice=boxes[one][slice_axis][0],
            last_slice=boxes[one][slice_axis][1],
            voxels=int(voxels[one]),
        )
        for number, one in enumerate(kept, start=1)
    ]
    dtype = np.dtype(np.uint16 if len(kept) <= np.iinfo(np.uint16).max else np.int32)
    new_labels = np.zeros(count + 1, dtype=dtype)
    new_labels[[one + 1 for one in kept]] = np.arange(1, len(kept) + 1)
    label_map: LabelMap = make_array(heatmap.shape, dtype)
    for start in range(0, labels.size, CHUNK):
        label_map.reshape(-1)[start : start + CHUNK] = new_labels[labels.reshape(-1)[start : start + CHUNK]]
    return candidates, label_map


def _walk(labels: LabelMap, heatmap: NDArray[np.floating]) -> Iterator[tuple[Array, tuple[Array, ...], Array]]:
    """The hot voxels in (i, j, k) order, some at a time: regions from 0 (N,), indices i, j and k (N,) each, heat (N,)."""
    flat = labels.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        hot = start + np.flatnonzero(flat[start : start + CHUNK])
        indices = np.unravel_index(hot, labels.shape)
        yield flat[hot] - 1, indices, heatmap[indices].astype(np.float64)


def _measure(labels: LabelMap, heatmap: NDArray[np.floating], count: int) -> tuple[Array, Array, Array, Array]:
    """Of each region the number of voxels (N,), their mean heat (N,), their mean place (N, 3) and their highest heat (N,)."""
    voxels = np.zeros(count, dtype=np.int64)
    total, place, peak = np.zeros(count), np.zeros((3, count)), np.full(count, -np.inf)
    for region, indices, heat in _walk(labels, heatmap):
        np.add.at(voxels, region, 1)
        np.add.at(total, region, heat)
        for axis, index in enumerate(indices):
            np.add.at(place[axis], region, index)
        np.maximum.at(peak, region, heat)
    return voxels, total / voxels, (place / voxels).T, peak


def _find_peaks(
    labels: LabelMap, heatmap: NDArray[np.floating], peak: NDArray[np.float64], affine: NDArray[np.floating]
) -> NDArray[np.int64]:
    """(N, 3) the voxel (i, j, k) of each region's ``peak`` (N,).

    Of several the one nearest to their middle in mm, and of several such (to 1e-6 mm^2) the first: calibrated heat is 1
    throughout where no normal voxel was as hot, and the edge of that says little.
    """
    tied, place = np.zeros(peak.size), np.zeros((3, peak.size))
    for region, indices, heat in _walk(labels, heatmap):
        top = heat == peak[region]
        np.add.at(tied, region[top], 1)
        for axis, index in enumerate(indices):
            np.add.at(place[axis], region[top], index[top])
    middle = (place / tied).T
    voxel, least = np.full((peak.size, 3), -1), np.full(peak.size, np.inf)
    for region, indices, heat in _walk(labels, heatmap):
        top = heat == peak[region]
        own, voxels = region[top], np.stack([index[top] for index in indices], axis=1)
        away = np.square((voxels - middle[own]) @ affine[:3, :3].T).sum(axis=1).round(6)
        order = np.lexsort((away, own))
        nearest = order[np.flatnonzero(np.diff(own[order], prepend=-1))]
        nearer = nearest[away[nearest] < least[own[nearest]]]
        voxel[own[nearer]], least[own[nearer]] = voxels[nearer], away[nearer]
    return voxel


def _check(heatmap: NDArray[np.floating], threshold: float, affine: NDArray[np.floating], slice_axis: int) -> None:
    if heatmap.ndim != 3 or heatmap.size == 0:
        raise InputError(f"candidates are found in a non-empty (I, J, K) heatmap; got shape {heatmap.shape}")
    if math.isnan(float(heatmap.min())):
        raise InputError("the heatmap holds NaN; no candidates can be found in it")
    if not math.isfinite(threshold):
        raise InputError(f"the candidate threshold must be a finite number; got {threshold}")
    if np.shape(affine) != (4, 4) or not np.isfinite(affine).all():
        raise InputError("the affine must be a (4, 4) array of finite numbers")
    if slice_axis not in (0, 1, 2):
        raise InputError(f"the slice axis must be 0, 1 or 2; got {slice_axis}")


def _to_ras(affine: NDArray[np.floating], voxel: NDArray[Any]) -> tuple[float, float, float]:
    return _triple(affine[:3, :3] @ voxel + affine[:3, 3])


def _triple(values: NDArray[Any]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
