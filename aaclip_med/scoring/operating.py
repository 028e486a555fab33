"""Where a candidate should begin: thresholds with a known cost on normal volumes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from aaclip_med.errors import InputError

THRESHOLDS: tuple[float, ...] = tuple(float(np.float32(1.0 - 10.0**-power)) for power in np.arange(1.0, 6.76, 0.25))
"""Heats at which candidates are counted: fractions of normal voxels, ever closer to 1."""


@dataclass(frozen=True)
class OperatingTable:
    """What thresholds do to the normal volumes of a calibration.

    Attributes:
        minimum_ml: the smallest candidate that was counted.
        false_positives: candidates a normal volume at each of ``THRESHOLDS``, on average.
        peaks: the highest heat of each normal volume, ascending.
    """

    minimum_ml: float
    false_positives: tuple[float, ...]
    peaks: tuple[float, ...]

    def for_false_positives(self, allowed: float) -> float:
        """The lowest of ``THRESHOLDS`` from which on a normal volume has no more than ``allowed`` candidates, on average.

        Raises:
            InputError: even the highest one leaves more, or ``allowed`` is negative.
        """
        if not allowed >= 0:
            raise InputError(f"{allowed} false positives a volume: take 0 or more")
        found = None
        for threshold, count in reversed(list(zip(THRESHOLDS, self.false_positives, strict=True))):
            if count > allowed:
                break
            found = threshold
        if found is None:
            raise InputError(
                f"no threshold leaves {allowed:g} or fewer candidates a normal volume; the fewest are "
                f"{self.false_positives[-1]:g}; raise --minimum-ml in calibrate and score"
            )
        return found

    def for_level(self, level: float) -> float:
        """The threshold that a normal volume exchangeable with these reaches anywhere with a chance of at most ``level``.

        Split conformal prediction: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005).

        Raises:
            InputError: the level is not between 0 and 1, or there are too few normal volumes for it.
        """
        if not 0.0 < level < 1.0:
            raise InputError(f"level {level}: take one between 0 and 1, such as 0.05")
        rank = math.ceil((len(self.peaks) + 1) * (1.0 - level) - 1e-9)
        if rank > len(self.peaks):
            needed = math.ceil(1.0 / level - 1e-9) - 1
            raise InputError(f"level {level:g} needs {needed} normal volumes to calibrate with; there are {len(self.peaks)}")
        return float(np.nextafter(np.float32(self.peaks[rank - 1]), np.float32(1.0)))

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "minimum_ml": self.minimum_ml,
            "false_positives": list(self.false_positives),
            "peaks": list(self.peaks),
        }

    @classmethod
    def from_json(cls, data: object, source: str) -> OperatingTable:
        """What ``to_json`` wrote; ``source`` is what errors call it.

        Raises:
            InputError: a part is missing or of another kind or length.
        """
        if not isinstance(data, Mapping):
            raise InputError(f"{source} holds no table of operating points; calibrate again")
        counts, peaks, minimum = (data.get(key) for key in ("false_positives", "peaks", "minimum_ml"))
        sound = _are_numbers(counts) and _are_numbers(peaks) and _are_numbers([minimum])
        if not sound or len(counts) != len(THRESHOLDS):  # type: ignore[arg-type]
            raise InputError(f"{source}: its table of operating points is damaged; calibrate again")
        return cls(float(minimum), tuple(map(float, counts)), tuple(sorted(map(float, peaks))))  # type: ignore[arg-type]


class OperatingBuilder:
    """Collects the heatmaps of normal volumes, one at a time."""

    def __init__(self, minimum_ml: float) -> None:
        self.minimum_ml = minimum_ml
        self._counts: list[list[int]] = []
        self._peaks: list[float] = []

    def add(self, heatmap: NDArray[np.floating], voxel_ml: float) -> None:
        """Take in one volume's heat (I, J, K) in [0, 1]; a voxel has ``voxel_ml`` millilitres."""
        self._counts.append(count_candidates(heatmap, THRESHOLDS, voxel_ml, self.minimum_ml))
        self._peaks.append(float(heatmap.max()))

    def build(self) -> OperatingTable:
        """The table of all volumes taken in."""
        return OperatingTable(
            self.minimum_ml, tuple(np.mean(self._counts, axis=0).tolist()), tuple(float(peak) for peak in sorted(self._peaks))
        )


def count_candidates(
    heatmap: NDArray[np.floating], thresholds: Sequence[float], voxel_ml: float, minimum_ml: float = 0.0
) -> list[int]:
    """The number of candidates, as ``label_candidates`` finds them, at each of ``thresholds``, which ascend."""
    counts: list[int] = []
    part = heatmap
    for threshold in thresholds:
        hot = part >= threshold
        if not hot.any():
            counts += [0] * (len(thresholds) - len(counts))
            break
        box = ndimage.find_objects(hot.view(np.uint8))[0]
        part, hot = part[box], hot[box]
        labels, _ = ndimage.label(hot, structure=np.ones((3, 3, 3), dtype=bool))
        voxels = np.bincount(labels.reshape(-1))[1:]
        counts.append(int(np.count_nonzero(voxels * voxel_ml >= minimum_ml)))
    return counts


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )
