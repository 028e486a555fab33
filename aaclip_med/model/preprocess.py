"""From windowed slices to what the vision tower expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from aaclip_med.model.config import CLIP_MEAN, CLIP_STD

BLACK = 1e-4
"""What a normalised value may be above that of black: rounding, not grey."""
ENLARGED = 5 / 3
"""No slice is enlarged by more than this for ``zoom``: that would show nothing new."""
LEAST_ZOOM = 1.25


def choose_side(height: int, width: int, size: int, zoom: float) -> int:
    """The side, in pixels, of the square that a slice (height, width) is resized to for a tower of ``size`` pixels.

    ``zoom`` times the tower's, a multiple of 8, but no more than the slice has to show; ``size`` where that is hardly more.
    """
    side = min(zoom * size, ENLARGED * max(height, width))
    return round(side / 8) * 8 if side >= LEAST_ZOOM * size else size


def resize_slices(slices: torch.Tensor, size: int) -> torch.Tensor:
    """Windowed slices (B, C, H, W) in [0, 1] to (B, C, size, size), bicubic with antialiasing, still in [0, 1]."""
    resized = functional.interpolate(slices, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0.0, 1.0)


def resize_masks(masks: torch.Tensor, size: int) -> torch.Tensor:
    """Masks (B, 1, H, W) of 0 and 1 to (B, 1, size, size), nearest neighbour."""
    return functional.interpolate(masks, size=(size, size), mode="nearest")


def fit_masks(masks: NDArray[Any], size: int) -> NDArray[np.bool_]:
    """Masks (S, H, W) of 0 and 1 on the detector's grid, (S, size, size) bool, by nearest neighbour."""
    stack = torch.from_numpy(np.ascontiguousarray(masks, dtype=np.float32))[:, None]
    return resize_masks(stack, size)[:, 0].numpy() > 0


def normalise_slices(slices: torch.Tensor) -> torch.Tensor:
    """Slices (B, 1 or 3, H, W) in [0, 1] to (B, 3, H, W) with CLIP's mean and standard deviation taken out."""
    return (slices.expand(-1, 3, -1, -1) - _fill_channels(slices, CLIP_MEAN)) / _fill_channels(slices, CLIP_STD)


def _fill_channels(like: torch.Tensor, values: Sequence[float]) -> torch.Tensor:
    """(1, C, 1, 1), filled where ``like`` is: a GPU would be waited for by a copy from the host."""
    return torch.cat([like.new_full((1, 1, 1, 1), value) for value in values], dim=1)


def find_foreground(images: torch.Tensor, patch: int) -> torch.Tensor:
    """Which patches (B, L) bool of normalised slices (B, 3, H, W) are not black throughout; all of them in a black image."""
    brightness = (images - normalise_slices(images.new_zeros(1, 1, 1, 1))).amax(dim=1, keepdim=True)
    foreground = functional.max_pool2d(brightness, patch).flatten(1) > BLACK
    return foreground | ~foreground.any(dim=1, keepdim=True)
