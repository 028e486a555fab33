"""What a score means: where it falls among the scores of normal cases.

A voxel's score becomes the fraction of normal voxels that score below it; a volume's score becomes a conformal p-value.
Both need normal cases only, and neither depends on which other cases are scored beside it.

Sources: conformal p-values, Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005); the
exponential tail over a high threshold (peaks over threshold), Pickands, Annals of Statistics 3 (1975).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aaclip_med.arrays import make_array_like, split_slabs
from aaclip_med.errors import InputError
from aaclip_med.scoring.metrics import DEFAULT_BINS, ScoreHistogram, require_no_nan
from aaclip_med.scoring.operating import OperatingTable

TAIL_FRACTION = 1e-4
"""The outermost knots leave this fraction of the normal voxels beyond them, on either side."""

TAIL_COUNT = 10
"""... and at least this many voxels, so that the mean excess over the knot is a mean of something."""

FEW_VOLUMES = 20

EXPONENTIAL_REACH = 1.0
"""How far beyond the last knot, in mean excesses, a tail is exponential. From there it falls off hyperbolically, with
the same slope where they meet: float32 has only 1,678 numbers between 1 - 1e-4 and 1, and an exponential would use them
up, and tie every lesion, within 7.5 mean excesses. So scores one mean excess apart keep their order to about 25."""

SMALLEST = float(np.finfo(np.float32).tiny)
LARGEST = float(np.nextafter(np.float32(1), np.float32(0)))


@dataclass(frozen=True)
class Calibration:
    """The scores of normal cases, in a table small enough to store beside a model's weights.

    Attributes:
        knot_scores: (n,) strictly increasing voxel scores, float32 values.
        knot_fractions: (n,) strictly increasing fractions of normal voxels below, in (0, 1), float32 values.
        lower_scale: mean distance of the normal voxels below the first knot from it, in score units.
        upper_scale: mean excess of the normal voxels above the last knot over it, in score units.
        volume_scores: the scores of the normal volumes, ascending, float32 values.
        n_voxels: normal voxels the table was made from.
        operating: what thresholds do to the normal volumes; None where that was not counted.
    """

    knot_scores: tuple[float, ...]
    knot_fractions: tuple[float, ...]
    lower_scale: float
    upper_scale: float
    volume_scores: tuple[float, ...]
    n_voxels: int
    operating: OperatingTable | None = None

    @classmethod
    def fit(cls, voxel_scores: ScoreHistogram, volume_scores: Sequence[float]) -> Calibration:
        """The calibration from the histogram of all normal voxels and the scores of the normal volumes.

        The histogram's range must hold the normal scores: those outside it were counted at its ends.

        Raises:
            InputError: there is no normal volume or too few voxels, the voxel scores are all alike, or a volume score
                is not finite.
        """
        if not len(volume_scores):
            raise InputError("calibration needs normal cases, and there are none; label some cases normal")
        volumes = np.sort(np.asarray(volume_scores, dtype=np.float32))
        if not np.isfinite(volumes).all():
            raise InputError(f"{int((~np.isfinite(volumes)).sum())} of {volumes.size} normal volume scores are not finite")
        total = voxel_scores.total
        if total < 4 * TAIL_COUNT:
            raise InputError(f"calibration needs at least {4 * TAIL_COUNT} normal voxels; got {total}")

        beyond = max(TAIL_FRACTION, TAIL_COUNT / total)
        scores, fractions = _read_knots(voxel_scores, _choose_fractions(beyond))
        if np.count_nonzero(voxel_scores.counts) < 2 or scores.size < 2:
            raise InputError(f"all {total:,} normal voxels score {scores[0]:.6g}; a constant heatmap tells nothing apart")
        return cls(
            knot_scores=tuple(_shorten(scores)),
            knot_fractions=tuple(_shorten(fractions)),
            lower_scale=_mean_distance(voxel_scores, float(scores[0]), above=False),
            upper_scale=_mean_distance(voxel_scores, float(scores[-1]), above=True),
            volume_scores=tuple(_shorten(volumes)),
            n_voxels=total,
        )

    @property
    def n_volumes(self) -> int:
        """How many normal volumes the p-values rest on."""
        return len(self.volume_scores)

    @property
    def caveat(self) -> str | None:
        """A warning for the reader of the p-values when there are fewer than 20 normal volumes, else None."""
        if self.n_volumes >= FEW_VOLUMES:
            return None
        cases = "1 normal volume" if self.n_volumes == 1 else f"{self.n_volumes} normal volumes"
        return f"only {cases}: no p-value can be smaller than {1 / (self.n_volumes + 1):.2g}"

    def fraction_below(self, scores: ArrayLike) -> NDArray[np.float32]:
        """The fraction of normal voxels that score below each of ``scores``; float32 of the same shape, in (0, 1).

        Between the knots it is interpolated. Beyond them it goes on along the tail, so scores above every normal voxel
        keep their order as far as float32 can hold it, and stay below 1.

        Raises:
            InputError: a score is NaN.
        """
        values = np.asarray(scores)
        if values.ndim == 0:
            return self.fraction_below(values[None])[0]  # type: ignore[no-any-return]
        result = make_array_like(values, np.float32)
        for slab in split_slabs(values):
            require_no_nan(values[slab])
            result[slab] = self._fractions(values[slab].astype(np.float64))
        return result

    def p_value(self, volume_score: float) -> float:
        """The conformal p-value of a volume's score: (1 + normal volumes scoring at least as high) / (n + 1).

        For a normal case exchangeable with the normal volumes here, the chance of a p-value <= a is at most a.

        Raises:
            InputError: the score is NaN.
        """
        if math.isnan(volume_score):
            raise InputError("the volume's score is NaN; it has no p-value")
        return (1 + self.n_volumes - self._count_below(volume_score)) / (self.n_volumes + 1)

    def percentile(self, volume_score: float) -> float:
        """The share of the normal volumes that score below ``volume_score``, in percent."""
        return 100.0 * self._count_below(volume_score) / self.n_volumes

    def _count_below(self, volume_score: float) -> int:
        """Normal volumes that score below, in float32: ``volume_scores`` are the shortest decimals that give it again."""
        return int(np.searchsorted(np.asarray(self.volume_scores, dtype=np.float32), np.float32(volume_score), side="left"))

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers for ``json.dumps``: some 6 kB of text and about 11 bytes per normal volume."""
        return {
            "knot_scores": list(self.knot_scores),
            "knot_fractions": list(self.knot_fractions),
            "lower_scale": self.lower_scale,
            "upper_scale": self.upper_scale,
            "volume_scores": list(self.volume_scores),
            "n_voxels": self.n_voxels,
            "n_volumes": self.n_volumes,
            **({"operating": self.operating.to_json()} if self.operating else {}),
        }

    @classmethod
    def from_json(cls, data: object, source: str = "the calibration") -> Calibration:
        """The calibration that ``to_json`` wrote; ``source`` is what errors call it, such as the file's path.

        Raises:
            InputError: a part is missing, of the wrong type or length, not finite, or not increasing.
        """
        if not isinstance(data, Mapping):
            raise InputError(f"{source} is not a calibration: expected an object, got {type(data).__name__}")
        scores, fractions = (_read_list(data, key, source) for key in ("knot_scores", "knot_fractions"))
        if scores.size != fractions.size or scores.size < 2:
            raise InputError(f"{source} has {scores.size} knot_scores and {fractions.size} knot_fractions; need two or more")
        for key, values in (("knot_scores", scores), ("knot_fractions", fractions)):
            if not (np.diff(values) > 0).all():
                raise InputError(f"{source}: {key} does not increase strictly")
        if not (fractions[0] > 0 and fractions[-1] < 1):
            raise InputError(f"{source}: knot_fractions must lie between 0 and 1")
        lower, upper = (_read_number(data, key, source) for key in ("lower_scale", "upper_scale"))
        volumes = np.sort(_read_list(data, "volume_scores", source))
        n_voxels, n_volumes = (_read_number(data, key, source) for key in ("n_voxels", "n_volumes"))
        if n_volumes != volumes.size or n_voxels != int(n_voxels):
            raise InputError(f"{source}: n_volumes={n_volumes:g} and n_voxels={n_voxels:g} do not fit its lists")
        operating = OperatingTable.from_json(data["operating"], source) if "operating" in data else None
        return cls(
            tuple(_shorten(scores)),
            tuple(_shorten(fractions)),
            lower,
            upper,
            tuple(_shorten(volumes)),
            int(n_voxels),
            operating,
        )

    def _fractions(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        first, last = self.knot_scores[0], self.knot_scores[-1]
        fractions: NDArray[np.float64] = np.interp(scores, self.knot_scores, self.knot_fractions)
        below, above = scores < first, scores > last
        fractions[below] = self.knot_fractions[0] * _decay((first - scores[below]) / self.lower_scale)
        fractions[above] = 1 - (1 - self.knot_fractions[-1]) * _decay((scores[above] - last) / self.upper_scale)
        return np.clip(fractions, SMALLEST, LARGEST)


class CalibrationBuilder:
    """Collects normal volumes one at a time, in constant memory.

    ``low`` and ``high`` are the range of voxel scores, cut into ``bins``; the table is no finer than a bin, so the
    range should not be thousands of times wider than the scores.

    Raises:
        InputError: ``low`` is not below ``high``.
    """

    def __init__(self, low: float, high: float, bins: int = DEFAULT_BINS) -> None:
        self._voxels = ScoreHistogram(low, high, bins)
        self._volume_scores: list[float] = []

    def add_volume(self, voxel_scores: ArrayLike, volume_score: float) -> None:
        """Take in one normal volume: its voxel scores (any shape) and its own score.

        Raises:
            InputError: a score is NaN, or the volume's is not finite; the volume is not taken in then.
        """
        if not math.isfinite(volume_score):
            raise InputError(f"a normal volume's score is {volume_score}; it cannot be calibrated with")
        self._voxels.add(voxel_scores)
        self._volume_scores.append(float(volume_score))

    def build(self) -> Calibration:
        """The calibration from all volumes taken in.

        Raises:
            InputError: as ``Calibration.fit``.
        """
        return Calibration.fit(self._voxels, self._volume_scores)


def _choose_fractions(beyond: float) -> NDArray[np.float64]:
    """About 256 fractions between ``beyond`` and 1 - ``beyond``: even in the middle, dense towards the upper end."""
    lower, upper = max(0.02, beyond), max(0.05, beyond)
    return np.concatenate(
        [
            np.geomspace(beyond, lower, 33)[:-1],
            np.linspace(lower, 1 - upper, 112, endpoint=False),
            1 - np.geomspace(upper, beyond, 112),
        ]
    )


def _read_knots(histogram: ScoreHistogram, wanted: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The scores at the wanted fractions, both strictly increasing in float32."""
    filled = np.flatnonzero(histogram.counts)
    edges, reached = histogram.edges, np.cumsum(histogram.counts[filled]) / histogram.total
    # Both edges of every filled bin, so that the distribution is flat over empty bins.
    at = np.stack([edges[filled], edges[filled + 1]], axis=1).reshape(-1)
    fraction = np.stack([np.concatenate([[0.0], reached[:-1]]), reached], axis=1).reshape(-1)
    fractions = np.unique(wanted.astype(np.float32))
    scores = np.interp(fractions, fraction, at).astype(np.float32)
    scores, first = np.unique(scores, return_index=True)
    return scores, fractions[first]


def _mean_distance(histogram: ScoreHistogram, knot: float, above: bool) -> float:
    """Mean distance from ``knot`` of the scores beyond it; at least one bin's width."""
    width = (histogram.high - histogram.low) / histogram.bins
    centres = histogram.low + width * (np.arange(histogram.bins) + 0.5)
    distance = centres - knot if above else knot - centres
    counts = np.where(distance > 0, histogram.counts, 0)
    total = int(counts.sum())
    return max(float(np.dot(counts, distance)) / total if total else 0.0, width)


def _decay(excess: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of a tail that lies beyond ``excess`` mean excesses: exp(-excess), later slower (EXPONENTIAL_REACH)."""
    near = np.minimum(excess, EXPONENTIAL_REACH)
    decayed: NDArray[np.float64] = np.exp(-near) / (1 + excess - near)
    return decayed


def _shorten(values: NDArray[Any]) -> list[float]:
    """The shortest decimals that name the same float32 values."""
    return [float(str(value)) for value in np.asarray(values, dtype=np.float32)]


def _read_list(data: Mapping[Any, Any], key: str, source: str) -> NDArray[np.float32]:
    entries = data.get(key)
    if not isinstance(entries, list | tuple) or not entries:
        raise InputError(f"{source} has no list of numbers called {key}")
    if not all(isinstance(entry, int | float) and not isinstance(entry, bool) for entry in entries):
        raise InputError(f"{source}: {key} holds something that is not a number")
    try:
        with np.errstate(over="ignore"):
            values = np.asarray(entries, dtype=np.float64).astype(np.float32)
    except OverflowError:
        raise InputError(f"{source}: {key} holds a number that is too large") from None
    if not np.isfinite(values).all():
        raise InputError(f"{source}: {key} holds a number that is not finite")
    return values


def _read_number(data: Mapping[Any, Any], key: str, source: str) -> float:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e300:
        raise InputError(f"{source}: {key} must be a number above 0; got {value!r}")
    return float(value)
