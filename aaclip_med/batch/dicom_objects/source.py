"""What an object is derived from: the frames of a volume, its place in the room, the patient and the study.

highdicom is given each source frame as a CT slice that stands in for it, whatever kind of object the frame is in: many
enhanced objects (orientations per frame, one frame a file, several files a volume) it would refuse. ``finish`` puts the
real references (PS3.3 C.7.6.16.2.6) in their place.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, generate_uid
from pydicom.valuerep import DA, DT, TM

from aaclip_med.batch.account import Account
from aaclip_med.data.dicom.frames import Frame
from aaclip_med.data.dicom.geometry import SAME_POSITION_MM, Array, perpendicular_axes
from aaclip_med.data.dicom.headers import UNREADABLE, number, quiet, text, value
from aaclip_med.data.dicom.stacking import plan_stack
from aaclip_med.data.sources import Source
from aaclip_med.data.volumes import LPS_TO_RAS, Volume
from aaclip_med.errors import InputError

_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
    "ReferringPhysicianName",
)  # fmt: skip
"""Type 2 (PS3.5 7.4.3): empty where the source has no value or one that the standard does not know."""
_SQUARE = 1e-5
"""Cosine of rows to columns up to which highdicom reads an object as a volume again."""
_SEXES = ("M", "F", "O")


@dataclass(frozen=True)
class Planes:
    """Where the slices lie.

    positions: (K, 3) centre of each slice's first pixel, LPS mm. cosines: (6,) of a row and of a column, LPS.
    pixel_mm: distance between columns and between rows. slice_mm: between slices. thickness_mm: of a slice.
    """

    positions: Array
    cosines: tuple[float, ...]
    pixel_mm: tuple[float, float]
    slice_mm: float
    thickness_mm: float


@dataclass(frozen=True)
class SourceImages:
    """The source of one volume.

    frames: in the order of the slices. classes: SOPClassUID of each file. stand_ins: one slice for each frame, the first
    with the identity. series_number: of the source.
    """

    path: Path
    frames: tuple[Frame, ...]
    classes: dict[Path, str]
    stand_ins: tuple[Dataset, ...]
    planes: Planes
    series_number: int

    @property
    def instances(self) -> list[Dataset]:
        """The files, once each, with the patient, the study and their own UIDs."""
        by_uid: dict[str, Dataset] = {}
        for frame in self.frames:
            if frame.uid not in by_uid:
                by_uid[frame.uid] = instance = deepcopy(self.stand_ins[0])
                instance.SOPInstanceUID, instance.SOPClassUID = frame.uid, self.classes[frame.path]
        return list(by_uid.values())

    def make_uid(self, *entropy: object) -> str:
        """A UID that follows from the source frames and ``entropy`` alone."""
        frames = [f"{frame.uid}/{frame.index}" for frame in self.frames]
        return str(generate_uid(entropy_srcs=["|".join([*map(str, entropy), *frames])]))


def describe_source(source: Source, volume: Volume) -> SourceImages:
    """Frames, place and identity of ``volume``, which ``source.read`` gave.

    Raises:
        InputError: the source is no DICOM, its slices say no place in the patient, its files lack or share the UIDs
            by which an object points to them, or they can no longer be read.
    """
    if source.series is None:
        raise InputError(f"{source.path}: DICOM outputs need a DICOM input")
    stack, _ = plan_stack(source.series.parts[0], volume.spacing)
    if stack.grid.shape != volume.array.shape or not np.allclose(stack.grid.affine, volume.affine, atol=1e-6):
        raise InputError(f"{source.path}: the volume does not lie where its series does; DICOM outputs cannot be placed")
    frames = stack.frames
    if not _is_placed(frames):
        raise InputError(
            f"{source.path}: the slices say no place in the patient (position, orientation), so DICOM outputs would lie "
            "beside them; export the series with it"
        )
    header = _read_header(frames[0].path)
    classes = {path: text(_read_header(path, ["SOPClassUID"]), "SOPClassUID") for path in {frame.path for frame in frames}}
    missing = [name for name in ("StudyInstanceUID", "SeriesInstanceUID") if not text(header, name)]
    missing += [] if all(classes.values()) else ["SOPClassUID"]
    missing += [] if all(frame.uid for frame in frames) else ["SOPInstanceUID"]
    if missing:
        raise InputError(
            f"{source.path}: no {', '.join(missing)}, by which DICOM outputs would point to the series; export it with them"
        )
    repeats = len(frames) - len({(frame.uid, frame.index) for frame in frames})
    if repeats:
        raise InputError(
            f"{source.path}: {repeats} of {len(frames)} slices repeat the SOPInstanceUID of another, by which DICOM outputs "
            "would point to them; export the series with a SOPInstanceUID for each file"
        )
    planes = _place(frames, volume, is_resampled=stack.grid.shifts is not None or stack.grid.depths is not None)
    identity = _identify(header)
    return SourceImages(
        path=source.path,
        frames=frames,
        classes=classes,
        stand_ins=tuple(_stand_in(frame, identity, planes, with_patient=n == 0) for n, frame in enumerate(frames)),
        planes=planes,
        series_number=int(number(header, "SeriesNumber") or 0),
    )


def finish(image: Dataset, images: SourceImages, account: Account) -> None:
    """Point an image to the real source frames, and leave nothing in it to chance or the clock."""
    image.ContentCreatorName = None
    image.SourceImageSequence = [_refer(images, frames) for frames in _by_instance(images.frames)]
    image.ReferencedSeriesSequence[0].ReferencedInstanceSequence = [
        _refer(images, frames[:1], with_frames=False) for frames in _by_instance(images.frames)
    ]
    frames = {stand_in.SOPInstanceUID: frame for stand_in, frame in zip(images.stand_ins, images.frames, strict=True)}
    for group in image.PerFrameFunctionalGroupsSequence:
        for derivation in group.get("DerivationImageSequence", []):
            for reference in derivation.SourceImageSequence:
                if reference.ReferencedSOPInstanceUID in frames:  # else done: frames of one slice share their reference
                    reference.update(_refer(images, [frames[reference.ReferencedSOPInstanceUID]]))
    uid = images.make_uid(image.SOPInstanceUID, "dimensions")
    for item in (*image.DimensionIndexSequence, *image.DimensionOrganizationSequence):
        item.DimensionOrganizationUID = uid
    stamp(image, account)


def stamp(image: Dataset, account: Account) -> None:
    """Say that the object was made when the run began."""
    image.InstanceCreationDate = image.ContentDate = DA(account.made.date())
    image.InstanceCreationTime = image.ContentTime = TM(account.made.time())
    for equipment in image.ContributingEquipmentSequence:
        equipment.ContributionDateTime = DT(account.made)


def _is_placed(frames: tuple[Frame, ...]) -> bool:
    axes = perpendicular_axes(frames[0].cosines)
    if axes is None or any(frame.position is None for frame in frames):
        return False
    depths = np.array([frame.position for frame in frames]) @ axes[2]
    return bool((np.diff(depths) > SAME_POSITION_MM).all())


def _place(frames: tuple[Frame, ...], volume: Volume, is_resampled: bool) -> Planes:
    """Slices as they came lie exactly where their files say; those of a resampled volume where its grid says."""
    i, j, k = volume.spacing
    thickness = frames[0].thickness_mm or k
    lps = LPS_TO_RAS @ volume.affine
    row, column = lps[:3, 0] / i, lps[:3, 1] / j
    grid = (*row.tolist(), *column.tolist())
    if is_resampled:
        steps = np.arange(volume.array.shape[2])[:, None]
        return Planes(lps[:3, 3] + steps * lps[:3, 2], grid, (i, j), k, thickness)
    cosines = frames[0].cosines or grid
    is_square = abs(float(np.dot(cosines[:3], cosines[3:]))) < _SQUARE
    positions = np.array([frame.position for frame in frames])
    return Planes(positions, cosines if is_square else grid, frames[0].pixel_mm or (i, j), k, thickness)


def _read_header(path: Path, tags: list[str] | None = None) -> Dataset:
    """The header with the patient in it; no value of it may get into a message."""
    try:
        with quiet():
            return dcmread(path, force=True, stop_before_pixels=True, specific_tags=tags)
    except UNREADABLE as error:
        raise InputError(f"{path}: its header cannot be read again ({type(error).__name__}); copy the file again") from None


def _identify(header: Dataset) -> Dataset:
    """Patient, study and frame of reference, in UTF-8, fit for a new object.

    A frame of reference that is not named gets a UID that follows from the series'.
    """
    identity = Dataset()
    with quiet():
        for tag in header.keys():  # noqa: SIM118  (iterating a data set gives its elements, and a bad one raises)
            with suppress(*UNREADABLE):
                if not tag.is_private and header[tag].VR != "SQ":
                    identity[tag] = header[tag]
        identity.decode()
    for name in _MAY_BE_EMPTY:
        setattr(identity, name, _clean(identity, name))
    if text(header, "SpecificCharacterSet"):
        identity.SpecificCharacterSet = "ISO_IR 192"
    if not text(identity, "FrameOfReferenceUID"):
        identity.FrameOfReferenceUID = generate_uid(entropy_srcs=[identity.SeriesInstanceUID, "frame of reference"])
    return identity


def _clean(identity: Dataset, name: str) -> Any:
    found = value(identity, name)
    try:
        if name.endswith("Date"):
            return DA(found) or ""
        if name.endswith("Time"):
            return TM(found) or ""
    except (ValueError, TypeError):
        return ""
    return "" if found is None or (name == "PatientSex" and found not in _SEXES) else found


def _stand_in(frame: Frame, identity: Dataset, planes: Planes, with_patient: bool) -> Dataset:
    slice_ = deepcopy(identity) if with_patient else Dataset()
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(slice_, name, identity[name].value)
    slice_.SOPClassUID = CTImageStorage
    slice_.SOPInstanceUID = generate_uid(entropy_srcs=[frame.uid, "frame", str(frame.index)])
    slice_.Columns, slice_.Rows = frame.size
    slice_.ImagePositionPatient = list(frame.position or ())
    slice_.ImageOrientationPatient = list(planes.cosines)
    slice_.PixelSpacing = list(planes.pixel_mm[::-1])
    slice_.SliceThickness = planes.thickness_mm
    return slice_


def _by_instance(frames: Iterable[Frame]) -> list[list[Frame]]:
    groups: dict[str, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(frame.uid, []).append(frame)
    return list(groups.values())


def _refer(images: SourceImages, frames: list[Frame], with_frames: bool = True) -> Dataset:
    """A reference to frames of one file; they are numbered from 1, and not numbered where the file has no other."""
    reference = Dataset()
    reference.ReferencedSOPClassUID = images.classes[frames[0].path]
    reference.ReferencedSOPInstanceUID = frames[0].uid
    if with_frames and frames[0].count > len(frames):
        reference.ReferencedFrameNumber = sorted(frame.index + 1 for frame in frames)
    return reference
