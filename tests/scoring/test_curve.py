"""Pixel figures by streaming, against scikit-learn and counting by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from aaclip_med.errors import InputError
from aaclip_med.scoring import rates
from aaclip_med.scoring.bins import MOST_BINS, UNIT, count_quantiles, spread_bins
from aaclip_med.scoring.curve import BinnedCurve

SHAPES = {
    "bell": lambda z: z,
    "probability": lambda z: 1 / (1 + np.exp(2 - z)),
    "skewed": lambda z: np.exp(3 * z),
    "crowded below 1": lambda z: 1 - 10.0 ** (-6 - z),
    "crowded above 0": lambda z: np.exp(5 * z - 40),
    "narrow, far from 0": lambda z: 7 + 1e-4 * z,
    "256 levels": lambda z: np.clip(np.round(128 + 30 * z), 0, 255),
}


def draw_pixels(seed: int, count: int = 200_000, rate: float = 0.03) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.random(count) < rate
    return random.standard_normal(count) + 1.5 * labels, labels


def fill(scores: np.ndarray, labels: np.ndarray, parts: int = 7) -> BinnedCurve:
    curve = BinnedCurve()
    for part, truth in zip(np.array_split(scores, parts), np.array_split(labels, parts), strict=True):
        curve.add(part, truth)
    return curve


@pytest.mark.parametrize("rate", [0.0005, 0.03, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_streamed_figures_agree_with_scikit_learn_to_1e_5(shape, rate):
    scores, labels = draw_pixels(1, rate=rate)
    scores = SHAPES[shape](scores).astype(np.float32)
    figures = fill(scores, labels).figures()
    assert figures["auroc"].value == pytest.approx(roc_auc_score(labels, scores), abs=1e-5)
    assert figures["ap"].value == pytest.approx(average_precision_score(labels, scores), abs=1e-5)


def test_scores_that_come_later_and_lie_elsewhere_are_resolved_too(monkeypatch):
    """Several full pieces, each with its own level, so that bins are laid out anew while they hold counts."""
    monkeypatch.setattr("aaclip_med.scoring.curve.PIECE", 2**17)
    random = np.random.default_rng(3)
    count = 2**17 + 1000
    parts = [(level + 0.1 * random.standard_normal(count)).astype(np.float32) for level in (0.0, 0.2, 30.0)]
    truths = [random.random(count) < 0.01 * (1 + (part > part.mean())) for part in parts]
    curve = BinnedCurve()
    for part, truth in zip(parts, truths, strict=True):
        curve.add(part, truth)
    scores, labels = np.concatenate(parts), np.concatenate(truths)
    figures = curve.figures()
    assert figures["auroc"].value == pytest.approx(roc_auc_score(labels, scores), abs=1e-5)
    assert figures["ap"].value == pytest.approx(average_precision_score(labels, scores), abs=1e-5)
    counts = curve.counts()
    assert (counts.normal.sum(), counts.abnormal.sum()) == ((~labels).sum(), labels.sum())
    assert curve.total == 3 * count
    assert counts.lowest.size <= MOST_BINS
    assert (np.diff(counts.lowest) > 0).all()
    for one, kind in ((counts.normal, ~labels), (counts.abnormal, labels)):
        most_tied = np.unique(scores[kind], return_counts=True)[1].max()
        assert one.max() <= max(2 * UNIT * kind.sum(), most_tied + 1)


def require_agreement(scores: np.ndarray, labels: np.ndarray, parts: int = 7) -> BinnedCurve:
    curve = fill(scores, labels, parts)
    figures = curve.figures()
    assert figures["auroc"].value == pytest.approx(roc_auc_score(labels, scores), abs=1e-5)
    assert figures["ap"].value == pytest.approx(average_precision_score(labels, scores), abs=1e-5)
    return curve


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 40), st.sampled_from([0.001, 0.02, 0.5]), st.integers(0, 9))
def test_clusters_of_a_few_neighbouring_floats_are_resolved(clusters, width, rate, seed):
    """As many clusters as there may be, anywhere from 1 to 2**8, each of up to 2 * ``width`` + 1 neighbouring numbers."""
    random = np.random.default_rng(seed)
    labels = random.random(400_000) < rate
    levels = (2 ** (8 * random.random(clusters))).astype(np.float32)[random.integers(0, clusters, labels.size)]
    steps = np.clip(np.round(width / 4 * (random.standard_normal(labels.size) + 1.5 * labels)), -width, width)
    scores = (levels.view(np.int32) + steps.astype(np.int32)).view(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aaclip_med.scoring.curve.PIECE", 2**17)
        require_agreement(scores, labels)


@pytest.mark.parametrize("pairs", [20_000, 60_000, 200_000])
def test_an_abnormal_pixel_always_just_above_a_normal_one_is_no_tie(pairs):
    """Each abnormal number is the one next above a normal one: any bin of two numbers errs in the same direction."""
    random = np.random.default_rng(10)
    labels = random.random(1_500_000) < 0.3
    keys = 0x3F800000 + 2 * random.integers(0, pairs, labels.size) + labels
    require_agreement(keys.astype(np.int32).view(np.float32), labels)


def test_a_small_share_far_above_that_grows_piece_by_piece_is_resolved(monkeypatch):
    monkeypatch.setattr("aaclip_med.scoring.curve.PIECE", 2**19)
    random = np.random.default_rng(11)
    parts, truths = [], []
    for number in range(4):
        truth = random.random(2**19) < 0.02
        part = random.standard_normal(truth.size) + 1.5 * truth
        high = random.random(truth.size) < 0.0004 * number
        parts.append(np.where(high, 100 + 0.2 * random.random(truth.size) + 0.2 * truth, part).astype(np.float32))
        truths.append(truth)
    require_agreement(np.concatenate(parts), np.concatenate(truths), 4)


def test_lesions_that_come_after_a_piece_without_any_keep_their_ranks(monkeypatch):
    """What was counted before there was a lesion is a large share of a set of three pieces."""
    monkeypatch.setattr("aaclip_med.scoring.curve.PIECE", 2**19)
    random = np.random.default_rng(2)
    labels = (random.random(3 * 2**19) < 0.001) & (np.arange(3 * 2**19) >= 2**19)
    scores = 1 - 10.0 ** -np.abs(random.standard_normal(labels.size) + 3 * labels)
    require_agreement(scores.astype(np.float32), labels, 3)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(0.001, 2), st.sampled_from([0, 0.001, 0.3])), min_size=2, max_size=6))
def test_the_order_in_which_different_pieces_come_does_no_harm(pieces):
    """Each piece has a level, a spread and a share of lesions of its own; ``float32`` makes ties of the narrow ones."""
    random = np.random.default_rng(12)
    labels = np.concatenate([random.random(2**17) < rate for _, _, rate in pieces])
    labels[:2] = (False, True)
    noise = random.standard_normal(labels.size) + labels
    level, spread = (np.repeat([one[place] for one in pieces], 2**17) for place in (0, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aaclip_med.scoring.curve.PIECE", 2**17)
        require_agreement((level + spread * noise).astype(np.float32), labels, len(pieces))


def test_bins_are_joined_once_there_are_too_many(monkeypatch):
    monkeypatch.setattr("aaclip_med.scoring.curve.PIECE", 2**17)
    monkeypatch.setattr("aaclip_med.scoring.bins.MOST_BINS", 2**17)
    scores, labels = draw_pixels(13, 1_500_000, 0.1)
    scores = (scores + 3 * (np.arange(scores.size) % 5 == 0)).astype(np.float32)
    joined = require_agreement(scores, labels, 12)
    monkeypatch.setattr("aaclip_med.scoring.bins.MOST_BINS", 2**24)
    assert 50_000 < joined.counts().lowest.size < 0.95 * fill(scores, labels, 12).counts().lowest.size


STREAM = """
import resource, sys
import numpy as np
from aaclip_med.scoring.curve import PIECE, BinnedCurve
random = np.random.default_rng(0)
noise = random.standard_normal(PIECE // 2, dtype=np.float32)
labels = random.random(noise.size, dtype=np.float32) < 0.02
regions = labels * (1 + np.arange(noise.size) // 1000)
curve, before = BinnedCurve(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for number in range(60):
    curve.add(noise * np.float32(1 + random.random()) + labels, labels, regions)
curve.figures()
rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(rise / (1e6 if sys.platform == "darwin" else 1e3))
"""


def test_thirty_pieces_take_less_than_400_mb():
    run = subprocess.run([sys.executable, "-c", STREAM], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 400


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=60))
def test_ties_are_treated_as_scikit_learn_treats_them(pairs):
    levels, labels = np.array([level for level, _ in pairs]) / 8, np.array([label for _, label in pairs])
    curve = BinnedCurve()
    curve.add(levels, labels)
    figures = curve.figures()
    if labels.all() or not labels.any():
        assert math.isnan(figures["auroc"].value)
        assert math.isnan(figures["ap"].value)
    else:
        assert figures["auroc"].value == pytest.approx(roc_auc_score(labels, levels))
        assert figures["ap"].value == pytest.approx(average_precision_score(labels, levels))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40))
def test_every_float_keeps_its_place_and_its_value(values):
    scores = np.array(values, dtype=np.float32)
    curve = BinnedCurve()
    curve.add(scores, np.zeros(scores.size))
    counts = curve.counts()
    distinct = np.unique(scores + np.float32(0))
    below = np.searchsorted(counts.lowest, distinct, side="right")
    assert counts.normal.sum() == scores.size
    assert (np.diff(below) >= 0).all()
    assert (below > 0).all()


def test_the_order_and_shape_of_the_pieces_do_not_matter():
    scores, labels = draw_pixels(2, 6000)
    whole, pieces = BinnedCurve(), BinnedCurve()
    whole.add(scores, labels)
    for i in (2, 0, 1):
        pieces.add(scores[i::3].reshape(20, 100, 1), labels[i::3].reshape(20, 100, 1).astype(np.uint8) * 255)
    assert pieces.auroc() == whole.auroc()
    assert pieces.average_precision() == whole.average_precision()


def test_a_set_without_lesions_has_no_figures_and_says_why():
    curve = BinnedCurve()
    assert curve.auroc().reason == "no pixels at all"
    curve.add(np.linspace(0, 1, 1234), np.zeros(1234, dtype=bool))
    for figure in curve.figures().values():
        assert math.isnan(figure.value)
        assert figure.reason == "no abnormal pixels among 1,234"
    only_lesion = BinnedCurve(noun="voxels")
    only_lesion.add([0.5, 0.6], [1, 1])
    assert only_lesion.auroc().reason == "no normal voxels among 2"


@pytest.mark.parametrize("labels", [[False, False], [True, False]])
def test_nan_is_refused_and_leaves_the_curve_as_it_was(labels):
    curve = BinnedCurve()
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        curve.add([np.nan, 0.5], labels)
    assert curve.total == 0


def test_scores_and_labels_of_different_shapes_are_refused():
    with pytest.raises(InputError, match=r"\(2, 3\).*\(3, 2\)"):
        BinnedCurve().add(np.zeros((2, 3)), np.zeros((3, 2)))


def test_the_highest_f1_is_that_of_scikit_learns_curve():
    scores, labels = draw_pixels(4, 20_000)
    precision, recall, _ = precision_recall_curve(labels, scores)
    highest = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert fill(scores, labels).figures()["f1_max"].value == pytest.approx(highest, abs=1e-6)


def test_dice_at_a_false_positive_rate_is_dice_at_scikit_learns_threshold():
    scores, labels = draw_pixels(5, 20_000)
    false, _, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    called = scores >= thresholds[np.flatnonzero(false <= 0.05)[-1]]
    dice = 2 * (called & labels).sum() / (called.sum() + labels.sum())
    assert fill(scores, labels).figures()["dice_at_5_fpr"].value == pytest.approx(dice, abs=1e-4)


def test_where_even_the_highest_tie_is_too_wrong_nothing_is_called():
    curve = BinnedCurve()
    curve.add(np.ones(100), np.arange(100) < 10)
    assert curve.figures()["dice_at_5_fpr"].value == 0.0


def overlap_area(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """AUPRO by trying every threshold on every region, with nothing of the package."""
    regions = []
    for heat, mask in zip(maps, masks, strict=True):
        labelled, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [heat[labelled == number] for number in range(1, count + 1)]
    normal = maps[~masks]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        points.append(((normal >= threshold).mean(), np.mean([(region >= threshold).mean() for region in regions])))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 > limit:
            y1, x1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0), limit
        area += (x1 - x0) * (y0 + y1) / 2
        if x1 >= limit:
            break
    return area / limit


@pytest.mark.parametrize("levels", [None, 12], ids=["distinct scores", "tied scores"])
def test_aupro_is_that_of_every_threshold_tried_on_every_region(levels):
    random = np.random.default_rng(6)
    masks = ndimage.gaussian_filter(random.standard_normal((4, 30, 30)), (0, 3, 3)) > 0.12
    maps = ndimage.gaussian_filter(random.standard_normal((4, 30, 30)) + 0.8 * masks, (0, 1, 1))
    maps = (np.round(levels * maps) if levels else maps).astype(np.float32)
    curve = BinnedCurve()
    within_slices = np.zeros((3, 3, 3), dtype=bool)
    within_slices[1] = True
    for part in (slice(0, 1), slice(1, 4)):
        curve.add(maps[part], masks[part], ndimage.label(masks[part], within_slices)[0])
    assert curve.regions > 8
    assert curve.figures()["aupro"].value == pytest.approx(overlap_area(maps, masks, 0.3), abs=1e-6)


def test_aupro_without_regions_says_so():
    curve = BinnedCurve()
    curve.add([0.1, 0.9], [0, 1])
    assert curve.figures()["aupro"].reason == "no abnormal region was counted"


def test_a_case_in_few_bins_keeps_its_figures_to_three_digits():
    scores, labels = draw_pixels(7, 50_000)
    scores = scores.astype(np.float32)
    counts = count_quantiles(scores, labels, np.zeros(labels.sum()), 1024)
    assert counts.lowest.size <= 1024
    assert (counts.normal.sum(), counts.abnormal.sum()) == ((~labels).sum(), labels.sum())
    assert rates.auroc(counts.normal, counts.abnormal) == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    assert rates.average_precision(counts.normal, counts.abnormal) == pytest.approx(
        average_precision_score(labels, scores), abs=1e-3
    )


def test_spreading_keeps_every_count_and_the_cumulative_ones_at_common_edges():
    scores, labels = draw_pixels(8, 5000)
    scores = scores.astype(np.float32)
    counts = count_quantiles(scores, labels, np.zeros(labels.sum()), 256)
    edges = np.linspace(-1, 1, 9, dtype=np.float32)
    spread = spread_bins(counts, edges)
    assert spread.normal.sum() == pytest.approx(counts.normal.sum())
    below = np.array([(scores[~labels] < edge).sum() for edge in edges[1:]])
    assert np.cumsum(spread.normal)[:-1] == pytest.approx(below, abs=2 * float(counts.normal.max()))
