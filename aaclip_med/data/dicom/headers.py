"""DICOM files on disk: found by content, and their headers read without pixels and without patient tags.

Nothing about the patient is parsed: only the tags in ``TAGS`` are, and pydicom, which quotes odd values in its
warnings, is kept quiet while it reads.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import UID, AllTransferSyntaxes, ImplicitVRLittleEndian

from aaclip_med.data.volumes import walk_files
from aaclip_med.errors import InputError

UNREADABLE = (
    InvalidDicomError, BytesLengthException, OSError, EOFError, ValueError, TypeError, AttributeError, KeyError, IndexError,
    AssertionError, NotImplementedError, RuntimeError, RecursionError, OverflowError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom and its decoders raise on a damaged file."""

PIXEL_TAGS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ModalityLUTSequence", "Modality",
)  # fmt: skip
TAGS = (
    *PIXEL_TAGS, "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "ImageType", "SeriesDescription", "SeriesNumber",
    "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "InstanceNumber", "AcquisitionNumber",
    "AcquisitionDate", "AcquisitionTime", "ContentTime", "EchoTime", "InversionTime", "TriggerTime",
    "TemporalPositionIdentifier", "DiffusionBValue", "DiffusionGradientOrientation", "BurnedInAnnotation",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing",
    "SliceThickness", "SpacingBetweenSlices",
    "RescaleSlope", "RescaleIntercept", "ConcatenationUID", "ConcatenationFrameOffsetNumber",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip

_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)


def looks_like_dicom(path: Path) -> bool:
    """Whether the file's first 132 bytes are those of DICOM (PS3.10 7.1), or of a data set without the preamble.

    The second is a guess: the first element is of group 0002 or 0008 with a known VR (explicit) or a length that fits
    into the file (implicit). A folder and a file that cannot be opened are no DICOM.
    """
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            start = stream.read(132)
            size = os.fstat(stream.fileno()).st_size
    except OSError:
        return False
    if start[128:] == b"DICM":
        return True
    if len(start) < 16:
        return False
    for order in "<>":
        group, element, length = struct.unpack(order + "HHI", start[:8])
        if group in (0x0002, 0x0008) and element <= 0x2000:
            explicit = start[4:6] in _VRS
            return explicit or (length % 2 == 0 and length <= min(size - 8, 256))
    return False


def find_dicom(paths: Sequence[str | Path]) -> list[Path]:
    """All DICOM files among files and folders (searched to the bottom), sorted, each once.

    Hidden files and files of other kinds in a folder are passed over, and so is a DICOMDIR (PS3.10 8.6), which only
    repeats what the files say; a DICOMDIR that is named stands for the folder it lies in.

    Raises:
        InputError: a path does not exist, a named file is not DICOM, a folder holds no DICOM file.
    """
    found: dict[Path, Path] = {}
    for given in map(Path, paths):
        path = given.parent if given.name.upper() == "DICOMDIR" and given.is_file() else given
        if path.is_dir():
            files = [file for file in walk_files(path) if file.name.upper() != "DICOMDIR" and looks_like_dicom(file)]
            if not files:
                raise InputError(f"{path}: no DICOM file in this folder; check the path")
        elif not path.exists():
            raise InputError(f"{path}: no such file or folder; check the path")
        elif not looks_like_dicom(path):
            raise InputError(f"{path}: not a DICOM file (no DICM mark, no data set); check how it was exported")
        else:
            files = [path]
        for file in files:
            found.setdefault(file.resolve(), file)
    return sorted(found.values())


def read_header(path: Path) -> Dataset | None:
    """The elements in ``TAGS``, without pixels; None for a DICOMDIR.

    Raises:
        InputError: the file is damaged, ends within the header, or holds none of a DICOM image's elements.
    """
    dataset = _read(path, TAGS, stop_before_pixels=True)
    if text(getattr(dataset, "file_meta", None) or Dataset(), "MediaStorageSOPClassUID") == _DICOMDIR_CLASS:
        return None
    if not any(keyword in dataset for keyword in ("SOPClassUID", "SOPInstanceUID", "Modality", "Rows")):
        raise InputError(f"{path}: no DICOM object can be read from it; copy or export it again")
    return dataset


def read_with_pixels(path: Path) -> Dataset:
    """The elements that are needed to decode the pixels, and the pixels, not yet decoded.

    Raises:
        InputError: the file is damaged, or holds no pixels.
    """
    stored = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    dataset = _read(path, (*PIXEL_TAGS, *stored, "ExtendedOffsetTable", "ExtendedOffsetTableLengths"))
    if not any(keyword in dataset for keyword in stored):
        raise InputError(f"{path}: no pixels in this file, or it ends before them; copy or export it again")
    return dataset


def _read(path: Path, tags: Sequence[str], stop_before_pixels: bool = False) -> Dataset:
    try:
        with quiet():
            return dcmread(path, force=True, specific_tags=list(tags), stop_before_pixels=stop_before_pixels)
    except UNREADABLE as error:  # its text may quote a value, which may be a name
        reason = type(error).__name__
        raise InputError(f"{path}: damaged DICOM file, its header cannot be read ({reason}); copy it again") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom from logging or warning about odd values, which it quotes: they may name the patient."""
    logger = logging.getLogger("pydicom")
    was = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was


def value(dataset: Dataset, keyword: str) -> Any:
    """The element's value; None where it is missing, empty or cannot be read."""
    try:
        with quiet():
            found = dataset.get(keyword)
    except UNREADABLE:
        return None
    return None if found is None or (isinstance(found, str) and not found.strip()) else found


def numbers(found: Any, count: int) -> tuple[float, ...] | None:
    """``count`` finite numbers, or None."""
    try:
        values = tuple(float(x) for x in (found if count > 1 or isinstance(found, list | tuple) else [found]))
    except (TypeError, ValueError):
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None


def number(dataset: Dataset, keyword: str) -> float | None:
    """One finite number; None where the element is missing, empty, of several values or no number."""
    found = numbers(value(dataset, keyword), 1)
    return found[0] if found else None


def text(dataset: Dataset, keyword: str) -> str:
    """The value as text, several values joined by a backslash as stored; empty where there is none."""
    found = value(dataset, keyword)
    if found is None:
        return ""
    return found.strip() if isinstance(found, str) else "\\".join(map(str, found)) if _is_list(found) else str(found)


def sequence(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none where it is missing."""
    found = value(dataset, keyword)
    return list(found) if found is not None and _is_list(found) else []


def transfer_syntax(header: Dataset) -> UID | None:
    """How the pixels are encoded (PS3.5 10); implicit little endian where nothing is said, None where it is not known."""
    meta = getattr(header, "file_meta", None)
    found = text(meta, "TransferSyntaxUID") if meta is not None else ""
    if not found:
        return ImplicitVRLittleEndian
    return next((syntax for syntax in AllTransferSyntaxes if syntax == found), None)


def _is_list(found: Any) -> bool:
    return hasattr(found, "__iter__") and not isinstance(found, str | bytes)
