"""A slice's lesions put into another slice, so that few patients teach more places, sizes and strengths than they have."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional


@dataclass(frozen=True)
class Transplant:
    """What is moved is the lesion's difference from the tissue around it, so it takes on the brightness of its new place.

    share: of the slices with lesions that come, how many give their lesions to another slice.
    scale, strength: smallest and largest factor on the lesion's diameter (drawn log-uniformly) and on its difference.
    ring: the width of the ring around the lesion that says what its tissue was like, as a share of the slice's side.
    fewest: pixels below which a lesion or a foreground is too small, and the slice comes as it is.
    """

    share: float = 0.6
    scale: tuple[float, float] = (0.4, 1.3)
    strength: tuple[float, float] = (0.5, 1.1)
    ring: float = 0.06
    fewest: int = 30

    def apply(
        self,
        host: tuple[torch.Tensor, torch.Tensor],
        donor: tuple[torch.Tensor, torch.Tensor],
        rng: np.random.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Host and donor: each an image (C, H, W) in [0, 1], 0 outside the body, and a mask (1, H, W) of 0 and 1; H = W.

        The lesions are turned by any angle, mirrored or not, scaled, and moved to a pixel of the host's body. Nothing is drawn
        outside the body. Where there is nothing to take or no place for it, the donor comes back.
        """
        image, mask = host
        tissue, lesion = donor
        body = (image.amax(dim=0, keepdim=True) > 0).float()
        reach = max(1, round(self.ring * image.shape[-1]))
        widened = functional.max_pool2d(lesion, (2 * reach + 1, 1), stride=1, padding=(reach, 0))
        widened = functional.max_pool2d(widened, (1, 2 * reach + 1), stride=1, padding=(0, reach))
        around = ((widened > lesion) & (tissue.amax(dim=0, keepdim=True) > 0))[0]
        places = torch.nonzero(body[0])
        if min(float(lesion.sum()), float(around.sum()), len(places)) < self.fewest:
            return donor
        level = tissue[:, around].median(dim=1).values[:, None, None]
        edge = functional.avg_pool2d(lesion, 3, stride=1, padding=1, count_include_pad=False)
        source = torch.nonzero(lesion[0]).float().mean(dim=0)
        target = places[int(rng.integers(len(places)))].float()
        grid = self._draw_grid(source, target, image.shape[-1], rng)
        moved = functional.grid_sample(torch.cat([(tissue - level) * edge, lesion])[None], grid, align_corners=False)[0]
        change = float(rng.uniform(*self.strength)) * moved[:-1]
        planted = ((image + change).clamp(1e-3, 1.0) * body).to(image.dtype)
        return planted, torch.maximum(mask, (moved[-1:] > 0.5).float() * body)

    def _draw_grid(self, source: torch.Tensor, target: torch.Tensor, side: int, rng: np.random.Generator) -> torch.Tensor:
        """A sampling grid (1, H, W, 2) that brings the pixel ``source`` (row, column) to ``target``, turned and scaled."""
        angle = float(rng.uniform(0.0, 2.0 * math.pi))
        factor = math.exp(rng.uniform(math.log(self.scale[0]), math.log(self.scale[1])))
        mirror = float(rng.choice([-1.0, 1.0]))
        cosine, sine = math.cos(angle) / factor, math.sin(angle) / factor
        turn = torch.tensor([[cosine * mirror, -sine], [sine * mirror, cosine]])
        start, end = ((2.0 * point.flip(0) + 1.0) / side - 1.0 for point in (source, target))
        matrix = torch.cat([turn, (start - turn @ end)[:, None]], dim=1)[None]
        return functional.affine_grid(matrix, [1, 1, side, side], align_corners=False)
