"""An image's score from its map."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from aaclip_med.errors import InputError
from aaclip_med.scoring.pooling import pool_maps, read_share, smooth_scores


def test_a_share_is_the_mean_of_the_highest_pixels_and_none_the_maximum():
    maps = np.random.default_rng(0).permutation(200).reshape(2, 10, 10).astype(np.float32)
    expected = np.sort(maps.reshape(2, -1), axis=1)[:, -5:].mean(axis=1)
    assert pool_maps(maps, 0.05).tolist() == expected.tolist()
    assert pool_maps(maps).tolist() == maps.max(axis=(1, 2)).tolist()
    assert pool_maps(maps, 0.001).tolist() == maps.max(axis=(1, 2)).tolist()
    assert pool_maps(maps, 1.0) == pytest.approx(maps.mean(axis=(1, 2)))


def test_shares_are_read_from_words():
    assert [read_share(text) for text in ("max", "top1%", "top0.5%", "top100%")] == [0, 0.01, 0.005, 1]


@pytest.mark.parametrize("text", ["mean", "top%", "top0%", "top101%", "1%", ""])
def test_other_words_are_refused(text):
    with pytest.raises(InputError, match="take max"):
        read_share(text)


def test_a_share_outside_0_to_1_is_refused():
    with pytest.raises(InputError, match="share from 0"):
        pool_maps(np.zeros((1, 2, 2)), 1.5)


def test_smoothed_scores_are_a_gaussian_filters_away_from_the_ends():
    scores = np.random.default_rng(0).normal(size=60).astype(np.float32)
    smoothed = smooth_scores(scores, np.arange(60) * 0.5, sigma=1.0)
    np.testing.assert_allclose(smoothed[12:-12], ndimage.gaussian_filter1d(scores, 2.0, truncate=6.0)[12:-12], atol=1e-4)


def test_slices_far_apart_and_single_ones_keep_their_scores():
    scores = np.array([1.0, 5.0, 2.0])
    np.testing.assert_allclose(smooth_scores(scores, np.arange(3) * 50.0, sigma=1.0), scores)
    np.testing.assert_allclose(smooth_scores(scores[:1], np.zeros(1), sigma=1.0), scores[:1])
    np.testing.assert_allclose(smooth_scores(np.full(7, 3.0), np.arange(7), sigma=2.0), 3.0)
