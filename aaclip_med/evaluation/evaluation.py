"""What an evaluation found."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from aaclip_med.data.index import join
from aaclip_med.evaluation.baselines import DIFFERENCE, WHY_LEFT_OUT
from aaclip_med.evaluation.intervals import FEW_DRAWS, ONE_PATIENT, count_patients, doubt_intervals
from aaclip_med.evaluation.tally import Tally
from aaclip_med.scoring.metrics import Figure


@dataclass
class Evaluation:
    """What an evaluation found. ``baselines``: each one's figures; ``verdict``: plain sentences on them; ``settings``: how
    cases were chosen, cut and pooled.
    """

    tally: Tally
    figures: dict[str, Figure]
    baseline_tallies: dict[str, Tally]
    baselines: dict[str, dict[str, Figure]]
    verdict: list[str]
    counts: dict[str, int]
    normal_mean: float
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def failures(self) -> list[dict[str, str]]:
        """``case`` and ``error`` of each case that could not be scored."""
        return [{"case": one.case.name, "error": one.error} for one in self.tally.records if one.error is not None]

    @property
    def doubts(self) -> list[str]:
        """Plain sentences on intervals that promise more than they keep."""
        return doubt_intervals(self.tally.scored)

    @property
    def cautions(self) -> list[str]:
        """Plain sentences on rows that make figures better or worse than they are."""
        learned = sum(record.case.split in ("train", "val") for record in self.tally.scored)
        conflicts = [record for record in self.tally.scored if record.conflict]
        said = []
        if learned:
            said.append(
                f"{learned} of {len(self.tally.scored)} rows are of split train or val: what these figures say of scans that "
                "were not learned from is not known; name --split test."
            )
        if conflicts:
            rows = join([f"row {record.case.row} is {record.conflict}" for record in conflicts])
            said.append(
                f"{rows}. Volumes are judged by the label, slices and pixels by the mask; index check names all that disagree."
            )
        return said

    @property
    def left_out(self) -> dict[str, str]:
        """Why there is no such baseline, by its name."""
        return {name: why for name, why in WHY_LEFT_OUT.items() if name not in self.baselines}

    def to_json(self) -> dict[str, Any]:
        """Figures as fractions, intervals as [low, high]; null where undefined, each of those with its reason."""
        one = count_patients(self.tally.scored)[0] < 2
        reasons = {name: _list_reasons(figures) for name, figures in self.baselines.items()}
        mean = {"normal_mean_intensity": WHY_LEFT_OUT[DIFFERENCE]} if math.isnan(self.normal_mean) else {}
        lacking = [name for name, figure in self.figures.items() if figure.low is None and figure.reason is None]
        return {
            **{name: figure.value for name, figure in self.figures.items()},
            "intervals": {name: [figure.low, figure.high] for name, figure in self.figures.items() if figure.reason is None},
            "interval_reasons": dict.fromkeys(lacking, ONE_PATIENT if one else FEW_DRAWS),
            "doubts": self.doubts,
            "cautions": self.cautions,
            "reasons": _list_reasons(self.figures) | mean,
            "baselines": {
                name: {figure: one.value for figure, one in figures.items()} for name, figures in self.baselines.items()
            },
            "baseline_reasons": {name: undefined for name, undefined in reasons.items() if undefined},
            "baselines_left_out": self.left_out,
            "verdict": self.verdict,
            "counts": self.counts,
            "slice_score": self.tally.slice_score,
            "baseline_slice_scores": {name: other.slice_score for name, other in self.baseline_tallies.items()},
            "settings": self.settings,
            "normal_mean_intensity": self.normal_mean,
            "failures": self.failures,
        }


def _list_reasons(figures: dict[str, Figure]) -> dict[str, str]:
    return {name: figure.reason for name, figure in figures.items() if figure.reason}
