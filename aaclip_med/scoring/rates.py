"""Figures from counts in bins: every function takes (..., B), bins ascending by score, and answers (...).

Scores in one bin count as tied. NaN where a class is missing. All are fractions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Answer = NDArray[np.float64]


def auroc(normal: Array, abnormal: Array) -> Answer:
    """Area under the ROC curve: the chance that an abnormal one outscores a normal one, ties counting half."""
    below = np.cumsum(normal, axis=-1, dtype=np.float64) - normal
    wins = (abnormal * (below + normal / 2)).sum(axis=-1)
    return _divide(wins, _total(normal) * _total(abnormal))


def average_precision(normal: Array, abnormal: Array) -> Answer:
    """The precision at each bin, weighted by the recall the bin adds (scikit-learn's ``average_precision_score``)."""
    found, called = _from_top(abnormal), _from_top(abnormal) + _from_top(normal)
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    return _divide((abnormal * precision).sum(axis=-1), _total(abnormal) * (_total(normal) > 0))


def f1_max(normal: Array, abnormal: Array) -> Answer:
    """The highest F1 (for pixels: Dice of all pixels together) that any threshold gives."""
    return np.asarray(_f1(normal, abnormal).max(axis=-1) + _undefined(normal, abnormal))


def find_f1_bin(normal: Array, abnormal: Array) -> Array:
    """The bin, (...), whose lowest score is the threshold of ``f1_max``."""
    return np.asarray(_f1(normal, abnormal).argmax(axis=-1))


def dice_at_fpr(normal: Array, abnormal: Array, rate: float) -> Answer:
    """Dice of all pixels together at the lowest threshold whose false positive rate is at most ``rate``; 0 if none is."""
    place = find_fpr_bin(normal, rate)
    dice = np.concatenate([_f1(normal, abnormal), np.zeros((*place.shape, 1))], axis=-1)
    return np.take_along_axis(dice, place[..., None], axis=-1)[..., 0] + _undefined(normal, abnormal)


def find_fpr_bin(normal: Array, rate: float) -> Array:
    """The first bin, (...), from which on at most ``rate`` of the normal ones lie; B where even the last holds more."""
    return np.asarray((_from_top(normal) > rate * _total(normal)[..., None]).sum(axis=-1))


def aupro(normal: Array, regions: Array, limit: float = 0.3) -> Answer:
    """Area under the per-region overlap against the false positive rate, up to ``limit``, divided by it.

    ``regions`` (..., B): each abnormal pixel counts one over its region's size, so each region counts alike. Bergmann et al.,
    "MVTec AD", International Journal of Computer Vision 129 (2021).
    """
    rate, overlap = roc(normal, regions)
    width = np.diff(rate, axis=-1)
    inside = np.diff(np.minimum(rate, limit), axis=-1)
    share = np.divide(inside, width, out=np.zeros_like(inside), where=width > 0)
    middle = overlap[..., :-1] + np.diff(overlap, axis=-1) * share / 2
    return (inside * middle).sum(axis=-1) / limit  # type: ignore[no-any-return]


def roc(normal: Array, abnormal: Array) -> tuple[Answer, Answer]:
    """False and true positive rates, (..., B + 1) each, from 0 to 1 as the threshold falls."""
    rates = []
    for part in (normal, abnormal):
        falling = np.cumsum(part[..., ::-1], axis=-1, dtype=np.float64)
        rate = _divide(falling, _total(part)[..., None])
        rates.append(np.concatenate([np.zeros((*rate.shape[:-1], 1)), rate], axis=-1))
    return rates[0], rates[1]


def precision_recall(normal: Array, abnormal: Array) -> tuple[Answer, Answer]:
    """Precision and recall, (..., B) each, as the threshold falls."""
    found, wrong = (np.cumsum(part[..., ::-1], axis=-1, dtype=np.float64) for part in (abnormal, normal))
    return _divide(found, found + wrong), _divide(found, _total(abnormal)[..., None])


def _f1(normal: Array, abnormal: Array) -> Answer:
    found = _from_top(abnormal)
    return _divide(2 * found, found + _from_top(normal) + _total(abnormal)[..., None])


def _undefined(normal: Array, abnormal: Array) -> Answer:
    return np.where((_total(normal) > 0) & (_total(abnormal) > 0), 0.0, np.nan)


def _from_top(part: Array) -> Answer:
    return np.cumsum(part[..., ::-1], axis=-1, dtype=np.float64)[..., ::-1]


def _total(part: Array) -> Answer:
    return part.sum(axis=-1, dtype=np.float64)  # type: ignore[no-any-return]


def _divide(above: Array, below: Array) -> Answer:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan))
