"""How long stages learn."""

from __future__ import annotations

import pytest

from aaclip_med.training.recipes import PUBLISHED, TINY, find_recipe


def test_tiny_learns_twice_as_long_where_slices_are_augmented() -> None:
    augmented, plain = find_recipe("tiny").image, find_recipe("tiny", augment=False).image
    assert augmented.steps == 2 * plain.steps
    assert augmented.milestones == tuple(2 * step for step in plain.milestones)
    assert find_recipe("tiny", augment=False).text == find_recipe("tiny").text


def test_other_towers_have_the_published_recipe_either_way() -> None:
    assert find_recipe("ViT-L-14-336") is find_recipe("ViT-L-14-336", augment=False) is PUBLISHED


@pytest.mark.parametrize("slices", [13, 104, 2000])
def test_epochs_come_nearest_to_the_steps(slices: int) -> None:
    stage = TINY.image
    batches = -(-stage.count_slices(slices) // stage.batch_size)
    assert abs(stage.count_epochs(slices) * batches - stage.steps) <= batches / 2
