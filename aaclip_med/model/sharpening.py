"""What a slice itself says of its map: where edges are, and where nothing is. In a form that TorchScript takes."""

# No "from __future__ import annotations" here: TorchScript reads the functions' annotations.

import torch
from torch.nn import functional

EPS = 0.01
"""The guided filter's regularisation: squared intensity differences, of a window from 0 to 1, that count as an edge."""
DARK = 1.0 / 512.0
"""Pixels below half a grey level of 8 bits are background."""


def sharpen(maps: torch.Tensor, pictures: torch.Tensor, radius: int, eps: float = EPS) -> torch.Tensor:
    """Guided filter (He, Sun and Tang, ECCV 2010): maps (B, 1, S, S) as locally linear functions of grey values.

    pictures: (B, 1 or 3, S, S) in [0, 1]. radius: pixels around a pixel, along each axis, that are looked at.
    """
    guides = pictures.mean(dim=1, keepdim=True)
    guide_mean, map_mean = _average(guides, radius), _average(maps, radius)
    covariance = _average(guides * maps, radius) - guide_mean * map_mean
    variance = _average(guides * guides, radius) - guide_mean * guide_mean
    slope = covariance / (variance + eps)
    offset = map_mean - slope * guide_mean
    return _average(slope, radius) * guides + _average(offset, radius)


def leave_background(maps: torch.Tensor, pictures: torch.Tensor, dark: float = DARK) -> torch.Tensor:
    """Maps (B, 1, S, S) with the lowest score of their slice wherever the picture (B, 1 or 3, S, S) shows nothing."""
    lowest = maps.amin(dim=[1, 2, 3], keepdim=True)
    return torch.where(pictures.amax(dim=1, keepdim=True) > dark, maps, lowest)


def _average(values: torch.Tensor, radius: int) -> torch.Tensor:
    return functional.avg_pool2d(values, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)
