"""AUROC and average precision of images, and the released program's protocol."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from aaclip_med.errors import InputError
from aaclip_med.scoring.metrics import (
    ScoreHistogram,
    auroc,
    average_precision,
    evaluate_reference,
    min_max,
    reference_image_scores,
)


def draw_pixels(seed: int, count: int = 200_000, rate: float = 0.03) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.random(count) < rate
    scores = 1 / (1 + np.exp(-(random.standard_normal(count) + 1.5 * labels - 2)))
    return scores.astype(np.float32), labels


def test_scores_outside_a_histograms_range_count_at_its_ends():
    histogram = ScoreHistogram(0.0, 1.0, bins=10)
    histogram.add([-5.0, -np.inf, 0.0, 0.5, 1.0, 7.0, np.inf])
    assert histogram.counts.tolist() == [3, 0, 0, 0, 0, 1, 0, 0, 0, 3]


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (0, np.nan), (0, np.inf)])
def test_an_empty_score_range_is_refused(low, high):
    with pytest.raises(InputError, match="low < high"):
        ScoreHistogram(low, high)


def test_image_figures_are_scikit_learns():
    scores, labels = draw_pixels(3, 300, rate=0.4)
    assert auroc(labels, scores).value == roc_auc_score(labels, scores)
    assert average_precision(labels, scores).value == average_precision_score(labels, scores)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [([0, 0, 0], "no abnormal images among 3"), ([1, 1], "no normal images among 2"), ([], "no images at all")],
)
def test_one_class_of_images_is_not_a_zero(labels, reason):
    for figure in (auroc(labels, np.ones(len(labels))), average_precision(labels, np.ones(len(labels)))):
        assert math.isnan(figure.value)
        assert figure.reason == reason


def test_image_scores_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="1 of 2 scores are not finite"):
        auroc([0, 1], [0.1, np.inf])


def test_min_max_follows_the_released_program():
    assert min_max(np.array([1.0, 2.0, 5.0])).tolist() == [0.0, 0.25, 1.0]
    assert min_max(np.array([0.5, 1.0])).tolist() == [0.5, 1.0]
    assert min_max(np.array([3.0, 3.0])).tolist() == [0.0, 0.0]


def test_industrial_image_scores_are_the_mean_of_map_and_detection():
    peaks, detection = np.array([0.2, 1.0, 0.6]), np.array([10.0, 30.0, 50.0])
    assert reference_image_scores(peaks, detection, "medical").tolist() == [0.2, 1.0, 0.6]
    assert reference_image_scores(peaks, detection, "industrial") == pytest.approx([0.1, 0.75, 0.8])
    with pytest.raises(InputError, match="unknown domain 'dental'"):
        reference_image_scores(peaks, detection, "dental")  # type: ignore[arg-type]


def test_a_reference_set_of_normal_images_only_has_four_reasons():
    figures = evaluate_reference(np.random.default_rng(0).random((2, 4, 4)), np.zeros((2, 4, 4)), [0, 1], [0, 0], "medical")
    assert [figure.reason for figure in figures.values()] == [
        "no abnormal pixels among 32",
        "no abnormal pixels among 32",
        "no abnormal images among 2",
        "no abnormal images among 2",
    ]


@pytest.mark.parametrize(
    ("maps", "masks", "detection"),
    [((2, 4), (2, 4), 2), ((2, 4, 4), (2, 4, 5), 2), ((2, 4, 4), (2, 4, 4), 3), ((0, 4, 4), (0, 4, 4), 0)],
)
def test_reference_shapes_that_do_not_fit_are_refused(maps, masks, detection):
    with pytest.raises(InputError):
        evaluate_reference(np.ones(maps), np.ones(masks), np.ones(detection), np.ones(maps[0]), "medical")
