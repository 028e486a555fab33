"""The two stages' networks: cached features, checkpointing, precision."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from towers import TOY_TOWER, toy_state

from aaclip_med import build_detector
from aaclip_med.training.stages import ImageLoss, ImageStage, TextLoss, TextStage

NOUNS = ["scan", "scan", "brain MRI"]


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 20, 20, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def target():
    mask = torch.zeros(3, 1, 20, 20)
    mask[0, 0, 4:11, 6:15] = 1.0
    return {"mask": mask, "label": torch.tensor([1, 0, 0])}


def build(**options):
    return build_detector(TOY_TOWER, toy_state(), **options)


def gradients(stage, loss, images, target):
    loss(stage(images, NOUNS), target).backward()
    return {name: parameter.grad for name, parameter in stage.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("fidelity", ["reference", "paper"])
def test_cached_features_are_the_computed_ones(fidelity, images, tmp_path):
    stage = TextStage(build(fidelity=fidelity), features=tmp_path / "features", repeats=True)
    plain = TextStage(build(fidelity=fidelity))
    first = stage(images, NOUNS)
    written = sorted((tmp_path / "features").iterdir())
    assert len(written) == 3
    again, wanted = stage(images.flip(0), NOUNS), plain(images.flip(0), NOUNS)
    assert sorted((tmp_path / "features").iterdir()) == written
    for found, expected in zip(again.levels, wanted.levels, strict=True):
        assert_close(found, expected, rtol=0, atol=1e-5)
    assert_close(again.detection, first.detection.flip(0), rtol=0, atol=0)


@pytest.mark.parametrize(("fidelity", "count"), [("reference", 1), ("paper", 4)])
def test_stage_one_looks_at_the_levels_that_its_loss_counts_and_at_all_in_evaluation(fidelity, count, images, target):
    stage = TextStage(build(fidelity=fidelity))
    loss = TextLoss(stage.detector)
    training, evaluation = stage.train()(images, NOUNS), stage.eval()(images, NOUNS)
    assert (len(training.levels), len(evaluation.levels)) == (count, 4)
    for found, wanted in zip(training.levels, evaluation.levels[-count:], strict=True):
        assert torch.equal(found, wanted)
    assert loss(training, target) == loss(evaluation, target)


def test_other_weights_or_another_precision_do_not_find_each_others_features(images, tmp_path):
    TextStage(build(), features=tmp_path, repeats=True)(images, NOUNS)
    TextStage(build(), torch.bfloat16, features=tmp_path, repeats=True)(images, NOUNS)
    assert len(list(tmp_path.iterdir())) == 6


def test_training_images_that_do_not_come_again_are_not_kept_and_those_of_validation_are(images, tmp_path):
    stage = TextStage(build(), features=tmp_path)
    stage.train()(images, NOUNS)
    assert not list(tmp_path.iterdir())
    stage.eval()(images, NOUNS)
    assert len(list(tmp_path.iterdir())) == 3


def test_checkpointing_changes_no_gradient(images, target):
    plain = gradients(ImageStage(build()), ImageLoss(), images, target)
    checkpointed = gradients(ImageStage(build(), checkpointing=True), ImageLoss(), images, target)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        assert_close(checkpointed[name], gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("stage", ["text", "image"])
def test_a_tower_in_bf16_trains_float32_adapters_almost_alike(stage, images, target):
    found, wanted = [], []
    for dtype, kept in ((torch.bfloat16, found), (torch.float32, wanted)):
        detector = build()
        network = TextStage(detector, dtype) if stage == "text" else ImageStage(detector, dtype)
        loss = TextLoss(detector) if stage == "text" else ImageLoss()
        moved = gradients(network, loss, images, target)
        assert all(gradient.dtype == torch.float32 for gradient in moved.values())
        assert all(f"{stage}_adapter." in name for name in moved)
        kept += [gradient.flatten() for gradient in moved.values()]
    assert torch.nn.functional.cosine_similarity(torch.cat(found), torch.cat(wanted), dim=0) > 0.98


@pytest.mark.parametrize(("stage", "loss"), [(TextStage, TextLoss), (ImageStage, lambda _: ImageLoss())])
def test_the_trainers_autocast_does_not_reach_into_a_stage(stage, loss, images, target):
    detector = build()
    network, count = stage(detector), loss(detector)
    wanted = network(images, NOUNS)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(images, NOUNS)
        value = count(found, target)
    for one, other in zip(found.levels, wanted.levels, strict=True):
        assert_close(one, other, rtol=0, atol=0)
    assert_close(found.anchors, wanted.anchors, rtol=0, atol=0)
    assert_close(value, count(wanted, target), rtol=0, atol=0)
