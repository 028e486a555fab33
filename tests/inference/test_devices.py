"""What a GPU would be told, on tensors that have a device and no values: it computes all, and waits for nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aaclip_med import build_detector
from aaclip_med.inference.refinement import BEST, PUBLISHED, Refinement, score_pictures
from aaclip_med.model.detector import Detector

GPU = torch.device("cuda:0")
ZOOMED = Refinement(zoom=2.0, level_weights=(1.0, 2.0), bank_weight=1.0)
SHIFTED = Refinement(flips=True, shifts=2, sharpen=3)
NAMES = {PUBLISHED: "published", BEST: "best", ZOOMED: "zoomed", SHIFTED: "shifted"}
PRECISIONS = [torch.float32, torch.bfloat16, torch.float16]


class Crossings(TorchDispatchMode):
    """Notes what is computed elsewhere than on the GPU, or goes to it, or makes the CPU wait for a value."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        if any(tensor.device != GPU for tensor in tensors) or "_local_scalar_dense" in str(func):
            self.found.append(f"{func} of {[str(tensor.device) for tensor in tensors]}")
        return result


@contextmanager
def gpu() -> Iterator[Crossings]:
    """A machine on which tensors without values may say that they are on a GPU, which has bf16."""
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(), torch.inference_mode(), Crossings() as crossings:
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
        yield crossings


def without_values(detector: Detector) -> Detector:
    """The detector, its parameters and buffers on the GPU."""
    for module in detector.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=GPU)
            module.register_parameter(name, torch.nn.Parameter(empty, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype, device=GPU), persistent=False)
    return detector


@pytest.mark.parametrize(
    ("refinement", "dtype"),
    [(refinement, dtype) for refinement in (PUBLISHED, BEST) for dtype in PRECISIONS]
    + [(ZOOMED, torch.float32), (SHIFTED, torch.float16)],
    ids=lambda value: NAMES[value] if isinstance(value, Refinement) else str(value),
)
def test_pictures_on_a_gpu_are_scored_there_and_nothing_else_is_sent_to_it(refinement: Refinement, dtype: torch.dtype) -> None:
    detector = build_detector("tiny", image_size=80, levels=(2, 4)).eval()
    width, side = detector.tower.embed_dim, 136 if refinement.zoom > 1 else 80
    with gpu() as crossings:
        without_values(detector).prepare_inference(dtype)
        anchors, pictures = torch.empty(width, 2, device=GPU), torch.empty(3, 1, side, side, device=GPU)
        bank = [torch.empty(50, width, device=GPU) for _ in detector.levels]
        log_odds, detection = score_pictures(detector, pictures, anchors, "medical", refinement, bank)
    assert crossings.found == []
    assert (log_odds.device, log_odds.dtype, log_odds.shape) == (GPU, torch.float32, (3, side, side))
    assert (detection.device, detection.dtype, detection.shape) == (GPU, torch.float32, (3,))


@pytest.mark.parametrize("adapters", [None, "none"], ids=["adapted", "zero-shot"])
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_detector_on_a_gpu_keeps_to_it(adapters: str | None, dtype: torch.dtype) -> None:
    detector = build_detector("tiny", image_size=80, adapters=adapters).eval()
    with gpu() as crossings:
        without_values(detector).prepare_inference(dtype)
        features = detector.encode_image(torch.empty(2, 3, 80, 80, device=GPU))
    assert crossings.found == []
    assert detector.tower.token_dtype == dtype
    assert {level.dtype for level in features.levels} == {features.detection.dtype} == {torch.float32}


def test_what_is_sent_to_the_gpu_or_waited_for_is_found() -> None:
    for send in (lambda: torch.zeros(()).to(GPU), lambda: torch.zeros(2, device=GPU).new_tensor((1.0, 2.0))):
        with gpu() as crossings:
            send()
        assert crossings.found
