"""Augmentation, image and mask moved alike: the paper's (AA-CLIP, section 4.1), and one for training on few patients."""

from __future__ import annotations

import math
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
    zoom: each side is scaled by up to this factor either way, when rotated or shifted. p_tone: the chance of each of a gamma of
    up to ``gamma`` either way, a gain of up to ``gain``, and a smooth shading of ``shade`` (standard deviation of its
    logarithm); none of them touches what is 0.
    """

    p_move: float = 0.5
    degrees: float = 30.0
    shift: float = 0.15
    p_colour: float = 0.0
    strength: float = 0.5
    zoom: float = 1.0
    p_tone: float = 0.0
    gamma: float = 1.6
    gain: float = 1.2
    shade: float = 0.08

    def apply(self, image: torch.Tensor, mask: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (C, H, W) in [0, 1] and mask (1, H, W) of 0 and 1, moved alike; what comes in from outside is 0."""
        moves = rng.random(4) < self.p_move
        angle = float(rng.uniform(-self.degrees, self.degrees)) if moves[0] else 0.0
        shifts = rng.uniform(-self.shift, self.shift, 2) * image.shape[-1] if moves[1] else np.zeros(2)
        if moves[0] or moves[1]:
            translate = [float(shift) for shift in shifts]
            scale = _draw_factor(rng, self.zoom)
            image = functional.affine(image, angle, translate, scale, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR)
            mask = functional.affine(mask, angle, translate, scale, [0.0, 0.0], interpolation=InterpolationMode.NEAREST)
        if moves[2]:
            image, mask = image.flip(-1), mask.flip(-1)
        if moves[3]:
            image, mask = image.flip(-2), mask.flip(-2)
        chosen = rng.random(3) < self.p_colour
        factors = rng.uniform(1.0 - self.strength, 1.0 + self.strength, 3)
        if chosen.any():
            image = image.expand(3, -1, -1)
        adjustments = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
        for adjust, use, factor in zip(adjustments, chosen, factors, strict=True):
            if use:
                image = adjust(image, float(factor))
        return (self._shift_tone(image, rng) if self.p_tone else image), mask

    def _shift_tone(self, image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Gamma, gain and shading of an image (C, H, W) in [0, 1]."""
        chosen = rng.random(3) < self.p_tone
        if chosen[0]:
            image = image ** _draw_factor(rng, self.gamma)
        if chosen[1]:
            image = image * _draw_factor(rng, self.gain)
        if chosen[2]:
            coarse = torch.from_numpy(rng.standard_normal((1, 1, 3, 3)).astype(np.float32))
            field = torch.nn.functional.interpolate(coarse, size=image.shape[-2:], mode="bicubic", align_corners=True)[0]
            image = image * torch.exp(self.shade * field)
        return image.clamp(0.0, 1.0)


def _draw_factor(rng: np.random.Generator, largest: float) -> float:
    """Log-uniformly from one over ``largest`` to it; 1, and nothing drawn, where it is 1."""
    return math.exp(rng.uniform(-1.0, 1.0) * math.log(largest)) if largest != 1.0 else 1.0


ROBUST = Augmentation(degrees=20.0, shift=0.1, zoom=1.2, p_tone=0.7)
