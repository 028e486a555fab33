"""The pretraining script: what it draws, says and learns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from aaclip_med.model.build import build_detector
from scripts.captioned_pictures import DEFECTS, GRID, PATCH, SPAN, WINDOW, draw_pictures
from scripts.pretrain_tiny import build_trainable, cover_patches, pretrain


def test_equal_seeds_draw_equal_pictures_and_others_do_not() -> None:
    first, again, other = (draw_pictures(3, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert first.captions == again.captions
    assert not torch.equal(first.images, other.images)


def test_pictures_are_windows_of_the_towers_grid_whose_captions_name_the_defect() -> None:
    pictures = draw_pictures(64, np.random.default_rng(0))
    assert pictures.images.shape == pictures.masks.shape == (64, 1, WINDOW, WINDOW)
    assert 0.0 <= float(pictures.images.min()) < float(pictures.images.max()) <= 1.0
    rows, columns = pictures.patches.view(64, SPAN, SPAN) // GRID, pictures.patches.view(64, SPAN, SPAN) % GRID
    assert int(rows.max()) < GRID
    assert torch.equal(rows[:, 1:] - rows[:, :-1], torch.ones_like(rows[:, 1:]))
    assert torch.equal(columns[:, :, 1:] - columns[:, :, :-1], torch.ones_like(columns[:, :, 1:]))
    for kind, mask, caption in zip(pictures.defects.tolist(), pictures.masks, pictures.captions, strict=True):
        assert bool(mask.any()) == (kind >= 0), "the defect lies in its window"
        assert [name for name in DEFECTS if f" {name} in the " in caption] == ([DEFECTS[kind]] if kind >= 0 else [])


def test_the_share_of_a_patch_that_a_defect_covers_is_that_of_its_pixels() -> None:
    pictures = draw_pictures(8, np.random.default_rng(3))
    covered = cover_patches(pictures)
    assert covered.sum(dim=1).numpy() == pytest.approx(pictures.masks.sum(dim=(1, 2, 3)).numpy() / PATCH**2, rel=1e-5)


def test_a_few_steps_give_weights_that_the_tiny_backbone_takes(tmp_path: Path) -> None:
    weights = pretrain(tmp_path, steps=5, batch_size=4, learning_rate=1e-3, log_every=5, seed=0)
    detector = build_detector("tiny", weights, adapters="none")
    before, after = build_trainable().clip, detector.tower.clip
    assert not torch.allclose(before.visual.conv1.weight, after.visual.conv1.weight, atol=1e-3)
    spoken = open_clip.tokenize(["with"])[0, 1]
    rows = torch.nn.functional.l1_loss(before.token_embedding.weight, after.token_embedding.weight, reduction="none").sum(dim=1)
    assert rows[spoken] > 0.01, "a word of every caption is learned"
    assert rows.median() < 0.01, "other words stay as they are, but for half precision"

    pretrain(tmp_path, steps=5, batch_size=4, learning_rate=1e-3, log_every=5, seed=0)
    (entry,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert entry["step"] == 5, "a finished run is not trained again"
    assert np.isfinite([entry["loss_whole"], entry["loss_patch"]]).all()
    assert all(0.0 <= entry[name] <= 1.0 for name in ("caption_found", "defect_named", "picture_auroc", "patch_auroc"))
