"""What a volume's file declares, read without taking memory for its voxels and without C++: uploads are not trusted.

Everything else that can be wrong with a file is found by the worker, whose process may be lost.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from aaclip_med.errors import InputError

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".npy")
NRRD_HEADER_BYTES = 1 << 20
_CHUNK = 1 << 20
_NRRD_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int", "double"), 8),
    **dict.fromkeys(("int64", "int64_t", "ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), 8),
}


class TooLarge(InputError):  # noqa: N818
    """The file is larger than the server takes."""


def find_ending(name: str | None) -> str:
    """The ending of a client's file name, lower case: all that is kept of it.

    Raises:
        InputError: it is none of ``ENDINGS``.
    """
    for ending in ENDINGS:
        if (name or "").lower().endswith(ending):
            return ending
    raise InputError(f"the file's name has to end in {', '.join(ENDINGS)}")


def inspect_file(path: Path, limit: int) -> nib.Nifti1Header | None:
    """Refuse a file whose voxels take more than ``limit`` bytes, by its header and, where it is compressed, by counting.

    Returns a NIfTI file's header.

    Raises:
        TooLarge: it takes more, or its stream does.
        InputError: the header is damaged, or the file holds fewer voxels than it declares or voxels of another kind.
    """
    if path.name.endswith(".npy"):
        _inspect_npy(path, limit)
        return None
    if path.name.endswith(".nrrd"):
        _inspect_nrrd(path, limit)
        return None
    return _inspect_nifti(path, limit)


def _inspect_npy(path: Path, limit: int) -> None:
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, _, dtype = read(file)
        except (ValueError, KeyError, EOFError, TokenError, RecursionError, MemoryError):  # numpy parses it as Python
            raise InputError(f"{path.name}: not a .npy array of version 1 or 2") from None
        _check(path, shape, dtype, path.stat().st_size - file.tell(), limit)


def _inspect_nifti(path: Path, limit: int) -> nib.Nifti1Header:
    compressed = path.name.endswith(".gz")
    with path.open("rb") if not compressed else gzip.open(path) as stream:
        try:
            start = stream.read(nib.Nifti2Header.sizeof_hdr)
            kind = nib.Nifti1Header if _starts_with(start, nib.Nifti1Header) else nib.Nifti2Header
            header = kind(start[: kind.sizeof_hdr])
            shape, dtype = header.get_data_shape(), header.get_data_dtype()
            _check(path, shape, dtype, None, limit)
            held = len(start) + _count(path, stream, limit + (64 << 10)) if compressed else path.stat().st_size
        except (HeaderDataError, WrapStructError, ValueError, OSError, EOFError, zlib.error, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path.name}: damaged or no NIfTI file; copy or export it again") from None
    _check(path, shape, dtype, held, limit)
    return header


def _starts_with(start: bytes, kind: type[nib.Nifti1Header]) -> bool:
    size = np.frombuffer(start[:4], np.int32)
    return bool(len(size) and kind.sizeof_hdr in (size[0], size.byteswap()[0]))


def _count(path: Path, stream: IO[bytes] | gzip.GzipFile, limit: int) -> int:
    """The bytes left in a stream, which is read to its end, or to the limit."""
    total = 0
    while chunk := stream.read(_CHUNK):
        total += len(chunk)
        if total > limit:
            raise TooLarge(f"{path.name}: more than {limit >> 20} MiB after decompression")
    return total


def _inspect_nrrd(path: Path, limit: int) -> None:
    """Only what stands in the header itself: a ``data file`` would have the worker read files of this machine."""
    with path.open("rb") as file:
        text = file.read(NRRD_HEADER_BYTES)
    found = re.match(rb"NRRD000[1-5]\r?\n(?:[^\r\n]+\r?\n)*\r?\n", text)
    if found is None:
        raise InputError(f"{path.name}: no NRRD header with its voxels in the same file")
    fields: dict[str, str] = {}
    for line in found[0].decode("latin-1").splitlines()[1:]:
        name, separator, value = line.partition(":")
        name = re.sub(r"\s", "", name).lower()
        if line.startswith("#") or value.startswith("=") or not separator:
            continue
        if name in fields:
            raise InputError(f"{path.name}: its header says '{name}' twice")
        fields[name] = value.strip()
    if "datafile" in fields or any(ord(character) == 0 for character in found[0].decode("latin-1")):
        raise InputError(f"{path.name}: its voxels are in another file; save them in one (not .nhdr)")
    if fields.get("type") not in _NRRD_BYTES:
        raise InputError(f"{path.name}: voxels of type '{fields.get('type', '')[:20]}'; save a scalar volume")
    try:
        sizes = tuple(int(size) for size in fields.get("sizes", "").split())
    except ValueError:
        raise InputError(f"{path.name}: its sizes are no numbers") from None
    if fields.get("dimension") != str(len(sizes)):
        raise InputError(f"{path.name}: its dimension and its sizes disagree")
    dtype = np.dtype(f"V{_NRRD_BYTES[fields['type']]}")
    raw = fields.get("encoding", "").lower() == "raw"
    _check(path, sizes, dtype, path.stat().st_size - found.end() if raw else None, limit)


def _check(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], held: int | None, limit: int) -> None:
    """Compare what the header declares with the limit and with the bytes ``held`` (None: not known)."""
    if dtype.kind not in "biufV" or dtype.fields is not None:
        raise InputError(f"{path.name}: one real number per voxel is needed")
    sizes = [int(size) for size in shape]
    if len(sizes) < 3 or min(sizes) < 1 or math.prod(sizes[3:]) > 1:
        raise InputError(f"{path.name}: an array of shape {tuple(sizes[:8])}; one volume of three axes is needed")
    needs = math.prod(sizes) * dtype.itemsize
    if needs > limit:
        raise TooLarge(f"{path.name}: its voxels take {needs >> 20} MiB; this server takes {limit >> 20}")
    if held is not None and held < needs:
        raise InputError(f"{path.name}: damaged, too small for the voxels it declares; copy it again")
