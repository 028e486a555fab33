"""A source's scans, and what is common to the cutting of their slices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aaclip_med.data.planes import SlicePlan
from aaclip_med.data.volumes import Volume
from aaclip_med.data.windowing import apply_window
from aaclip_med.presets import PlaneName, get_preset

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Scan:
    """One source scan: a volume and its label map, or a folder of B-scans and the folder of theirs."""

    name: str
    patient: str
    image: Path
    labels: Path


@dataclass(frozen=True)
class Slices:
    """The slices of a scan that are used.

    numbers: (S,) each one's index in the scan, along ``plan.axis``. pictures, masks: (S, H, W) uint8. is_ill: (S,) bool,
    whether the slice has a lesion. plan: how the scan was cut; None for B-scans, which are pictures already.
    """

    numbers: list[int]
    pictures: Array
    masks: Array
    is_ill: Array
    plan: SlicePlan | None


def plane_of(recipe: str) -> PlaneName:
    """Along which plane a volume is cut."""
    return "axial" if recipe == "corrected" else "native"


def stretch(stack: Array) -> Array:
    """(S, H, W) -> uint8: the least value of each slice becomes 0, its greatest 255; a slice of one value becomes 0."""
    values = stack.astype(np.float32)
    low = values.min(axis=(1, 2), keepdims=True)
    span = values.max(axis=(1, 2), keepdims=True) - low
    scaled: Array = np.rint((values - low) / np.where(span > 0, span, 1.0) * 255.0).astype(np.uint8)
    return scaled


def scale_window(volume: Volume, plan: SlicePlan, preset: str) -> Array:
    """The volume under the window of ``preset``: (S, H, W) uint8."""
    scaled: Array = np.rint(plan.cut(apply_window(volume, get_preset(preset).window)) * 255.0).astype(np.uint8)
    return scaled


def binarise(mask: Array) -> Array:
    """Bool to uint8 of 0 and 255."""
    return np.asarray(np.where(mask, np.uint8(255), np.uint8(0)))


def is_marked(mask: Array) -> Array:
    """(S, H, W) bool -> (S,) bool: whether anything of the slice is in the mask."""
    return np.asarray(mask.any(axis=(1, 2)))
