"""The figures of drawn patients, for intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aaclip_med.scoring.bootstrap import draw_counts, draw_patients, draw_scores
from aaclip_med.scoring.curve import PIXEL_FIGURES, figure_counts
from aaclip_med.scoring.froc import RATES, FrocTable

if TYPE_CHECKING:
    from aaclip_med.evaluation.tally import CaseRecord, Tally

Array = np.ndarray[Any, Any]

FEW_PATIENTS = 10
"""With fewer patients than this, intervals are called doubtful.

A percentile interval of the mean of n normal values holds the truth about as often as a t variable of n - 1 degrees of freedom
lies within 1.96 sqrt((n - 1) / n): 90.4 % of the time for 10 of them, 89.8 % for 9, and not 95 %. In 20,000 trials it was 90.3
and 89.6 %, for 5 of them 83 %, for 3 75 %.
"""
ONE_PATIENT = "all cases are of one patient, and intervals draw patients"
FEW_DRAWS = "fewer than half of the draws of patients have this figure"


def count_patients(records: Sequence[CaseRecord]) -> tuple[int, int, int]:
    """How many patients there are, how many of them with an abnormal case, and how many with a normal case or slice."""
    abnormal = {record.patient for record in records if record.case.label}
    normal = {record.patient for record in records if not record.case.label or (record.slice_labels == 0).any()}
    return len({record.patient for record in records}), len(abnormal), len(normal)


def doubt_intervals(records: Sequence[CaseRecord]) -> list[str]:
    """Why the intervals over the patients of ``records`` promise more than they keep; nothing where they do not."""
    total, abnormal, normal = count_patients(records)
    unnamed = sum(record.case.patient is None for record in records)
    doubts = []
    if total == 1:
        doubts.append(f"No intervals: {ONE_PATIENT}.")
    elif records and min(total, abnormal or total, normal or total) < FEW_PATIENTS:
        doubts.append(
            f"Doubtful intervals: {total} patients, {abnormal} of them abnormal, {normal} with normal slices. Below "
            f"{FEW_PATIENTS} of a kind a 95 % interval is too narrow, and holds the truth less than 90 % of the time."
        )
    if unnamed and len(records) > 1:
        doubts.append(
            f"{unnamed} of {len(records)} rows name no patient, and each counts as one: where several are of the same, the "
            "intervals are too narrow."
        )
    return doubts


def draw_figures(tally: Tally, draws: int, seed: int) -> Iterator[tuple[str, Array]]:
    """Each figure's name and what it is for each draw of patients, (draws,); nothing where there is but one patient.

    A row without a patient is a patient of its own.
    """
    patients: dict[str, int] = {}
    for record in tally.records:
        patients.setdefault(record.patient, len(patients))
    if len(patients) < 2:
        return
    weights = draw_patients(len(patients), draws, seed)

    def number(records: list[Any]) -> Array:
        return np.array([patients[record.patient] for record in records], dtype=np.int64)

    masked = [record for record in tally.records if record.pixels is not None]
    scored = [record for record in masked if not record.missing]
    whole = tally.pixels.counts()
    for prefix, records, part, counts in (
        ("pixel", scored, "pixels", whole),
        ("inside_pixel", scored, "inside", tally.inside.counts()),
        ("mood_pixel", masked, "pixels", tally.mood_counts()),
    ):
        if not counts.lowest.size:
            continue
        drawn = draw_counts([getattr(one, part) for one in records], number(records), counts, weights, figure_counts)
        kept = {"pixel": PIXEL_FIGURES, "inside_pixel": ("auroc", "ap"), "mood_pixel": ("ap",)}[prefix]
        yield from ((f"{prefix}_{name}", drawn[PIXEL_FIGURES.index(name)]) for name in kept)

    volumes = [record for record in tally.scored if not record.is_picture]
    labels, scores, of = tally.slice_items()
    items = {
        "image": (labels, scores, number(tally.scored)[of]),
        "volume": (np.array([one.case.label for one in volumes]), np.array([one.score for one in volumes]), number(volumes)),
        "mood_sample": (*tally.sample_items(), number(tally.records)),
    }
    for prefix, (truth, values, who) in items.items():
        if len(truth):
            area, precision = draw_scores(truth, values, who, weights)
            yield f"{prefix}_ap", precision
            if prefix != "mood_sample":
                yield f"{prefix}_auroc", area

    found = [record for record in scored if record.lesions is not None]
    if any(record.lesions.found.size for record in found if record.lesions is not None):
        table = FrocTable([record.lesions for record in found if record.lesions is not None])
        who = number(found)
        none = np.full(len(RATES), np.nan)
        at = np.array([table.curve(row[who]).at() if row[who].any() else none for row in weights])
        yield "lesion_sensitivity", at.mean(axis=1)
        yield from ((f"lesion_sensitivity_at_{rate:g}", values) for rate, values in zip(RATES, at.T, strict=True))
