"""What an evaluation found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
    image_score: str
    failures: list[dict[str, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Figures as fractions, null where undefined, each of those with its reason; intervals as [low, high]."""
        return {
            **{name: figure.value for name, figure in self.figures.items()},
            "intervals": {name: [figure.low, figure.high] for name, figure in self.figures.items() if figure.low is not None},
            "reasons": {name: figure.reason for name, figure in self.figures.items() if figure.reason},
            "baselines": {
                name: {figure: one.value for figure, one in figures.items()} for name, figures in self.baselines.items()
            },
            "verdict": self.verdict,
            "counts": self.counts,
            "image_score": self.image_score,
            "normal_mean_intensity": self.normal_mean,
            "failures": self.failures,
        }
