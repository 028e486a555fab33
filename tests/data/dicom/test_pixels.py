from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from aaclip_med.data.dicom import list_series, read_series
from aaclip_med.errors import InputError

from .conftest import MR, SaveSeries, SaveSlice, compress, make_pixels, make_slice, save_dataset


def read_one(paths: list[Path]) -> np.ndarray:
    (series,) = list_series(paths)
    (volume,) = read_series(series)
    return volume.array


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_values_of_every_width_and_sign_come_back(save_series: SaveSeries, dtype: str) -> None:
    pixels = make_pixels(dtype=dtype)
    if dtype.startswith("i"):
        pixels -= 100
    array = read_one(save_series(pixels))
    np.testing.assert_array_equal(array, pixels.T)
    assert array.dtype == {"u1": "i2", "i1": "i2", "u2": "i4", "i2": "i2", "u4": "f4", "i4": "i4"}[dtype]


@pytest.mark.parametrize("signed", [False, True])
def test_twelve_bits_in_sixteen_ignore_what_lies_above_them(save_series: SaveSeries, signed: bool) -> None:
    values = make_pixels(dtype="i2") - (100 if signed else 0)
    stored = (values.astype("u2") & 0x0FFF) | 0x3000
    array = read_one(save_series(stored, BitsStored=12, PixelRepresentation=int(signed)))
    np.testing.assert_array_equal(array, values.T)
    assert array.dtype == np.int16


def test_slope_and_intercept_are_those_of_each_slice(save_series: SaveSeries) -> None:
    pixels = make_pixels(dtype="u2")
    array = read_one(save_series(pixels, RescaleSlope=lambda n: 1 + n / 4, RescaleIntercept=lambda n: -10.5 * n))
    n = np.arange(5)[:, None, None]
    np.testing.assert_allclose(array, (pixels * (1 + n / 4) - 10.5 * n).T, rtol=1e-6)
    assert array.dtype == np.float32


def test_hounsfield_units_stay_whole_numbers(save_series: SaveSeries) -> None:
    pixels = make_pixels(dtype="u2")
    array = read_one(save_series(pixels, BitsStored=12, RescaleSlope=1, RescaleIntercept=lambda n: -1024 - n))
    np.testing.assert_array_equal(array, pixels.T.astype(int) - 1024 - np.arange(5))
    assert array.dtype == np.int16


@pytest.mark.parametrize(("dtype", "top"), [("u2", 4095), ("i2", -1)])
def test_monochrome1_is_turned_within_its_stored_bits(save_series: SaveSeries, dtype: str, top: int) -> None:
    pixels = make_pixels(dtype=dtype)
    paths = save_series(pixels, Modality="MR", PhotometricInterpretation="MONOCHROME1", BitsStored=12)
    np.testing.assert_array_equal(read_one(paths), top - pixels.T.astype(int))


def test_monochrome1_does_not_turn_hounsfield_units(save_series: SaveSeries) -> None:
    pixels = make_pixels()
    np.testing.assert_array_equal(read_one(save_series(pixels, PhotometricInterpretation="MONOCHROME1")), pixels.T)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_modality_lut_takes_the_place_of_the_slope(save_series: SaveSeries, as_bytes: bool) -> None:
    entries = [7, 11, 13, 900]
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4, 50, 16])
    table.ModalityLUTType = "US"
    data = np.array(entries, dtype="<u2")
    table.add_new("LUTData", "OW" if as_bytes else "US", data.tobytes() if as_bytes else entries)
    pixels = make_pixels(dtype="u2")
    array = read_one(save_series(pixels, ModalityLUTSequence=Sequence([table])))
    np.testing.assert_array_equal(array, np.array(entries)[np.clip(pixels.T.astype(int) - 50, 0, 3)])


def test_padding_gets_the_lowest_real_value_of_the_volume(save_series: SaveSeries) -> None:
    pixels = make_pixels() + 5
    padded = pixels.copy()
    padded[:, :2] = -2000
    array = read_one(save_series(padded, PixelPaddingValue=-2000, RescaleIntercept=-1000, RescaleSlope=1))
    lowest = pixels[:, 2:].min() - 1000
    assert (array[:, :2] == lowest).all()
    np.testing.assert_array_equal(array[:, 2:], pixels[:, 2:].T - 1000)
    assert array.min() == lowest


def test_a_range_of_padding_is_hidden_whole(save_series: SaveSeries) -> None:
    pixels = make_pixels(dtype="u2") + 100
    padded = pixels.copy()
    padded[0, 0, :4] = (3, 4, 5, 6)
    array = read_one(save_series(padded, PixelPaddingValue=6, PixelPaddingRangeLimit=3, Modality="MR"))
    assert (array[:4, 0, 0] == array.min()).all()
    assert array.min() >= 100


