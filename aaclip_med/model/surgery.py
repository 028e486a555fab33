"""A zero-shot baseline in the manner of CLIP Surgery (Li et al. 2023, arXiv 2304.05653)."""

from __future__ import annotations

import torch

from aaclip_med.errors import InputError
from aaclip_med.model.build import build_detector
from aaclip_med.model.checkpoint import ZERO_SHOT
from aaclip_med.model.detector import Detector, ImageFeatures


class SurgeryDetector(Detector):
    """Zero-shot CLIP whose patch features come from value-value attention, without any adapter.

    It is: the frozen tower; past the first fifth of its blocks the values are queries and keys too, over the positions of an
    image; each level through the tower's own projection; the same prompts, sum of levels and blur as AA-CLIP; for the detection
    score the plain tower's image embedding.

    It is not CLIP Surgery itself: there the second path leaves out the feed-forward layers, and what is common to the texts of
    many classes is taken off the similarities; here the layers stay, and nothing is taken off.
    """

    def prepare_inference(self, dtype: torch.dtype, drop_background: bool = False) -> SurgeryDetector:
        """As ``Detector.prepare_inference``; the blocks stay as they are, or become a copy of type ``dtype``.

        Raises:
            InputError: int8, which has no value-value attention, or dropped background, which it cannot do without.
        """
        if drop_background:
            raise InputError("value-value attention needs every patch; leave the background in")
        if dtype == torch.int8:
            raise InputError("value-value attention does not run in int8; take another precision")
        if dtype != torch.float32:
            self.tower.lower_vision("cast", dtype)
        return self

    def encode_image(self, images: torch.Tensor, checkpointing: bool = False) -> ImageFeatures:
        """As ``Detector.encode_image``; ``checkpointing`` means nothing here."""
        del checkpointing
        trunk, embedding = self.encode_trunk(images)
        return ImageFeatures(self.tap_values(trunk), embedding)


def build_surgery_detector(
    backbone: str | None = None, weights: str | None = None, image_size: int | None = None, fidelity: str | None = None
) -> SurgeryDetector:
    """The baseline, on the CPU; arguments and errors as ``build_detector``'s."""
    plain = build_detector(backbone, weights, image_size, fidelity, ZERO_SHOT, value_attention="across_positions")
    detector = SurgeryDetector(plain.config, plain.tower, adapted=False)
    detector.tower_hash = plain.tower_hash
    return detector
