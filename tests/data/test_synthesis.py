"""Synthetic lesions: where they lie, how large they are, what they leave alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from aaclip_med.data.synthesis import KINDS, Synthesis
from aaclip_med.data.synthesis.shapes import draw_shape, find_foreground, smooth_noise
from aaclip_med.errors import InputError

Array = np.ndarray[Any, Any]


def draw_body(height: int = 96, width: int = 120, seed: int = 0, channels: int = 1) -> Array:
    """An oval body (C, H, W) with smooth organs on an empty background, a dark hole in its middle."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((height, width))
    distance = np.hypot((rows - height / 2) / (0.42 * height), (columns - width / 2) / (0.42 * width))
    organs = 0.5 + 0.2 * smooth_noise(rng, (height, width), (1, 1), 8.0) + 0.02 * rng.standard_normal((height, width))
    organs = np.where(distance < 0.12, 0.0, np.clip(organs, 0.1, 1))
    return np.repeat(np.where(distance < 1, organs, 0)[None], channels, axis=0).astype(np.float32)


def draw_ball(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> tuple[Array, Array]:
    """A body (I, J, K) that is a ball in mm, and its mask."""
    rng = np.random.default_rng(5)
    offsets = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
    distance = np.sqrt(sum(part**2 for part in np.meshgrid(*offsets, indexing="ij")))
    ball = distance < 0.45 * min(n * mm for n, mm in zip(shape, spacing, strict=True))
    texture = 0.5 + 0.15 * smooth_noise(rng, shape, spacing, 12.0)
    return np.where(ball, np.clip(texture, 0.1, 1), 0).astype(np.float32), ball


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(tuple(KINDS)),
    height=st.integers(24, 120),
    width=st.integers(24, 120),
    channels=st.sampled_from([1, 3]),
)
def test_nothing_changes_outside_the_mask_by_one_bit(seed: int, kind: str, height: int, width: int, channels: int) -> None:
    image = draw_body(height, width, seed % 7, channels)
    before = image.copy()
    after, mask = Synthesis(kinds=(kind,)).apply_slice(image, np.random.default_rng(seed))
    assert np.array_equal(image, before)
    assert after.shape == image.shape
    assert after.dtype == np.float32
    assert mask.shape == (1, height, width)
    assert mask.dtype == np.float32
    assert set(np.unique(mask)) <= {0.0, 1.0}
    assert np.array_equal(after[:, mask[0] == 0], before[:, mask[0] == 0])
    assert after.min() >= 0
    assert after.max() <= 1
    assert not mask[0][~find_foreground(before, (1, 1))].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_a_lesion_can_be_seen(kind: str, seed: int) -> None:
    image = draw_body()
    synthesis = Synthesis(kinds=(kind,), lesions=(1, 1))
    after, mask = synthesis.apply_slice(image, np.random.default_rng(seed))
    change = np.abs(after - image)[:, mask[0] > 0]
    assert mask.any()
    assert change.mean() >= synthesis.visible


@pytest.mark.parametrize("seed", range(20))
def test_a_lesion_takes_a_small_share_of_the_body_and_is_in_one_piece(seed: int) -> None:
    image = draw_body()
    _after, mask = Synthesis(kinds=("texture", "blob"), lesions=(1, 1)).apply_slice(image, np.random.default_rng(seed))
    share = mask.sum() / find_foreground(image, (1, 1)).sum()
    assert 0.0005 <= share <= 0.081
    assert ndimage.label(mask[0], np.ones((3, 3)))[1] == 1


def test_the_same_seed_gives_the_same_lesions_and_another_seed_others() -> None:
    image = draw_body()
    one, other, third = (Synthesis().apply_slice(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1], other[1])
    assert not np.array_equal(one[1], third[1])


def test_all_kinds_come_in_their_varieties() -> None:
    image = draw_body()
    names = {name for seed in range(80) for name in Synthesis().draw(image, np.random.default_rng(seed), (1, 1)).names}
    assert names == {
        *(f"texture ({name})" for name in ("pasted", "clumps", "ridges", "stripes")),
        *(f"blob ({name})" for name in ("bright", "dark", "ring")),
        *(f"deformation ({name})" for name in ("swollen", "shrunken", "warped")),
    }


def test_there_are_one_to_three_lesions() -> None:
    image = draw_body(240, 240)
    counts = {len(Synthesis().draw(image, np.random.default_rng(seed), (1, 1)).names) for seed in range(30)}
    assert counts == {1, 2, 3}


def test_lesions_lie_in_the_organ_that_is_given() -> None:
    image = draw_body()
    organ = np.zeros(image.shape[1:], dtype=bool)
    organ[30:60, 40:70] = True
    for seed in range(10):
        after, mask = Synthesis().apply_slice(image, np.random.default_rng(seed), organ)
        assert mask.any()
        assert not mask[0][~organ].any()
        assert np.array_equal(after[:, ~organ], image[:, ~organ])


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_a_slice_that_shows_too_little_comes_back_as_it_was(value: float) -> None:
    image = np.zeros((1, 64, 64), np.float32)
    image[0, 30:36, 30:36] = value
    after, mask = Synthesis().apply_slice(image, np.random.default_rng(0))
    assert np.array_equal(after, image)
    assert not mask.any()


