"""Counts of scores in bins that grow finer where the scores are, in constant memory and without a range given beforehand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

UNIT = 2.0**-17
"""Of the scores of its class, the share that is one step of ``_reach``."""

TOP_UNIT = 2.0**-13
"""The same for the highest scores: of those that lie above."""

MOST_BINS = 2**20
"""More bins than these are joined where they are finer than they need be."""

LOWEST_KEY = 0x007FFFFF
"""The ordered bits of -inf; what lies below would be NaN."""

HIGHEST_KEY = 0xFFFFFFFF
"""Above the ordered bits of every number."""


class Counts(NamedTuple):
    """Scores in bins, ascending; bin b holds the scores from ``lowest[b]`` to below ``lowest[b + 1]``.

    lowest: (B,) float32. normal, abnormal: (..., B) how many. regions: (..., B) the share of abnormal regions, one for each
    region that lies in the bin altogether.
    """

    lowest: NDArray[np.float32]
    normal: NDArray[Any]
    abnormal: NDArray[Any]
    regions: NDArray[Any]


class AdaptiveBins:
    """Scores of two classes (0 normal, 1 abnormal) counted in bins between keys, the ordered bits of float32.

    No bin holds more than two steps of either class (``_reach``), or is of one key alone. Scores are counted many at a time,
    sorted; a bin that they overfill is cut at their own keys. What such a bin held before, less than two steps, is shared out
    as they are: so all but that is exact, however scores crowd and whenever they come.
    """

    def __init__(self) -> None:
        self._edges = np.array([0, HIGHEST_KEY], dtype=np.uint32)
        # Below each edge: normal scores, abnormal scores, regions.
        self._below = np.zeros((3, 2))

    def add(self, normal: NDArray[np.uint32], abnormal: NDArray[np.uint32], shares: NDArray[np.float32] | None) -> None:
        """Count scores by their keys (``order_scores``); ``shares`` (A,): of its region, each abnormal one."""
        batch = _Batch(normal, abnormal, shares)
        ranks = batch.rank(self._edges)
        total = self._below + ranks
        cuts = np.concatenate([_find_cuts(keys, self._edges, ranks[kind], total[kind]) for kind, keys in enumerate(batch.keys)])
        cuts = _distinct(np.sort(cuts))
        place = np.searchsorted(self._edges, cuts)
        new = self._edges[place] != cuts
        if new.any():
            cuts, place = cuts[new], place[new]
            more = batch.rank(cuts)
            # How far into its bin each cut lies, by those that were just counted: of its class, and one more as they all are.
            within, held = more - ranks[:, place - 1], ranks[:, place] - ranks[:, place - 1]
            all_within = within[:2].sum(axis=0) / held[:2].sum(axis=0)
            share = (within[:2] + all_within) / (held[:2] + 1)
            old = (self._below[:, place] - self._below[:, place - 1]) * share[[0, 1, 1]]
            old[:2] = np.floor(old[:2])
            total = np.insert(total, place, self._below[:, place - 1] + old + more, axis=1)
            self._edges = np.insert(self._edges, place, cuts)
        self._below = total
        if self._edges.size > MOST_BINS:
            self._join()

    def counts(self) -> Counts:
        """The bins that hold a score."""
        normal, abnormal, regions = np.diff(self._below)
        filled = np.flatnonzero((normal > 0) | (abnormal > 0))
        return Counts(
            _name(self._edges[filled]), normal[filled].astype(np.int64), abnormal[filled].astype(np.int64), regions[filled]
        )

    @property
    def totals(self) -> tuple[int, int]:
        """How many scores of each class were counted."""
        return int(self._below[0, -1]), int(self._below[1, -1])

    def _join(self) -> None:
        """Leave out edges between bins that are together less than two steps."""
        normal, abnormal = self._below[:2]
        reached = _reach(normal, normal[-1]) + _reach(abnormal, abnormal[-1])
        starts = np.floor(reached[1:]) > np.floor(reached[:-1])
        starts[0] = True
        starts[1:] |= np.diff(reached)[:-1] > 1
        kept = np.append(starts, True)
        self._edges, self._below = self._edges[kept], self._below[:, kept]


class _Batch:
    """Keys of normal and abnormal scores, sorted, and the regions below each abnormal one."""

    def __init__(self, normal: NDArray[np.uint32], abnormal: NDArray[np.uint32], shares: NDArray[np.float32] | None) -> None:
        if shares is None:
            self.keys = (np.sort(normal), np.sort(abnormal))
            self._regions = np.zeros(abnormal.size + 1)
            return
        # Keys with shares as their lower half, sorted at once: many times as fast as sorting places.
        both = np.sort((abnormal.astype(np.uint64) << np.uint64(32)) | shares.view(np.uint32))
        self.keys = (np.sort(normal), (both >> np.uint64(32)).astype(np.uint32))
        self._regions = np.append(0.0, np.cumsum(both.astype(np.uint32).view(np.float32), dtype=np.float64))

    def rank(self, edges: NDArray[np.uint32]) -> NDArray[np.float64]:
        """What lies below ``edges`` (B,), (3, B): normal, abnormal, regions."""
        normal, abnormal = (np.searchsorted(keys, edges) for keys in self.keys)
        return np.stack([normal, abnormal, self._regions[abnormal]])


def _find_cuts(
    keys: NDArray[np.uint32], edges: NDArray[np.uint32], ranks: NDArray[np.float64], total: NDArray[np.float64]
) -> NDArray[np.uint32]:
    """The keys at which overfull bins begin anew.

    ``keys``: of one class, sorted; ``ranks`` (B,) of them lie below ``edges`` (B,), ``total`` (B,) with those counted before.
    """
    every = total[-1]
    reached = _reach(total, every)
    held = np.diff(ranks)
    bins = np.flatnonzero((np.diff(reached) > 2) & (np.diff(edges) > 1) & (held > 0))
    if not bins.size:
        return np.zeros(0, dtype=np.uint32)
    growth = np.diff(total)[bins] / held[bins]
    first, last = ranks[bins], ranks[bins + 1]
    # Every whole step within these bins, and the key that is there.
    lowest = np.floor(reached[bins]) + 1
    steps = (np.ceil(reached[bins + 1]) - lowest).astype(np.int64)
    which = np.repeat(np.arange(bins.size), steps)
    step = lowest[which] + np.arange(which.size) - np.repeat(np.cumsum(steps) - steps, steps)
    rank = first[which] + (_place(step, every) - total[bins][which]) / growth[which]
    cuts = _distinct(keys[np.clip(rank, first[which], last[which] - 1).astype(np.int64)])
    # One that is more than a step by itself ends its bin, too.
    of = np.searchsorted(edges[bins], cuts, side="right") - 1
    start, end = (
        _reach(total[bins][of] + (np.searchsorted(keys, cuts, side=side) - first[of]) * growth[of], every)
        for side in ("left", "right")
    )
    return np.concatenate([cuts, cuts[end - start > 1] + np.uint32(1)])


def _distinct(ascending: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Each but once; as fast as it gets, where ``np.unique`` takes as long as all else together."""
    return ascending[np.append(True, ascending[1:] != ascending[:-1])] if ascending.size else ascending


