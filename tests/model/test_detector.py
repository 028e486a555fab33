"""The detector around its frozen towers."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from towers import TOY_TOWER, toy_state

from aaclip_med import build_detector
from aaclip_med.errors import InputError
from aaclip_med.model.towers import build_tower


@pytest.fixture(scope="module")
def detector():
    return build_detector(TOY_TOWER, toy_state())


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 20, 20, generator=torch.Generator().manual_seed(5))


def changed_tower(part, **changes):
    tower = {key: dict(value) if isinstance(value, dict) else value for key, value in TOY_TOWER.items()}
    tower[part] |= changes
    return tower


def test_the_towers_are_frozen_and_the_adapters_are_not(detector):
    trainable = {name for name, parameter in detector.named_parameters() if parameter.requires_grad}
    assert trainable == set(detector.adapter_state())
    assert all(name.startswith(("image_adapter.", "text_adapter.")) for name in trainable)


def test_the_towers_stay_in_evaluation_mode_when_the_detector_trains():
    detector = build_detector(TOY_TOWER, toy_state())
    detector.train()
    assert detector.training
    assert detector.image_adapter.training
    assert not any(module.training for module in detector.tower.modules())


def test_an_optimiser_step_moves_adapters_alone(images):
    detector = build_detector(TOY_TOWER, toy_state()).train()
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in detector.parameters() if p.requires_grad], lr=1e-2)
    heatmap, score = detector(images, detector.encode_noun("scan"))
    (heatmap.mean() + score.mean()).backward()
    optimizer.step()
    after = detector.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved == set(detector.adapter_state())


def test_shapes_are_the_documented_ones(detector, images):
    with torch.no_grad():
        anchors = detector.encode_noun("brain MRI")
        features = detector.encode_image(images)
        heatmap, score = detector(images, anchors)
    assert anchors.shape == (32, 2)
    assert_close(anchors.norm(dim=0), torch.ones(2))
    assert [level.shape for level in features.levels] == [(3, 25, 32)] * 4
    for level in features.levels:
        assert_close(level.norm(dim=-1), torch.ones(3, 25))
    assert heatmap.shape == (3, 1, 20, 20)
    assert score.shape == (3,)


def test_an_images_heatmap_does_not_depend_on_its_batch(detector, images):
    with torch.no_grad():
        anchors = detector.encode_noun("scan")
        together, scores = detector(images, anchors)
        for number in range(3):
            alone, score = detector(images[number : number + 1], anchors)
            assert_close(alone[0], together[number], rtol=0, atol=1e-4)
            assert_close(score[0], scores[number], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("direction", "depends"), [("across_batch", True), ("across_positions", False)])
def test_stage_ones_view_of_an_image_depends_on_its_batch_across_the_batch_only(direction, depends, images):
    detector = build_detector(TOY_TOWER, toy_state(), value_attention=direction)
    with torch.no_grad():
        together, alone = detector.encode_value_image(images), detector.encode_value_image(images[:1])
    difference = (together.levels[-1][0] - alone.levels[-1][0]).abs().max().item()
    assert difference > 1e-2 if depends else difference < 1e-5
    assert_close(together.detection[0], alone.detection[0], rtol=0, atol=1e-5)


def test_fresh_adapters_are_drawn_from_the_seed():
    first, same, other = (build_detector(TOY_TOWER, toy_state(), seed=seed).adapter_state() for seed in (4, 4, 5))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_zero_shot_is_the_plain_towers_own_embedding(images):
    detector = build_detector(TOY_TOWER, toy_state(), adapters="none")
    with torch.no_grad():
        features = detector.encode_image(images)
        wanted = detector.tower.clip.encode_image(images, normalize=True)
    assert_close(features.detection, wanted, rtol=0, atol=1e-5)
    assert not detector.adapted


def test_zero_shot_does_not_depend_on_the_seed(images):
    one, other = (build_detector(TOY_TOWER, toy_state(), adapters="none", seed=seed) for seed in (0, 1))
    with torch.no_grad():
        assert torch.equal(one(images, one.encode_noun("scan"))[0], other(images, other.encode_noun("scan"))[0])


def test_levels_and_adapters_can_be_chosen(images):
    detector = build_detector(TOY_TOWER, toy_state(), levels=(3, 8), image_adapters=1, text_adapters=0)
    with torch.no_grad():
        assert len(detector.encode_image(images).levels) == 2
    assert len(detector.image_adapter.layer_adapters) == 1
    assert list(detector.text_adapter.state_dict()) == ["0.fc.0.weight"]


def test_larger_images_get_a_larger_grid():
    detector = build_detector(TOY_TOWER, toy_state(), image_size=28)
    with torch.no_grad():
        heatmap, _ = detector(torch.zeros(1, 3, 28, 28), detector.encode_noun("scan"))
    assert detector.tower.grid == (7, 7)
    assert heatmap.shape == (1, 1, 28, 28)


@pytest.mark.parametrize("size", [22, 16, 3])
def test_an_image_size_that_does_not_suit_the_patch_is_refused(size):
    with pytest.raises(InputError, match=rf"image size {size} .*a multiple of 4 of at least 20"):
        build_detector(TOY_TOWER, toy_state(), image_size=size)


@pytest.mark.parametrize("levels", [(0, 4), (4, 9), (4, 2), (4, 4), (-1,)])
def test_levels_outside_the_tower_or_out_of_order_are_refused(levels):
    with pytest.raises(InputError, match="do not suit a vision tower of 8 blocks"):
        build_detector(TOY_TOWER, toy_state(), levels=levels)


@pytest.mark.parametrize("counts", [{"image_adapters": 9}, {"text_adapters": 5}, {"image_adapters": -1}])
def test_more_adapters_than_blocks_are_refused(counts):
    with pytest.raises(InputError, match="do not suit towers of 8 and 4 blocks"):
        build_detector(TOY_TOWER, toy_state(), **counts)


def test_an_unknown_backbone_says_where_the_known_ones_are():
    with pytest.raises(InputError, match=r"unknown backbone 'ViT-Q-1'.*tiny.*ViT-L-14-336"):
        build_detector("ViT-Q-1", toy_state())


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "xlm-roberta-base-ViT-B-32", "coca_ViT-B-32", "RN50"])
def test_a_tower_that_is_no_plain_vit_is_refused_by_name(name):
    with pytest.raises(InputError, match=name):
        build_detector(name, toy_state())


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("text_cfg", {"pool_type": "last"}),
        ("text_cfg", {"proj_bias": True}),
        ("text_cfg", {"proj_type": "none"}),
        ("vision_cfg", {"pool_type": "avg"}),
    ],
)
def test_other_pooling_or_projection_is_refused(part, changes):
    with pytest.raises(InputError, match="pools its tokens or projects its texts in another way"):
        build_detector(changed_tower(part, **changes), toy_state())


@pytest.mark.parametrize(
    ("tower", "fault"),
    [
        ({"embed_dim": 32}, "needs embed_dim, vision_cfg and text_cfg"),
        (changed_tower("vision_cfg", nonsense=1), "open_clip cannot build this configuration"),
        (changed_tower("vision_cfg", timm_model_name="vit_small"), "not a plain CLIP ViT"),
        (changed_tower("vision_cfg", layers=[1, 1, 1, 1]), "not a plain CLIP ViT"),
    ],
)
def test_a_faulty_configuration_is_refused(tower, fault):
    with pytest.raises(InputError, match=fault):
        build_detector(tower, toy_state(), image_size=20)


def test_a_model_of_open_clip_is_built_by_its_name():
    state = build_tower("ViT-S-32-alt", 160, "gelu").clip.state_dict()
    detector = build_detector("ViT-S-32-alt", state, image_size=160)
    assert detector.levels == (3, 6, 9, 12)
    with torch.no_grad():
        features = detector.encode_image(torch.zeros(1, 3, 160, 160))
    assert features.levels[-1].shape == (1, 25, 256)
