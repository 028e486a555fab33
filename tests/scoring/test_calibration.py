"""Scores read against those of normal cases."""

from __future__ import annotations

import json
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aaclip_med.errors import InputError
from aaclip_med.scoring.calibration import LARGEST, Calibration, CalibrationBuilder
from aaclip_med.scoring.metrics import ScoreHistogram


def draw_scores(kind: str, random: np.random.Generator, count: int) -> np.ndarray:
    draws = {
        "gaussian": lambda: 0.3 + 0.05 * random.standard_normal(count),
        "skewed": lambda: random.gamma(2.0, 0.02, count),
        "two tissues": lambda: np.where(random.random(count) < 0.3, 0.1, 0.6) + 0.02 * random.standard_normal(count),
    }
    return draws[kind]().astype(np.float32)


KINDS = ("gaussian", "skewed", "two tissues")


@cache
def fit(kind: str = "gaussian", volumes: int = 30, voxels: int = 30_000) -> Calibration:
    random = np.random.default_rng(5)
    builder = CalibrationBuilder(-1.0, 2.0)
    for _ in range(volumes):
        scores = draw_scores(kind, random, voxels)
        builder.add_volume(scores.reshape(10, -1, 5), float(scores.max()))
    return builder.build()


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_normal_voxels_are_spread_evenly(kind):
    fresh = draw_scores(kind, np.random.default_rng(99), 20_000)
    assert stats.kstest(fit(kind).fraction_below(fresh), "uniform").pvalue > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_the_upper_tail_is_held_to_one_in_ten_thousand(kind):
    fractions = fit(kind).fraction_below(draw_scores(kind, np.random.default_rng(7), 3_000_000))
    for beyond in (1e-2, 1e-3, 1e-4):
        assert np.mean(fractions > 1 - beyond) == pytest.approx(beyond, rel=0.35)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.lists(st.floats(-1e6, 1e6, width=32) | st.floats(-0.5, 1.5, width=32), min_size=2, max_size=50),
)
def test_a_higher_score_never_falls_lower(kind, scores):
    fractions = fit(kind).fraction_below(np.sort(np.asarray(scores, dtype=np.float32)))
    assert fractions.dtype == np.float32
    assert (np.diff(fractions) >= 0).all()
    assert (fractions > 0).all()
    assert (fractions < 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_neighbouring_scores_keep_their_order_through_knots_and_joints(kind):
    calibration = fit(kind)
    knots = np.asarray(calibration.knot_scores, dtype=np.float32)
    around = np.unique([knots, np.nextafter(knots, np.float32(-9)), np.nextafter(knots, np.float32(9))])
    dense = np.linspace(-1, 2, 1_000_001, dtype=np.float32)
    for scores in (around, dense):
        assert (np.diff(calibration.fraction_below(scores)) >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_scores_above_every_normal_voxel_stay_in_order_and_below_one(kind):
    calibration = fit(kind)
    # In steps of a mean excess, from the highest of 900,000 normal voxels on.
    highest = max(calibration.volume_scores)
    fractions = calibration.fraction_below(highest + calibration.upper_scale * np.arange(20))
    assert (np.diff(fractions) > 0).all()
    assert fractions[-1] < 1
    assert calibration.fraction_below(np.array([1e30, np.inf])).tolist() == [LARGEST, LARGEST]


def test_scores_below_every_normal_voxel_stay_in_order_and_above_zero():
    calibration = fit()
    lowest = calibration.knot_scores[0]
    fractions = calibration.fraction_below(lowest - calibration.lower_scale * np.arange(50, 0, -1))
    assert (np.diff(fractions) > 0).all()
    assert 0 < fractions[0] < fractions[-1] < calibration.knot_fractions[0]
    assert 0 < calibration.fraction_below(np.array([-np.inf]))[0] < 1e-30


def test_the_shape_of_the_scores_is_kept():
    assert fit().fraction_below(np.full((2, 3, 4), 0.3)).shape == (2, 3, 4)
    assert fit().fraction_below(0.3).shape == ()
    assert fit().fraction_below(np.zeros((0, 3))).shape == (0, 3)


def test_p_values_count_the_normal_volumes_at_least_as_high():
    histogram = ScoreHistogram(0, 1)
    histogram.add(np.linspace(0, 1, 1000))
    calibration = Calibration.fit(histogram, [0.4, 0.1, 0.2, 0.2])
    assert calibration.p_value(0.5) == 1 / 5
    assert calibration.p_value(0.4) == 2 / 5
    assert calibration.p_value(0.2) == 4 / 5
    assert calibration.p_value(0.0) == 1.0
    with pytest.raises(InputError, match="NaN"):
        calibration.p_value(math.nan)


@pytest.mark.parametrize("ties", [False, True])
def test_fresh_normal_volumes_seldom_get_small_p_values(ties):
    random = np.random.default_rng(11)
    histogram = ScoreHistogram(0, 1, bins=256)
    histogram.add(random.random(1000))
    p_values = []
    for _ in range(1500):
        volumes = random.random(20)
        volumes = np.round(volumes, 1) if ties else volumes
        p_values.append(Calibration.fit(histogram, volumes[1:].tolist()).p_value(volumes[0]))
    for level in (0.05, 0.1, 0.2, 0.5, 0.8):
        # Three standard errors of a proportion over 1500 draws.
        assert np.mean(np.asarray(p_values) <= level) <= level + 3 * math.sqrt(level * (1 - level) / 1500)


def test_few_normal_volumes_come_with_a_caveat():
    assert fit(volumes=30).caveat is None
    assert fit(volumes=4).caveat == "only 4 normal volumes: no p-value can be smaller than 0.2"
    assert fit(volumes=1).caveat == "only 1 normal volume: no p-value can be smaller than 0.5"


@pytest.mark.parametrize("kind", KINDS)
def test_a_calibration_survives_json(kind):
    calibration = fit(kind)
    again = Calibration.from_json(json.loads(json.dumps(calibration.to_json())))
    assert again == calibration
    scores = np.linspace(-1, 2, 1000)
    assert (again.fraction_below(scores) == calibration.fraction_below(scores)).all()
    assert (again.n_voxels, again.n_volumes) == (900_000, 30)


def test_a_calibration_is_small_and_dense_where_it_matters():
    calibration = fit(volumes=500, voxels=1000)
    assert len(json.dumps(calibration.to_json())) < 20_000
    fractions = np.asarray(calibration.knot_fractions)
    assert 200 <= fractions.size <= 256
    assert fractions[-1] == pytest.approx(1 - 1e-4, abs=1e-7)
    assert (fractions > 0.95).sum() > 100


DAMAGE = {
    "not an object": lambda data: [data],
    "no knots": lambda data: {**data, "knot_scores": []},
    "a missing part": lambda data: {key: value for key, value in data.items() if key != "knot_fractions"},
    "lists of different length": lambda data: {**data, "knot_scores": data["knot_scores"][1:]},
    "scores that fall": lambda data: {**data, "knot_scores": data["knot_scores"][::-1]},
    "fractions that stall": lambda data: {**data, "knot_fractions": [0.5] * len(data["knot_fractions"])},
    "a fraction of one": lambda data: {**data, "knot_fractions": [*data["knot_fractions"][:-1], 1.0]},
    "a fraction of zero": lambda data: {**data, "knot_fractions": [0.0, *data["knot_fractions"][1:]]},
    "a NaN": lambda data: {**data, "knot_scores": [math.nan, *data["knot_scores"][1:]]},
    "an infinite volume score": lambda data: {**data, "volume_scores": [math.inf] * data["n_volumes"]},
    "a number too large": lambda data: {**data, "volume_scores": [10**400] * data["n_volumes"]},
    "text for a number": lambda data: {**data, "knot_scores": ["0.1", *data["knot_scores"][1:]]},
    "truth for a number": lambda data: {**data, "knot_scores": [False, *data["knot_scores"][1:]]},
    "no volumes": lambda data: {**data, "volume_scores": [], "n_volumes": 0},
    "a wrong count": lambda data: {**data, "n_volumes": data["n_volumes"] + 1},
    "half a voxel": lambda data: {**data, "n_voxels": 10.5},
    "a scale of zero": lambda data: {**data, "upper_scale": 0.0},
    "a NaN scale": lambda data: {**data, "lower_scale": math.nan},
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_calibration_is_refused_by_name(damage):
    with pytest.raises(InputError, match=r"site\.json") as caught:
        Calibration.from_json(damage(fit().to_json()), source="site.json")
    assert "\n" not in str(caught.value)


def test_without_normal_volumes_there_is_no_calibration():
    with pytest.raises(InputError, match="needs normal cases"):
        CalibrationBuilder(0, 1).build()


def test_a_constant_heatmap_cannot_be_calibrated():
    builder = CalibrationBuilder(0, 1)
    builder.add_volume(np.full(1000, 0.25), 0.25)
    with pytest.raises(InputError, match=r"all 1,000 normal voxels score 0\.25"):
        builder.build()


def test_a_volume_that_ties_with_a_normal_one_is_not_above_it():
    scores = np.random.default_rng(0).normal(size=50).astype(np.float32)
    builder = CalibrationBuilder(-1.0, 2.0)
    for score in scores:
        builder.add_volume(np.linspace(0, 1, 50), float(score))
    calibration = Calibration.from_json(json.loads(json.dumps(builder.build().to_json())))
    for rank, score in enumerate(np.sort(scores)):
        assert calibration.percentile(float(score)) == pytest.approx(100 * rank / 50)
        assert calibration.p_value(float(score)) == pytest.approx((51 - rank) / 51)


def test_a_handful_of_voxels_cannot_be_calibrated():
    builder = CalibrationBuilder(0, 1)
    builder.add_volume(np.linspace(0, 1, 39), 1.0)
    with pytest.raises(InputError, match="at least 40 normal voxels; got 39"):
        builder.build()
    builder.add_volume([0.5], 1.0)
    assert (np.diff(builder.build().fraction_below(np.linspace(-1, 2, 100))) > 0).all()


@pytest.mark.parametrize(("scores", "volume"), [([0.1, math.nan], 0.5), ([0.1, 0.2], math.nan)])
def test_a_volume_with_nan_is_not_taken_in(scores, volume):
    builder = CalibrationBuilder(0, 1)
    with pytest.raises(InputError):
        builder.add_volume(scores, volume)
    with pytest.raises(InputError, match="needs normal cases"):
        builder.build()


def test_a_background_of_one_score_and_a_saturated_top_are_carried():
    random = np.random.default_rng(3)
    scores = np.concatenate([np.zeros(50_000), random.random(50_000), np.ones(2_000)])
    builder = CalibrationBuilder(0, 1)
    builder.add_volume(scores, 1.0)
    calibration = builder.build()
    fractions = calibration.fraction_below(np.linspace(-0.5, 1.5, 10_001))
    assert (np.diff(fractions) >= 0).all()
    assert calibration.fraction_below(0.5) == pytest.approx(75 / 102, abs=0.005)