def test_padding_alone_is_refused(save_series: SaveSeries) -> None:
    with pytest.raises(InputError, match="nothing but padding"):
        read_one(save_series(np.full((4, 6, 7), 9, dtype="u2"), PixelPaddingValue=9))


def test_a_constant_series_is_refused(save_series: SaveSeries) -> None:
    with pytest.raises(InputError, match="every voxel is 9"):
        read_one(save_series(np.full((4, 6, 7), 9, dtype="u2")))


def test_float_pixels_are_read_and_nan_is_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(6, 7)).astype("f4")
    ds = make_slice(np.zeros((6, 7), "i4"), Modality="MR", SOPClassUID=MR)
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(ds, keyword)
    ds.FloatPixelData = values.tobytes()
    np.testing.assert_array_equal(read_one([save_dataset(ds, tmp_path / "a")])[:, :, 0], values.T)
    values[2, 3] = np.nan
    ds.FloatPixelData = values.tobytes()
    with pytest.raises(InputError, match="NaN or infinite"):
        read_one([save_dataset(ds, tmp_path / "a")])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        (gdcm.TransferSyntax.RLELossless, RLELossless),
        (gdcm.TransferSyntax.JPEGLosslessProcess14_1, JPEGLosslessSV1),
        (gdcm.TransferSyntax.JPEGLSLossless, JPEGLSLossless),
        (gdcm.TransferSyntax.JPEG2000Lossless, JPEG2000Lossless),
    ],
)
def test_lossless_compression_gives_the_same_values(
    save_series: SaveSeries, kind: gdcm.TransferSyntax, syntax: UID, signed: bool
) -> None:
    pixels = make_pixels((3, 32, 24), dtype="i2" if signed else "u2") - (100 if signed else 0)
    paths = [compress(path, kind) for path in save_series(pixels, SOPInstanceUID=lambda n: f"1.2.9.{n + 1}")]
    assert {dcmread(path).file_meta.TransferSyntaxUID for path in paths} == {syntax}
    np.testing.assert_array_equal(read_one(paths), pixels.T)


def test_jpeg_baseline_gives_nearly_the_same_values(save_series: SaveSeries) -> None:
    rows, columns = np.mgrid[:16, :24]
    pixels = np.stack([rows * 4 + columns * 3 + n * 20 for n in range(3)]).astype("u1")
    paths = save_series(pixels, Modality="MR")
    for path, plane in zip(paths, pixels, strict=True):
        ds, stream = dcmread(path), io.BytesIO()
        Image.fromarray(plane).save(stream, "JPEG", quality=100)
        ds.PixelData = encapsulate([stream.getvalue()])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        ds.save_as(path)
    np.testing.assert_allclose(read_one(paths), pixels.T, atol=2)


def test_lossy_jpeg2000_gives_nearly_the_same_values(save_series: SaveSeries) -> None:
    rows, columns = np.mgrid[:64, :64]
    pixels = np.stack([rows * 3 + columns + n * 20 for n in range(3)]).astype("u1")
    paths = save_series(pixels, Modality="MR")
    for path, plane in zip(paths, pixels, strict=True):
        ds, stream = dcmread(path), io.BytesIO()
        Image.fromarray(plane).save(stream, "JPEG2000", irreversible=True, quality_layers=[4], no_jp2=True)
        ds.PixelData = encapsulate([stream.getvalue()])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = JPEG2000
        ds.save_as(path)
    np.testing.assert_allclose(read_one(paths), pixels.T, atol=4)


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_bigendian.dcm",
             "MR_small_implicit.dcm", "MR_small_padded.dcm"],
)  # fmt: skip
def test_one_picture_in_every_encoding_is_the_same(name: str) -> None:
    np.testing.assert_array_equal(read_one([sample(name)]), read_one([sample("MR_small.dcm")]))


@pytest.mark.parametrize("name", ["693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"])
def test_jpeg2000_of_real_scanners_is_in_hounsfield_units(name: str) -> None:
    array = read_one([sample(name)])
    assert array.shape == (512, 512, 1)
    assert -4100 < array.min() < -900  # lossy padding included
    assert 1000 < array.max() < 4000


def test_a_deflated_file_is_read(save_series: SaveSeries) -> None:
    pixels = make_pixels()
    paths = save_series(pixels)
    for path in paths:
        ds = dcmread(path)
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        ds.save_as(path)
    np.testing.assert_array_equal(read_one(paths), pixels.T)


def test_a_compression_that_is_not_read_is_named(save_slice: SaveSlice) -> None:
    path = save_slice("a")
    ds = dcmread(path)
    ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.102")
    ds.PixelData = encapsulate([b"\0" * 64])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path)
    with pytest.raises(InputError, match=r"MPEG-4.*no decoder is installed; convert the files") as caught:
        read_one([path])
    assert str(path) in str(caught.value)


