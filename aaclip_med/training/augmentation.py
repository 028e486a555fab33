"""The paper's augmentation, image and mask moved alike (AA-CLIP, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional


@dataclass(frozen=True)
class Augmentation:
    """Each movement with its own probability ``p_move``; each colour change with ``p_colour`` (0 in stage 1).

    degrees: largest rotation either way. shift: largest translation, as a share of the side, along each axis.
    strength: brightness, contrast and saturation factors lie in [1 - strength, 1 + strength].
    """

    p_move: float = 0.5
    degrees: float = 30.0
    shift: float = 0.15
    p_colour: float = 0.0
    strength: float = 0.5

    def apply(self, image: torch.Tensor, mask: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (C, H, W) in [0, 1] and mask (1, H, W) of 0 and 1, moved alike; what comes in from outside is 0."""
        moves = rng.random(4) < self.p_move
        angle = float(rng.uniform(-self.degrees, self.degrees)) if moves[0] else 0.0
        shifts = rng.uniform(-self.shift, self.shift, 2) * image.shape[-1] if moves[1] else np.zeros(2)
        if moves[0] or moves[1]:
            translate = [float(shift) for shift in shifts]
            image = functional.affine(image, angle, translate, 1.0, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR)
            mask = functional.affine(mask, angle, translate, 1.0, [0.0, 0.0], interpolation=InterpolationMode.NEAREST)
        if moves[2]:
            image, mask = image.flip(-1), mask.flip(-1)
        if moves[3]:
            image, mask = image.flip(-2), mask.flip(-2)
        chosen = rng.random(3) < self.p_colour
        factors = rng.uniform(1.0 - self.strength, 1.0 + self.strength, 3)
        adjustments = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
        for adjust, use, factor in zip(adjustments, chosen, factors, strict=True):
            if use:
                image = adjust(image, float(factor))
        return image, mask


TEXT_STAGE = Augmentation()
IMAGE_STAGE = Augmentation(p_colour=0.7)
