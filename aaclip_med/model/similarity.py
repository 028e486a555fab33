"""From patch features and anchors to maps and scores (AA-CLIP, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import functional

Domain = Literal["medical", "industrial"]

LOGIT_SCALE = 100.0
BLUR: dict[Domain, tuple[int, float]] = {"medical": (9, 1.5), "industrial": (7, 1.0)}
"""Kernel size and sigma, in patches, of the blur at test time."""


def compare_patches(patches: torch.Tensor, anchors: torch.Tensor, scale: float = LOGIT_SCALE) -> torch.Tensor:
    """Logits (B, 2, h, w), normal then abnormal: 100 times the cosine of patches (B, L, E) and anchors (E, 2) or (B, E, 2)."""
    logits = scale * torch.matmul(patches, anchors)
    side = int(round(logits.shape[1] ** 0.5))  # noqa: RUF046 - TorchScript's round gives a float
    return logits.transpose(1, 2).reshape(logits.shape[0], 2, side, side)


def map_anomaly(patches: torch.Tensor, anchors: torch.Tensor, size: int, domain: Domain = "medical") -> torch.Tensor:
    """The test-time map of one level: (B, 1, size, size), (abnormal + 1 - normal) / 2 of the logits, blurred, enlarged."""
    return sum_levels([patches], anchors, size, domain)


def sum_levels(
    levels: Sequence[torch.Tensor],
    anchors: torch.Tensor,
    size: int,
    domain: Domain = "medical",
    foreground: torch.Tensor | None = None,
) -> torch.Tensor:
    """The heatmap (B, 1, size, size): the sum of the levels' test-time maps, blurred and enlarged as one.

    Outside ``foreground`` (B, L) bool a map holds its image's lowest score before it is blurred.
    """
    contrast = anchors[..., 1:] - anchors[..., :1]
    scores = torch.stack([torch.matmul(patches, contrast)[..., 0] for patches in levels]).sum(dim=0)
    scores = (LOGIT_SCALE * scores + len(levels)) / 2.0
    if foreground is not None:
        lowest = scores.masked_fill(~foreground, torch.inf).amin(dim=1, keepdim=True)
        scores = torch.where(foreground, scores, lowest)
    side = round(scores.shape[1] ** 0.5)
    blurred = blur(scores.view(-1, 1, side, side), *BLUR[domain])
    return functional.interpolate(blurred, size=(size, size), mode="bilinear", align_corners=True)


def score_detection(detection: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """The detection token's score (B,): (cosine of (B, E) with the abnormal anchor + 1) / 2; in [0, 1]."""
    abnormal = anchors[..., 1]
    return ((detection * abnormal).sum(dim=-1) + 1.0) / 2.0


def blur(maps: torch.Tensor, kernel_size: int, sigma: float) -> torch.Tensor:
    """Gaussian blur of (B, 1, h, w) with reflected edges."""
    offsets = torch.arange(kernel_size, dtype=maps.dtype, device=maps.device) - kernel_size // 2
    kernel = torch.exp(-(offsets**2) / (2.0 * sigma**2))
    kernel = kernel / kernel.sum()
    pad = kernel_size // 2
    padded = functional.pad(maps, (pad, pad, pad, pad), mode="reflect")
    rows = functional.conv2d(padded, kernel.view(1, 1, -1, 1))
    return functional.conv2d(rows, kernel.view(1, 1, 1, -1))
