"""How long stages learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn
from towers import TOY_TOWER, toy_state

from aaclip_med.training.assembly import build_optimizer
from aaclip_med.training.recipes import PUBLISHED, TINY, StageRecipe, find_recipe
from aaclip_med.zoo.names import find_bundle


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


@pytest.mark.parametrize(
    ("settings", "precision"),
    [
        ({"backbone": TOY_TOWER}, "float32"),
        ({"backbone": TOY_TOWER, "fidelity": "paper"}, "auto"),
        ({"backbone": TOY_TOWER, "precision": "auto"}, "auto"),
        ({"backbone": "tiny", "fidelity": "paper"}, "float32"),
    ],
)
def test_the_programs_numbers_are_trained_for_in_float32_unless_asked(
    settings: dict[str, object], precision: str, tmp_path: Path
) -> None:
    if settings["backbone"] != "tiny":
        torch.save(toy_state(), tmp_path / "toy.pt")
        settings |= {"weights": str(tmp_path / "toy.pt")}
    parser = ConfigParser()
    parser.read_config(str(find_bundle() / "configs" / "train.yaml"))
    parser.update(settings | {"device": "cpu"})
    assert parser.get_parsed_content("dtype::precision") == precision
