"""The two stages as networks that MONAI's trainer can run (AA-CLIP, sections 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from aaclip_med.model.detector import Detector, ImageFeatures
from aaclip_med.model.partial_state import leave_out
from aaclip_med.training.features import FeatureCache, Features
from aaclip_med.training.losses import (
    ORTHOGONALITY_WEIGHT,
    contrast_patches,
    detection_loss,
    orthogonality,
    segmentation_loss,
)


class StagePrediction(NamedTuple):
    """levels: patch features (B, L, E); anchors: (B, E, 2); detection: (B, E). None in half precision."""

    levels: list[torch.Tensor]
    anchors: torch.Tensor
    detection: torch.Tensor


class TextStage(nn.Module):
    """Stage 1: the frozen vision tower's view against anchors that the text adapters shape.

    Its prediction has the levels that the loss counts, while it trains, and all of them in evaluation.

    features: a folder to keep the tower's view of an image in, for images that come again: those of validation, and where
        ``repeats`` those of training, whose augmentation then has to be off or drawn a fixed number of times.
    """

    def __init__(
        self,
        detector: Detector,
        dtype: torch.dtype = torch.float32,
        features: str | Path | None = None,
        repeats: bool = False,
    ) -> None:
        super().__init__()
        self.detector = detector.prepare_training(dtype)
        about = (detector.tower_hash, str(dtype), str(detector.config.to_json()))
        self.cache = FeatureCache(features, "|".join(about)) if features is not None else None
        self.repeats = repeats

    def forward(self, images: torch.Tensor, nouns: Sequence[str]) -> StagePrediction:
        """Images (B, 3, S, S) with a noun each."""
        with _own_precision(images):
            with torch.no_grad():
                features = self._look(images, self._choose_levels())
            named = {noun: self.detector.encode_noun(noun) for noun in dict.fromkeys(nouns)}
        anchors = torch.stack([named[noun] for noun in nouns])
        return StagePrediction(features.levels, anchors, features.detection)

    def _choose_levels(self) -> Sequence[int]:
        """The levels that somebody looks at."""
        deepest = self.training and self.detector.config.fidelity.stage_one_levels == "last"
        return self.detector.levels[-1:] if deepest else self.detector.levels

    def _look(self, images: torch.Tensor, levels: Sequence[int]) -> ImageFeatures:
        """The tower's view. Where images of a batch see each other, what each gives by itself is cached, and no more."""
        if self.cache is None or (self.training and not self.repeats):
            return self.detector.encode_value_image(images, levels)
        if self.detector.config.fidelity.value_attention == "across_batch":
            kept = self.cache.fetch(images, self._compute_trunk)
            return self.detector.encode_values(kept["trunk"], kept["embedding"], levels)
        kept = self.cache.fetch(images, self._compute_view)
        return ImageFeatures([kept[f"level_{number}"] for number in levels], kept["embedding"])

    def _compute_trunk(self, images: torch.Tensor) -> Features:
        trunk, embedding = self.detector.encode_trunk(images)
        return {"trunk": trunk, "embedding": embedding}

    def _compute_view(self, images: torch.Tensor) -> Features:
        view = self.detector.encode_value_image(images)
        levels = zip(self.detector.levels, view.levels, strict=True)
        return {f"level_{number}": level for number, level in levels} | {"embedding": view.detection}


class ImageStage(nn.Module):
    """Stage 2: adapted patch features against the anchors of stage 1, which are computed once and kept.

    Its state dict holds the image adapters alone. ``checkpointing`` takes less memory and about a third more time.
    """

    def __init__(self, detector: Detector, dtype: torch.dtype = torch.float32, checkpointing: bool = False) -> None:
        super().__init__()
        self.detector = detector.prepare_training(dtype)
        self.checkpointing = checkpointing
        leave_out(self, is_kept_fixed)
        self._anchors: dict[str, torch.Tensor] = {}

    def anchors(self, noun: str) -> torch.Tensor:
        """The fixed anchors (E, 2) of ``noun``, in full precision."""
        if noun not in self._anchors:
            with torch.no_grad():
                self._anchors[noun] = self.detector.encode_noun(noun)
        return self._anchors[noun]

    def forward(self, images: torch.Tensor, nouns: Sequence[str]) -> StagePrediction:
        """Images (B, 3, S, S) with a noun each."""
        with _own_precision(images):
            anchors = torch.stack([self.anchors(noun) for noun in nouns])
            features = self.detector.encode_image(images, checkpointing=self.checkpointing)
        return StagePrediction(features.levels, anchors, features.detection)


def is_kept_fixed(name: str) -> bool:
    """Whether a tensor of ``ImageStage`` is not trained by it: its state dict, which federated clients exchange, is without."""
    return not name.startswith("detector.image_adapter.")


class TextLoss:
    """Segmentation loss of the chosen levels and the anchors' orthogonality, weighted 0.1 as published.

    Under ``stage_one_levels`` ``last`` only the deepest level counts, as in the released program.
    """

    def __init__(self, detector: Detector, orthogonality_weight: float = ORTHOGONALITY_WEIGHT) -> None:
        self.orthogonality_weight = orthogonality_weight
        self.all_levels = detector.config.fidelity.stage_one_levels == "all"

    def __call__(self, prediction: StagePrediction, target: dict[str, torch.Tensor]) -> torch.Tensor:
        """``target``: mask (B, 1, S, S) and label (B,)."""
        levels = prediction.levels if self.all_levels else prediction.levels[-1:]
        with _own_precision(target["mask"]):
            segmentation = _segmentation(levels, prediction.anchors, target["mask"])
            return segmentation + self.orthogonality_weight * orthogonality(prediction.anchors)


class ImageLoss:
    """Segmentation loss of every level and cross entropy of the detection token."""

    def __call__(self, prediction: StagePrediction, target: dict[str, torch.Tensor]) -> torch.Tensor:
        """``target``: mask (B, 1, S, S) and label (B,)."""
        with _own_precision(target["mask"]):
            segmentation = _segmentation(prediction.levels, prediction.anchors, target["mask"])
            return segmentation + detection_loss(prediction.detection, prediction.anchors, target["label"])


def _segmentation(levels: Sequence[torch.Tensor], anchors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return segmentation_loss([contrast_patches(level, anchors) for level in levels], mask)


def _own_precision(like: torch.Tensor) -> torch.autocast:
    """Without the autocast that MONAI's trainer lays around fp16, with its loss scaler: the detector casts what it wants."""
    return torch.autocast(like.device.type, enabled=False)


def prepare_stage_batch(
    batch: dict[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor], tuple[Sequence[str]], dict[str, Any]]:
    """A MONAI ``prepare_batch``: images; mask and label; the nouns as the network's second argument."""
    del kwargs
    images = batch["image"].to(device, non_blocking=non_blocking)
    target = {name: batch[name].to(device, non_blocking=non_blocking) for name in ("mask", "label")}
    return images, target, (batch["noun"],), {}
