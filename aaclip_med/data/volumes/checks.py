"""What a header or voxels must not be, whatever the format."""

from __future__ import annotations

import math
import struct
import textwrap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from aaclip_med.arrays import split_slabs
from aaclip_med.errors import InputError

MAX_BYTES = 16 * 1024**3
MAX_DEFLATE_RATIO = 1032
"""No deflate stream (RFC 1951) grows by more than this, so a smaller file cannot hold what its header declares."""
UNREADABLE = (OSError, EOFError, ValueError, zlib.error, struct.error, ImageFileError, HeaderDataError)
"""What the libraries raise on a damaged file."""


def check_voxels(path: str | Path, array: np.ndarray[Any, Any], allow_blank: bool = False) -> None:
    """Refuse voxels that no slice can be cut from.

    Raises:
        InputError: some are NaN or infinite, or all are the same and that is not allowed.
    """
    if np.issubdtype(array.dtype, np.floating):
        bad = sum(int(np.count_nonzero(~np.isfinite(array[slab]))) for slab in split_slabs(array))
        if bad:
            raise InputError(f"{path}: {bad} of {array.size} voxels are NaN or infinite; replace them before scoring")
    if not allow_blank and array.min() == array.max():
        raise InputError(f"{path}: every voxel is {array.flat[0]}; nothing to score, check how it was exported")


def check_shape(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], number: int | None = None) -> None:
    """Refuse by the header alone, before any memory is taken. ``number``: which volume of a 4-D file is asked for.

    Raises:
        InputError: not one number a voxel, no 3-D or 4-D image, no such volume, or more than 16 GiB.
    """
    if dtype.fields is not None:
        raise InputError(f"{path}: colour (RGB) voxels; only one number per voxel is read, save a scalar image")
    if np.issubdtype(dtype, np.complexfloating):
        raise InputError(f"{path}: complex voxels; save the magnitude as real numbers")
    if len(shape) < 3:
        raise InputError(f"{path}: {len(shape)}-D image of shape {shape}; a volume (3-D) or a picture file is needed")
    if any(n < 1 for n in shape):
        raise InputError(f"{path}: shape {shape} has an axis without voxels; export it again")
    volumes = math.prod(shape[3:])
    if number is None and volumes > 1:
        raise InputError(f"{path}: {volumes} volumes (shape {shape}); choose one (--volume N, from 0) or save it as a 3-D file")
    if number is not None and not 0 <= number < volumes:
        raise InputError(f"{path}: volume {number} was asked for; it holds {volumes}, counted from 0")
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_BYTES:
        raise InputError(f"{path}: shape {shape} would take {size / 1024**3:.0f} GiB; at most 16 GiB are read, crop it")


def check_affine(path: Path, affine: np.ndarray[Any, Any]) -> None:
    """Refuse an affine (4, 4) that places no grid.

    Raises:
        InputError: it is not finite, a spacing is 0, or its axes lie in one plane.
    """
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: the affine holds NaN or infinite numbers; correct the header")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not (spacing > 0).all():
        raise InputError(f"{path}: voxel spacing {tuple(spacing.tolist())} mm; correct the header")
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-6:
        raise InputError(f"{path}: the affine is singular (its axes lie in one plane); correct the header")


def to_native(path: Path, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Native byte order; float16, float64 and wider become float32.

    Raises:
        InputError: values are too large for float32.
    """
    if np.issubdtype(array.dtype, np.floating):
        try:
            with np.errstate(over="raise"):
                return array.astype(np.float32, copy=False)
        except FloatingPointError:
            raise InputError(f"{path}: voxels that are too large for float32 (beyond 3.4e38); rescale them") from None
    return array.astype(array.dtype.newbyteorder("="), copy=False)


@contextmanager
def explain_unreadable(path: Path, kind: str, *others: type[Exception]) -> Iterator[None]:
    """Refuse a file that a library cannot read, in one line; ``others``: what it raises beside ``UNREADABLE``.

    Raises:
        InputError: it cannot be read, or what was found in it was refused.
    """
    try:
        yield
    except InputError:
        raise
    except (*UNREADABLE, *others) as error:
        lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
        reason = textwrap.shorten(lines[-1] if lines else type(error).__name__, 120)
        if reason.startswith("Reason:"):
            reason = "header or data file missing or damaged"
        raise InputError(f"{path}: cannot be read as {kind} ({reason}); copy or export it again") from None


def choose_volume(array: np.ndarray[Any, Any], number: int | None) -> tuple[np.ndarray[Any, Any], tuple[int, ...]]:
    """Volume ``number`` (default the only one) of an array (I, J, K, ...), and the shape it has in its file.

    That is the array's own, with its axes of length 1, where there is one volume, else (I, J, K).
    """
    shape = tuple(int(n) for n in array.shape)
    if math.prod(shape[3:]) > 1:
        return array.reshape(*shape[:3], -1)[..., number or 0], shape[:3]
    return array.reshape(shape[:3]), shape