def test_an_organ_of_scattered_pixels_gets_lesions_of_its_pixels_or_none() -> None:
    image = draw_body()
    organ = np.zeros(image.shape[1:], dtype=bool)
    organ[10:-10:6, 10:-10:6] = True
    for seed in range(5):
        after, mask = Synthesis(fewest=20).apply_slice(image, np.random.default_rng(seed), organ)
        assert not mask[0][~organ].any()
        assert np.array_equal(after[:, ~organ], image[:, ~organ])


def test_an_image_that_is_body_throughout_gets_lesions_anywhere() -> None:
    image = np.clip(draw_body() + 0.2, 0, 1)[:, 30:70, 40:80]
    centres = []
    for seed in range(30):
        mask = Synthesis(lesions=(1, 1)).apply_slice(image, np.random.default_rng(seed), np.ones((40, 40), dtype=bool))[1]
        centres.append(np.mean(np.nonzero(mask[0]), axis=1))
    assert np.std(centres, axis=0).min() > 3


def test_an_organ_that_is_not_in_the_slice_gets_no_lesion() -> None:
    image = draw_body()
    after, mask = Synthesis().apply_slice(image, np.random.default_rng(0), np.zeros(image.shape[1:], dtype=bool))
    assert np.array_equal(after, image)
    assert not mask.any()


def test_a_deformation_of_a_flat_slice_cannot_be_seen_and_is_left_out() -> None:
    flat = np.full((1, 64, 64), 0.5, np.float32)
    after, mask = Synthesis(kinds=("deformation",)).apply_slice(flat, np.random.default_rng(0))
    assert np.array_equal(after, flat)
    assert not mask.any()


def test_another_kind_is_drawn_where_one_cannot_be_seen() -> None:
    flat = np.full((1, 64, 64), 0.5, np.float32)
    synthesis = Synthesis(kinds=("deformation", "blob"), lesions=(1, 1))
    names = [synthesis.draw(flat, np.random.default_rng(seed), (1, 1)).names for seed in range(10)]
    assert all(len(found) == 1 and found[0].startswith("blob") for found in names)


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"'hole'.*texture, blob, deformation"):
        Synthesis(kinds=("blob", "hole"))
    with pytest.raises(InputError, match="choose from"):
        Synthesis(kinds=())


def test_the_foreground_has_its_holes_closed_and_leaves_noisy_air_out() -> None:
    rng = np.random.default_rng(0)
    image = draw_body()
    body = image[0] > 0
    noisy = np.where(body, image[0], 0.04 * np.abs(rng.standard_normal(body.shape))).astype(np.float32)[None]
    found = find_foreground(noisy, (1, 1))
    whole = ndimage.binary_fill_holes(body)
    assert (found & whole).sum() / whole.sum() > 0.92
    assert not (found & ~ndimage.binary_dilation(whole, iterations=3)).any()
    assert found[48, 60]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(tuple(KINDS)),
    spacing=st.tuples(*[st.sampled_from([0.8, 1.0, 2.0, 5.0])] * 3),
)
def test_a_volume_keeps_everything_outside_the_mask(seed: int, kind: str, spacing: tuple[float, float, float]) -> None:
    sizes = [max(8, round(60 / mm)) for mm in spacing]
    array, ball = draw_ball((sizes[0], sizes[1], sizes[2]), spacing)
    (after,), mask, _ = Synthesis(kinds=(kind,)).draw(array[None], np.random.default_rng(seed), spacing)
    assert after.shape == mask.shape == array.shape
    assert after.dtype == np.float32
    assert np.array_equal(after[~mask], array[~mask])
    assert after.min() >= 0
    assert after.max() <= 1
    assert not mask[~ball].any()


def test_a_lesion_of_a_volume_is_about_as_long_in_mm_along_every_axis() -> None:
    spacing = (1.0, 1.0, 4.0)
    _, ball = draw_ball((80, 80, 20), spacing)
    extents = []
    for seed in range(12):
        shape = draw_shape(np.random.default_rng(seed), ball, (40, 40, 10), 1500, spacing)
        extents.append([np.ptp(part[shape.mask]) + mm for part, mm in zip(shape.offsets, spacing, strict=True)])
        assert 1000 <= shape.mask.sum() <= 1500
    across, along, through = np.mean(extents, axis=0)
    assert 0.75 < through / across < 1.33
    assert 0.75 < along / across < 1.33


def test_a_volume_with_the_same_seed_gets_the_same_lesions() -> None:
    array, _ = draw_ball((40, 40, 16), (1.5, 1.5, 4.0))
    one, other = (Synthesis().draw(array[None], np.random.default_rng(3), (1.5, 1.5, 4.0)) for _ in range(2))
    assert one.mask.any()
    assert np.array_equal(one.values, other.values)
    assert np.array_equal(one.mask, other.mask)
