"""Generated DICOM series: single-frame slices in any geometry, with whatever is to be odd about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
CT, MR, SECONDARY = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.7"
PATIENT = "Doe^Jane"
SaveSlice = Callable[..., Path]
SaveSeries = Callable[..., list[Path]]


def normal_of(cosines: Sequence[float]) -> np.ndarray:
    return np.cross(cosines[:3], cosines[3:])


def make_slice(pixels: np.ndarray, **tags: Any) -> FileDataset:
    """A CT slice from (rows, columns) as stored; ``tags`` are added, those that are None left out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = tags.get("SOPClassUID") or CT
    meta.MediaStorageSOPInstanceUID = tags.get("SOPInstanceUID") or generate_uid()
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    if int(pydicom.__version__.split(".")[0]) < 3:
        ds.is_little_endian, ds.is_implicit_VR = True, False
    bits = pixels.dtype.itemsize * 8
    defaults = {
        "SOPClassUID": CT, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "Modality": "CT", "SeriesNumber": 4,
        "PatientName": PATIENT, "PatientID": "4711", "SeriesDescription": "Thorax\t5 mm", "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4", "FrameOfReferenceUID": "1.2.3.5", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Rows": pixels.shape[-2], "Columns": pixels.shape[-1], "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"), "PixelSpacing": [0.9, 0.7], "SliceThickness": 2.5,
        "ImageOrientationPatient": list(AXIAL), "ImagePositionPatient": [0.0, 0.0, 0.0], "InstanceNumber": 1,
        "RescaleSlope": 1, "RescaleIntercept": 0,
    }  # fmt: skip
    for keyword, given in {**defaults, **tags}.items():
        if given is not None:
            setattr(ds, keyword, given)
    if "HighBit" not in tags:
        ds.HighBit = ds.BitsStored - 1
    ds.PixelData = np.ascontiguousarray(pixels).tobytes() + b"\0" * (pixels.nbytes % 2)
    ds["PixelData"].VR = "OB" if bits == 8 else "OW"
    return ds


def save_dataset(ds: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path)
    return path


def compress(path: Path, kind: gdcm.TransferSyntax) -> Path:
    """With gdcm, in place."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(kind))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path


def make_pixels(shape: tuple[int, int, int] = (5, 6, 7), dtype: str = "i2", seed: int = 0) -> np.ndarray:
    """(slices, rows, columns)."""
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def format_ds(numbers: Sequence[float]) -> list[str]:
    """At most 16 characters each, as DS demands (PS3.5 6.2)."""
    return [f"{number:.10f}"[:16] for number in numbers]


@pytest.fixture
def save_slice(tmp_path: Path) -> SaveSlice:
    """``save_slice("a/b", pixels, Rows=...)`` below the test's folder."""

    def save(name: str, pixels: np.ndarray | None = None, **tags: Any) -> Path:
        return save_dataset(make_slice(make_pixels()[0] if pixels is None else pixels, **tags), tmp_path / name)

    return save


@pytest.fixture
def save_series(save_slice: SaveSlice) -> SaveSeries:
    """Slices ``step`` mm apart along the normal, in files whose names are in the reverse order.

    Tags that are callables get the slice's number; ``positions`` (mm along the normal) takes the place of ``step``.
    """

    def save(
        pixels: np.ndarray | None = None,
        folder: str = "scan",
        cosines: Sequence[float] = OBLIQUE,
        origin: Sequence[float] = (-10.0, 20.0, 30.0),
        step: float = 2.0,
        positions: Sequence[float] | None = None,
        shift: Sequence[float] = (0.0, 0.0, 0.0),
        **tags: Any,
    ) -> list[Path]:
        pixels = make_pixels() if pixels is None else pixels
        paths = []
        for n, plane in enumerate(pixels):
            along = n * step if positions is None else positions[n]
            place = np.array(origin) + along * normal_of(cosines) + n * np.array(shift)
            given = {
                "ImagePositionPatient": format_ds(place),
                "ImageOrientationPatient": format_ds(cosines),
                "InstanceNumber": n + 1,
                **{keyword: tag(n) if callable(tag) else tag for keyword, tag in tags.items()},
            }
            paths.append(save_slice(f"{folder}/{len(pixels) - n:03d}", plane, **given))
        return paths

    return save
