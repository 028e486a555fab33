"""Decoders that crash: the process they run in, and what becomes of the file and of those after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gdcm
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate

from aaclip_med.children import name_command
from aaclip_med.data.dicom import list_series, read_series
from aaclip_med.data.dicom.guard import Guard
from aaclip_med.errors import InputError

from .conftest import SaveSlice, compress, make_pixels

JPEG_PRECISION, JPEG2000_PRECISION = 6, 42
"""Where a stream's header says how many bits a value has: at 127, GDCM 3.2 ends its process with a signal."""
PIXELS = make_pixels((1, 64, 64), "u2")[0]


def damage(path: Path, place: int) -> Path:
    """In place: byte ``place`` of the first frame's stream becomes 127."""
    ds = dcmread(path)
    content = bytearray(ds.PixelData)
    content[8 + 8 + place] = 127  # behind the empty offset table and the tag and length of the frame's item
    ds.PixelData = bytes(content)
    ds.save_as(path)
    return path


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        (gdcm.TransferSyntax.JPEGLosslessProcess14_1, JPEG_PRECISION),
        (gdcm.TransferSyntax.JPEGLSLossless, JPEG_PRECISION),
        (gdcm.TransferSyntax.JPEG2000Lossless, JPEG2000_PRECISION),
    ],
)
def test_a_stream_that_crashes_its_decoder_costs_one_file(save_slice: SaveSlice, kind: gdcm.TransferSyntax, place: int) -> None:
    bad = damage(compress(save_slice("bad", PIXELS, SeriesInstanceUID="1.2.1"), kind), place)
    good = compress(save_slice("good", PIXELS, SeriesInstanceUID="1.2.2"), kind)
    one, other = list_series([bad, good])
    with pytest.raises(InputError) as caught:
        read_series(one)
    assert str(bad) in str(caught.value)
    assert "copy or export it again" in str(caught.value)
    np.testing.assert_array_equal(read_series(other)[0].array[:, :, 0], PIXELS.T)


@pytest.fixture
def guard() -> Iterator[Guard]:
    guard = Guard()
    yield guard
    guard.end()


def test_a_crash_is_told_by_its_name(guard: Guard, save_slice: SaveSlice) -> None:
    path = compress(save_slice("a", PIXELS), gdcm.TransferSyntax.JPEGLSLossless)
    ds = dcmread(path)
    stream = bytearray(ds.PixelData[16:])
    stream[JPEG_PRECISION] = 127
    ds.PixelData = encapsulate([bytes(stream)])
    with pytest.raises(InputError, match=r"crashed on them \(SIG"):
        guard.decode(ds)


def test_one_process_decodes_one_file_after_another(guard: Guard, save_slice: SaveSlice) -> None:
    ds = dcmread(compress(save_slice("a", PIXELS), gdcm.TransferSyntax.JPEG2000Lossless))
    np.testing.assert_array_equal(guard.decode(ds), PIXELS)
    process = guard._process
    np.testing.assert_array_equal(guard.decode(ds), PIXELS)
    assert guard._process is process


def test_a_process_that_was_killed_meanwhile_is_replaced(guard: Guard, save_slice: SaveSlice) -> None:
    ds = dcmread(compress(save_slice("a", PIXELS), gdcm.TransferSyntax.JPEG2000Lossless))
    guard.decode(ds)
    assert guard._process is not None
    os.kill(guard._process.pid, signal.SIGKILL)
    guard._process.wait()
    np.testing.assert_array_equal(guard.decode(ds), PIXELS)


def test_decoding_that_takes_too_long_is_given_up(guard: Guard, save_slice: SaveSlice) -> None:
    ds = dcmread(compress(save_slice("a", PIXELS), gdcm.TransferSyntax.JPEG2000Lossless))
    with pytest.raises(InputError, match="too long"):
        guard.decode(ds, seconds=1e-6)
    np.testing.assert_array_equal(guard.decode(ds), PIXELS)


def test_the_decoder_imports_nothing_from_the_working_folder(
    guard: Guard, save_slice: SaveSlice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = dcmread(compress(save_slice("a", PIXELS), gdcm.TransferSyntax.JPEG2000Lossless))
    for name in ("numpy", "pydicom", "json"):
        (tmp_path / f"{name}.py").write_text("open('has run', 'w')")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(guard.decode(ds), PIXELS)
    assert not Path("has run").exists()


def test_the_process_ends_when_its_parent_does() -> None:
    subprocess.run(name_command("aaclip_med.data.dicom.guard"), stdin=subprocess.DEVNULL, check=True, timeout=60)


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits")
def test_a_parent_with_little_memory_decodes_too(save_slice: SaveSlice) -> None:
    path = compress(save_slice("a", PIXELS), gdcm.TransferSyntax.JPEG2000Lossless)
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (2**31, 2**31));"
        "from pydicom import dcmread; from aaclip_med.data.dicom.guard import GUARD;"
        "print(GUARD.decode(dcmread(sys.argv[1])).sum())"
    )
    run = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert int(run.stdout) == PIXELS.sum()
