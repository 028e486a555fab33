"""An image's score from its map, and from its neighbours' in a volume."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aaclip_med.errors import InputError


def pool_maps(maps: NDArray[np.floating[Any]], share: float = 0.0) -> NDArray[np.float32]:
    """Scores (S,) of maps (S, H, W): the mean of the highest ``share`` of the pixels, at least of one; 0: the maximum.

    Raises:
        InputError: the share is not in [0, 1].
    """
    if not 0.0 <= share <= 1.0:
        raise InputError(f"an image's score from {share:g} of its pixels; take a share from 0 (the maximum) to 1 (the mean)")
    flat = maps.reshape(len(maps), -1)
    count = max(1, round(share * flat.shape[1]))
    if count == 1:
        return flat.max(axis=1).astype(np.float32)  # type: ignore[no-any-return]
    highest = np.partition(flat, flat.shape[1] - count, axis=1)[:, -count:]
    return highest.mean(axis=1, dtype=np.float64).astype(np.float32)  # type: ignore[no-any-return]


def smooth_scores(scores: NDArray[np.floating[Any]], places: NDArray[np.floating[Any]], sigma: float) -> NDArray[np.float32]:
    """Scores (S,) of a volume's slices as means of their neighbours', weighted by a Gaussian; 0: as they are.

    places: (S,), where the slices lie along their normal, in the unit of ``sigma``.
    """
    if sigma == 0.0 or len(scores) == 1:
        return scores.astype(np.float32)
    weights = np.exp(-0.5 * np.square((places[:, None] - places[None, :]) / sigma))
    return (weights @ scores.astype(np.float64) / weights.sum(axis=1)).astype(np.float32)  # type: ignore[no-any-return]


def read_share(text: str) -> float:
    """The share that ``max`` (0) or ``topN%`` (such as ``top1%``) means.

    Raises:
        InputError: it is neither.
    """
    if text == "max":
        return 0.0
    match = re.fullmatch(r"top(\d+(?:\.\d+)?)%", text)
    if match is None or not 0 < float(match[1]) <= 100:
        raise InputError(f"image score '{text}'; take max, or the mean of the highest pixels: top1%, top0.5%, ...")
    return float(match[1]) / 100
