"""Slices in, scores out: what a small memory does to them."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from aaclip_med import build_detector
from aaclip_med.inference.predictor import Predictor
from aaclip_med.presets import get_preset

IMAGES = np.random.default_rng(0).random((7, 30, 34), dtype=np.float32)


def small_memory(largest: int):
    """A hook that lets no batch above ``largest`` slices through, as a full GPU would."""

    def refuse(_module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if len(arguments[0]) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return refuse


def test_batches_halve_until_they_fit_and_scores_stay_the_same(caplog: pytest.LogCaptureFixture) -> None:
    predictor = Predictor(build_detector("tiny", image_size=40), get_preset("brain-mri"), batch_size=16)
    wanted = predictor.score_slices(IMAGES)
    predictor.detector.register_forward_pre_hook(small_memory(3))
    with caplog.at_level(logging.WARNING):
        found = predictor.score_slices(IMAGES)
    np.testing.assert_allclose(found.log_odds, wanted.log_odds, atol=1e-4)
    np.testing.assert_allclose(found.detection, wanted.detection, atol=1e-6)
    assert predictor.batch_size == 2
    assert "going on with 2 slices" in caplog.text


def test_a_memory_too_small_for_one_slice_says_what_to_do() -> None:
    predictor = Predictor(build_detector("tiny", image_size=40), get_preset("brain-mri"))
    predictor.detector.register_forward_pre_hook(small_memory(0))
    with pytest.raises(MemoryError, match="--device cpu"):
        predictor.score_slices(IMAGES)
