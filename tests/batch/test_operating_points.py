"""A run's threshold by what it does to normal volumes, from calibration to the outputs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from aaclip_med.cli.main import main
from tests.batch.conftest import draw_scan

MODEL = ["--preset", "brain-mri"]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Five normal scans, and adapters calibrated on them."""
    folder = tmp_path_factory.mktemp("normals")
    rows = []
    for number, seed in enumerate((1, 2, 4, 5, 7)):
        draw_scan(folder / f"n{number}.nii.gz", seed)
        rows.append({"image_path": f"n{number}.nii.gz", "label": 0, "class_name": "Brain"})
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    adapters = folder / "calibrated.safetensors"
    command = ["calibrate", "--index", str(folder / "index.jsonl"), "--adapters", "demo", *MODEL, "--minimum-ml", "0.05"]
    assert main([*command, "--out", str(adapters)]) == 0
    return folder, adapters


def score(calibrated: tuple[Path, Path], out: Path, *options: str) -> list[dict[str, str]]:
    folder, adapters = calibrated
    command = ["score", str(folder), "--adapters", str(adapters), "--progress", "none", "--minimum-ml", "0.05", *options]
    assert main([*command, "--out", str(out)]) == 0
    with (out / "volumes.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("allowed", [0.2, 1.0])
def test_normal_volumes_have_as_many_candidates_as_were_allowed(
    allowed: float, calibrated: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = score(calibrated, tmp_path, "--false-positives", str(allowed))
    assert np.mean([int(row["candidates"]) for row in rows]) <= allowed
    said = f"at most {allowed:g} candidates a normal volume, on average over 5"
    assert {row["operating_point"] for row in rows} == {said}
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["operating_point"] == said
    assert run["threshold"] == pytest.approx(float(rows[0]["threshold"]), rel=1e-5)
    assert said in (tmp_path / "report.html").read_text()


def test_a_level_leaves_no_more_normal_volumes_with_findings(calibrated: tuple[Path, Path], tmp_path: Path) -> None:
    rows = score(calibrated, tmp_path, "--level", "0.4")
    assert sum(int(row["candidates"]) > 0 for row in rows) <= 2
    assert "a chance of at most 0.4" in rows[0]["operating_point"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--false-positives", "1", "--minimum-ml", "0"], "counted with --minimum-ml 0.05, not 0"),
        (["--level", "0.01"], "needs 99 normal volumes"),
        (["--threshold", "1.5"], "heat lies between 0 and 1"),
    ],
)
def test_a_point_that_the_calibration_does_not_know_is_refused(
    options: list[str], words: str, calibrated: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, adapters = calibrated
    assert main(["score", str(folder), "--adapters", str(adapters), *options, "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err


def test_uncalibrated_adapters_know_no_false_positives(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--adapters", "none", "--backbone", "tiny", *MODEL]
    assert main(["score", str(scans), *model, "--false-positives", "1", "--out", str(tmp_path / "out")]) == 2
    assert "run aaclip-med calibrate" in capsys.readouterr().err
