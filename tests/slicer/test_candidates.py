"""Candidates found at a new threshold are those that a run at that threshold would find."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_geometry

from aaclip_med.scoring.candidates import label_candidates

pytest.importorskip("AAClipMedLib")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("minimum_ml", [0.0, 0.02])
def test_they_agree_with_the_packages(seed: int, minimum_ml: float) -> None:
    from AAClipMedLib.candidates import find_candidates

    random = np.random.default_rng(seed)
    heat = random.random((11, 14, 18)).astype(np.float32)
    heat = np.round(heat, 2)  # ties
    matrix = make_geometry(("oblique", "sheared", "left-handed")[seed % 3])
    threshold = (0.7, 0.85, 0.95)[seed % 3]
    expected, labels = label_candidates(heat.T, threshold, matrix, 2, minimum_ml)
    found, mask = find_candidates(heat, threshold, matrix, minimum_ml)
    np.testing.assert_array_equal(mask.fill(heat.shape), labels.T > 0)
    assert len(found) == len(expected)
    assert sorted(one["voxels"] for one in found) == sorted(one.voxels for one in expected)
    for one, other in zip(found, expected, strict=True):
        assert one["peak"] == pytest.approx(other.peak)
        assert one["voxels"] == other.voxels
    by_peak = {one.peak_ras: one for one in expected}
    assert len(by_peak) == len(expected)
    for one in found:
        other = by_peak[min(by_peak, key=lambda place: np.linalg.norm(np.subtract(place, one["peak_ras"])))]
        np.testing.assert_allclose(one["peak_ras"], other.peak_ras, atol=1e-6)
        np.testing.assert_allclose(one["centroid_ras"], other.centroid_ras, atol=1e-6)
        assert one["volume_ml"] == pytest.approx(other.volume_ml)
        assert one["mean"] == pytest.approx(other.mean, rel=1e-5)


@pytest.mark.parametrize("geometry", ["oblique", "sheared", "left-handed"])
def test_the_peak_of_a_plateau_is_the_packages(geometry: str) -> None:
    from AAClipMedLib.candidates import find_candidates

    heat = np.zeros((9, 12, 15), np.float32)
    k, j, i = np.indices(heat.shape)
    heat[(k - 4) ** 2 / 9 + (j - 6) ** 2 / 20 + (i - 8) ** 2 / 30 < 1] = 1.0
    heat[4, 6, 8] = 0.9
    matrix = make_geometry(geometry)
    (expected,), _ = label_candidates(heat.T, 0.5, matrix, 2)
    (found,), _ = find_candidates(heat, 0.5, matrix)
    np.testing.assert_allclose(found["peak_ras"], expected.peak_ras, atol=1e-6)
    beside = np.linalg.norm(np.subtract(found["peak_ras"], found["centroid_ras"]))
    assert beside == pytest.approx(np.linalg.norm(matrix[:3, :3], axis=0).min(), rel=0.2)


def test_a_threshold_that_lets_everything_through_is_refused() -> None:
    from AAClipMedLib.candidates import MOST_VOXELS, TooHotError, find_candidates

    heat = np.ones((1, 1, MOST_VOXELS + 1), dtype=np.float32)
    with pytest.raises(TooHotError, match="take a higher threshold"):
        find_candidates(heat, 0.5, np.eye(4))


def test_a_large_snake_is_one_candidate() -> None:
    from AAClipMedLib.candidates import find_candidates

    heat = np.zeros((40, 40, 3), dtype=np.float32)
    heat[::2, :, 1] = 1.0
    heat[1::4, -1, 1] = 1.0
    heat[3::4, 0, 1] = 1.0
    assert len(find_candidates(heat, 0.5, np.eye(4))[0]) == 1
