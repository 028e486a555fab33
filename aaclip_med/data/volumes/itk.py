"""NRRD and MetaImage, with SimpleITK, whose LPS world is turned to RAS here."""

from __future__ import annotations

import glob
import math
import os
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813

from aaclip_med.data.volumes.checks import (
    MAX_DEFLATE_RATIO,
    check_affine,
    check_shape,
    choose_volume,
    explain_unreadable,
    to_native,
)
from aaclip_med.data.volumes.volume import ITK_ENDINGS, LPS_TO_RAS, Volume, printable
from aaclip_med.errors import InputError

KIND = "NRRD or MetaImage"
_META_FILE = re.compile(rb"^ElementDataFile *= *([^\r\n]+?) *(?:\r?\n|\Z)", re.MULTILINE)
_META_COMPRESSED = re.compile(rb"^CompressedData *= *True", re.MULTILINE)
_NRRD_FILE = re.compile(rb"^data ?file: *([^\r\n]+?) *\r?$|^\r?\n", re.MULTILINE | re.IGNORECASE)
_NRRD_ENCODING = re.compile(rb"^encoding: *(\w+)", re.MULTILINE)


def read_itk(path: Path, number: int | None) -> Volume:
    """One scan; ``number``: which volume of a 4-D file, from 0.

    Raises:
        InputError: as ``read_volume``.
    """
    with explain_unreadable(path, KIND, RuntimeError):
        reader, affine, needs = _open(path, number)
        _check_data(path, needs)
        array = sitk.GetArrayFromImage(reader.Execute()).T
    array, shape = choose_volume(array, number)
    return Volume(to_native(path, array), affine, path, None, shape, is_picture=False)


def read_itk_grid(path: Path) -> Volume:
    """The same with zeros for voxels, which take no memory: the header alone is read.

    Raises:
        InputError: as ``read_volume``, but for what only the voxels tell.
    """
    with explain_unreadable(path, KIND, RuntimeError):
        reader, affine, _ = _open(path, None)
    array, shape = choose_volume(np.broadcast_to(np.uint8(0), reader.GetSize()), None)
    return Volume(array, affine, path, None, shape, is_picture=False)


def list_data_files(path: Path) -> tuple[Path, ...]:
    """The files that the header names for the voxels, as far as they are there; of a numbered row all that are named alike."""
    _, name, end = _read_header(path)
    first = name.partition(" ")[0]
    if first.upper() == "LIST":
        names = os.fsdecode(path.read_bytes()[end:]).splitlines()
        found = [path.parent / name.strip() for name in names]
    elif "%" in name:
        row = path.parent / first
        found = sorted(row.parent.glob(re.sub(r"%\d*[a-z]", "*", glob.escape(row.name))))
    else:
        found = [path.parent / name]
    return tuple(file for file in found if file.is_file())


def _open(path: Path, number: int | None) -> tuple[sitk.ImageFileReader, np.ndarray[Any, Any], int]:
    """A reader whose header is read and checked, the affine, and how many bytes its voxels take."""
    if str(path) != printable(str(path)):  # on which SimpleITK ends the process
        raise InputError(f"{path}: a NRRD or MetaImage whose path is no UTF-8 cannot be opened; rename the file or folder")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(ITK_ENDINGS[path.suffix.lower()])
    reader.ReadImageInformation()
    shape = tuple(int(n) for n in reader.GetSize())
    pixel = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    bits = re.search(r"\d+", pixel)
    if reader.GetNumberOfComponents() > 1 or bits is None or "complex" in pixel:
        raise InputError(f"{path}: {pixel} voxels; only one number per voxel is read, save a scalar image")
    dtype = np.dtype(f"u{int(bits[0]) // 8}")
    check_shape(path, shape, dtype, number)
    return reader, _read_affine(path, reader), math.prod(shape) * dtype.itemsize


def _read_affine(path: Path, reader: sitk.ImageFileReader) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    spacing = np.array(reader.GetSpacing()[:3])
    if not (spacing > 0).all():
        raise InputError(f"{path}: voxel spacing {tuple(spacing.tolist())} mm; correct the header")
    dimension = reader.GetDimension()
    affine = np.eye(4)
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(dimension, dimension)[:3, :3] * spacing
    affine[:3, 3] = reader.GetOrigin()[:3]
    affine = LPS_TO_RAS @ affine
    check_affine(path, affine)
    return affine


def _check_data(path: Path, needs: int) -> None:
    """Refuse a file that cannot hold ``needs`` bytes of voxels, for which ITK would take memory first.

    ITK goes on with what it has where a MetaImage's compressed stream is short or damaged, so that is tried to its end. Lists
    of data files, text and bzip2 are left to ITK.
    """
    header, name, end = _read_header(path)
    is_local = name.upper() == "LOCAL"
    data = path if is_local else path.parent / name
    start = end if is_local else 0
    if is_meta := _is_meta(path):
        is_compressed = _META_COMPRESSED.search(header) is not None
    else:
        encoding = _NRRD_ENCODING.search(header)
        is_compressed = encoding is not None and encoding[1] in (b"gzip", b"gz")
        if not is_compressed and (encoding is None or encoding[1] != b"raw"):
            return
    if not data.is_file():
        return
    holds = (data.stat().st_size - start) * (MAX_DEFLATE_RATIO if is_compressed else 1)
    if holds < needs:
        raise InputError(f"{path}: damaged, too small for the {needs} bytes of voxels it declares; copy it again")
    if is_meta and is_compressed and (found := _count_inflated(data, start, needs)) != needs:
        raise InputError(f"{path}: damaged, {found} bytes of voxels and not the {needs} it declares; copy it again")


def _is_meta(path: Path) -> bool:
    return path.suffix.lower() in (".mha", ".mhd")


def _read_header(path: Path) -> tuple[bytes, str, int]:
    """The start of a file, where its header says that the voxels are (``LOCAL``: behind it), and where that ends."""
    with path.open("rb") as stream:
        start = stream.read(1 << 16)
    named = (_META_FILE if _is_meta(path) else _NRRD_FILE).search(start)
    return (start, os.fsdecode(named[1] or b"LOCAL"), named.end()) if named else (start, "", 0)


def _count_inflated(path: Path, start: int, most: int) -> int:
    """How many bytes a zlib stream holds, counted no further than just beyond ``most``."""
    count = 0
    inflate = zlib.decompressobj()
    with path.open("rb") as stream:
        stream.seek(start)
        while count <= most and not inflate.eof and (chunk := stream.read(1 << 16)):
            count += len(inflate.decompress(chunk))
    if not inflate.eof and count <= most:
        raise EOFError("its compressed voxels end too early")
    return count
