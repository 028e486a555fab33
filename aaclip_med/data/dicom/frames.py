"""What one DICOM file holds: an object that is no scan, or frames with a place, a scaling and what tells them apart.

A single-frame object says all this at the top of its data set, an enhanced multi-frame object (PS3.3 C.7.6.16) in its
functional groups, shared by all frames or per frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from aaclip_med.data.dicom.exclusions import why_damaged, why_no_scan, why_unsupported
from aaclip_med.data.dicom.headers import number, numbers, sequence, text, value

_OPT = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
_QUANTITATIVE = {"CT", "PT"}
_PROJECTIONS = {"CR", "DX", "DR", "RG", "MG", "IO", "PX", "XA", "RF"}
_PIXEL_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
"""In the patient, at the detector, on the film (PS3.3 10.7.1.3): the first that is there is taken."""


@dataclass(frozen=True)
class Frame:
    """One slice.

    index: its number within the file, from 0. source, place: the file, or the multi-frame object that was cut into several
        files (concatenation, PS3.3 C.7.6.16.2.2.4), and its number therein. instance: InstanceNumber. size: (columns, rows).
    position: (3,) LPS mm of the first pixel's centre. cosines: the six of ImageOrientationPatient.
    pixel_mm: distance between columns and between rows. thickness_mm, distance_mm: SliceThickness and
        SpacingBetweenSlices. None where not given.
    slope, intercept: of the rescaling; None where a Modality LUT takes its place.
    limits: lowest and highest value that the pixels can take after rescaling; is_float: whether they may be fractional.
    is_tomography: OCT, which may lack positions. is_projection: one picture through the body, which has none.
    reference: FrameOfReferenceUID; positions of two are no use together.
    keys: what tells repeats at one position apart, by name.
    """

    path: Path
    uid: str
    index: int
    source: str
    place: int
    count: int
    instance: int | None
    size: tuple[int, int]
    position: tuple[float, ...] | None
    cosines: tuple[float, ...] | None
    pixel_mm: tuple[float, float] | None
    thickness_mm: float | None
    distance_mm: float | None
    slope: float | None
    intercept: float | None
    limits: tuple[float, float]
    is_float: bool
    is_inverted: bool
    is_tomography: bool
    is_projection: bool
    reference: str
    keys: dict[str, str]


@dataclass(frozen=True)
class Instance:
    """One file: its frames, or why it has none.

    study, series: what groups files into a series. left_out: why it is no slice that is read; is_scan: whether it is one of a
    scan all the same. damaged: why it spoils its series. has_units: whether a CT says how its pixels become Hounsfield units.
    """

    path: Path
    study: str
    series: str
    modality: str
    number: int | None
    description: str
    frames: tuple[Frame, ...] = ()
    left_out: str | None = None
    is_scan: bool = True
    damaged: str | None = None
    has_uid: bool = True
    is_burned_in: bool = False
    has_units: bool = True


def describe_instance(path: Path, header: Dataset) -> Instance:
    """Turn a header into frames or a reason; nothing is raised, so that one odd file does not hide the others."""
    uid = text(header, "SeriesInstanceUID")
    series = uid or "|".join(
        (
            str(path.parent), text(header, "StudyInstanceUID"), text(header, "FrameOfReferenceUID"),
            text(header, "Modality"), text(header, "SeriesNumber"), text(header, "SeriesDescription"),
            text(header, "Rows"), text(header, "Columns"), _round(value(header, "ImageOrientationPatient")),
        )
    )  # fmt: skip
    series_number = number(header, "SeriesNumber")
    modality = re.sub(r"[^A-Z0-9]", "", text(header, "Modality").upper())[:8] or "OT"
    description = "".join(c if c.isprintable() else " " for c in text(header, "SeriesDescription"))[:40].strip()
    per_frame = sequence(header, "PerFrameFunctionalGroupsSequence")
    no_scan = why_no_scan(header)
    left_out = no_scan or why_unsupported(header)
    damaged = None if left_out else why_damaged(path, header, per_frame)
    frames = () if left_out or damaged else _list_frames(path, header, per_frame)
    return Instance(
        path, text(header, "StudyInstanceUID"), series, modality, None if series_number is None else int(series_number),
        description, frames, left_out, no_scan is None, damaged, bool(uid),
        text(header, "BurnedInAnnotation").upper() == "YES", modality != "CT" or _is_scaled(header),
    )  # fmt: skip


def _list_frames(path: Path, header: Dataset, per_frame: list[Dataset]) -> tuple[Frame, ...]:
    shared = (sequence(header, "SharedFunctionalGroupsSequence") or [Dataset()])[0]
    count = int(number(header, "NumberOfFrames") or 1)
    return tuple(
        _describe_frame(path, header, [per_frame[index], shared] if per_frame else [shared], index, count)
        for index in range(count)
    )


def _describe_frame(path: Path, header: Dataset, groups: list[Dataset], index: int, count: int) -> Frame:
    def look_up(name: str, keyword: str) -> Any:
        """From the frame's functional group, else the shared one, else the top of the data set."""
        for group in groups:
            for item in sequence(group, name):
                if (found := value(item, keyword)) is not None:
                    return found
        return value(header, keyword)

    def look_up_text(name: str, keyword: str) -> str:
        found = look_up(name, keyword)
        return "" if found is None else _round(found)

    single = count == 1
    position = numbers(look_up("PlanePositionSequence", "ImagePositionPatient"), 3)
    if not single and not any(sequence(group, "PlanePositionSequence") for group in groups):
        position = None
    slope, intercept, limits, is_float = _describe_scaling(header, look_up)
    spacing = next(
        (mm for name in _PIXEL_SPACINGS if (mm := numbers(look_up("PixelMeasuresSequence", name), 2)) and min(mm) > 0), None
    )
    keys = {
        "acquisition number": look_up_text("FrameContentSequence", "FrameAcquisitionNumber")
        or text(header, "AcquisitionNumber"),
        "echo time": look_up_text("MREchoSequence", "EffectiveEchoTime") or text(header, "EchoTime"),
        "temporal position": look_up_text("FrameContentSequence", "TemporalPositionIndex")
        or text(header, "TemporalPositionIdentifier"),
        "b-value": look_up_text("MRDiffusionSequence", "DiffusionBValue"),
        "gradient direction": _gradient(header, groups),
        "inversion time": text(header, "InversionTime"),
        "trigger time": look_up_text("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime")
        or text(header, "TriggerTime"),
        "image type": look_up_text("MRImageFrameTypeSequence", "FrameType") or text(header, "ImageType"),
        "stack": look_up_text("FrameContentSequence", "StackID"),
        "file": "" if single else text(header, "SOPInstanceUID"),
        "acquisition time": look_up_text("FrameContentSequence", "FrameAcquisitionDateTime")
        or (text(header, "AcquisitionDate") + text(header, "AcquisitionTime") if text(header, "AcquisitionTime") else ""),
        "content time": text(header, "ContentTime"),
    }
    instance = number(header, "InstanceNumber")
    return Frame(
        path=path,
        uid=text(header, "SOPInstanceUID"),
        index=index,
        source=text(header, "ConcatenationUID") or str(path),
        place=index + int(number(header, "ConcatenationFrameOffsetNumber") or 0),
        count=count,
        instance=None if instance is None else int(instance),
        size=(int(number(header, "Columns") or 0), int(number(header, "Rows") or 0)),
        position=position,
        cosines=numbers(look_up("PlaneOrientationSequence", "ImageOrientationPatient"), 6),
        pixel_mm=(spacing[1], spacing[0]) if spacing else None,
        thickness_mm=_positive(look_up("PixelMeasuresSequence", "SliceThickness")),
        distance_mm=_positive(look_up("PixelMeasuresSequence", "SpacingBetweenSlices")),
        slope=slope,
        intercept=intercept,
        limits=limits,
        is_float=is_float,
        is_inverted=_is_inverted(header),
        is_tomography=text(header, "SOPClassUID") == _OPT,
        is_projection=single and position is None and text(header, "Modality").upper() in _PROJECTIONS,
        reference=text(header, "FrameOfReferenceUID"),
        keys=keys,
    )


