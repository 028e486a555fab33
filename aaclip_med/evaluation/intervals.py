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
    for draw, records in ((_draw_scored, tally.scored), (_draw_mood, tally.counted)):
        patients = {patient: number for number, patient in enumerate(dict.fromkeys(record.patient for record in records))}
        if len(patients) >= 2:
            yield from draw(tally, patients, draw_patients(len(patients), draws, seed))


def _number(records: Sequence[CaseRecord], patients: dict[str, int]) -> Array:
    return np.array([patients[record.patient] for record in records], dtype=np.int64)


def _draw_mood(tally: Tally, patients: dict[str, int], weights: Array) -> Iterator[tuple[str, Array]]:
    masked, counts = [record for record in tally.counted if record.pixels is not None], tally.mood_counts()
    if counts.lowest.size:
        parts = [record.pixels for record in masked if record.pixels is not None]
        drawn = draw_counts(parts, _number(masked, patients), counts, weights, figure_counts)
        yield "mood_pixel_ap", drawn[PIXEL_FIGURES.index("ap")]
    labels, scores = tally.sample_items()
    yield "mood_sample_ap", draw_scores(labels, scores, _number(tally.counted, patients), weights)[1]


def _draw_scored(tally: Tally, patients: dict[str, int], weights: Array) -> Iterator[tuple[str, Array]]:
    scored = [record for record in tally.scored if record.pixels is not None]
    for prefix, part, counts, kept in (
        ("pixel", "pixels", tally.pixels.counts(), PIXEL_FIGURES),
        ("inside_pixel", "inside", tally.inside.counts(), ("auroc", "ap")),
    ):
        if not counts.lowest.size:
            continue
        parts = [getattr(record, part) for record in scored]
        drawn = draw_counts(parts, _number(scored, patients), counts, weights, figure_counts)
        yield from ((f"{prefix}_{name}", drawn[PIXEL_FIGURES.index(name)]) for name in kept)

    volumes = [record for record in tally.scored if not record.is_picture]
    labels, scores, of = tally.slice_items()
    whole = np.array([one.case.label for one in volumes]), np.array([one.score for one in volumes])
    items = {"image": (labels, scores, _number(tally.scored, patients)[of]), "volume": (*whole, _number(volumes, patients))}
    for prefix, (truth, values, who) in items.items():
        if len(truth):
            area, precision = draw_scores(truth, values, who, weights)
            yield f"{prefix}_ap", precision
            yield f"{prefix}_auroc", area

    found = [record for record in scored if record.lesions is not None]
    if any(record.lesions.found.size for record in found if record.lesions is not None):
        table = FrocTable([record.lesions for record in found if record.lesions is not None])
        who = _number(found, patients)
        none = np.full(len(RATES), np.nan)
        at = np.array([table.curve(row[who]).at() if row[who].any() else none for row in weights])
        yield "lesion_sensitivity", at.mean(axis=1)
        yield from ((f"lesion_sensitivity_at_{rate:g}", values) for rate, values in zip(RATES, at.T, strict=True))
