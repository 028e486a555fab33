"""Lesion and organ masks on the grid of their scan."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

from aaclip_med.data.volumes.checks import check_voxels
from aaclip_med.data.volumes.reading import read_unchecked
from aaclip_med.data.volumes.volume import Volume
from aaclip_med.errors import InputError

MAX_AFFINE_DIFFERENCE_MM = 1e-3


def read_mask(path: str | Path, like: Volume) -> np.ndarray[Any, Any]:
    """Read the mask of ``like``: (I, J, K) bool, True where the stored value is above 0 (in any channel of a picture).

    In a JPEG, as Kvasir-SEG's are, it has to be above 127: compression leaves small values around what was drawn.
    A mask on the same grid whose axes run another way, as converters from DICOM leave them, is turned; nothing is resampled.

    Raises:
        InputError: the mask cannot be read or holds NaN or infinite values, or its shape differs, or one of its corner voxels
            lies more than 0.001 mm from the scan's.
    """
    mask = read_unchecked(Path(path))
    check_voxels(mask.path, mask.array, allow_blank=True)
    return fit_mask(mask, like)


def fit_mask(mask: Volume, like: Volume) -> np.ndarray[Any, Any]:
    """The same of a mask that is read already; of one whose header alone was read, whether it fits.

    Raises:
        InputError: as ``read_mask``, for shape and place.
    """
    values = mask.array.max(axis=3) if mask.array.ndim == 4 else mask.array
    floor = 127 if mask.path.suffix.lower() in (".jpg", ".jpeg") else 0
    return fit_values(replace(mask, array=np.asarray(values > floor, dtype=bool)), like)


def fit_values(mask: Volume, like: Volume) -> np.ndarray[Any, Any]:
    """The values of a mask or label map, turned as ``read_mask`` turns them: (I, J, K) of ``like``.

    Raises:
        InputError: as ``read_mask``, for shape and place.
    """
    path, values, affine = mask.path, mask.array, mask.affine
    shape = like.array.shape[:3]
    if not (mask.is_picture or like.is_picture):
        turn = ornt_transform(io_orientation(affine), io_orientation(like.affine))
        affine = affine @ inv_ornt_aff(turn, values.shape)
        values = np.ascontiguousarray(apply_orientation(values, turn))
    if values.shape != shape:
        raise InputError(f"{path}: the mask's shape is {values.shape}, its scan's ({like.path}) {shape}; resample the mask")
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in shape))], dtype=float)
    distance = float(np.linalg.norm(corners @ (affine - like.affine).T, axis=1).max())
    if distance > MAX_AFFINE_DIFFERENCE_MM:
        raise InputError(
            f"{path}: the mask (shape {values.shape}) lies up to {distance:.3g} mm from its scan {like.path} "
            f"(shape {shape}); resample the mask to the scan"
        )
    return values
