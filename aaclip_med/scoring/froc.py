"""Free-response ROC: lesions found against false positives a volume.

A detection is a peak of the map. It finds the lesion it lies in, and is a false positive where it lies in none; a lesion counts
once, with its highest detection, as in CAMELYON16 (Bejnordi et al., JAMA 318 (2017)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from aaclip_med.errors import InputError

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives a volume, as in LUNA16."""

RADIUS_MM = 10.0
MOST_PEAKS = 256


@dataclass(frozen=True)
class Detections:
    """Of one volume. found: (L,) the score of the highest detection in each lesion, -inf where there is none. false: (F,)."""

    found: NDArray[np.float64]
    false: NDArray[np.float64]


def find_peaks(
    maps: NDArray[np.floating[Any]], spacing: Sequence[float], radius_mm: float = RADIUS_MM, most: int = MOST_PEAKS
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The places (P, 3) and scores (P,) of the peaks of a stack (S, H, W), highest first, ``most`` of them at most.

    A peak is no lower than anything within ``radius_mm`` along each axis, and above the stack's lowest value; ``spacing`` is mm
    between slices, rows and columns. Of a plateau one place counts: that of its own nearest to its middle.
    """
    size = [min(2 * math.floor(radius_mm / step) + 1, 2 * length + 1) for step, length in zip(spacing, maps.shape, strict=True)]
    highest = ndimage.maximum_filter(maps, size=size, mode="nearest")
    plateaus, count = ndimage.label((maps == highest) & (maps > maps.min()), structure=np.ones((3, 3, 3)))
    if not count:
        return np.zeros((0, 3), dtype=np.int64), np.zeros(0)
    flat = np.flatnonzero(plateaus)
    own = plateaus.reshape(-1)[flat] - 1
    every = np.stack(np.unravel_index(flat, maps.shape), axis=1)
    middles = np.stack([np.bincount(own, axis) for axis in every.T], axis=1) / np.bincount(own)[:, None]
    away = np.square((every - middles[own]) * np.asarray(spacing)).sum(axis=1)
    nearest = np.lexsort((away, own))
    places = every[nearest[np.flatnonzero(np.diff(own[nearest], prepend=-1))]]
    scores = maps[tuple(places.T)].astype(np.float64)
    order = np.argsort(-scores, kind="stable")[:most]
    return places[order], scores[order]


def match_lesions(places: NDArray[np.int64], scores: NDArray[np.float64], lesions: NDArray[np.integer[Any]]) -> Detections:
    """Detections at ``places`` (P, 3) with ``scores`` (P,) against ``lesions`` (S, H, W): 1 to L inside lesions, else 0."""
    hit = lesions[tuple(places.T)]
    found = np.full(int(lesions.max(initial=0)), -np.inf)
    np.maximum.at(found, hit[hit > 0] - 1, scores[hit > 0])
    return Detections(found, scores[hit == 0])


@dataclass(frozen=True)
class FrocCurve:
    """thresholds: (T,) falling. false: (T,) false positives a volume. sensitivity: (T,), NaN without ``lesions``."""

    thresholds: NDArray[np.float64]
    false: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    lesions: float

    def at(self, rates: Sequence[float] = RATES) -> NDArray[np.float64]:
        """Sensitivity at false positives a volume, (len(rates),), linear between thresholds; NaN without a lesion."""
        if not self.lesions:
            return np.full(len(rates), np.nan)
        return np.asarray(np.interp(rates, np.append(0.0, self.false), np.append(0.0, self.sensitivity)))

    def threshold_at(self, rate: float) -> float:
        """The lowest threshold with at most ``rate`` false positives a volume; infinite where there is none."""
        within = np.flatnonzero(self.false <= rate)
        return float(self.thresholds[within[-1]]) if within.size else math.inf


class FrocTable:
    """The detections of many volumes, sorted once."""

    def __init__(self, volumes: Sequence[Detections]) -> None:
        if not volumes:
            raise InputError("FROC needs at least one volume")
        scores = [np.concatenate([volume.found, volume.false]) for volume in volumes]
        lesion = [np.arange(part.size) < volume.found.size for part, volume in zip(scores, volumes, strict=True)]
        every = np.concatenate(scores)
        order = np.argsort(-every, kind="stable")
        order = order[np.isfinite(every[order])]
        self.lesions = np.array([volume.found.size for volume in volumes])
        self._scores = every[order]
        self._lesion = np.concatenate(lesion)[order]
        self._volume = np.repeat(np.arange(len(volumes)), [part.size for part in scores])[order]
        self._last = np.flatnonzero(np.diff(self._scores, append=-np.inf))

    def curve(self, weights: NDArray[Any] | None = None) -> FrocCurve:
        """The curve, each volume counting ``weights`` (V,) times."""
        weights = np.ones(self.lesions.size) if weights is None else weights
        each = weights[self._volume].astype(np.float64)
        lesions = float(weights @ self.lesions)
        found = np.cumsum(each * self._lesion)[self._last]
        false = np.cumsum(each * ~self._lesion)[self._last]
        sensitivity = found / lesions if lesions else np.full(found.size, np.nan)
        return FrocCurve(self._scores[self._last], false / weights.sum(), sensitivity, lesions)
