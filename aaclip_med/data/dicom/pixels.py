"""From stored pixels to values: decoding, high bits, padding, MONOCHROME1, Modality LUT and rescaling, in this order.

Frames are decoded file by file into arrays that are allocated once, so a scan takes its own size, two bytes a voxel for
a usual CT, and little more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, RLELossless

from aaclip_med.arrays import make_array
from aaclip_med.data.dicom.frames import Frame
from aaclip_med.data.dicom.geometry import SAME_POSITION_MM, Array, Grid
from aaclip_med.data.dicom.guard import GUARD, decode_here
from aaclip_med.data.dicom.headers import number, numbers, read_with_pixels, sequence, transfer_syntax, value
from aaclip_med.data.volumes.checks import to_native
from aaclip_med.errors import InputError


@dataclass(frozen=True)
class Stack:
    """The slices of one volume, in the order of their positions along the normal.

    copies: frames at the place of slice k, which must have the same pixels.
    """

    frames: tuple[Frame, ...]
    grid: Grid
    copies: tuple[tuple[Frame, int], ...] = ()


def read_stacks(stacks: Sequence[Stack]) -> list[Array]:
    """One array (I, J, K) for each stack: int16 or int32 where no value can be fractional, else float32.

    Voxels of PixelPaddingValue to PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2), which are no measurement, get the lowest
    real value of their volume: kept as stored (-2000, say) they would drag a window of percentiles with them.

    Raises:
        InputError: a file is damaged, has no pixels, is compressed in a way for which a package is missing, holds values
            that are not finite, or two frames at one place differ.
    """
    try:
        arrays = [_allocate(stack) for stack in stacks]
    except MemoryError:
        raise InputError(f"{stacks[0].frames[0].path}: not enough memory for the series; read it on another machine") from None
    paddings: dict[int, Array] = {}
    places: dict[Path, list[tuple[int, int, Frame]]] = defaultdict(list)
    for number_, stack in enumerate(stacks):
        for k, frame in enumerate(stack.frames):
            places[frame.path].append((number_, k, frame))
    for path, wanted in places.items():
        pixels = _Pixels(path)
        for n, k, frame in wanted:
            values, padding = pixels.values(frame)
            arrays[n][:, :, k] = values
            if padding is not None and padding.any():
                paddings.setdefault(n, np.zeros(arrays[n].shape, dtype=bool))[:, :, k] = padding
    finished = []
    for n, stack in enumerate(stacks):
        _check_copies(stack, arrays[n])
        lowest = _hide_padding(stack, arrays[n], paddings.pop(n, None))
        finished.append(stack.grid.resample(arrays[n], lowest))
    return finished


def _allocate(stack: Stack) -> Array:
    width, height = stack.frames[0].size
    array: Array = make_array((len(stack.frames), height, width), choose_dtype(stack.frames)).T
    return array


def choose_dtype(frames: Sequence[Frame]) -> np.dtype[Any]:
    """int16 or int32 where they hold all values that the frames can have, else float32."""
    low, high = min(frame.limits[0] for frame in frames), max(frame.limits[1] for frame in frames)
    if not any(frame.is_float for frame in frames):
        for dtype in (np.int16, np.int32):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return np.dtype(dtype)
    return np.dtype(np.float32)


def _check_copies(stack: Stack, array: Array) -> None:
    for frame, k in stack.copies:
        kept = stack.frames[k]
        values, _ = _Pixels(frame.path).values(frame)
        far = max(abs(a - b) for a, b in zip(frame.position or (), kept.position or (), strict=True)) > SAME_POSITION_MM
        if far or not np.array_equal(values.astype(array.dtype), array[:, :, k]):
            one, other = (f"frame {f.index + 1} of " if f.count > 1 else "" for f in (frame, kept))
            raise InputError(
                f"{frame.path}: {one.removesuffix('of ')}lies at the same depth as {other}{kept.path.name} but shows something "
                "else, and no tag tells which volume each belongs to; remove one of them, or split the series"
            )


def _hide_padding(stack: Stack, array: Array, padding: Array | None) -> float:
    """Fill the padding; returns the lowest real value."""
    path = stack.frames[0].path
    lowest = array.min() if padding is None else array.min(where=~padding, initial=array.max())
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise InputError(f"{path}: values that are NaN or infinite; export the series again")
    if padding is not None:
        if padding.all():
            raise InputError(f"{path}: nothing but padding (PixelPaddingValue); export the series again")
        array[padding] = lowest
    return float(lowest)


class _Pixels:
    """The decoded pixels of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = read_with_pixels(path)
        says_signed = number(self.header, "PixelRepresentation") == 1  # pydicom 2 overwrites it for JPEG 2000
        self.stored = _decode(path, self.header)
        self.is_whole = bool(np.issubdtype(self.stored.dtype, np.integer))
        self.bits = int(number(self.header, "BitsStored") or number(self.header, "BitsAllocated") or 16)
        self.signed = self.is_whole and says_signed

    def values(self, frame: Frame) -> tuple[Array, Array | None]:
        """(I, J) values after scaling, and where padding is (None: nowhere)."""
        if self.stored.shape[1:] != frame.size[::-1] or len(self.stored) <= frame.index:
            raise InputError(f"{self.path}: pixels of shape {self.stored.shape}, not as declared; copy or export it again")
        raw = self.stored[frame.index]
        stored = self._clean(raw)
        padding = self._padding(raw, stored)
        if frame.is_inverted and self.is_whole:
            stored = (-1 if self.signed else 2**self.bits - 1) - stored.astype(np.int64)
        if frame.slope is None or frame.intercept is None:
            stored = self._look_up(stored)
        elif frame.is_float:
            stored = to_native(self.path, stored * np.float64(frame.slope) + frame.intercept)
        elif frame.intercept:
            stored = stored.astype(np.int64) + int(frame.intercept)
        return stored.T, None if padding is None else padding.T

    def _clean(self, stored: Array) -> Array:
        """Bits outside BitsStored (PS3.5 8.1.1), once used for overlays, are no part of the value."""
        allocated = stored.dtype.itemsize * 8
        if not self.is_whole or self.bits >= allocated:
            return stored
        shift = int(number(self.header, "HighBit") or self.bits - 1) + 1 - self.bits
        kept: Array = stored.astype(np.int64) & (2**allocated - 1)
        kept = (kept >> (shift if 0 < shift <= allocated - self.bits else 0)) & (2**self.bits - 1)
        if self.signed:
            kept[kept >= 2 ** (self.bits - 1)] -= 2**self.bits
        return kept

    def _padding(self, *stored: Array) -> Array | None:
        """Where padding is. Its value is as stored and may lie outside BitsStored, so raw pixels are compared as well."""
        first = number(self.header, "PixelPaddingValue")
        if first is None or not self.is_whole:
            return None
        last = number(self.header, "PixelPaddingRangeLimit")
        low, high = sorted(self._as_stored(given) for given in (first, first if last is None else last))
        mask: Array = np.logical_or.reduce([(pixels >= low) & (pixels <= high) for pixels in stored])
        return mask

    def _as_stored(self, given: float) -> int:
        """A padding value written with the wrong sign, such as 63536 for -2000, as the pixels have it."""
        allocated = 8 * int(self.stored.dtype.itemsize)
        if self.signed and given >= 2 ** (allocated - 1):
            given -= 2.0**allocated
        elif not self.signed and given < 0:
            given += 2.0**allocated
        return int(given)

    def _look_up(self, stored: Array) -> Array:
        """Modality LUT (PS3.3 C.11.1.1.1): values below the first mapped one get its entry, above the last the last."""
        item = sequence(self.header, "ModalityLUTSequence")[0]
        descriptor, data = numbers(value(item, "LUTDescriptor"), 3), value(item, "LUTData")
        if descriptor is None or data is None:
            raise InputError(f"{self.path}: its Modality LUT is damaged; export it again")
        if isinstance(data, bytes):
            data = np.frombuffer(data, dtype=np.uint8 if len(data) == (descriptor[0] or 65536) else "<u2")
        table = np.asarray(data).astype(np.int64) & 0xFFFF
        first = int(descriptor[1])
        if self.signed and first >= 2**15:
            first -= 2**16
        looked_up: Array = table[np.clip(stored.astype(np.int64) - first, 0, len(table) - 1)]
        return looked_up


