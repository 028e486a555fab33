"""Anatomical planes: which way a volume is cut into slices, and how each slice is turned for the eye.

Slices are shown in radiological convention: the patient's right on the left edge of the picture, anterior (axial) or
superior (coronal, sagittal) at the top, anterior on the left of a sagittal slice. Nothing is resampled: an oblique
volume is cut along its own axes, each taken for the nearest anatomical one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation

from aaclip_med.data.volumes import Volume
from aaclip_med.errors import InputError
from aaclip_med.presets import PLANES, PlaneName

# For each plane the RAS axes (0 left-right, 1 back-front, 2 feet-head) of its slices, rows and columns.
_AXES = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}


@dataclass(frozen=True)
class SlicePlan:
    """How an (I, J, K) array becomes a stack of slices (S, H, W), and back. Both ways are views: nothing is copied.

    axis, row_axis, column_axis: the array's axes that become S, H and W. Slice number ``s`` is the index along
        ``axis`` as stored: slices are never reversed.
    flip_rows, flip_columns: whether that axis runs backwards in the picture.
    shape: (I, J, K) of the array.
    """

    axis: int
    row_axis: int
    column_axis: int
    flip_rows: bool
    flip_columns: bool
    shape: tuple[int, int, int]

    @property
    def stack_shape(self) -> tuple[int, int, int]:
        """(S, H, W): number of slices, rows and columns."""
        return self.shape[self.axis], self.shape[self.row_axis], self.shape[self.column_axis]

    def cut(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(I, J, K) or (I, J, K, C) -> (S, H, W) or (S, H, W, C), a view."""
        _check_shape(array.shape, self.shape)
        return self._flip(array.transpose(self.axis, self.row_axis, self.column_axis, *range(3, array.ndim)))

    def paste(self, stack: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(S, H, W) or (S, H, W, C) -> (I, J, K) or (I, J, K, C), a view: the exact inverse of ``cut``."""
        _check_shape(stack.shape, self.stack_shape)
        back = np.argsort((self.axis, self.row_axis, self.column_axis)).tolist()
        array: np.ndarray[Any, Any] = self._flip(stack).transpose(*back, *range(3, stack.ndim))
        return array

    def voxel_index(self, slice_number: int, row: int, column: int) -> tuple[int, int, int]:
        """The voxel (i, j, k) of the array that is shown at ``row`` and ``column`` of slice ``slice_number``."""
        _, height, width = self.stack_shape
        index = [0, 0, 0]
        index[self.axis] = slice_number
        index[self.row_axis] = height - 1 - row if self.flip_rows else row
        index[self.column_axis] = width - 1 - column if self.flip_columns else column
        return index[0], index[1], index[2]

    def pixel_spacing(self, spacing: Sequence[float]) -> tuple[float, float, float]:
        """(row, column, slice) distances in mm, from the volume's ``spacing`` along (I, J, K)."""
        return spacing[self.row_axis], spacing[self.column_axis], spacing[self.axis]

    def _flip(self, stack: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return stack[:, :: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def plan_slices(affine: np.ndarray[Any, Any], plane: PlaneName, shape: Sequence[int]) -> SlicePlan:
    """The plan that cuts an array of ``shape`` (I, J, K[, C]) in ``plane``.

    ``affine`` (4, 4) goes from voxel index to RAS mm; which array axis is nearest to which anatomical one is nibabel's
    ``io_orientation``. ``native`` takes no notice of it: slices along K, rows along J, columns along I, no flip.

    Raises:
        InputError: the plane is not known.
    """
    size = (int(shape[0]), int(shape[1]), int(shape[2]))
    if plane == "native":
        return SlicePlan(2, 1, 0, False, False, size)
    if plane not in _AXES:
        raise InputError(f"unknown plane '{plane}'; choose one of {', '.join(PLANES)}")
    orientation = io_orientation(affine)
    axis, row_axis, column_axis = (int(np.flatnonzero(orientation[:, 0] == ras)[0]) for ras in _AXES[plane])
    # Rows and columns run to the posterior, the feet or the left: against RAS, so an axis that follows RAS is flipped.
    flip_rows, flip_columns = (bool(orientation[i, 1] > 0) for i in (row_axis, column_axis))
    return SlicePlan(axis, row_axis, column_axis, flip_rows, flip_columns, size)


def plan_volume(volume: Volume, plane: PlaneName) -> SlicePlan:
    """The plan that cuts ``volume`` in ``plane``; a picture is always cut ``native``.

    Raises:
        InputError: the plane is not known.
    """
    return plan_slices(volume.affine, "native" if volume.is_picture else plane, volume.array.shape)


def _check_shape(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape[:3] != expected:
        raise ValueError(f"an array of shape {shape} does not fit a plan for {expected}")
