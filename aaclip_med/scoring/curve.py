"""Figures of a whole benchmark's pixels, piece by piece, in constant memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aaclip_med.errors import InputError
from aaclip_med.scoring import rates
from aaclip_med.scoring.bins import AdaptiveBins, Counts, order_scores
from aaclip_med.scoring.metrics import Figure, explain_missing_class, require_no_nan

PIECE = 2**23
"""Scores counted at once."""

AUPRO_LIMIT = 0.3
DICE_RATE = 0.05
PIXEL_FIGURES = ("auroc", "ap", "f1_max", "dice_at_5_fpr", "aupro")


class BinnedCurve:
    """Pixel-level figures over a set too large to hold.

    Scores are taken as float32, of any range; bins follow them (``AdaptiveBins``). Scores in one bin count as tied, and ties
    are treated as scikit-learn treats them; AUROC and average precision agree with its own to 1e-5. ``noun`` is what the
    reasons call the scored things.
    """

    def __init__(self, noun: str = "pixels") -> None:
        self.noun = noun
        self.regions = 0
        self._bins = AdaptiveBins()
        self._waiting: list[tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]] = []
        self._held = 0

    def add(self, scores: ArrayLike, labels: ArrayLike, region_ids: ArrayLike | None = None) -> None:
        """Count ``scores`` (any shape) under ``labels`` (same shape; anything but zero is abnormal).

        ``region_ids`` (same shape): 1, 2, ... in the abnormal regions of these scores, for AUPRO; 0 elsewhere.

        Raises:
            InputError: the shapes differ, or a score is NaN; nothing is counted then.
        """
        values, truth = np.asarray(scores), np.asarray(labels)
        if values.shape != truth.shape:
            raise InputError(f"scores of shape {values.shape} do not fit labels of shape {truth.shape}")
        require_no_nan(values)
        flat, abnormal = values.reshape(-1), truth.astype(bool, copy=False).reshape(-1)
        shares = None
        if region_ids is not None:
            shares = share_regions(np.asarray(region_ids).reshape(-1)[abnormal])
            self.regions += round(float(shares.sum()))
        taken = 0
        for start in range(0, flat.size, PIECE):
            with np.errstate(over="ignore"):
                keys = order_scores(flat[start : start + PIECE].astype(np.float32, copy=False))
            found = abnormal[start : start + PIECE]
            some = keys[found]
            own = np.zeros(some.size) if shares is None else shares[taken : taken + some.size]
            self._waiting.append((keys[~found], some, own.astype(np.float32)))
            taken += some.size
            self._held += keys.size
            if self._held >= PIECE:
                self._settle()

    def _settle(self) -> None:
        """Count what waits."""
        if self._waiting:
            normal, abnormal, shares = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
            self._waiting, self._held = [], 0
            self._bins.add(normal, abnormal, shares if self.regions else None)

    @property
    def total(self) -> int:
        """How many scores were added."""
        return sum(self._bins.totals) + self._held

    def counts(self) -> Counts:
        """The bins that hold a score, ascending."""
        self._settle()
        return self._bins.counts()

    def auroc(self) -> Figure:
        """Area under the ROC curve: the chance that an abnormal pixel outscores a normal one, ties counting half."""
        return self.figures()["auroc"]

    def average_precision(self) -> Figure:
        """The precision at each bin, weighted by the recall the bin adds."""
        return self.figures()["ap"]

    def figures(self) -> dict[str, Figure]:
        """By name: AUROC, AP, the highest F1, Dice at a false positive rate of 0.05, AUPRO up to one of 0.3."""
        self._settle()
        normal, abnormal = self._bins.totals
        reason = explain_missing_class(abnormal, normal, self.noun)
        if reason is not None:
            return dict.fromkeys(PIXEL_FIGURES, Figure(math.nan, reason))
        values = dict(zip(PIXEL_FIGURES, figure_counts(self.counts()), strict=True))
        figures = {name: Figure(float(value)) for name, value in values.items()}
        if not self.regions:
            figures["aupro"] = Figure(math.nan, "no abnormal region was counted")
        return figures


def share_regions(region_ids: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """One over the size of its region for each abnormal pixel (A,); ids 1, 2, ..., and 0 where it is in none."""
    sizes = np.bincount(region_ids, minlength=1)
    return np.where(region_ids > 0, 1.0 / np.maximum(sizes, 1)[region_ids], 0.0)


def figure_counts(counts: Counts) -> tuple[NDArray[np.float64], ...]:
    """The five figures of ``BinnedCurve.figures`` from counts (..., B), (...) each."""
    normal, abnormal = counts.normal, counts.abnormal
    return (
        rates.auroc(normal, abnormal),
        rates.average_precision(normal, abnormal),
        rates.f1_max(normal, abnormal),
        rates.dice_at_fpr(normal, abnormal, DICE_RATE),
        rates.aupro(normal, counts.regions, AUPRO_LIMIT),
    )
