"""Intervals by drawing patients with replacement.

All slices, pixels and lesions of a patient are drawn together, since they are not independent (Efron and Tibshirani, "An
Introduction to the Bootstrap" (1993), percentile intervals).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aaclip_med.scoring import rates
from aaclip_med.scoring.bins import Counts, spread_bins

DRAWS = 1000
LEVEL = 0.95
BINS = 4096
AT_ONCE = 50

Array = NDArray[Any]


def draw_patients(patients: int, draws: int = DRAWS, seed: int = 0) -> NDArray[np.int64]:
    """How often each patient is drawn, (draws, patients); each row sums to ``patients``."""
    return np.random.default_rng(seed).multinomial(patients, np.full(patients, 1 / patients), size=draws)


def find_interval(values: ArrayLike) -> tuple[float, float] | None:
    """The central 95 % of a figure over the draws (D,); None where fewer than half of the draws have it."""
    drawn = np.asarray(values, dtype=np.float64)
    defined = drawn[np.isfinite(drawn)]
    if 2 * defined.size < drawn.size or not defined.size:
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def draw_scores(labels: ArrayLike, scores: ArrayLike, patient: ArrayLike, weights: Array) -> tuple[Array, Array]:
    """AUROC and average precision, (draws,) each, of scored items (N,), each of patient number ``patient`` (N,)."""
    values, truth, of = np.asarray(scores), np.asarray(labels).astype(bool), np.asarray(patient)
    order = np.argsort(values, kind="stable")
    first = np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)
    figures = []
    for part in _pieces(weights):
        each = part[:, of[order]]
        normal, abnormal = (np.add.reduceat(each * (truth[order] == kind), first, axis=1) for kind in (False, True))
        figures.append((rates.auroc(normal, abnormal), rates.average_precision(normal, abnormal)))
    auroc, precision = (np.concatenate(one) for one in zip(*figures, strict=True))
    return auroc, precision


def draw_counts(
    cases: Sequence[Counts],
    patient: ArrayLike,
    whole: Counts,
    weights: Array,
    figure: Callable[[Counts], tuple[Array, ...]],
) -> list[Array]:
    """What ``figure`` makes of the pixels of the drawn patients, (draws,) each.

    ``cases``: each case's counts; ``patient``: its patient's number. They are brought to at most about 4,096 common
    bins, whose edges are quantiles of ``whole``.
    """
    lowest = _choose_edges(whole)
    sums = [np.zeros((weights.shape[1], lowest.size), dtype=np.float32) for _ in range(3)]
    for counts, number in zip(cases, np.asarray(patient), strict=True):
        if counts.lowest.size:
            for total, one in zip(sums, spread_bins(counts, lowest)[1:], strict=True):
                total[number] += one
    parts = []
    for drawn in _pieces(weights):
        normal, abnormal, overlap = (drawn.astype(np.float32) @ total for total in sums)
        parts.append(figure(Counts(lowest, normal, abnormal, overlap)))
    return [np.concatenate(one) for one in zip(*parts, strict=True)]


def _choose_edges(whole: Counts) -> NDArray[np.float32]:
    """The lowest scores of about ``BINS`` bins: even shares of both classes, and the highest normal ones singly."""
    reached = np.zeros(whole.lowest.size)
    for part in (whole.normal, whole.abnormal):
        reached += (np.cumsum(part) - part) / max(float(part.sum()), 1.0)
    above = np.maximum(np.cumsum(whole.normal[::-1])[::-1].astype(np.float64), 1.0)
    reached += 1 - np.log(above) / max(float(np.log(above[0])), 1.0)
    group = np.floor(reached * (BINS / 3)).astype(np.int64)
    return whole.lowest[np.flatnonzero(np.diff(group, prepend=-1))]


def _pieces(weights: Array) -> Iterator[Array]:
    for start in range(0, len(weights), AT_ONCE):
        yield weights[start : start + AT_ONCE]
