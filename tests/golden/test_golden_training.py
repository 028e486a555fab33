"""Three optimiser steps of each stage, as the released AA-CLIP took them from its own seeded weights.

The steps run in float64: one weight of ``det_proj`` has a gradient of 6e-9, and Adam's first step is little more than the
gradient's sign, so that float32's rounding alone moves that weight by 1.02e-5.
"""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from towers import GOLDEN_TOWER, golden_adapters, golden_facts, golden_state, golden_vectors

from aaclip_med import build_detector
from aaclip_med.model.build import load_adapters
from aaclip_med.training.assembly import build_optimizer
from aaclip_med.training.stages import ImageLoss, ImageStage, TextLoss, TextStage

STEPS = 3


@pytest.fixture(scope="session")
def golden():
    return golden_vectors()


@pytest.fixture(scope="session")
def tower_detector():
    return build_detector(GOLDEN_TOWER, golden_state()).double()


@pytest.fixture
def detector(tower_detector):
    """With the golden adapters as they were before training."""
    load_adapters(tower_detector, golden_adapters(), "golden")
    return tower_detector


def train(stage, loss, parameters, learning_rate, images, target):
    """Losses of the steps and the last prediction."""
    optimizer = build_optimizer(parameters, learning_rate)
    losses = []
    for _ in range(STEPS):
        prediction = stage(images, ["scan"] * len(images))
        value = loss(prediction, target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses, prediction


@pytest.mark.parametrize("batch", [1, 2])
def test_stage_one_follows_the_released_program(detector, golden, batch):
    images = golden["image"][:batch].double()
    target = {"mask": golden[f"stage1_B{batch}/mask"].double(), "label": torch.zeros(batch, dtype=torch.long)}
    parameters = detector.text_adapter.parameters()
    losses, prediction = train(TextStage(detector), TextLoss(detector), parameters, 1e-3, images, target)
    for level, found in zip((6, 12, 18, 24), prediction.levels, strict=True):
        assert_close(found.float(), golden[f"stage1_B{batch}/patch_level{level}"], rtol=0, atol=1e-5)
    assert_close(prediction.detection.float(), golden[f"stage1_B{batch}/cls"], rtol=0, atol=1e-5)
    assert losses == pytest.approx(golden_facts()[f"stage1_B{batch}_losses"], rel=1e-5)
    trained = detector.text_adapter.state_dict()
    assert trained.keys() == golden_facts()["text_adapter_keys"].keys()
    for name in trained:
        assert_close(trained[name].float(), golden[f"stage1_B{batch}/after/{name}"], rtol=0, atol=1e-5)


def test_stage_two_follows_the_released_program(detector, golden):
    images, stage = golden["image"].double(), ImageStage(detector)
    target = {"mask": golden["stage2/mask"].double(), "label": golden["stage2/label"]}
    losses, prediction = train(stage, ImageLoss(), detector.image_adapter.parameters(), 5e-4, images, target)
    for anchors in prediction.anchors:
        assert_close(anchors.float(), golden["text_adapted/Brain"], rtol=0, atol=1e-5)
    assert losses == pytest.approx(golden_facts()["stage2_losses"], rel=1e-5)
    trained = detector.image_adapter.state_dict()
    stored = [
        "stage2/after/layer_adapters.0.fc.0.weight",
        "stage2/after/layer_adapters.5.fc.0.weight",
        "stage2/after/seg_proj.0.fc.weight",
        "stage2/after/seg_proj.3.fc.weight",
        "stage2/after/det_proj.fc.weight",
    ]
    assert stored == [key for key in golden if key.startswith("stage2/after/")]
    for key in stored:
        assert_close(trained[key.removeprefix("stage2/after/")].float(), golden[key], rtol=0, atol=1e-5)
