"""FROC against MONAI's, and peaks counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from monai.metrics.froc import compute_fp_tp_probs_nd, compute_froc_curve_data, compute_froc_score
from scipy import ndimage

from aaclip_med.errors import InputError
from aaclip_med.scoring.froc import RATES, Detections, FrocTable, find_peaks, match_lesions

SPACING = (2.0, 1.0, 1.0)


def draw_volume(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth positive map (12, 40, 40) and 0 to 3 labelled lesions, warm where the map finds them."""
    random = np.random.default_rng(seed)
    lesions = np.zeros((12, 40, 40), dtype=np.int32)
    heat = ndimage.gaussian_filter(random.standard_normal(lesions.shape), 2)
    for number in range(1, seed % 4 + 1):
        corner = random.integers(0, (8, 9 * number, 30), endpoint=True).clip(0, (8, 34, 30))
        box = tuple(slice(start, start + size) for start, size in zip(corner, (4, 6, 6), strict=True))
        if not lesions[box].any():
            lesions[box] = lesions.max() + 1
            heat[box] += random.uniform(0, 0.3) * np.hanning(8)[1:-1][None, :, None]
    return heat - heat.min() + 0.1, lesions


def test_sensitivities_are_monais():
    volumes, false, true, targets = [], [], [], 0
    for seed in range(12):
        heat, lesions = draw_volume(seed)
        places, scores = find_peaks(heat, SPACING)
        volumes.append(match_lesions(places, scores, lesions))
        wrong, right, count = compute_fp_tp_probs_nd(scores, places, lesions)
        false.append(np.asarray(wrong))
        true.append(np.asarray(right))
        targets += count
    assert sum(volume.found.size for volume in volumes) == targets > 10
    assert any(np.isinf(volume.found).any() for volume in volumes)
    fps, sensitivity = compute_froc_curve_data(np.concatenate(false), np.concatenate(true).astype(float), targets, len(volumes))
    curve = FrocTable(volumes).curve()
    for rate, ours in zip(RATES, curve.at(), strict=True):
        assert ours == pytest.approx(compute_froc_score(fps, sensitivity, eval_thresholds=(rate,)), abs=1e-6)
    assert curve.at().mean() == pytest.approx(compute_froc_score(fps, sensitivity, eval_thresholds=RATES), abs=1e-6)


def test_a_volume_drawn_twice_counts_twice():
    volumes = [Detections(np.array([0.9, -np.inf]), np.array([0.8, 0.3])), Detections(np.array([0.5]), np.array([0.7]))]
    weighted = FrocTable(volumes).curve(np.array([2, 1]))
    repeated = FrocTable([volumes[0], volumes[0], volumes[1]]).curve()
    assert weighted.at() == pytest.approx(repeated.at())


def test_a_hand_worked_case():
    """Two volumes; falling: lesion 0.9, false 0.8, lesion 0.7, false 0.6 and 0.5; one lesion is never found."""
    volumes = [Detections(np.array([0.9, -np.inf]), np.array([0.8])), Detections(np.array([0.7]), np.array([0.6, 0.5]))]
    curve = FrocTable(volumes).curve()
    assert curve.thresholds.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5]
    assert curve.false.tolist() == [0, 0.5, 0.5, 1.0, 1.5]
    assert curve.sensitivity == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert curve.at((0.25, 0.5, 1, 8)) == pytest.approx([1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert curve.threshold_at(1.0) == 0.6
    assert FrocTable(volumes[1:]).curve().threshold_at(0.0) == 0.7


def test_peaks_are_apart_by_the_radius_in_millimetres():
    stack = np.zeros((9, 30, 30))
    for place, height in (((4, 5, 5), 3.0), ((4, 5, 12), 2.0), ((4, 20, 20), 1.0), ((6, 20, 20), 0.5)):
        stack[place] = height
    places, scores = find_peaks(stack, (5.0, 1.0, 1.0), radius_mm=9.0)
    assert scores.tolist() == [3.0, 1.0, 0.5]
    assert places.tolist() == [[4, 5, 5], [4, 20, 20], [6, 20, 20]]
    assert find_peaks(stack, (5.0, 1.0, 1.0), radius_mm=6.0)[1].tolist() == [3.0, 2.0, 1.0, 0.5]
    assert find_peaks(stack, (5.0, 1.0, 1.0), radius_mm=6.0, most=2)[1].tolist() == [3.0, 2.0]


def test_a_plateau_is_one_peak_in_its_middle_and_a_flat_map_has_none():
    stack, lesions = np.zeros((3, 10, 10)), np.zeros((3, 10, 10), dtype=np.int32)
    stack[1, 3:6, 3:6] = 1.0
    lesions[1, 4, 4] = 1
    places, scores = find_peaks(stack, (1, 1, 1), 2.0)
    assert places.tolist() == [[1, 4, 4]]
    found = match_lesions(places, scores, lesions)
    assert (found.found.tolist(), found.false.tolist()) == ([1.0], [])
    assert len(find_peaks(np.ones((3, 10, 10)), (1, 1, 1))[0]) == 0


def test_a_hollow_plateau_peaks_at_one_of_its_own_voxels():
    stack = np.zeros((1, 9, 9))
    stack[0, 2:7, 2:7] = 1.0
    stack[0, 3:6, 3:6] = 0.5
    (place,) = find_peaks(stack, (1, 1, 1), 2.0)[0]
    assert stack[tuple(place)] == 1.0
    assert np.abs(place - [0, 4, 4]).max() == 2


def test_volumes_without_any_lesion_have_no_sensitivity():
    curve = FrocTable([Detections(np.zeros(0), np.array([0.5, 0.4]))]).curve()
    assert np.isnan(curve.at()).all()
    assert np.isnan(FrocTable([Detections(np.zeros(0), np.zeros(0))]).curve().at((1.0,))).all()


def test_no_volume_is_refused():
    with pytest.raises(InputError, match="at least one volume"):
        FrocTable([])
