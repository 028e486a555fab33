"""What an evaluation found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aaclip_med.evaluation.intervals import FEW_DRAWS, ONE_PATIENT, count_patients, doubt_intervals
from aaclip_med.evaluation.tally import Tally
from aaclip_med.scoring.metrics import Figure


@dataclass
class Evaluation:
    """What an evaluation found. ``baselines``: each one's figures; ``verdict``: plain sentences on them."""

    tally: Tally
    figures: dict[str, Figure]
    baseline_tallies: dict[str, Tally]
    baselines: dict[str, dict[str, Figure]]
    verdict: list[str]
    counts: dict[str, int]
    normal_mean: float
    failures: list[dict[str, str]] = field(default_factory=list)

    @property
    def doubts(self) -> list[str]:
        """Plain sentences on intervals that promise more than they keep."""
        return doubt_intervals(self.tally.scored)

    def to_json(self) -> dict[str, Any]:
        """Figures as fractions, intervals as [low, high]; null where undefined, each of those with its reason."""
        one = count_patients(self.tally.records)[0] < 2
        lacking = [name for name, figure in self.figures.items() if figure.low is None and figure.reason is None]
        return {
            **{name: figure.value for name, figure in self.figures.items()},
            "intervals": {name: [figure.low, figure.high] for name, figure in self.figures.items() if figure.reason is None},
            "interval_reasons": dict.fromkeys(lacking, ONE_PATIENT if one else FEW_DRAWS),
            "doubts": self.doubts,
            "reasons": {name: figure.reason for name, figure in self.figures.items() if figure.reason},
            "baselines": {
                name: {figure: one.value for figure, one in figures.items()} for name, figures in self.baselines.items()
            },
            "verdict": self.verdict,
            "counts": self.counts,
            "slice_score": self.tally.slice_score,
            "normal_mean_intensity": self.normal_mean,
            "failures": self.failures,
        }
