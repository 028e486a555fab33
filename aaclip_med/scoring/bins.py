"""Counts of scores in bins that grow finer where the scores are, in constant memory and without a range given beforehand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CELLS = 2**16
"""Cells: the float32 numbers, in order, by the upper half of their bits. A cell has at most 65,536 bins, one a number."""

FINENESS = 2**16
"""No bin but one of a single float32 number holds more than about one in so many scores of its class."""

LOWEST_KEY = 0x007FFFFF
"""The ordered bits of -inf; what lies below would be NaN."""

FEWEST = 4
HEADROOM = 2
NEGLIGIBLE = 2**-10
"""Cells with so little of the scores together may stay coarser."""

MOST_BINS = 2**20


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
    """Scores of two classes (0 normal, 1 abnormal) counted in bins over the ordered bits of float32.

    Each cell has 2**depth bins. Before scores are counted, the cells are made so fine that no bin holds more than one in
    2**16 of either class, or is a single number; what was counted there before, a small share, is spread evenly. So bins follow
    the scores, wherever they crowd, and memory stays below 50 MB: at most 2**20 bins.
    """

    def __init__(self) -> None:
        self._mass = np.zeros((2, CELLS), dtype=np.int64)
        self._lay_out(np.zeros(CELLS, dtype=np.int64))
        self._counts = np.zeros((2, self._size), dtype=np.int64)
        self._regions = np.zeros(self._size)

    @property
    def totals(self) -> tuple[int, int]:
        """How many scores of each class were counted."""
        return int(self._mass[0].sum()), int(self._mass[1].sum())

    def add(self, scores: NDArray[np.float32], abnormal: NDArray[np.bool_], shares: NDArray[np.floating[Any]] | None) -> None:
        """Count ``scores`` (N,), none NaN; ``abnormal`` (N,): which are; ``shares`` (A,): of its region, each abnormal one."""
        keys = _order(scores)
        cells = (keys >> 16).astype(np.intp)
        self._mass += np.bincount(cells + abnormal * CELLS, minlength=2 * CELLS).reshape(2, CELLS)
        self._refine()
        bins = (keys >> self._shift.take(cells)) - self._offset.take(cells)
        if 4 * bins.size < self._size:
            np.add.at(self._counts[0], bins[~abnormal], 1)
            np.add.at(self._counts[1], bins[abnormal], 1)
        else:
            both = bins + abnormal * np.uint32(self._size)
            self._counts += np.bincount(both, minlength=2 * self._size).reshape(2, self._size)
        if shares is not None:
            np.add.at(self._regions, bins[abnormal], shares)

    def counts(self) -> Counts:
        """The bins that hold a score."""
        filled = np.flatnonzero(self._counts.any(axis=0))
        cell = self._cell_of(filled)
        keys = (cell << 16) + ((filled - self._first[cell]) << self._shift[cell].astype(np.int64))
        normal, abnormal = self._counts[:, filled]
        return Counts(_name(keys.astype(np.uint32)), normal, abnormal, self._regions[filled])

    def _cell_of(self, bins: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.repeat(np.arange(CELLS), 1 << self._depth)[bins]

    def _lay_out(self, depth: NDArray[np.int64]) -> None:
        self._depth = depth
        ends = np.cumsum(1 << depth)
        self._size = int(ends[-1])
        self._first = ends - (1 << depth)
        self._shift = (16 - depth).astype(np.uint32)
        # Modulo 2**32: (key >> shift) - offset is the number of the bin.
        self._offset = ((np.arange(CELLS) << depth) - self._first).astype(np.uint32)

    def _refine(self) -> None:
        shares = (self._mass / np.maximum(self._mass.sum(axis=1, keepdims=True), 1)).max(axis=0)
        wanted = np.ceil(np.log2(np.maximum(shares * FINENESS, 1))).astype(np.int64)
        wanted = np.where(shares > 0, np.clip(wanted, FEWEST, 16), 0)
        if shares[wanted > self._depth].sum() < NEGLIGIBLE:
            return
        depth = np.where(wanted > self._depth, np.minimum(wanted + HEADROOM, 16), self._depth)
        if int((1 << depth).sum()) > MOST_BINS:
            depth = wanted
        old_counts, old_regions, old_first, old_depth = self._counts, self._regions, self._first, self._depth
        filled = np.flatnonzero(old_counts.any(axis=0))
        cell = self._cell_of(filled)
        self._lay_out(depth)
        # A bin becomes ``parts`` bins of its cell, or a part of one.
        finer = depth[cell] - old_depth[cell]
        within = filled - old_first[cell]
        start = self._first[cell] + np.where(finer >= 0, within << np.maximum(finer, 0), within >> np.maximum(-finer, 0))
        parts = 1 << np.maximum(finer, 0)
        source = np.repeat(np.arange(filled.size), parts)
        part = np.arange(source.size) - np.repeat(np.cumsum(parts) - parts, parts)
        target = start[source] + part
        self._counts = np.zeros((2, self._size), dtype=np.int64)
        self._regions = np.zeros(self._size)
        if not filled.size:
            return
        first = np.flatnonzero(np.diff(target, prepend=-1))
        of = parts[source]
        for new, old in zip(self._counts, old_counts[:, filled], strict=True):
            many = old[source]
            new[target[first]] = np.add.reduceat(many * (part + 1) // of - many * part // of, first)
        self._regions[target[first]] = np.add.reduceat((old_regions[filled] / parts)[source], first)


def _order(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Bits that sort as the numbers do; 0 and -0 are the same."""
    bits = (scores + np.float32(0)).view(np.uint32)
    flip = (bits.view(np.int32) >> 31).view(np.uint32) | np.uint32(0x80000000)
    return np.asarray(np.bitwise_xor(bits, flip))


def _name(keys: NDArray[np.uint32]) -> NDArray[np.float32]:
    """The numbers whose ordered bits are ``keys``; those below are -inf."""
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