def test_a_private_encoding_is_refused(save_slice: SaveSlice) -> None:
    path = save_slice("a")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.113619.5.2\0\0"))
    assert "private or newer transfer syntax" in str(list_series([path])[0].refused)


def test_a_missing_decoder_is_named_with_its_package(save_slice: SaveSlice) -> None:
    decoders = pytest.importorskip("pydicom.pixels")
    path = compress(save_slice("a", make_pixels((1, 64, 64), "u2")[0]), gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    decoder = decoders.get_decoder(JPEGLosslessSV1)
    decoder.remove_plugin("gdcm")
    try:
        with pytest.raises(InputError, match=r"JPEG Lossless.*no decoder is installed; pip install python-gdcm"):
            read_one([path])
    finally:
        decoder.add_plugin("gdcm", ("pydicom.pixels.decoders.gdcm", "_decode_frame"))
    assert read_one([path]).shape == (64, 64, 1)


def test_damaged_compressed_pixels_are_refused_in_one_line(save_slice: SaveSlice) -> None:
    path = compress(save_slice("a", make_pixels((1, 64, 64), "u2")[0]), gdcm.TransferSyntax.JPEG2000Lossless)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 1500])
    with pytest.raises(InputError) as caught:
        read_one([path])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_pixels_are_refused(save_series: SaveSeries) -> None:
    paths = save_series(make_pixels((3, 64, 64)))
    paths[1].write_bytes(paths[1].read_bytes()[:-4000])
    (series,) = list_series(paths)
    assert f"{paths[1].name} is too small" in str(series.refused)
    with pytest.raises(InputError, match="too small"):
        read_series(series)


def test_slightly_truncated_pixels_are_refused_when_read(save_series: SaveSeries) -> None:
    paths = save_series(make_pixels((3, 64, 64)))
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    with pytest.raises(InputError) as caught:
        read_one(paths)
    assert str(paths[1]) in str(caught.value)


def test_a_file_without_pixels_is_refused(save_slice: SaveSlice) -> None:
    path = save_slice("a", np.zeros((64, 64), "u1"), Rows=4, Columns=4)
    ds = dcmread(path)
    del ds.PixelData
    ds.save_as(path)
    with pytest.raises(InputError, match="no pixels in this file"):
        read_one([path])


def test_an_absurd_size_is_refused_by_the_header(save_slice: SaveSlice) -> None:
    (series,) = list_series([save_slice("a", Rows=60000, Columns=60000, NumberOfFrames=100)])
    assert "671 GiB; at most 16 GiB" in str(series.refused)


def test_more_frames_than_the_file_can_hold_are_refused(save_slice: SaveSlice) -> None:
    path = compress(save_slice("a", make_pixels((1, 64, 64), "u2")[0]), gdcm.TransferSyntax.JPEG2000Lossless)
    ds = dcmread(path)
    ds.NumberOfFrames = 900_000
    ds.save_as(path)
    assert "too small for the 900000 frames" in str(list_series([path])[0].refused)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4), st.floats(0.2, 1))
def test_a_file_with_damage_anywhere_is_read_or_refused(changes: list[tuple[float, int]], kept: float) -> None:
    ds = make_slice(make_pixels()[0], PixelPaddingValue=-5, RescaleSlope=1, RescaleIntercept=-3, BitsStored=12)
    stream, said = io.BytesIO(), ""
    ds.save_as(stream)
    content = bytearray(stream.getvalue())
    for place, byte in changes:
        content[132 + int(place * (len(content) - 133))] = byte
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(content[: int(kept * len(content))])
        try:
            for series in list_series([path]):
                read_series(series, (1.0, 1.0, 1.0))
        except InputError as error:
            said = str(error)
    assert "\n" not in said
    assert "Jane" not in said


MEASURE = """
import resource, sys
from aaclip_med.data.dicom import list_series, read_series
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
volume, = read_series(list_series(sys.argv[1:])[0])
print(volume.array.nbytes, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_a_long_series_takes_little_more_memory_than_its_voxels(save_series: SaveSeries) -> None:
    """As 1,000 slices of 512 x 512 would: 0.5 GB for its voxels, and half as much again if it is padded."""
    pixels = np.random.default_rng(0).integers(-1000, 1000, (60, 512, 512), dtype=np.int16)
    paths = save_series(pixels, PixelPaddingValue=-1000)
    run = subprocess.run([sys.executable, "-c", MEASURE, str(paths[0].parent)], capture_output=True, text=True, check=True)
    voxels, taken = map(int, run.stdout.split())
    assert voxels == pixels.nbytes
    assert taken < 2.5 * voxels


def sample(name: str) -> Path:
    """A file that pydicom brings along."""
    found: Any = get_testdata_file(name, download=False)
    if found is None:
        pytest.skip(f"pydicom {pydicom.__version__} has no {name}")
    return Path(found)
