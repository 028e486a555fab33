"""The two stages as networks that MONAI's trainer can run (AA-CLIP, sections 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from aaclip_med.model.detector import Detector
from aaclip_med.model.partial_state import leave_out
from aaclip_med.model.precision import autocast
from aaclip_med.model.similarity import map_probabilities
from aaclip_med.training.losses import ORTHOGONALITY_WEIGHT, detection_loss, orthogonality, sum_losses


class StagePrediction(NamedTuple):
    """levels: patch features (B, L, E); anchors: (B, E, 2); detection: (B, E). None in half precision."""

    levels: list[torch.Tensor]
    anchors: torch.Tensor
    detection: torch.Tensor


class TextStage(nn.Module):
    """Stage 1: the frozen vision tower's view against anchors that the text adapters shape."""

    def __init__(self, detector: Detector, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.detector = detector
        self.dtype = dtype

    def forward(self, images: torch.Tensor, nouns: Sequence[str]) -> StagePrediction:
        """Images (B, 3, S, S) with a noun each."""
        with autocast(images.device, self.dtype):
            with torch.no_grad():
                features = self.detector.encode_value_image(images)
            named = {noun: self.detector.encode_noun(noun) for noun in dict.fromkeys(nouns)}
        anchors = torch.stack([_full(named[noun]) for noun in nouns])
        return StagePrediction([_full(level) for level in features.levels], anchors, _full(features.detection))


class ImageStage(nn.Module):
    """Stage 2: adapted patch features against the anchors of stage 1, which are computed once and kept.

    Its state dict holds the image adapters alone.
    """

    def __init__(self, detector: Detector, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.detector = detector
        self.dtype = dtype
        leave_out(self, is_kept_fixed)
        self._anchors: dict[str, torch.Tensor] = {}

    def anchors(self, noun: str) -> torch.Tensor:
        """The fixed anchors (E, 2) of ``noun``, in full precision."""
        if noun not in self._anchors:
            with torch.no_grad():
                self._anchors[noun] = _full(self.detector.encode_noun(noun))
        return self._anchors[noun]

    def forward(self, images: torch.Tensor, nouns: Sequence[str]) -> StagePrediction:
        """Images (B, 3, S, S) with a noun each."""
        anchors = torch.stack([self.anchors(noun) for noun in nouns])
        with autocast(images.device, self.dtype):
            features = self.detector.encode_image(images)
        return StagePrediction([_full(level) for level in features.levels], anchors, _full(features.detection))


def is_kept_fixed(name: str) -> bool:
    """Whether a tensor of ``ImageStage`` is not trained by it: its state dict, which federated clients exchange, is without."""
    return not name.startswith("detector.image_adapter.")


class TextLoss:
    """Segmentation loss of the chosen levels and the anchors' orthogonality, weighted 0.1.

    Under ``stage_one_levels`` ``last`` only the deepest level counts, as in the released program.
    """

    def __init__(self, detector: Detector) -> None:
        self.all_levels = detector.config.fidelity.stage_one_levels == "all"

    def __call__(self, prediction: StagePrediction, target: dict[str, torch.Tensor]) -> torch.Tensor:
        """``target``: mask (B, 1, S, S) and label (B,)."""
        levels = prediction.levels if self.all_levels else prediction.levels[-1:]
        segmentation = _segmentation(levels, prediction.anchors, target["mask"])
        return segmentation + ORTHOGONALITY_WEIGHT * orthogonality(prediction.anchors)


class ImageLoss:
    """Segmentation loss of every level and cross entropy of the detection token."""

    def __call__(self, prediction: StagePrediction, target: dict[str, torch.Tensor]) -> torch.Tensor:
        """``target``: mask (B, 1, S, S) and label (B,)."""
        segmentation = _segmentation(prediction.levels, prediction.anchors, target["mask"])
        return segmentation + detection_loss(prediction.detection, prediction.anchors, target["label"])


def _full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _segmentation(levels: Sequence[torch.Tensor], anchors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return sum_losses([map_probabilities(level, anchors, mask.shape[-1]) for level in levels], mask)


def prepare_stage_batch(
    batch: dict[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor], tuple[Sequence[str]], dict[str, Any]]:
    """A MONAI ``prepare_batch``: images; mask and label; the nouns as the network's second argument."""
    del kwargs
    images = batch["image"].to(device, non_blocking=non_blocking)
    target = {name: batch[name].to(device, non_blocking=non_blocking) for name in ("mask", "label")}
    return images, target, (batch["noun"],), {}
