"""An image's score from its map."""

from __future__ import annotations

import numpy as np
import pytest

from aaclip_med.errors import InputError
from aaclip_med.scoring.pooling import pool_maps, read_share


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
