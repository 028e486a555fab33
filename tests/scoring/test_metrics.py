"""AUROC and average precision, exact and streaming."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from aaclip_med.errors import InputError
from aaclip_med.scoring.metrics import (
    BinnedCurve,
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


@pytest.mark.parametrize("high", [1.0, 10.0], ids=["range fits the scores", "range ten times wider"])
@pytest.mark.parametrize("rate", [0.0005, 0.03, 0.5])
def test_streamed_figures_agree_with_scikit_learn_to_1e_5(rate, high):
    scores, labels = draw_pixels(1, rate=rate)
    curve = BinnedCurve(0.0, high)
    for part, truth in zip(np.array_split(scores, 7), np.array_split(labels, 7), strict=True):
        curve.add(part, truth)
    assert curve.auroc().value == pytest.approx(roc_auc_score(labels, scores), abs=1e-5)
    assert curve.average_precision().value == pytest.approx(average_precision_score(labels, scores), abs=1e-5)
    assert curve.auroc().reason is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.booleans()), min_size=2, max_size=60))
def test_ties_are_treated_as_scikit_learn_treats_them(pairs):
    levels, labels = np.array([level for level, _ in pairs]) / 8, np.array([label for _, label in pairs])
    curve = BinnedCurve(0.0, 1.0, bins=8)
    curve.add(levels, labels)
    if labels.all() or not labels.any():
        assert math.isnan(curve.auroc().value)
        assert math.isnan(curve.average_precision().value)
    else:
        assert curve.auroc().value == pytest.approx(roc_auc_score(labels, levels))
        assert curve.average_precision().value == pytest.approx(average_precision_score(labels, levels))


def test_the_order_and_shape_of_the_pieces_do_not_matter():
    scores, labels = draw_pixels(2, 6000)
    whole, pieces = BinnedCurve(0, 1), BinnedCurve(0, 1)
    whole.add(scores, labels)
    for i in (2, 0, 1):
        pieces.add(scores[i::3].reshape(20, 100, 1), labels[i::3].reshape(20, 100, 1).astype(np.uint8) * 255)
    assert pieces.auroc() == whole.auroc()
    assert pieces.average_precision() == whole.average_precision()


def test_scores_outside_the_range_count_at_its_ends():
    curve = BinnedCurve(0.0, 1.0, bins=10)
    curve.add([-5.0, -np.inf, 0.0, 0.5, 1.0, 7.0, np.inf], [0, 0, 0, 0, 1, 1, 1])
    assert curve.normal.counts.tolist() == [3, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert curve.abnormal.counts.tolist() == [0] * 9 + [3]
    assert curve.auroc().value == 1.0


def test_a_set_without_lesions_has_no_figures_and_says_why():
    curve = BinnedCurve(0.0, 1.0)
    assert curve.auroc().reason == "no pixels at all"
    curve.add(np.linspace(0, 1, 1234), np.zeros(1234, dtype=bool))
    for figure in (curve.auroc(), curve.average_precision()):
        assert math.isnan(figure.value)
        assert figure.reason == "no abnormal pixels among 1,234"
    only_lesion = BinnedCurve(0.0, 1.0, noun="voxels")
    only_lesion.add([0.5, 0.6], [1, 1])
    assert only_lesion.auroc().reason == "no normal voxels among 2"


@pytest.mark.parametrize("labels", [[False, False], [True, False]])
def test_nan_is_refused_and_leaves_the_curve_as_it_was(labels):
    curve = BinnedCurve(0.0, 1.0)
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        curve.add([np.nan, 0.5], labels)
    assert curve.normal.total == curve.abnormal.total == 0


def test_scores_and_labels_of_different_shapes_are_refused():
    with pytest.raises(InputError, match=r"\(2, 3\).*\(3, 2\)"):
        BinnedCurve(0, 1).add(np.zeros((2, 3)), np.zeros((3, 2)))


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