def _decode(path: Path, header: Dataset) -> Array:
    """(frames, rows, columns) as stored."""
    syntax = transfer_syntax(header)
    if syntax is None:
        raise InputError(f"{path}: in a private or newer transfer syntax; convert it to Explicit VR Little Endian")
    if not hasattr(header, "file_meta") or "TransferSyntaxUID" not in header.file_meta:
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.file_meta.TransferSyntaxUID = syntax
    if syntax.is_compressed and not _has_decoder(syntax):
        raise InputError(
            f"{path}: pixels compressed as {syntax.name}, for which no decoder is installed; {_name_package(syntax)}"
            "convert the files to Explicit VR Little Endian"
        )
    decode = GUARD.decode if syntax.is_encapsulated and syntax != RLELossless else decode_here
    try:
        pixels = decode(header)
    except InputError as error:
        raise InputError(f"{path}: its pixels ({syntax.name}) cannot be decoded ({error}); copy or export it again") from None
    return pixels if pixels.ndim > 2 else pixels[None]


def _name_package(syntax: UID) -> str:
    if "High-Throughput" in syntax.name:
        return "pip install pylibjpeg pylibjpeg-openjpeg, or "
    return "pip install python-gdcm, or " if syntax.name.startswith("JPEG") else ""


def _has_decoder(syntax: UID) -> bool:
    try:
        from pydicom.pixels.decoders.base import get_decoder
    except ImportError:  # pydicom 2
        handlers = pydicom.config.pixel_data_handlers
        return any(handler.is_available() and handler.supports_transfer_syntax(syntax) for handler in handlers)
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False
