"""Which DICOM objects are no scans, which cannot be read as one, and which are damaged, by their headers."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import UID

from aaclip_med.data.dicom.headers import number, quiet, sequence, text, transfer_syntax, value

MAX_BYTES = 16 * 1024**3

_NO_SCANS = {
    "SR": "a structured report", "PR": "a presentation state", "KO": "a list of key images", "SEG": "a segmentation",
    "REG": "a registration", "FID": "a list of fiducials", "RTSTRUCT": "a set of contours", "RTPLAN": "a treatment plan",
    "RTDOSE": "a dose map", "RTRECORD": "a treatment record", "DOC": "a document", "ECG": "a waveform", "AU": "a sound",
    "SMR": "a surface", "PLAN": "a plan", "SM": "a microscope slide",
}  # fmt: skip
_NO_SCAN_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.88.": "a structured report", "1.2.840.10008.5.1.4.1.1.11.": "a presentation state",
    "1.2.840.10008.5.1.4.1.1.104.": "a document", "1.2.840.10008.5.1.4.1.1.9.": "a waveform",
    "1.2.840.10008.5.1.4.1.1.66": "raw data or a segmentation", "1.2.840.10008.5.1.4.1.1.481.": "a radiotherapy object",
    "1.2.840.10008.5.1.4.1.1.4.2": "a spectrum", "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
}  # fmt: skip
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_SCREENSHOTS = {"SCREEN SAVE", "SCREENSAVE", "SCREENSHOT", "SCREEN SHOT", "SCREEN CAPTURE", "DOSE_INFO", "PROTOCOL"}


def why_no_scan(header: Dataset) -> str | None:
    """What the object is instead, and what to name; None for a slice of a scan."""
    modality, sop_class = text(header, "Modality").upper(), text(header, "SOPClassUID")
    kind = next((name for prefix, name in _NO_SCAN_CLASSES.items() if sop_class.startswith(prefix)), None)
    kind = _NO_SCANS.get(modality) or kind
    if kind:
        return f"{kind}, not a scan; name the folder of the scan itself"
    if not _has_size(header) and not _is_image_class(sop_class):
        return "no image in it (no Rows and Columns); name the folder of the scan itself"
    image_type = {part.strip().upper() for part in text(header, "ImageType").split("\\")}
    if "LOCALIZER" in image_type:
        return "a localiser (scout), not a scan; name the scan that was planned on it"
    if image_type & _SCREENSHOTS:
        return "a screenshot, not a scan; name the series it was taken from"
    if f"{sop_class}.".startswith(f"{_SECONDARY_CAPTURE}.") and not (
        value(header, "ImagePositionPatient") or sequence(header, "PerFrameFunctionalGroupsSequence")
    ):
        return "a secondary capture without a place in the patient; name the series it was taken from, or save it as PNG"
    return None


def why_unsupported(header: Dataset) -> str | None:
    """Why an image of a scan is in a form that is not read, and what to do; None where it is in one that is."""
    if "MOSAIC" in text(header, "ImageType").upper().split("\\"):
        return "a Siemens mosaic (all slices tiled into one picture); convert it to NIfTI with dcm2niix and read that"
    if (number(header, "SamplesPerPixel") or 1) > 1 or "PALETTE" in text(header, "PhotometricInterpretation").upper():
        return "colour pixels; only grey scans are read as volumes, save single pictures as PNG"
    return None


def why_damaged(path: Path, header: Dataset, per_frame: list[Dataset]) -> str | None:
    """Why an image cannot be read, by its header and the file's size, and what to do; None where nothing speaks against it."""
    rows, columns, bits = (number(header, key) or 0.0 for key in ("Rows", "Columns", "BitsAllocated"))
    declared = number(header, "NumberOfFrames")
    frames = declared or 1
    if not _has_size(header):
        return f"{path.name} has no image in it (no Rows and Columns); copy or export it again"
    if bits not in (8, 16, 32, 64):
        return f"{path.name} has BitsAllocated {bits:g}; 8, 16, 32 and 64 are read, export it again"
    stored = number(header, "BitsStored")
    if stored is not None and not 1 <= stored <= bits:
        return f"{path.name} has BitsStored {stored:g} of BitsAllocated {bits:g}; export it again"
    if frames < 1 or rows < 1 or columns < 1:
        return f"{path.name} has {frames:g} frames of {columns:g} x {rows:g} pixels; export it again"
    needs = rows * columns * frames * bits / 8
    if needs > MAX_BYTES:
        return (
            f"{path.name} says {frames:.0f} frames of {columns:.0f} x {rows:.0f} pixels, {needs / 1024**3:.0f} GiB; "
            "at most 16 GiB are read, export a part of it"
        )
    syntax = transfer_syntax(header)
    if syntax is None:
        return f"{path.name} is in a private or newer transfer syntax; convert it to Explicit VR Little Endian"
    if not (syntax.is_compressed or syntax.is_deflated) and needs > path.stat().st_size:
        return f"{path.name} is too small for the {needs:.0f} bytes of pixels it declares; copy it again"
    if syntax.is_compressed and 8 * frames > path.stat().st_size:  # an item's tag and length alone take 8 bytes
        return f"{path.name} is too small for the {frames:.0f} frames it declares; copy it again"
    if per_frame and len(per_frame) != frames:
        said = "no NumberOfFrames" if declared is None else f"{declared:.0f} frames"
        return f"{path.name} declares {said} but describes {len(per_frame)}; export it again"
    return None


def _has_size(header: Dataset) -> bool:
    return bool(number(header, "Rows") and number(header, "Columns"))


def _is_image_class(sop_class: str) -> bool:
    """Whether the standard calls it an image; so is taken what does not say its class, as a file that ends too early."""
    with quiet():
        return not sop_class or "Image" in UID(sop_class).name
