"""What a run leaves behind."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.data import get_testdata_file

from aaclip_med.batch.progress import choose_progress
from aaclip_med.batch.records import INPUTS, LESIONS, SLICES, VOLUMES
from aaclip_med.batch.run import Task, score_sources
from aaclip_med.cli.main import main
from aaclip_med.data.sources import find_sources
from aaclip_med.inference.predictor import load_predictor
from tests.batch.conftest import DEMO, OBLIQUE, Table

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha"])
def test_heatmap_mask_and_labels_lie_where_the_scan_does(
    ending: str, scans: Path, tmp_path: Path, read_tables: Callable[[Path], dict[str, Table]]
) -> None:
    out = tmp_path / "out"
    assert main(["score", str(scans / "case_00.nii.gz"), *DEMO, "--heatmap-format", ending, "--out", str(out)]) == 0
    images = [sitk.ReadImage(str(next((out / kind).iterdir()))) for kind in ("heatmaps", "masks", "labels")]
    scan = sitk.ReadImage(str(scans / "case_00.nii.gz"))
    for image in images:
        for index in ((0, 0, 0), (27, 29, 2), (9, 11, 1)):
            np.testing.assert_allclose(
                image.TransformIndexToPhysicalPoint(index), scan.TransformIndexToPhysicalPoint(index), atol=1e-3
            )
    heat, mask, labels = map(sitk.GetArrayFromImage, images)
    rows = read_tables(out)["lesions"]
    np.testing.assert_array_equal(mask, heat >= np.float32(0.999))
    np.testing.assert_array_equal(labels > 0, mask > 0)
    assert len(rows) == labels.max() > 0
    for row in rows:
        k, j, i = np.nonzero(labels == int(row["lesion"]))
        for axis, found in zip("ijk", (i, j, k), strict=True):
            assert (int(row[f"{axis}_first"]), int(row[f"{axis}_last"])) == (found.min(), found.max())
        assert float(row["volume_ml"]) == pytest.approx(len(i) * abs(np.linalg.det(OBLIQUE[:3, :3])) / 1000, rel=1e-5)


def test_a_sheared_grid_is_refused_where_the_format_cannot_hold_it(
    scans: Path, tmp_path: Path, read_tables: Callable[[Path], dict[str, Table]]
) -> None:
    sheared = np.diag([2.0, 2.0, 4.0, 1.0])
    sheared[1, 2] = 1.5
    nib.save(nib.Nifti1Image(np.asarray(nib.load(scans / "case_00.nii.gz").dataobj), sheared), tmp_path / "tilted.nii.gz")
    out = tmp_path / "out"
    assert main(["score", str(tmp_path / "tilted.nii.gz"), *DEMO, "--heatmap-format", "nrrd", "--out", str(out)]) == 1
    assert "choose nii.gz" in read_tables(out)["volumes"][0]["error"]
    assert not list(out.rglob("*.nrrd"))


def test_parquet_holds_what_csv_holds_and_says_units(scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["score", str(scans), *DEMO, "--out", str(out)]) == 3
    for name, columns in (("volumes", VOLUMES), ("slices", SLICES), ("lesions", LESIONS), ("inputs", INPUTS)):
        table = pq.read_table(out / f"{name}.parquet")
        lines = (out / f"{name}.csv").read_text().splitlines()
        assert table.column_names == [column.name for column in columns] == lines[0].split(",")
        assert table.num_rows == len(lines) - 1
        for column in columns:
            said = table.schema.field(column.name).metadata
            assert (said[b"unit"].decode(), said[b"meaning"].decode()) == (column.unit, column.meaning)
    scores = pq.read_table(out / "volumes.parquet").column("score").to_pylist()
    assert scores[5] is None
    assert all(0 <= score <= 1 for score in scores[:5] + scores[6:])


def test_names_that_are_no_utf8_or_too_long_stop_no_run(
    scans: Path, tmp_path: Path, read_tables: Callable[[Path], dict[str, Table]]
) -> None:
    study = tmp_path / "study"
    study.mkdir()
    for name in (b"lat\xe9.nii.gz", b"n" * 232 + b".nii.gz", b"torn\xff.nii.gz"):
        shutil.copy(scans / f"case_0{5 * name.startswith(b'torn')}.nii.gz", study / os.fsdecode(name))
    out = tmp_path / "out"
    for _ in range(2):  # the second run finds the names of the first again
        assert main(["score", str(study), *DEMO, "--out", str(out)]) == 3
    rows = read_tables(out)["volumes"]
    assert [row["case"][:9] for row in rows] == [r"lat\xe9", "n" * 9, r"torn\xff"]
    assert r"torn\xff.nii.gz" in rows[2]["error"]
    inputs = pq.read_table(out / "inputs.parquet").column("input").to_pylist()
    assert inputs[0] == rf"{study}/lat\xe9.nii.gz"
    assert len(list((out / "heatmaps").iterdir())) == 2


def test_a_damaged_series_is_a_failed_row_and_what_is_passed_over_is_said(
    scans: Path, tmp_path: Path, read_tables: Callable[[Path], dict[str, Table]], capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    study.mkdir()
    shutil.copy(scans / "case_00.nii.gz", study)
    shutil.copy(scans / "case_00.nii.gz", study / "case_00_seg.nii.gz")
    whole = Path(get_testdata_file("CT_small.dcm")).read_bytes()
    (study / "cut.dcm").write_bytes(whole[:300])
    out = tmp_path / "out"
    assert main(["score", str(study), *DEMO, "--out", str(out)]) == 3
    assert [row["status"] for row in read_tables(out)["volumes"]] == ["ok", "failed"]
    assert "1 of 2 cases scored" in (said := capsys.readouterr().out)
    assert "1 passed over" in said
    assert "<dt>Passed over</dt><dd>1 that" in (out / "report.html").read_text()


def test_a_volumes_score_is_its_three_highest_slices_averaged_in_log_odds_as_the_words_say(
    scans: Path, tmp_path: Path, read_tables: Callable[[Path], dict[str, Table]]
) -> None:
    model = ["--adapters", "none", "--backbone", "tiny", "--preset", "brain-mri", "--progress", "none"]
    assert main(["score", str(scans), *model, "--out", str(tmp_path)]) == 3
    tables = read_tables(tmp_path)
    for row in tables["volumes"]:
        if row["status"] == "ok":
            heat = np.sort([float(line["score"]) for line in tables["slices"] if line["case"] == row["case"]])[-3:]
            pooled = np.log(heat / (1 - heat)).mean()
            assert float(row["score"]) == pytest.approx(1 / (1 + np.exp(-pooled)), rel=1e-3)
    assert "averaged in log odds" in next(column.meaning for column in VOLUMES if column.name == "score")
    assert "averaged in log odds" in (tmp_path / "report.html").read_text()


def test_the_page_on_outputs_names_every_column_with_its_unit() -> None:
    page = (DOCS / "outputs.md").read_text()
    for columns in (VOLUMES, SLICES, LESIONS, INPUTS):
        for column in columns:
            assert f"| `{column.name}` | {column.unit} | {column.meaning} |" in page


def test_the_folder_of_a_missing_organ_mask_stays_out_of_the_tables(scans: Path, tmp_path: Path) -> None:
    hidden, out = tmp_path / "DOE^JANE", tmp_path / "out"
    hidden.mkdir()
    model = ["--adapters", "none", "--backbone", "tiny", "--preset", "brain-mri", "--progress", "none"]
    assert main(["score", str(scans / "case_00.nii.gz"), *model, "--mask", str(hidden), "--out", str(out)]) == 1
    assert "no organ mask case_00.nii.gz" in (out / "volumes.csv").read_text()
    holding = {path.name for path in out.rglob("*") if path.is_file() and b"DOE^JANE" in path.read_bytes()}
    assert holding <= {"run.json", "settings.json"}


def test_names_of_folders_stay_out_of_all_tables_but_one(scans: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "DOE^JANE"
    scans.rename(hidden)
    out = tmp_path / "out"
    assert main(["score", str(hidden), *DEMO, "--out", str(out)]) == 3
    holding = {path.name for path in out.rglob("*") if path.is_file() and b"DOE^JANE" in path.read_bytes()}
    assert holding <= {"inputs.csv", "inputs.parquet"}


@pytest.mark.parametrize("style", ["plain", "json", "bar"])
def test_progress_names_each_case_once_with_its_outcome(style: str, scans: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    predictor = load_predictor("demo", "brain-mri")
    tally = score_sources(find_sources([scans]), predictor, tmp_path / "out", Task(), choose_progress(style, said))
    assert (tally.done, tally.failed) == (11, 1)
    text = said.getvalue()
    if style == "json":
        events = [json.loads(line) for line in text.splitlines()]
        assert [event["event"] for event in events] == ["begin", *["case"] * 12, "end"]
        assert [event["done"] for event in events[1:-1]] == list(range(1, 13))
        assert sorted(event["case"] for event in events[1:-1]) == [f"case_{number:02d}" for number in range(12)]
        assert events[-1]["failed"] == 1
    elif style == "plain":
        assert len(text.splitlines()) == 12
        assert "case_05  failed: " in text
    else:
        assert "12/12" in text
        assert "failed: " in text


def test_the_page_holds_the_highest_scores_of_a_very_large_run_and_says_how_many_it_leaves_out(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_tables: Callable[[Path], dict[str, Table]]
) -> None:
    monkeypatch.setattr("aaclip_med.batch.run.REPORTED", 3)
    assert main(["score", str(scans), *DEMO, "--out", str(tmp_path / "out")]) == 3
    page = (tmp_path / "out" / "report.html").read_text()
    rows = [row for row in read_tables(tmp_path / "out")["volumes"] if row["status"] == "ok"]
    shown = {row["case"] for row in rows if f"<bdi>{row['case']}</bdi>" in page}
    assert len(shown) == 3
    assert min(float(row["score"]) for row in rows if row["case"] in shown) >= max(
        float(row["score"]) for row in rows if row["case"] not in shown
    )
    assert "9 cases with lower scores are not on this page" in page


def test_onnx_runtime_finds_what_torch_does(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is an extra: pip install 'aaclip-med[onnx]'")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    heat = {}
    for engine in ("local", "onnx"):
        out = tmp_path / engine
        assert main(["score", str(scans / "case_00.nii.gz"), *DEMO, "--engine", engine, "--out", str(out)]) == 0
        heat[engine] = nib.load(out / "heatmaps" / "case_00_heatmap.nii.gz").get_fdata()
    np.testing.assert_allclose(heat["onnx"], heat["local"], atol=1e-4)
    assert not np.array_equal(heat["onnx"], heat["local"])  # another engine did compute
    assert json.loads((tmp_path / "onnx" / ".run" / "settings.json").read_text())["engine"] == "onnx"


def test_a_case_is_one_line_whatever_its_name(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scans / "case_00.nii.gz").rename(scans / "case\n00.nii.gz")
    command = ["score", str(scans / "case\n00.nii.gz"), *DEMO[:-1], "plain", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "1/1  case 00  score" in capsys.readouterr().err


def test_a_file_in_the_place_of_a_folder_of_outputs_is_named(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "masks").touch()
    assert main(["score", str(scans / "case_00.nii.gz"), *DEMO, "--out", str(tmp_path / "out")]) == 1
    assert "masks: a file is in its place; choose another --out" in capsys.readouterr().err
