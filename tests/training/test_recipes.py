"""How long stages learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aaclip_med.training.assembly import build_optimizer
from aaclip_med.training.recipes import PUBLISHED, TINY, StageRecipe, find_recipe


def test_tiny_learns_twice_as_long_where_slices_are_augmented() -> None:
    augmented, plain = find_recipe("tiny").image, find_recipe("tiny", augment=False).image
    assert augmented.steps == 2 * plain.steps
    assert augmented.milestones == tuple(2 * step for step in plain.milestones)
    assert find_recipe("tiny", augment=False).text == find_recipe("tiny").text


def test_other_towers_have_the_published_recipe_either_way() -> None:
    assert find_recipe("ViT-L-14-336") is find_recipe("ViT-L-14-336", augment=False) is PUBLISHED


@pytest.mark.parametrize("slices", [13, 104, 2000])
@pytest.mark.parametrize("batch_size", [2, 8, 16])
def test_epochs_come_nearest_to_the_steps_whatever_the_batch(slices: int, batch_size: int) -> None:
    stage = TINY.image
    batches = -(-stage.count_slices(slices, batch_size) // batch_size)
    assert abs(stage.count_epochs(slices, batch_size) * batches - stage.steps) <= batches / 2


@pytest.mark.parametrize(("recipe", "least", "most"), [(TINY.image, 0.9, 1.1), (PUBLISHED.image, 5.0, 20.0)])
def test_a_gradient_out_of_all_proportion_moves_tiny_no_further_than_others_did(
    recipe: StageRecipe, least: float, most: float
) -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer([weight], 1e-3, recipe)

    def move(gradient: float) -> float:
        before = weight.item()
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        return abs(weight.item() - before)

    usual = [move(1.0) for _ in range(500)][-1]
    assert least < move(100.0) / usual < most