def _describe_scaling(header: Dataset, look_up: Any) -> tuple[float | None, float | None, tuple[float, float], bool]:
    """Slope and intercept (PS3.3 C.11.1, C.7.6.16.2.9), the range of values, and whether they may be fractional."""
    bits = int(number(header, "BitsStored") or number(header, "BitsAllocated") or 16)
    signed = number(header, "PixelRepresentation") == 1
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    table = sequence(header, "ModalityLUTSequence")
    if table:
        entries = numbers(value(table[0], "LUTDescriptor"), 3) or (0.0, 0.0, 16.0)
        return None, None, (0.0, 2.0 ** min(int(entries[2]), 16) - 1), False
    factor = numbers(look_up("PixelValueTransformationSequence", "RescaleSlope"), 1)
    offset = numbers(look_up("PixelValueTransformationSequence", "RescaleIntercept"), 1)
    slope, intercept = (factor or (1.0,))[0], (offset or (0.0,))[0]
    ends = sorted((low * slope + intercept, high * slope + intercept))
    is_float = slope != 1.0 or not intercept.is_integer() or number(header, "BitsStored") is None
    return slope, intercept, (ends[0], ends[1]), is_float


def _is_scaled(header: Dataset) -> bool:
    """Whether there is a rescaling, or functional groups or a table that may hold one."""
    groups = ("ModalityLUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    return value(header, "RescaleIntercept") is not None or any(sequence(header, name) for name in groups)


def _is_inverted(header: Dataset) -> bool:
    return text(header, "PhotometricInterpretation").upper() == "MONOCHROME1" and (
        text(header, "Modality").upper() not in _QUANTITATIVE
    )


def _gradient(header: Dataset, groups: list[Dataset]) -> str:
    for group in groups:
        for item in sequence(group, "MRDiffusionSequence"):
            for direction in sequence(item, "DiffusionGradientDirectionSequence"):
                return _round(value(direction, "DiffusionGradientOrientation"))
    return _round(value(header, "DiffusionGradientOrientation"))


def _positive(found: Any) -> float | None:
    given = numbers(found, 1)
    return given[0] if given and given[0] > 0 else None


def _round(found: Any) -> str:
    """Text in which numbers that differ by rounding only are the same."""
    if found is None:
        return ""
    values = [found] if isinstance(found, str) or not hasattr(found, "__iter__") else list(found)
    parts = []
    for part in values:
        given = numbers(part, 1)
        parts.append(str(part).strip() if given is None else f"{given[0]:.4g}")
    return "\\".join(parts)
