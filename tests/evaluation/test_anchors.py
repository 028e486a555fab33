"""Adapted anchors: abnormal apart from normal, and organs still apart from each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from aaclip_med import build_detector
from aaclip_med.evaluation.anchors import ORGANS, PromptCloud, draw_anchors, embed_prompts
from aaclip_med.training.recipes import TINY
from aaclip_med.training.stages import TextLoss, TextStage


def test_organs_are_named_by_what_lies_near_and_states_are_compared() -> None:
    """Two organs along two axes, and their abnormal prompts along two more: all named right; one axis for all: by chance."""
    axes = np.eye(4)
    points = np.repeat(axes, 3, axis=0)
    cloud = PromptCloud(points, np.repeat([0, 0, 1, 1], 3), np.repeat([False, True, False, True], 3))
    assert cloud.name_organs() == 1.0
    assert cloud.compare_states() == 0.0
    assert cloud.compare_organs() == 0.0
    mixed = PromptCloud(np.repeat(axes[:1], 12, axis=0), cloud.organs, cloud.abnormal)
    assert mixed.name_organs() == 0.5
    assert mixed.compare_states() == 1.0
    assert mixed.compare_organs() == 1.0


def test_adapted_anchors_of_different_organs_stay_apart(tmp_path: Path) -> None:
    """Stage 1 on bright spots, of three organs at once: embeddings move, and organs stay apart from each other."""
    detector = build_detector("tiny", image_size=40, seed=3)
    fresh = embed_prompts(detector)
    generator = torch.Generator().manual_seed(0)
    stage, loss = TextStage(detector), TextLoss(detector)
    optimizer = torch.optim.Adam(detector.text_adapter.parameters(), lr=TINY.text.learning_rate)
    for _ in range(TINY.text.steps):
        images = 0.1 * torch.randn(6, 3, 40, 40, generator=generator)
        mask = torch.zeros(6, 1, 40, 40)
        for image in range(6):
            row, column = (int(i) for i in torch.randint(0, 28, (2,), generator=generator))
            mask[image, :, row : row + 12, column : column + 12] = 1
        target = {"mask": mask, "label": torch.ones(6, dtype=torch.long)}
        value = loss(stage(images + 2 * mask, list(ORGANS) * 2), target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    adapted = embed_prompts(detector)
    assert np.abs(adapted.points - fresh.points).max() > 0.01
    apart, before = 1.0 - adapted.compare_organs(), 1.0 - fresh.compare_organs()
    assert apart > 0.8 * before, "organs keep at least four fifths of what told them apart"
    assert adapted.name_organs() > 0.7, "a third would be chance"
    assert adapted.name_organs() >= fresh.name_organs() - 0.1
    tower = embed_prompts(build_detector("tiny", image_size=40, adapters="none"))
    assert tower.name_organs() > 0.9
    draw_anchors(tmp_path / "anchors.png", {"before stage 1": fresh, "after": adapted}, tower)
    picture = np.asarray(Image.open(tmp_path / "anchors.png").convert("RGB"))
    assert picture.shape[0] > 300
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