def _reach(place: NDArray[np.float64], every: float) -> NDArray[np.float64]:
    """How many steps lie below the ``place``-th of ``every`` score of a class, ascending.

    A step is ``UNIT`` of all, but of the highest ``UNIT / TOP_UNIT`` it is ``TOP_UNIT`` of those above, since average
    precision lives on the few highest, down to single ones.
    """
    top = every * UNIT / TOP_UNIT
    above = every - place
    below_top = (every - np.maximum(above, top)) / max(every * UNIT, 1e-9)
    return np.asarray(below_top + (np.log1p(top) - np.log1p(np.minimum(above, top))) / TOP_UNIT)


def _place(steps: NDArray[np.float64], every: float) -> NDArray[np.float64]:
    """The inverse of ``_reach``."""
    top = every * UNIT / TOP_UNIT
    of_top = np.maximum(steps - (every - top) / (every * UNIT), 0.0)
    above = np.expm1(np.log1p(top) - of_top * TOP_UNIT)
    return np.where(of_top > 0, every - above, steps * (every * UNIT))


def order_scores(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Their keys: bits that sort as the numbers do; 0 and -0 are the same."""
    bits = (scores + np.float32(0)).view(np.uint32)
    flip = (bits.view(np.int32) >> 31).view(np.uint32) | np.uint32(0x80000000)
    return np.asarray(np.bitwise_xor(bits, flip))


def _name(keys: NDArray[np.uint32]) -> NDArray[np.float32]:
    """The numbers whose keys these are; those below are -inf."""
    keys = np.maximum(keys, np.uint32(LOWEST_KEY))
    negative = keys < 0x80000000
    return np.where(negative, ~keys, keys ^ np.uint32(0x80000000)).astype(np.uint32).view(np.float32)


def count_quantiles(scores: NDArray[np.float32], abnormal: NDArray[np.bool_], shares: NDArray[np.float64], most: int) -> Counts:
    """A small set of scores (N,) in at most ``most`` bins: even shares of both classes, and the highest normal ones singly.

    ``shares`` (A,): of its region, each abnormal one.
    """
    values, rising = scores[abnormal], np.argsort(scores[abnormal], kind="stable")
    classes = [np.sort(scores[~abnormal]), values[rising]]
    picks = [part[np.linspace(0, part.size - 1, most // 3).astype(np.int64)] for part in classes if part.size]
    if classes[0].size:
        picks.append(classes[0][classes[0].size - np.geomspace(1, classes[0].size, most // 3).astype(np.int64)])
    lowest = np.unique(np.concatenate(picks)) if picks else np.zeros(0, dtype=np.float32)
    normal, found = (np.diff(np.append(np.searchsorted(part, lowest), part.size)).astype(np.int32) for part in classes)
    reached = np.concatenate([[0.0], np.cumsum(shares[rising])])
    starts = np.append(np.searchsorted(classes[1], lowest), classes[1].size)
    return Counts(lowest, normal, found, np.diff(reached[starts]).astype(np.float32))


def spread_bins(counts: Counts, lowest: NDArray[np.float32]) -> Counts:
    """``counts`` in the bins that begin at ``lowest`` (B,), even within a bin; what lies below the first counts in it."""
    at = np.nan_to_num(counts.lowest.astype(np.float64))
    at = np.append(at, np.nextafter(counts.lowest[-1], np.float32(np.inf)).astype(np.float64))
    at = np.nan_to_num(at)
    ends = np.append(np.nan_to_num(lowest.astype(np.float64))[1:], np.inf)

    def spread(part: NDArray[Any]) -> NDArray[np.float64]:
        total = np.concatenate([[0.0], np.cumsum(part)])
        return np.diff(np.interp(ends, at, total), prepend=0.0)

    return Counts(lowest, spread(counts.normal), spread(counts.abnormal), spread(counts.regions))
