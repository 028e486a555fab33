"""Three planes of a volume, scored each by itself and averaged: when, and with what weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from aaclip_med.data.planes import SlicePlan
from aaclip_med.data.volumes import Volume
from aaclip_med.errors import InputError
from aaclip_med.presets import PlaneName, Preset

ALL_PLANES = "all"
THREE_PLANES: tuple[PlaneName, ...] = ("axial", "coronal", "sagittal")

LONGEST = 2.0
"""A volume at most so many times as long as wide is fused where nobody asked: slices are squeezed into squares, and adapters
have seen those of one plane alone.
"""


def cut_names(volume: Volume, plane: str, limits: tuple[int, int] | None = None) -> tuple[PlaneName, ...]:
    """The planes that ``plane`` stands for.

    Raises:
        InputError: ``all`` of a picture or of a range of slices.
    """
    if plane != ALL_PLANES:
        return (cast("PlaneName", plane),)
    if volume.is_picture or limits is not None:
        raise InputError(f"{volume.path}: plane 'all' is for whole volumes; name one plane for pictures and slice ranges")
    return THREE_PLANES


def weigh_planes(volume: Volume, plans: Sequence[SlicePlan]) -> list[float]:
    """What each plane's map counts, sum 1: by the resolution of its slices, one over a pixel's area."""
    pixel_mm = [plan.pixel_spacing(volume.spacing)[:2] for plan in plans]
    weights = np.array([1.0 / (row_mm * column_mm) for row_mm, column_mm in pixel_mm])
    return [float(weight) for weight in weights / weights.sum()]


def choose_plane(volume: Volume, preset: Preset, fuse: float, limits: tuple[int, int] | None = None) -> str:
    """The plane of a volume where nobody names one: the preset's, or all three.

    All where voxels are at most ``fuse`` times as long as wide (0: nowhere), and the volume is no slab. Pictures, B-scans
    (plane ``native``) and ranges of slices are never fused.
    """
    if volume.is_picture or limits is not None or preset.plane == "native":
        return preset.plane
    spacing = np.asarray(volume.spacing)
    extent = spacing * volume.array.shape[:3]
    suits = spacing.max() <= fuse * spacing.min() and extent.max() <= LONGEST * extent.min()
    return ALL_PLANES if suits else preset.plane
