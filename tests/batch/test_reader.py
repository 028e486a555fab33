"""Scans that hang, crash or devour: each costs itself alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import aaclip_med
from aaclip_med.batch.reader import Limits, Reader, StoppedError
from aaclip_med.cli.main import main
from aaclip_med.data.sources import Source, find_sources
from aaclip_med.data.volumes import Volume
from aaclip_med.errors import InputError
from tests.batch.conftest import DEMO, Table, draw_scan
from tests.batch.decoders import Devours, Ends


def a_source(path: Path, read: Callable[[], Volume] | None = None) -> Source:
    """The scan at ``path``, or what ``read`` makes of it."""
    (source,) = find_sources([path]).sources
    return Source("case", path, (path,), read or source.read)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A sound scan."""
    draw_scan(tmp_path / "scan.nii.gz", 0)
    return tmp_path / "scan.nii.gz"


def test_a_module_in_the_working_folder_is_not_run(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nibabel", "numpy", "json"):
        (scan.parent / f"{name}.py").write_text("open('has run', 'w')")
    monkeypatch.chdir(scan.parent)
    assert main(["score", scan.name, *DEMO, "--out", "out"]) == 0
    assert not Path("has run").exists()


def test_a_package_found_in_the_working_folder_is_the_reader_s_too() -> None:
    root = Path(aaclip_med.__file__).parents[1]
    program = "from aaclip_med.children import name_command; print(name_command('aaclip_med.batch.reader')[2])"
    here = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run([sys.executable, "-c", program], cwd=root, env=here, capture_output=True, text=True, check=True)
    assert f"sys.path[:] = ['{root}', " in run.stdout


@pytest.mark.parametrize(
    ("read", "words"), [(Ends(signal.SIGSEGV), "SIGSEGV"), (Ends(signal.SIGKILL), "SIGKILL"), (Devours(), "out of memory")]
)
def test_what_a_decoder_does_to_itself_is_said_and_the_next_scan_is_read(
    read: Callable[[], Volume], words: str, scan: Path
) -> None:
    reader = Reader(Limits(seconds=60, megabytes=1500))
    with pytest.raises(InputError, match=words):
        reader.read(a_source(scan, read), None)
    volume, organ = reader.read(a_source(scan), None)
    np.testing.assert_array_equal(volume.array, np.asarray(nib.load(scan).dataobj))
    assert organ is None
    reader.end()


def test_a_scan_that_is_never_done_is_given_up(scan: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nrrd")
    reader = Reader(Limits(seconds=3))
    with pytest.raises(InputError, match=r"pipe.nrrd: reading took longer than 3 s"):
        reader.read(a_source(tmp_path / "pipe.nrrd"), None)
    assert reader.read(a_source(scan), None)[0].array.shape == (28, 30, 4)
    reader.end()


def test_a_reader_that_is_ended_gives_up_what_it_reads(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nrrd")
    reader = Reader(Limits())
    threading.Timer(2.0, reader.end).start()
    with pytest.raises(StoppedError):
        reader.read(a_source(tmp_path / "pipe.nrrd"), None)
    with pytest.raises(StoppedError):
        reader.read(a_source(tmp_path / "pipe.nrrd"), None)


def test_a_folder_with_a_hanging_and_a_torn_scan_is_scored_but_for_these(
    scans: Path, tmp_path: Path, read_tables: Callable[[Path], dict[str, Table]]
) -> None:
    os.mkfifo(scans / "case_03b.nrrd")
    out = tmp_path / "out"
    assert main(["score", str(scans), *DEMO, "--case-seconds", "4", "--out", str(out)]) == 3
    rows = {row["case"]: row for row in read_tables(out)["volumes"]}
    assert [name for name, row in rows.items() if row["status"] == "failed"] == ["case_03b", "case_05"]
    assert "longer than 4 s" in rows["case_03b"]["error"]
    assert len(rows) == 13


def test_a_run_without_a_single_good_scan_ends_with_1(scans: Path, tmp_path: Path) -> None:
    assert main(["score", str(scans / "case_05.nii.gz"), *DEMO, "--out", str(tmp_path / "out")]) == 1
    assert (tmp_path / "out" / "report.html").is_file()
