"""NIfTI, with nibabel."""

from __future__ import annotations

import contextlib
import gzip
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel import imageglobals
from nibabel.arrayproxy import ArrayProxy
from nibabel.openers import ImageOpener

from aaclip_med.arrays import is_large, make_array
from aaclip_med.data.volumes.checks import (
    MAX_DEFLATE_RATIO,
    check_affine,
    check_shape,
    choose_volume,
    explain_unreadable,
    to_native,
)
from aaclip_med.data.volumes.volume import Volume
from aaclip_med.errors import InputError

Array = np.ndarray[Any, Any]

MAX_PADDING = 1 << 26
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}
"""Metre and micron by their codes (nifti1.h); all else is taken for mm, as ITK takes it."""


def read_nifti(path: Path, number: int | None) -> Volume:
    """One scan; ``number``: which volume of a 4-D file, from 0. The sform comes before the qform (NIfTI-1, method 3 and 2).

    An affine in metre or micron is turned to mm; the header keeps the unit, and so does what is written in its grid.

    Raises:
        InputError: as ``read_volume``.
    """
    with explain_unreadable(path, "NIfTI"):
        image, affine, described = _open(path, number)
        if _is_compressed(path):
            with gzip.open(path) as stream, _silence_nibabel():
                # Reading to the very end makes gzip compare its checksum, which nibabel alone does not.
                files = {"image": stream} | ({"header": str(described)} if described != path else {})
                array = _load(type(image).from_file_map(image.make_file_map(files)).dataobj, path)
                _check_end(path, stream)
        else:
            array = _load(image.dataobj, path)
    array, shape = choose_volume(array, number)
    return Volume(to_native(path, array), affine, path, image.header, shape, is_picture=False)


def read_nifti_grid(path: Path) -> Volume:
    """The same with zeros for voxels, which take no memory: the header alone is read.

    Raises:
        InputError: as ``read_volume``, but for what only the voxels tell.
    """
    with explain_unreadable(path, "NIfTI"):
        image, affine, _ = _open(path, None)
    array, shape = choose_volume(np.broadcast_to(np.uint8(0), image.shape), None)
    return Volume(array, affine, path, image.header, shape, is_picture=False)


def find_header(path: Path) -> tuple[Path, ...]:
    """The file that the header of an ``.img`` is in, if it is there."""
    if not path.name.lower().endswith((".img", ".img.gz")):
        return ()
    header = Path(nib.Nifti1Pair.filespec_to_file_map(path)["header"].filename)
    return (header,) if header.is_file() else ()


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _open(path: Path, number: int | None) -> tuple[nib.Nifti1Image, Array, Path]:
    """The image, its header checked and its voxels still on disk, its affine in mm, and the file that its header is in."""
    with _silence_nibabel():
        image = nib.load(path, mmap=False)
    header = image.header
    if isinstance(image, nib.Cifti2Image):
        raise InputError(f"{path}: CIFTI, which holds no scan but values on surfaces; name the volume they were made from")
    if not isinstance(header, nib.Nifti1Header):
        raise InputError(f"{path}: an Analyze 7.5 file, which does not say how it lies; convert it to NIfTI")
    described = Path(image.file_map.get("header", image.file_map["image"]).filename or path)
    check_shape(path, tuple(header.get_data_shape()), header.get_data_dtype(), number)
    _check_file_size(path, image, _is_compressed(path))
    _check_pixdim(described, type(header))
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    check_affine(path, affine)
    return image, affine, described


def _load(stored: ArrayProxy, path: Path) -> Array:
    """The voxels, scaled; many of them slice by slice into an array that may be larger than memory."""
    if not is_large(math.prod(stored.shape) * stored.dtype.itemsize):
        whole: Array = np.asanyarray(stored)
        return whole
    first = to_native(path, np.asanyarray(stored[..., :1]))
    array: Array = make_array(tuple(stored.shape[::-1]), first.dtype).T
    for k in range(stored.shape[-1]):
        array[..., k] = to_native(path, np.asanyarray(stored[..., k]))
    return array


def _check_end(path: Path, stream: gzip.GzipFile) -> None:
    """Read what is behind the voxels to the end: padding, not a bomb."""
    rest = 0
    while chunk := stream.read(1 << 20):
        rest += len(chunk)
        if rest > MAX_PADDING:
            raise InputError(f"{path}: damaged, more than {MAX_PADDING} bytes behind the voxels it declares; copy it again")


def _check_file_size(path: Path, image: nib.Nifti1Image, compressed: bool) -> None:
    needs = math.prod(image.shape) * image.get_data_dtype().itemsize
    size = path.stat().st_size
    if needs > (size * MAX_DEFLATE_RATIO if compressed else size - image.dataobj.offset):
        raise InputError(f"{path}: damaged, too small for the {needs} bytes of voxels it declares; copy it again")


def _check_pixdim(path: Path, header_class: type[nib.Nifti1Header]) -> None:
    """Zero and negative voxel sizes as stored, which nibabel would silently replace."""
    with ImageOpener(path) as stream:
        stored = header_class.from_fileobj(stream, check=False)
    spacing = stored["pixdim"][1:4]
    if stored["sform_code"] == 0 and not (spacing > 0).all():
        raise InputError(f"{path}: voxel spacing {tuple(spacing.tolist())} mm; correct the header")


@contextlib.contextmanager
def _silence_nibabel() -> Iterator[None]:
    """Keep nibabel from writing to the terminal what it finds odd in a header: the message of a refusal is one line."""
    imageglobals.logger.disabled = True
    try:
        yield
    finally:
        imageglobals.logger.disabled = False
