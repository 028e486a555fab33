"""The benchmarks' yardstick computes what the detector computes."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.testing import assert_close
from towers import GOLDEN_TOWER, golden_adapters, golden_state

from aaclip_med import build_detector
from aaclip_med.model.build import load_adapters
from aaclip_med.training.stages import ImageLoss, ImageStage, TextLoss, TextStage
from benchmarks.plain import PlainAAClip

NOUNS = ["scan", "scan"]


@pytest.fixture(scope="module")
def detector():
    detector = build_detector(GOLDEN_TOWER, golden_state())
    load_adapters(detector, golden_adapters(), "golden")
    return detector


@pytest.fixture(scope="module")
def plain(detector):
    state = {name: tensor.detach() for name, tensor in detector.tower.clip.state_dict().items()}
    return PlainAAClip(state, detector.adapter_state(), detector.levels)


@pytest.fixture(scope="module")
def batch():
    images = torch.randn(2, 3, 70, 70, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(2, 1, 70, 70)
    mask[0, 0, 20:40, 10:50] = 1.0
    return images, {"mask": mask, "label": torch.tensor([1, 0])}


def test_the_heatmap_is_the_detectors(detector, plain, batch):
    with torch.no_grad():
        anchors = detector.encode_noun("scan")
        assert_close(plain.anchors("scan"), anchors, rtol=0, atol=1e-5)
        wanted, _ = detector(batch[0], anchors)
    assert_close(plain.heatmap(batch[0], anchors), wanted, rtol=0, atol=1e-3)


def test_the_losses_are_the_stages(detector, plain, batch):
    images, target = batch
    text, image = TextStage(detector)(images, NOUNS), ImageStage(detector)(images, NOUNS)
    found = plain.text_loss(images, target["mask"], NOUNS), plain.image_loss(images, *target.values(), image.anchors)
    wanted = TextLoss(detector)(text, target), ImageLoss()(image, target)
    for one, other in zip(found, wanted, strict=True):
        assert one.item() == pytest.approx(other.item(), rel=1e-4)


def test_on_a_gpu_every_tensor_of_the_yardstick_is_there(detector):
    states = detector.tower.clip.state_dict(), detector.adapter_state()
    with FakeTensorMode():
        fake = [{name: torch.empty(part.shape, device="cuda:0") for name, part in state.items()} for state in states]
        plain = PlainAAClip(*fake, detector.levels)
        images, mask = torch.empty(2, 3, 70, 70, device="cuda:0"), torch.empty(2, 1, 70, 70, device="cuda:0")
        anchors, label = torch.empty(2, 64, 2, device="cuda:0"), torch.ones(2, dtype=torch.long, device="cuda:0")
        found = (
            plain.heatmap(images, anchors[0]),
            plain.text_loss(images, mask, NOUNS),
            plain.image_loss(images, mask, label, anchors),
        )
    assert [part.device.type for part in found] == ["cuda"] * 3
