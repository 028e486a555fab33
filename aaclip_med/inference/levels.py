"""What the tower's levels weigh, learned from slices with lesion masks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aaclip_med.data.index import Case
from aaclip_med.errors import InputError
from aaclip_med.inference.cutting import Cutting, cut_planes
from aaclip_med.inference.predictor import Predictor, Prepared
from aaclip_med.model.preprocess import fit_masks
from aaclip_med.scoring import rates

Array = np.ndarray[Any, Any]
Track = Callable[[Sequence[Case]], Iterable[Case]]

PIXELS = 100_000
"""At most so many pixels of either class are looked at, drawn from all cases alike and weighted."""
CHOICES = 500
"""At most so many weights are compared."""


@dataclass(frozen=True)
class LevelWeights:
    """weights: of the levels, shallow to deep, sum 1. pixel_ap, equal_pixel_ap: of the cases learned from, with these weights
    and with equal ones.
    """

    weights: tuple[float, ...]
    pixel_ap: float
    equal_pixel_ap: float


def learn_levels(
    cases: Sequence[Case], predictor: Predictor, track: Track = iter, cutting: Cutting | None = None, seed: int = 0
) -> LevelWeights:
    """The weights on an even grid of the simplex whose maps have the highest pixel AP on ``cases``; of equals, the evenest.

    All of the refinement but the background left out is linear in the levels' maps, so each case is scored once a level, and
    maps are mixed afterwards.

    Raises:
        InputError: there are no cases, none has a lesion, one has none of its mask or cannot be read, or two would share an
            organ mask.
    """
    cutting = cutting or Cutting()
    cutting.check_names(cases)
    refinement, bank = predictor.refinement, predictor.bank
    count = len(predictor.detector.levels)
    columns = []
    try:
        for level in range(count):
            alone = tuple(float(level == number) for number in range(count))
            predictor.refine(replace(refinement, level_weights=alone), bank)
            samples = list(_sample(cases, predictor, track, cutting, seed))
            columns.append(np.concatenate([scores for scores, _, _ in samples]) if samples else np.zeros(0, np.float32))
    finally:
        predictor.refine(refinement, bank)
    normal, abnormal = (np.concatenate([part[kind] for part in samples]) if samples else np.zeros(0) for kind in (1, 2))
    if not abnormal.any() or not normal.any():
        raise InputError("no lesion, or nothing else, in the masks of these cases; level weights are learned from both")
    maps = np.stack(columns, axis=1)
    equal = (1.0 / count,) * count
    best, found = equal, (start := _judge(maps, equal, normal, abnormal))
    for weights in sorted(spread_weights(count), key=lambda weights: math.dist(weights, equal)):
        figure = _judge(maps, weights, normal, abnormal)
        if figure > found:
            best, found = weights, figure
    return LevelWeights(best, found, start)


def spread_weights(levels: int) -> Iterator[tuple[float, ...]]:
    """Weights of an even grid, each 0 or more, sum 1; equal ones are among them. The grid is as fine as ``CHOICES`` allow."""
    steps = levels
    while levels > 1 and math.comb(steps + levels + levels - 1, levels - 1) <= CHOICES:
        steps += levels
    for bars in itertools.combinations(range(steps + levels - 1), levels - 1):
        edges = (-1, *bars, steps + levels - 1)
        yield tuple((after - before - 1) / steps for before, after in itertools.pairwise(edges))


def _judge(maps: Array, weights: Sequence[float], normal: Array, abnormal: Array) -> float:
    """Average precision of pixels with maps (N, L), which count as ``normal`` and ``abnormal`` (N,) ones."""
    scores = maps @ np.asarray(weights, dtype=np.float32)
    order = np.argsort(scores)
    return float(rates.average_precision(normal[order], abnormal[order]))


def _sample(
    cases: Sequence[Case], predictor: Predictor, track: Track, cutting: Cutting, seed: int
) -> Iterator[tuple[Array, Array, Array]]:
    """Of each case the scores of some pixels, and how many normal and abnormal ones each stands for, (n,) each."""
    limit = max(1, PIXELS // max(1, len(cases)))

    def prepared() -> Iterator[Prepared]:
        for case in track(cases):
            cuts = cut_planes(case, predictor, cutting)
            if any(cut.masks is None for cut in cuts):
                raise InputError(f"{case.image_path} is abnormal and has no mask; level weights are learned from masks")
            yield Prepared(cuts[0].volume, None, 1, tuple(cuts), tuple(cut.images.choose(cut.used) for cut in cuts))

    for number, (case, parts) in enumerate(predictor.score_prepared(prepared())):
        rng = np.random.default_rng([seed, number])
        truth = np.concatenate(
            [
                fit_masks(cut.masks[cut.used], part.log_odds.shape[-1]).reshape(-1)
                for cut, part in zip(case.cuts, parts, strict=True)
                if cut.masks is not None
            ]
        )
        scores = np.concatenate([part.log_odds.reshape(-1) for part in parts])
        places, counts = [], []
        for kind in (False, True):
            every = np.flatnonzero(truth == kind)
            chosen = rng.choice(every, limit, replace=False) if len(every) > limit else every
            places.append(chosen)
            counts.append(np.full(len(chosen), len(every) / max(1, len(chosen))))
        none = [np.zeros(len(part)) for part in counts]
        yield (
            scores[np.concatenate(places)],
            np.concatenate([counts[0], none[1]]),
            np.concatenate([none[0], counts[1]]),
        )
