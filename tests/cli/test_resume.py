"""A scoring run that is killed, taken up again, repeated, or started twice."""

from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from aaclip_med.batch.ledger import lock_folder
from aaclip_med.cli.main import main


@pytest.fixture
def folder(study: Path, tmp_path: Path) -> Path:
    """Twelve scans, one of them torn."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(12):
        shutil.copy(study / "images" / f"head_{number % 4}.nii.gz", scans / f"case_{number:02d}.nii.gz")
    whole = (scans / "case_05.nii.gz").read_bytes()
    (scans / "case_05.nii.gz").write_bytes(whole[: len(whole) // 2])
    return scans


def tables(out: Path) -> dict[str, list[dict[str, str]]]:
    """The three tables without the column that tells the time."""
    found = {}
    for name in ("volumes", "slices", "lesions"):
        with (out / f"{name}.csv").open() as file:
            found[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    return found


def test_a_run_killed_at_random_moments_ends_with_the_tables_of_an_undisturbed_one(
    folder: Path, adapters: Path, tmp_path: Path
) -> None:
    command = ["score", str(folder), "--adapters", str(adapters), "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 3
    rng = random.Random(0)
    broken = tmp_path / "broken"
    for _ in range(3):
        run = subprocess.Popen(
            [sys.executable, "-m", "aaclip_med", *command, str(broken)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.time() + 60
        wanted = len(list((broken / "heatmaps").glob("*.nii.gz"))) + 1 if broken.exists() else 1
        while time.time() < deadline and run.poll() is None:
            if (broken / "heatmaps").is_dir() and len(list((broken / "heatmaps").glob("[!.]*.nii.gz"))) >= wanted:
                break
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    before = {path.name: path.stat().st_mtime_ns for path in (broken / "heatmaps").glob("[!.]*.nii.gz")}
    assert main([*command, str(broken)]) == 3
    assert tables(broken) == tables(tmp_path / "whole")
    records = len(list((broken / ".run" / "cases").iterdir()))
    assert records == 11
    repeated = sum((broken / "heatmaps" / name).stat().st_mtime_ns != stamp for name, stamp in before.items())
    assert repeated <= 1
    assert not list(broken.rglob(".*.nii.gz"))


def test_a_repeated_run_scores_only_what_changed(study: Path, folder: Path, adapters: Path, tmp_path: Path) -> None:
    command = ["score", str(folder), "--adapters", str(adapters), "--out", str(tmp_path / "out")]
    assert main(command) == 3
    heatmaps = tmp_path / "out" / "heatmaps"
    before = {path.name: path.stat().st_mtime_ns for path in heatmaps.iterdir()}
    shutil.copy(study / "images" / "head_1.nii.gz", folder / "case_05.nii.gz")
    shutil.copy(study / "images" / "head_3.nii.gz", folder / "case_02.nii.gz")
    assert main(command) == 0
    changed = {path.name for path in heatmaps.iterdir() if path.stat().st_mtime_ns != before.get(path.name)}
    assert changed == {"case_05_heatmap.nii.gz", "case_02_heatmap.nii.gz"}


def test_another_setting_is_refused_unless_asked_for(
    study: Path, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", str(study / "images"), "--adapters", str(adapters), "--out", str(tmp_path)]
    assert main(command) == 0
    assert main([*command, "--threshold", "0.9"]) == 2
    assert "other settings (threshold)" in capsys.readouterr().err
    assert main([*command, "--threshold", "0.9", "--overwrite"]) == 0


def test_two_runs_do_not_share_a_folder(
    study: Path, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with lock_folder(tmp_path):
        assert main(["score", str(study / "images"), "--adapters", str(adapters), "--out", str(tmp_path)]) == 2
    assert "another run is writing there" in capsys.readouterr().err
    assert not (tmp_path / "volumes.csv").exists()


def test_scores_of_a_record_are_those_of_the_run_that_made_it(study: Path, adapters: Path, tmp_path: Path) -> None:
    command = ["score", str(study / "images"), "--adapters", str(adapters), "--out", str(tmp_path)]
    assert main(command) == 0
    first = tables(tmp_path)
    assert main(command) == 0
    assert tables(tmp_path) == first
    assert np.isfinite([float(row["score"]) for row in first["volumes"]]).all()


def test_a_case_that_changed_and_can_no_longer_be_scored_leaves_no_older_heatmap(
    folder: Path, adapters: Path, tmp_path: Path
) -> None:
    command = ["score", str(folder), "--adapters", str(adapters), "--out", str(tmp_path / "out")]
    assert main(command) == 3
    torn = folder / "case_01.nii.gz"
    torn.write_bytes(torn.read_bytes()[:200])
    assert main(command) == 3
    failed = [row["case"] for row in tables(tmp_path / "out")["volumes"] if row["status"] == "failed"]
    assert failed == ["case_01", "case_05"]
    assert not (tmp_path / "out" / "heatmaps" / "case_01_heatmap.nii.gz").exists()


def test_a_changed_organ_mask_is_noticed(study: Path, adapters: Path, tmp_path: Path) -> None:
    organs = tmp_path / "organs"
    organs.mkdir()
    shutil.copy(study / "masks" / "head_1.nii.gz", organs / "head_1.nii.gz")
    command = ["score", str(study / "images" / "head_1.nii.gz"), "--adapters", str(adapters), "--mask", str(organs)]
    command += ["--out", str(tmp_path / "out")]
    assert main(command) == 0
    first = tables(tmp_path / "out")
    organ = nib.load(study / "masks" / "head_1.nii.gz")
    smaller = np.asarray(organ.dataobj).copy()
    smaller[:, :, 2] = 0
    nib.save(nib.Nifti1Image(smaller, organ.affine), organs / "head_1.nii.gz")
    assert main(command) == 0
    slices = [row["slice"] for row in tables(tmp_path / "out")["slices"]]
    assert [row["slice"] for row in first["slices"]] == ["2", "3", "4"]
    assert slices == ["3", "4"]
