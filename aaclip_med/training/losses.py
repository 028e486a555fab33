"""The two stages' losses (AA-CLIP, sections 3.2 and 3.3).

The two classes' probabilities are a sigmoid of the difference of their logits, and enlarging is linear. So one map a level
is enlarged in place of two, and what the full-size maps give is condensed at once: no full-size map outlives its level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from aaclip_med.model.similarity import LOGIT_SCALE

FOCAL_SMOOTHING = 1e-5
DICE_SMOOTHING = 1.0
ORTHOGONALITY_WEIGHT = 0.1


def contrast_patches(patches: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """The abnormal minus the normal logit of patches (B, L, E) and anchors (B, E, 2): (B, h, w)."""
    contrast = LOGIT_SCALE * torch.matmul(patches, anchors[..., 1:] - anchors[..., :1])
    side = round(contrast.shape[1] ** 0.5)
    return contrast.view(len(contrast), side, side)


def enlarge(contrasts: torch.Tensor, size: int) -> torch.Tensor:
    """(..., h, w) to (..., size, size), bilinear, corners kept; as products of matrices, which give the same on every run."""
    rows, columns = (_interpolate(length, size, contrasts) for length in contrasts.shape[-2:])
    return rows @ contrasts @ columns.T


def segmentation_loss(contrasts: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """Focal loss, Dice of the normal and Dice of the abnormal class, summed over levels.

    ``contrasts``: (B, h, w) a level, see ``contrast_patches``; ``mask``: (B, 1, S, S) of 0 and 1. Focal: gamma 2, targets and
    likelihood smoothed by 1e-5, the mean over pixels. Dice: smoothed by 1, the mean over images.
    """
    return _SegmentationLoss.apply(torch.stack(list(contrasts)), mask)  # type: ignore[no-any-return]


def orthogonality(anchors: torch.Tensor) -> torch.Tensor:
    """The squared mean cosine of the normal and abnormal anchors (B, E, 2)."""
    return (anchors[..., 0] * anchors[..., 1]).sum(dim=-1).mean() ** 2


def detection_loss(detection: torch.Tensor, anchors: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Cross entropy of a detection token's cosines (B, E) with anchors (B, E, 2), against label (B,) of 0 and 1."""
    logits = torch.matmul(detection.unsqueeze(1), anchors)[:, 0]
    return functional.cross_entropy(logits, label)


class _SegmentationLoss(torch.autograd.Function):
    """Loss and gradient of contrasts (levels, B, h, w) in one go; the gradient is kept at their own size."""

    @staticmethod
    def forward(ctx: Any, contrasts: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        truth = mask[:, 0].to(contrasts.dtype)
        size = truth.shape[-1]
        rows, columns = (_interpolate(length, size, contrasts) for length in contrasts.shape[-2:])
        total = contrasts.new_zeros(())
        condensed = []
        for level in contrasts:
            abnormal = torch.sigmoid(rows @ level @ columns.T)
            loss, gradient = _compare(abnormal, truth)
            total = total + loss
            condensed.append(rows.T @ gradient.mul_(abnormal).mul_(1.0 - abnormal) @ columns)
        ctx.save_for_backward(torch.stack(condensed))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.saved_tensors[0] * gradients[0], None


def _compare(abnormal: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of one level's probabilities (B, S, S) against ``truth`` (B, S, S), and its gradient by them."""
    target = truth.clamp(FOCAL_SMOOTHING, 1.0 - FOCAL_SMOOTHING)
    slope = 2.0 * target - 1.0
    likelihood = (slope * abnormal).add_(1.0 - target).add_(FOCAL_SMOOTHING)
    unlikely, log = 1.0 - likelihood, likelihood.log()
    loss = -(unlikely**2 * log).mean()
    gradient = (2.0 * unlikely * log - unlikely**2 / likelihood).mul_(slope).div_(abnormal.numel())
    for sign, predicted, wanted in ((1.0, abnormal, truth), (-1.0, 1.0 - abnormal, 1.0 - truth)):
        overlap = 2.0 * (predicted * wanted).sum(dim=(1, 2), keepdim=True) + DICE_SMOOTHING
        sizes = (predicted + wanted).sum(dim=(1, 2), keepdim=True) + DICE_SMOOTHING
        loss = loss + (1.0 - overlap / sizes).mean()
        gradient -= sign / len(truth) * (2.0 * wanted * sizes - overlap) / sizes**2
    return loss, gradient


def _interpolate(length: int, size: int, like: torch.Tensor) -> torch.Tensor:
    """The matrix (size, length) of linear interpolation."""
    identity = torch.eye(length, dtype=like.dtype, device=like.device)
    return functional.interpolate(identity.unsqueeze(0), size=size, mode="linear", align_corners=True)[0].T
