"""AUROC and average precision: exact for images, and the protocol of the released AA-CLIP. For pixels see ``curve``.

Every figure is a fraction (0 to 1) as scikit-learn defines it (``roc_auc_score``, ``average_precision_score``). A set
that holds only one class has neither figure: the answer is NaN together with the reason, never 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aaclip_med.errors import InputError

Domain = Literal["medical", "industrial"]

DEFAULT_BINS = 2**20
CHUNK = 2**22
"""Scores handled at once, so that memory does not grow with the volume."""


@dataclass(frozen=True)
class Figure:
    """A figure of merit.

    reason: why ``value`` is NaN, else None. low, high: its 95 % interval, None where there is none.
    """

    value: float
    reason: str | None = None
    low: float | None = None
    high: float | None = None


class ScoreHistogram:
    """Counts of scores in equal bins over [low, high], filled piece by piece in constant memory (8 bytes per bin).

    Scores outside [low, high] count in the end bins. Bins are half open: a score on an edge counts in the bin above it.

    Attributes:
        counts: (bins,) int64.

    Raises:
        InputError: ``low`` is not below ``high``, or there is no bin.
    """

    def __init__(self, low: float, high: float, bins: int = DEFAULT_BINS) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"the score range must have low < high, both finite; got low={low}, high={high}")
        if bins < 1:
            raise InputError(f"a histogram needs at least one bin; got bins={bins}")
        self.low, self.high, self.bins = float(low), float(high), int(bins)
        self.counts: NDArray[np.int64] = np.zeros(bins, dtype=np.int64)

    @property
    def total(self) -> int:
        """How many scores were added."""
        return int(self.counts.sum())

    @property
    def edges(self) -> NDArray[np.float64]:
        """The bin edges, (bins + 1,)."""
        return np.linspace(self.low, self.high, self.bins + 1)

    def add(self, scores: ArrayLike) -> None:
        """Count ``scores`` (any shape).

        Raises:
            InputError: a score is NaN; nothing is counted then.
        """
        flat = np.asarray(scores).reshape(-1)
        require_no_nan(flat)
        for start in range(0, flat.size, CHUNK):
            piece = np.clip(flat[start : start + CHUNK].astype(np.float64), self.low, self.high)
            index = ((piece - self.low) * (self.bins / (self.high - self.low))).astype(np.int64)
            np.add.at(self.counts, np.minimum(index, self.bins - 1), 1)


def auroc(labels: ArrayLike, scores: ArrayLike, noun: str = "images") -> Figure:
    """Image-level AUROC of ``scores`` (N,) under ``labels`` (N,; anything but zero is abnormal), by scikit-learn.

    Raises:
        InputError: the lengths differ, or a score is NaN or infinite.
    """
    from sklearn.metrics import roc_auc_score  # slow to import, and a case is scored without it

    truth, values = _pair(labels, scores)
    reason = explain_missing_class(int(truth.sum()), int((~truth).sum()), noun)
    return Figure(math.nan, reason) if reason else Figure(float(roc_auc_score(truth, values)))


def average_precision(labels: ArrayLike, scores: ArrayLike, noun: str = "images") -> Figure:
    """Image-level average precision of ``scores`` (N,) under ``labels`` (N,), by scikit-learn; see ``auroc``."""
    from sklearn.metrics import average_precision_score

    truth, values = _pair(labels, scores)
    reason = explain_missing_class(int(truth.sum()), int((~truth).sum()), noun)
    return Figure(math.nan, reason) if reason else Figure(float(average_precision_score(truth, values)))


def min_max(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """``values`` stretched to [0, 1] over the whole array, as the released AA-CLIP does over a whole test set.

    Its rule includes leaving values alone whose maximum is exactly 1. Constant values become 0.
    """
    low, high = values.min(), values.max()
    if high == 1:
        return values
    return np.zeros_like(values) if high == low else (values - low) / (high - low)


def reference_image_scores(maps_max: ArrayLike, detection: ArrayLike, domain: Domain) -> NDArray[np.floating]:
    """Image scores (N,) by the protocol of the released AA-CLIP (CVPR 2025).

    They depend on the whole set: the same image scores differently in another set.

    Args:
        maps_max: (N,) each image's maximum of the maps, after ``min_max`` over all pixels of the whole set.
        detection: (N,) detection scores as the model gives them; stretched here over the set. Not used for ``medical``.
        domain: ``medical`` takes the map's maximum; ``industrial`` its mean with the detection score.

    Raises:
        InputError: the lengths differ or the domain is unknown.
    """
    peaks, scores = _floats(maps_max), _floats(detection)
    if domain == "medical":
        return peaks
    if domain != "industrial":
        raise InputError(f"unknown domain '{domain}'; choose medical or industrial")
    if peaks.shape != scores.shape:
        raise InputError(f"{peaks.size} map maxima do not fit {scores.size} detection scores")
    return peaks * 0.5 + min_max(scores) * 0.5


def evaluate_reference(
    maps: ArrayLike, masks: ArrayLike, detection: ArrayLike, labels: ArrayLike, domain: Domain
) -> dict[str, Figure]:
    """The four figures of the released AA-CLIP's evaluation, over a whole test set held in memory.

    Args:
        maps: (N, H, W) anomaly maps, not normalised.
        masks: (N, H, W) or (N, 1, H, W); anything but zero is abnormal.
        detection: (N,) detection scores.
        labels: (N,) image labels; anything but zero is abnormal.
        domain: ``medical`` or ``industrial``, see ``reference_image_scores``.

    Returns:
        ``pixel_auroc``, ``pixel_ap``, ``image_auroc``, ``image_ap``, as fractions.

    Raises:
        InputError: the shapes do not fit, the set is empty, or a score is not finite.
    """
    heat, truth = _floats(maps), np.asarray(masks)
    if heat.ndim != 3 or heat.size == 0:
        raise InputError(f"the maps must be a non-empty (N, H, W) array; got shape {heat.shape}")
    if truth.size != heat.size or truth.shape not in (heat.shape, (heat.shape[0], 1, *heat.shape[1:])):
        raise InputError(f"masks of shape {truth.shape} do not fit maps of shape {heat.shape}")
    if np.size(detection) != len(heat):
        raise InputError(f"{np.size(detection)} detection scores do not fit {len(heat)} maps")
    heat = min_max(heat)
    scores = reference_image_scores(heat.max(axis=(1, 2)), detection, domain)
    return {
        "pixel_auroc": auroc(truth.reshape(-1), heat.reshape(-1), "pixels"),
        "pixel_ap": average_precision(truth.reshape(-1), heat.reshape(-1), "pixels"),
        "image_auroc": auroc(labels, scores),
        "image_ap": average_precision(labels, scores),
    }


def explain_missing_class(abnormal: int, normal: int, noun: str) -> str | None:
    """Why a set with these counts has no AUROC, or None when it has one."""
    if abnormal == 0 and normal == 0:
        return f"no {noun} at all"
    if abnormal == 0:
        return f"no abnormal {noun} among {normal:,}"
    if normal == 0:
        return f"no normal {noun} among {abnormal:,}"
    return None


def require_no_nan(scores: NDArray[np.generic]) -> None:
    """Refuse scores that hold a NaN, with an InputError that counts them."""
    missing = int(np.count_nonzero(np.isnan(scores)))
    if missing:
        raise InputError(f"{missing:,} of {scores.size:,} scores are NaN; check the model's output before scoring it")


def _floats(values: ArrayLike) -> NDArray[np.floating]:
    array = np.asarray(values)
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)


def _pair(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.floating]]:
    truth, values = np.asarray(labels).astype(bool).reshape(-1), _floats(scores).reshape(-1)
    if truth.size != values.size:
        raise InputError(f"{truth.size:,} labels do not fit {values.size:,} scores")
    if not np.isfinite(values).all():
        raise InputError(f"{int((~np.isfinite(values)).sum()):,} of {values.size:,} scores are not finite")
    return truth, values
