"""``index import`` and ``convert`` through their own parsers."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from aaclip_med.cli.benchmarking import add_convert, add_index_import, run_convert, run_index_import
from aaclip_med.data.index import read_index

from ..conftest import SaveScan
from .conftest import DrawPictures
from .test_conversion import RESC_SCANS, draw_resc
from .test_volumes import LABELS, describe


def run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    add_convert(commands)
    add_index_import(commands)
    options = parser.parse_args([str(argument) for argument in arguments])
    return run_convert(options) if options.command == "convert" else run_index_import(options)


def test_the_parsers_are_made_without_numpy() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", "import sys, aaclip_med.cli.benchmarking; print('numpy' in sys.modules)"],
        capture_output=True,
        text=True,
    )
    assert answer.stdout.strip() == "False"


def test_import_writes_an_index_and_says_what_is_in_it(
    draw: DrawPictures, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw("test/good", "1.png", "2.png")
    draw("test/Ungood", "3.png")
    assert run("import", tmp_path, "--format", "bmad-chest", "--out", tmp_path / "new" / "index.jsonl") == 0
    assert capsys.readouterr().out == "test: 2 normal, 1 abnormal, 1 of them without a mask\n"
    assert [case.label for case in read_index(tmp_path / "new" / "index.jsonl")] == [0, 0, 1]


def test_import_writes_derived_masks_beside_the_index(
    save: SaveScan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save("imagesTr/liver_0.nii.gz")
    save("labelsTr/liver_0.nii.gz", LABELS)
    describe(tmp_path, "liver_0", test=[f"./imagesTs/liver_{number}.nii.gz" for number in range(1, 6)])
    out = tmp_path / "liver.jsonl"
    assert run("import", tmp_path, "--format", "msd", "--out", out, "--lesion-labels", "2", "--class-name", "Leber") == 0
    printed = capsys.readouterr().out
    assert "no split: 0 normal, 1 abnormal" in printed
    assert "passed over, no published labels: 5 (liver_1.nii.gz, liver_2.nii.gz, liver_3.nii.gz, ...)" in printed
    case = read_index(out)[0]
    assert (case.class_name, case.mask_path) == ("Leber", tmp_path / "liver_masks" / "liver_0_lesion.nii.gz")


def test_import_takes_the_options_of_bids(save: SaveScan, tmp_path: Path) -> None:
    for name in ("01", "02"):
        save(f"sub-{name}/anat/sub-{name}_T1w.nii.gz")
        save(f"sub-{name}/anat/sub-{name}_FLAIR.nii.gz")
    save("derivatives/x/sub-02/anat/sub-02_mask.nii.gz", np.minimum(LABELS, 1))
    (tmp_path / "participants.tsv").write_text("participant_id\tgroup\nsub-01\tHC\nsub-02\tMS\n")
    options: Sequence[str] = ("--suffix", "FLAIR", "--group-column", "group", "--normal-groups", "HC")
    assert run("import", tmp_path, "--format", "bids", "--out", tmp_path / "index.jsonl", *options) == 0
    assert [(case.name, case.label) for case in read_index(tmp_path / "index.jsonl")] == [
        ("sub-01_FLAIR", 0),
        ("sub-02_FLAIR", 1),
    ]


def test_convert_says_where_the_index_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_resc(tmp_path / "source", RESC_SCANS)
    assert run("convert", "resc", tmp_path / "source", "--out", tmp_path / "out", "--recipe", "bmad") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("4 scans of 3 patients, recipe bmad\n")
    assert printed.endswith(f"see {tmp_path / 'out' / 'index.jsonl'}\n")
