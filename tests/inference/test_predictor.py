"""Slices in, scores out: what a small memory does to them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aaclip_med import build_detector
from aaclip_med.data.volumes import Volume
from aaclip_med.inference.predictor import Predictor, Prepared
from aaclip_med.inference.stream import SliceStream
from aaclip_med.presets import get_preset

IMAGES = np.random.default_rng(0).random((7, 30, 34), dtype=np.float32)


def small_memory(largest: int):
    """A hook that lets no batch above ``largest`` slices through, as a full GPU would."""

    def refuse(_module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if len(arguments[0]) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return refuse


@pytest.mark.parametrize(("slices", "largest", "left"), [(7, 3, 2), (1, 8, 8), (7, 8, 8), (17, 8, 8), (1, 1, 1)])
def test_batches_halve_until_they_fit_and_scores_stay_the_same(
    slices: int, largest: int, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    images = np.random.default_rng(slices).random((slices, 30, 34), dtype=np.float32)
    predictor = Predictor(build_detector("tiny", image_size=40), get_preset("brain-mri"), batch_size=16)
    wanted = predictor.score_slices(images)
    batches: list[int] = []
    predictor.detector.register_forward_pre_hook(small_memory(largest))
    predictor.detector.register_forward_pre_hook(lambda _module, arguments: batches.append(len(arguments[0])))
    with caplog.at_level(logging.WARNING):
        found = predictor.score_slices(images)
    np.testing.assert_allclose(found.log_odds, wanted.log_odds, atol=1e-4)
    np.testing.assert_allclose(found.detection, wanted.detection, atol=1e-6)
    assert predictor.batch_size == left
    assert batches == [left] * -(-slices // left)
    assert f"going on with {left} slices" in caplog.text


class SmallMemoryForResizing(TorchDispatchMode):
    """Resizes no more than ``largest`` slices at once, as a GPU does that large slices fill."""

    def __init__(self, largest: int) -> None:
        super().__init__()
        self.largest = largest
        self.batches: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket is torch.ops.aten._upsample_bicubic2d_aa:
            self.batches.append(len(args[0]))
            if len(args[0]) > self.largest:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return func(*args, **(kwargs or {}))


def test_slices_too_large_to_be_resized_together_are_resized_in_halved_batches() -> None:
    predictor = Predictor(build_detector("tiny", image_size=40), get_preset("brain-mri"), batch_size=8)
    stacks = [IMAGES[:3], IMAGES[3:], np.random.default_rng(1).random((6, 20, 20, 3), dtype=np.float32)]
    wanted = [predictor.score_slices(stack) for stack in stacks]
    stream = SliceStream(predictor.detector, predictor.anchors, "medical", predictor.device, 8)
    with SmallMemoryForResizing(2) as memory:
        found = list(stream.score(stacks))
    assert (stream.batch_size, stream.done) == (2, 13)
    assert memory.batches[:4] == [3, 3, 2, 1]
    for scores, alone in zip(found, wanted, strict=True):
        np.testing.assert_allclose(scores.log_odds, alone.log_odds, atol=1e-4)
        np.testing.assert_allclose(scores.detection, alone.detection, atol=1e-6)


def test_a_memory_too_small_to_resize_one_slice_says_what_to_do() -> None:
    predictor = Predictor(build_detector("tiny", image_size=40), get_preset("brain-mri"))
    with SmallMemoryForResizing(0), pytest.raises(MemoryError, match=r"with one slice at a time.*--device cpu"):
        predictor.score_slices(IMAGES)


def test_a_memory_too_small_for_one_slice_says_what_to_do() -> None:
    predictor = Predictor(build_detector("tiny", image_size=40), get_preset("brain-mri"))
    predictor.detector.register_forward_pre_hook(small_memory(0))
    with pytest.raises(MemoryError, match="--device cpu"):
        predictor.score_slices(IMAGES)


def a_head(shape: tuple[int, int, int], seed: int) -> Volume:
    """Noise, every slice of it used."""
    array = np.random.default_rng(seed).uniform(50, 400, shape).astype(np.float32)
    return Volume(array, np.diag([1.0, 1.0, 3.0, 1.0]), Path(f"{seed}.nii.gz"), None, shape, is_picture=False)


@pytest.mark.parametrize("plane", ["axial", "all"])
def test_a_case_scores_the_same_alone_as_in_batches_shared_with_others(plane: str) -> None:
    predictor = Predictor(build_detector("tiny", image_size=40), get_preset("brain-mri"), batch_size=4)
    volumes = [a_head(shape, seed) for seed, shape in enumerate([(20, 22, 1), (30, 18, 9), (20, 20, 2), (25, 20, 6)])]
    batches: list[int] = []
    predictor.detector.register_forward_pre_hook(lambda _module, arguments: batches.append(len(arguments[0])))
    together = list(predictor.predict_prepared(predictor.prepare(volume, plane) for volume in volumes))
    slices = sum(len(stack) for volume in volumes for stack in predictor.prepare(volume, plane).stacks)
    assert len(batches) == -(-slices // 4)
    for volume, prediction in zip(volumes, together, strict=True):
        alone = predictor.predict_volume(volume, plane)
        np.testing.assert_array_equal(prediction.heatmap, alone.heatmap)
        np.testing.assert_array_equal(prediction.slice_scores, alone.slice_scores)
        np.testing.assert_array_equal(prediction.detection, alone.detection)


def test_grey_and_colour_slices_share_batches() -> None:
    predictor = Predictor(build_detector("tiny", image_size=40), get_preset("brain-mri"), batch_size=16)
    stream = SliceStream(predictor.detector, predictor.anchors, "medical", predictor.device, 16)
    colour = np.random.default_rng(1).random((3, 20, 20, 3), dtype=np.float32)
    for scores, images in zip(stream.score([IMAGES, colour, IMAGES]), (IMAGES, colour, IMAGES), strict=True):
        np.testing.assert_allclose(scores.log_odds, predictor.score_slices(images).log_odds, atol=2e-6)
    assert stream.done == 17


def test_a_batch_is_under_way_before_the_results_of_the_one_before_are_dealt_out() -> None:
    predictor = Predictor(build_detector("tiny", image_size=40), get_preset("brain-mri"), batch_size=2)
    events: list[str] = []
    predictor.detector.register_forward_pre_hook(lambda _module, _arguments: events.append("launched"))
    predictor.score_slices(IMAGES[:6], lambda _share: events.append("dealt out"))
    assert events == ["launched", "launched", "dealt out", "launched", "dealt out", "dealt out"]


def test_cases_are_taken_only_as_they_are_needed() -> None:
    predictor = Predictor(build_detector("tiny", image_size=40), get_preset("brain-mri"), batch_size=4)
    taken = []

    def cases() -> Iterator[Prepared]:
        for seed in range(6):
            taken.append(seed)
            yield predictor.prepare(a_head((20, 20, 4), seed))

    next(predictor.predict_prepared(cases()))
    assert taken == [0, 1]


def test_a_case_scores_the_same_on_one_thread_as_on_several() -> None:
    threads = torch.get_num_threads()
    scores = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            predictor = Predictor(build_detector("tiny", adapters="demo", preset="brain-mri"), get_preset("brain-mri"))
            scores.append(predictor.predict_volume(a_head((30, 28, 7), 3)))
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(scores[0].heatmap, scores[1].heatmap)
    np.testing.assert_array_equal(scores[0].detection, scores[1].detection)
