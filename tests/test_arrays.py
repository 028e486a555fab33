"""Arrays larger than memory behave as those in it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aaclip_med import arrays


@given(st.permutations([0, 1, 2]), st.lists(st.booleans(), min_size=3, max_size=3), st.integers(1, 400))
def test_slabs_cover_every_element_once_whatever_the_layout(order: list[int], flips: list[bool], slab_bytes: int) -> None:
    array = np.zeros((4, 5, 6), dtype=np.int16).transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "SLAB_BYTES", slab_bytes)
        for slab in arrays.split_slabs(array):
            array[slab] += 1
    assert (array == 1).all()


@given(st.permutations([0, 1, 2]))
def test_an_array_like_another_has_its_shape_and_its_order_in_memory(order: list[int]) -> None:
    array = np.zeros((4, 5, 6), dtype=np.int16).transpose(order)
    like = arrays.make_array_like(array, np.float32)
    assert like.shape == array.shape
    assert np.argsort(like.strides).tolist() == np.argsort(array.strides).tolist()


def test_a_large_array_lies_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(arrays.make_array((4, 5), np.float32)) is np.ndarray
    monkeypatch.setattr(arrays, "SHARE", 10**12)
    large = arrays.make_array((400, 500), np.float32)
    assert isinstance(large, np.memmap)
    assert not large.any()
    large[3, 4] = 2.0
    assert large.sum() == 2.0
