"""The two stages' losses (AA-CLIP, sections 3.2 and 3.3), on probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceLoss
from torch.nn import functional

FOCAL_GAMMA = 2.0
FOCAL_SMOOTHING = 1e-5
ORTHOGONALITY_WEIGHT = 0.1

_dice = DiceLoss(smooth_nr=1.0, smooth_dr=1.0)


def focal_loss(probabilities: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Focal loss of probabilities (B, 2, H, W) against mask (B, 1, H, W) of 0 and 1, gamma 2, targets smoothed by 1e-5."""
    target = torch.cat([1.0 - mask, mask], dim=1).clamp(FOCAL_SMOOTHING, 1.0 - FOCAL_SMOOTHING)
    likelihood = (target * probabilities).sum(dim=1) + FOCAL_SMOOTHING
    return (-((1.0 - likelihood) ** FOCAL_GAMMA) * likelihood.log()).mean()


def segmentation_loss(probabilities: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Focal loss, Dice of the normal and Dice of the abnormal channel of (B, 2, H, W) against (B, 1, H, W)."""
    mask = mask.to(probabilities.dtype)
    normal = _dice(probabilities[:, :1], 1.0 - mask)
    abnormal = _dice(probabilities[:, 1:], mask)
    return focal_loss(probabilities, mask) + normal + abnormal  # type: ignore[no-any-return]


def orthogonality(anchors: torch.Tensor) -> torch.Tensor:
    """The squared mean cosine of the normal and abnormal anchors (B, E, 2)."""
    return (anchors[..., 0] * anchors[..., 1]).sum(dim=-1).mean() ** 2


def detection_loss(detection: torch.Tensor, anchors: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Cross entropy of a detection token's cosines (B, E) with anchors (B, E, 2), against label (B,) of 0 and 1."""
    logits = torch.matmul(detection.unsqueeze(1), anchors)[:, 0]
    return functional.cross_entropy(logits, label)


def sum_losses(maps: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """The segmentation losses of several levels' probability maps, summed."""
    return torch.stack([segmentation_loss(probabilities, mask) for probabilities in maps]).sum()
