from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.fileset import FileSet
from pydicom.filewriter import write_dataset

from aaclip_med.data.dicom import list_series, looks_like_dicom, read_series
from aaclip_med.errors import InputError

from .conftest import SaveSeries, SaveSlice, make_pixels


def strip_preamble(path: Path, implicit: bool) -> None:
    """Write the data set alone, as old archives did."""
    ds, stream = dcmread(path), DicomBytesIO()
    ds.file_meta = FileMetaDataset()
    stream.is_little_endian, stream.is_implicit_VR = True, implicit
    write_dataset(stream, ds)
    path.write_bytes(stream.getvalue())


@pytest.mark.parametrize("implicit", [False, True])
def test_a_data_set_without_preamble_is_read(save_series: SaveSeries, implicit: bool) -> None:
    pixels = make_pixels()
    paths = save_series(pixels)
    for path in paths:
        strip_preamble(path, implicit)
        assert path.read_bytes()[:2] == b"\x08\x00"
        assert looks_like_dicom(path)
    (volume,) = read_series(list_series(paths)[0])
    assert (volume.array == pixels.T).all()


@pytest.mark.parametrize(
    "content",
    [b"", b"DICM", b"\x5c\x01\0\0" + b"\0" * 344, b"\x89PNG\r\n\x1a\n" + b"\0" * 200, b"\x1f\x8b\x08" + b"\0" * 200,
     b"\x08\0 is not a header, it is text", b"\x08\0\x05\0\xff\xff\xff\xff" + b"\0" * 20],
)  # fmt: skip
def test_other_files_are_not_taken_for_dicom(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert not looks_like_dicom(path)
    with pytest.raises(InputError, match="not a DICOM file") as caught:
        list_series([path])
    assert str(path) in str(caught.value)


def test_a_folder_or_a_missing_path_is_not_dicom(tmp_path: Path) -> None:
    assert not looks_like_dicom(tmp_path)
    assert not looks_like_dicom(tmp_path / "missing")
    with pytest.raises(InputError, match="no such file or folder"):
        list_series([tmp_path / "missing"])
    with pytest.raises(InputError, match="no DICOM file in this folder"):
        list_series([tmp_path])


def test_something_that_only_begins_like_dicom_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.dcm"
    path.write_bytes(b"\0" * 128 + b"DICM")
    (series,) = list_series([path])
    assert "empty.dcm" in str(series.refused)
    assert series.name.startswith("damaged-")


@pytest.mark.parametrize("named", [True, False])
def test_a_dicomdir_stands_for_its_folder(save_series: SaveSeries, tmp_path: Path, named: bool) -> None:
    pixels = make_pixels()
    files = FileSet()
    for path in save_series(pixels, StudyDate="20200101", StudyTime="1200", StudyID="1", AccessionNumber="1"):
        files.add(path)
    files.write(tmp_path / "disc")
    dicomdir = tmp_path / "disc" / "DICOMDIR"
    assert dicomdir.exists()
    (series,) = list_series([dicomdir if named else tmp_path / "disc"])
    (volume,) = read_series(series)
    assert (volume.array == pixels.T).all()


def test_a_dicomdir_under_another_name_is_no_scan(save_series: SaveSeries, tmp_path: Path) -> None:
    files = FileSet()
    for path in save_series(StudyDate="20200101", StudyTime="1200", StudyID="1", AccessionNumber="1"):
        files.add(path)
    files.write(tmp_path / "disc")
    copy = (tmp_path / "disc" / "DICOMDIR").rename(tmp_path / "index")
    with pytest.raises(InputError, match="without the files it lists"):
        list_series([copy])


def test_a_file_named_twice_is_read_once(save_slice: SaveSlice) -> None:
    path = save_slice("a/b")
    (series,) = list_series([path, path.parent, path.parent / ".." / "a" / "b"])
    assert series.files == (path,)
