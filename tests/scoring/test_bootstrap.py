"""Intervals over patients, against drawing the data itself."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from aaclip_med.scoring.bins import count_quantiles
from aaclip_med.scoring.bootstrap import draw_counts, draw_patients, draw_scores, find_interval
from aaclip_med.scoring.curve import PIXEL_FIGURES, BinnedCurve, figure_counts


def draw_items(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels, patient = random.random(count) < 0.3, random.integers(0, 8, count)
    return labels, np.round(random.standard_normal(count) + labels, 1), patient


def test_drawn_scores_are_scikit_learns_of_the_drawn_items():
    labels, scores, patient = draw_items(0, 120)
    weights = draw_patients(8, 30)
    auroc, precision = draw_scores(labels, scores, patient, weights)
    for row, area, average in zip(weights, auroc, precision, strict=True):
        times = row[patient]
        drawn = np.repeat(labels, times), np.repeat(scores, times)
        assert area == pytest.approx(roc_auc_score(*drawn))
        assert average == pytest.approx(average_precision_score(*drawn))


def test_drawn_pixels_have_the_figures_of_a_curve_of_the_drawn_patients_to_1e_3():
    random = np.random.default_rng(1)
    cases = []
    for number in range(6):
        masks = np.zeros((20, 60, 60), dtype=bool)
        masks[4:9, 10 : 12 + 4 * number, 20:30] = True
        maps = (random.standard_normal(masks.shape) + (0.5 + 0.3 * number) * masks).astype(np.float32)
        regions = masks * np.arange(1, 21)[:, None, None]
        cases.append((maps, masks, regions))
    whole = BinnedCurve()
    for case in cases:
        whole.add(*case)
    counts = [
        count_quantiles(maps.ravel(), masks.ravel(), np.full(masks.sum(), 5 / masks.sum()), 1024) for maps, masks, _ in cases
    ]
    patient = [0, 0, 1, 2, 3, 3]
    weights = draw_patients(4, 5, seed=2)
    drawn = draw_counts(counts, patient, whole.counts(), weights, figure_counts)
    for number, row in enumerate(weights):
        curve = BinnedCurve()
        for case, of in zip(cases, patient, strict=True):
            for _ in range(row[of]):
                curve.add(*case)
        exact = curve.figures()
        for name, values in zip(PIXEL_FIGURES, drawn, strict=True):
            assert values[number] == pytest.approx(exact[name].value, abs=2e-3), name


def test_every_draw_has_as_many_patients_as_the_set_and_a_seed_repeats_it():
    weights = draw_patients(7, 100, seed=3)
    assert (weights.sum(axis=1) == 7).all()
    assert (weights == draw_patients(7, 100, seed=3)).all()
    assert (weights != draw_patients(7, 100, seed=4)).any()


def test_the_interval_of_a_mean_is_the_textbooks():
    """1.96 standard errors, for a figure whose distribution is known: the mean of 400 patients' values."""
    values = np.random.default_rng(5).standard_normal(400)
    means = draw_patients(400, 4000, seed=6) @ values / 400
    low, high = find_interval(means)
    error = values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.1 * error * 1.96)


def test_draws_without_the_figure_are_left_out_and_too_many_of_them_leave_no_interval():
    assert find_interval([0.5] * 60 + [np.nan] * 40) == (0.5, 0.5)
    assert find_interval([0.5] * 40 + [np.nan] * 60) is None
    assert find_interval([]) is None
