"""The released AA-CLIP's features, anchors, maps, scores and losses, from its own seeded weights."""

from __future__ import annotations

import open_clip
import pytest
import torch
from torch.testing import assert_close
from towers import GOLDEN_TOWER, golden_adapters, golden_facts, golden_state, golden_vectors

from aaclip_med import build_detector
from aaclip_med.model.build import load_adapters
from aaclip_med.model.similarity import map_anomaly, score_detection, sum_levels
from aaclip_med.presets import PRESETS, build_prompts
from aaclip_med.training.losses import contrast_patches, enlarge, segmentation_loss

LEVELS = (6, 12, 18, 24)


def is_near(found, wanted, tolerance):
    assert_close(found, wanted, rtol=0, atol=tolerance)


@pytest.fixture(scope="session")
def golden():
    return golden_vectors()


@pytest.fixture(scope="session")
def detector():
    detector = build_detector(GOLDEN_TOWER, golden_state())
    load_adapters(detector, golden_adapters(), "golden")
    return detector


@pytest.fixture(scope="session")
def features(detector, golden):
    with torch.no_grad():
        return detector.encode_image(golden["image"])


@pytest.mark.parametrize("position", range(4))
def test_every_levels_patch_features_are_the_released_programs(features, golden, position):
    is_near(features.levels[position], golden[f"norelu/seg_tokens_level{LEVELS[position]}"], 1e-5)


def test_the_levels_are_the_quarters_of_the_depth(detector):
    assert detector.levels == LEVELS


def test_the_detection_token_is_the_released_programs(features, golden):
    is_near(features.detection, golden["norelu/det_token"], 1e-5)


def test_a_relu_after_the_projections_gives_the_released_programs_other_features(golden):
    detector = build_detector(GOLDEN_TOWER, golden_state(), projection_relu=True)
    load_adapters(detector, golden_adapters(relu=True), "golden")
    with torch.no_grad():
        features = detector.encode_image(golden["image"])
    for level, found in zip(LEVELS, features.levels, strict=True):
        is_near(found, golden[f"relu/seg_tokens_level{level}"], 1e-5)
    is_near(features.detection, golden["relu/det_token"], 1e-5)


def test_prompts_and_their_tokens_are_the_released_programs(golden):
    normal, abnormal = build_prompts("scan")
    assert len(normal) == 6
    assert [*normal, *abnormal] == golden_facts()["prompts_scan"]
    assert torch.equal(open_clip.tokenize([*normal, *abnormal], 77).int(), golden["tokens_scan"])


@pytest.mark.parametrize("class_name", ["Brain", "Liver", "Retina", "Colon_clinicDB"])
def test_adapted_anchors_are_the_released_programs(detector, golden, class_name):
    with torch.no_grad():
        anchors = detector.encode_noun(PRESETS["brain-mri"].noun_for("reference", class_name))
    is_near(anchors, golden[f"text_adapted/{class_name}"], 1e-5)


def test_a_presets_reference_noun_is_the_released_programs():
    nouns = {preset.class_name: preset.noun_for("reference") for preset in PRESETS.values()}
    assert nouns == {"Brain": "scan", "Liver": "scan", "Retina": "scan"}


def test_zero_shot_anchors_are_the_frozen_towers(golden):
    detector = build_detector(GOLDEN_TOWER, golden_state(), adapters="none")
    with torch.no_grad():
        is_near(detector.encode_noun("scan"), golden["text_frozen/Brain"], 1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_each_levels_medical_map_is_the_released_programs(golden, level):
    found = map_anomaly(golden[f"norelu/seg_tokens_level{level}"], golden["text_adapted/Brain"], 70, "medical")
    is_near(found, golden[f"map/medical_level{level}"], 1e-4)


def test_the_heatmap_and_the_score_are_the_released_programs(detector, golden):
    with torch.no_grad():
        heatmap, score = detector(golden["image"], detector.encode_noun("scan"))
    is_near(heatmap[:, 0], golden["map/medical_sum"], 1e-4)
    is_near(score, golden["score/det"], 1e-5)


def test_the_industrial_map_is_the_released_programs(features, golden):
    found = sum_levels(features.levels, golden["text_adapted/Brain"], 70, "industrial")
    is_near(found[:, 0], golden["map/industrial_sum"], 1e-4)


def test_the_training_map_is_the_released_programs(golden):
    contrast = contrast_patches(golden["norelu/seg_tokens_level24"], golden["text_adapted/Brain"].unsqueeze(0))
    abnormal = torch.sigmoid(enlarge(contrast, 70))
    is_near(torch.stack([1.0 - abnormal, abnormal], dim=1), golden["map/train_softmax_level24"], 1e-4)


def test_the_detection_score_is_the_released_programs(golden):
    is_near(score_detection(golden["norelu/det_token"], golden["text_adapted/Brain"]), golden["score/det"], 1e-6)


def test_the_segmentation_loss_and_each_of_its_terms_are_the_released_programs(golden):
    probabilities, mask = golden["loss/probs"], golden["loss/mask"].float()
    wanted = golden_facts()["loss"]
    total = segmentation_loss([(probabilities[:, 1] / probabilities[:, 0]).log()], mask)
    assert total.item() == pytest.approx(wanted["seg_total"], rel=1e-5)
    dice = {"dice_normal": (0, 1.0 - mask), "dice_abnormal": (1, mask)}
    for term, (channel, target) in dice.items():
        overlap = (probabilities[:, channel] * target[:, 0]).sum(dim=(1, 2))
        sizes = probabilities[:, channel].sum(dim=(1, 2)) + target.sum(dim=(1, 2, 3))
        assert (1.0 - (2.0 * overlap + 1.0) / (sizes + 1.0)).mean().item() == pytest.approx(wanted[term], rel=1e-5)
    terms = wanted["focal"] + wanted["dice_normal"] + wanted["dice_abnormal"]
    assert total.item() == pytest.approx(terms, rel=1e-5)


def test_position_embeddings_are_resized_as_the_released_program_does(golden):
    detector = build_detector(GOLDEN_TOWER, golden_state(), image_size=98)
    assert detector.tower.grid == (7, 7)
    is_near(detector.tower.clip.visual.positional_embedding, golden["pos_embed_7x7"], 1e-5)
