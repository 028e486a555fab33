"""Three optimiser steps of each stage, as the released AA-CLIP took them from its own seeded weights.

The steps run in float64. Adam's first step is little more than a gradient's sign, and some gradients are as small as
6e-9: in float32 rounding alone moves one weight of ``det_proj`` by 1.02e-5, in float64 every weight of stage 2 is within
6.1e-6. In stage 1 one weight (gradient 2e-8) is 1.13e-5 off, because the released program itself rounded there in
float32; weights of such gradients, and they alone, may be 2e-5 off.
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
SMALL_GRADIENT = 1e-7


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


def train(stage, loss, parameters, learning_rate, images, target, anchors=None):
    """Losses of the steps, the last prediction and the parameters' gradients at the first step."""
    parameters = list(parameters)
    optimizer = build_optimizer(parameters, learning_rate)
    losses, gradients = [], []
    for _ in range(STEPS):
        prediction = stage(images, ["scan"] * len(images))
        value = loss(prediction if anchors is None else prediction._replace(anchors=anchors), target)
        optimizer.zero_grad()
        value.backward()
        gradients = gradients or [parameter.grad.clone() for parameter in parameters]
        optimizer.step()
        losses.append(value.item())
    return losses, prediction, gradients


@pytest.mark.parametrize("batch", [1, 2])
def test_stage_one_follows_the_released_program(detector, golden, batch):
    images = golden["image"][:batch].double()
    target = {"mask": golden[f"stage1_B{batch}/mask"].double(), "label": torch.zeros(batch, dtype=torch.long)}
    losses, prediction, gradients = train(
        TextStage(detector), TextLoss(detector), detector.text_adapter.parameters(), 1e-3, images, target
    )
    levels = detector.encode_value_image(images).levels
    for level, found in zip((6, 12, 18, 24), levels, strict=True):
        assert_close(found.float(), golden[f"stage1_B{batch}/patch_level{level}"], rtol=0, atol=1e-5)
    assert len(prediction.levels) == 1
    assert_close(prediction.levels[0], levels[-1], rtol=0, atol=0)
    assert_close(prediction.detection.float(), golden[f"stage1_B{batch}/cls"], rtol=0, atol=1e-5)
    assert losses == pytest.approx(golden_facts()[f"stage1_B{batch}_losses"], rel=1e-5)
    trained = detector.text_adapter.state_dict()
    assert trained.keys() == golden_facts()["text_adapter_keys"].keys()
    for (name, weight), gradient in zip(trained.items(), gradients, strict=True):
        wanted, small = golden[f"stage1_B{batch}/after/{name}"], gradient.abs() < SMALL_GRADIENT
        assert small.sum() <= 8
        assert_close(weight[~small].float(), wanted[~small], rtol=0, atol=1e-5)
        assert_close(weight[small].float(), wanted[small], rtol=0, atol=2e-5)


def test_stage_two_follows_the_released_program(detector, golden):
    target = {"mask": golden["stage2/mask"].double(), "label": golden["stage2/label"]}
    losses, prediction, _ = train(
        ImageStage(detector),
        ImageLoss(),
        detector.image_adapter.parameters(),
        5e-4,
        golden["image"].double(),
        target,
        anchors=golden["text_adapted/Brain"].double().expand(2, -1, -1),
    )
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
