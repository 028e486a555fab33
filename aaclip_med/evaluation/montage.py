"""The best, the median and the worst cases: slice, heatmap and outlined truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aaclip_med.data.writing import write_file
from aaclip_med.errors import AaclipError
from aaclip_med.evaluation.evaluation import Evaluation
from aaclip_med.evaluation.tally import CaseRecord
from aaclip_med.evaluation.views import View, score_cases, show_other
from aaclip_med.inference.cutting import Cutting
from aaclip_med.inference.predictor import Predictor
from aaclip_med.scoring.bins import Counts
from aaclip_med.scoring.overview import OverviewCase, build_overview

Array = np.ndarray[Any, Any]

EACH = 2
SHOWN_FROM = 0.9


def draw_montage(
    path: Path, evaluation: Evaluation, rows: Sequence[dict[str, Any]], predictor: Predictor, cutting: Cutting, title: str
) -> None:
    """Write the picture as PNG; nothing where no case has both lesion and figures.

    Cases are ranked by their pixel average precision, and each is shown at the slice with its largest lesion. Heat is the share
    of the set's normal pixels that score below.

    Raises:
        OutputError: the file cannot be written.
    """
    ranked = [
        (row["pixel_ap"], number, row) for number, row in enumerate(rows) if not math.isnan(row.get("pixel_ap", math.nan))
    ]
    if not ranked:
        return
    ranked.sort(key=lambda one: (-one[0], one[1]))
    counts = evaluation.tally.pixels.counts()
    chosen = [(word, *ranked[place][1:]) for word, place in _choose(len(ranked))]
    records = [evaluation.tally.records[number] for _, number, _ in chosen]
    shown = []
    scored = score_cases((record.case for record in records), predictor, cutting)
    for (word, _, row), record, (_, view) in zip(chosen, records, scored, strict=True):
        if isinstance(view, AaclipError):
            raise view
        shown.append(_show(word, record, row, counts, view))
    footer = (
        f"{predictor.note}. Ranked by pixel average precision, cases with a lesion: {len(ranked)}. Only heat above "
        f"{SHOWN_FROM:.0%} of the normal pixels is drawn."
    )
    figure = build_overview(
        shown,
        f"{title}: best, median and worst cases",
        footer,
        SHOWN_FROM,
        1.0,
        "share of normal pixels that score below",
    )
    write_file(path, figure.savefig)


def _choose(count: int) -> list[tuple[str, int]]:
    """Which of ``count`` ranked cases are shown, each once, and what they are called."""
    if count == 1:
        return [("only", 0)]
    each = EACH if count >= 3 * EACH else 1
    middle = (count - each) // 2
    places = {
        "best": range(each),
        "median": range(middle, middle + each),
        "worst": range(count - each, count),
    }
    chosen: dict[int, str] = {}
    for word in ("best", "worst", "median"):
        for place in places[word]:
            chosen.setdefault(place, word)
    return [(chosen[place], place) for place in sorted(chosen)]


def _show(word: str, record: CaseRecord, row: dict[str, Any], counts: Counts, view: View) -> OverviewCase:
    place = view.numbers.index(record.lesion_slice)
    grey = show_other(view, lambda shown, _: shown).maps[place]
    below = np.cumsum(counts.normal) / max(int(counts.normal.sum()), 1)
    heat = np.append(0.0, below)[np.searchsorted(counts.lowest, view.maps[place], side="right") - 1]
    mask = view.masks[place] if view.masks is not None else None
    lines = [
        f"{word}: pixel AP {row['pixel_ap']:.3f}",
        f"pixel AUROC {row['pixel_auroc']:.3f}",
        f"Dice {row['dice']:.2f}",
        f"lesions found {row['lesions_found']} of {row['lesions']} at 1 false positive a volume",
    ]
    return OverviewCase(row["case"], record.lesion_slice, grey, heat, mask, *view.spacing[1:], caption="\n".join(lines))
