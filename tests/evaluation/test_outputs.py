"""What ``aaclip-med evaluate`` leaves behind."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from aaclip_med.cli.main import main
from aaclip_med.evaluation.montage import _choose
from aaclip_med.evaluation.run import evaluate_index
from aaclip_med.inference.cutting import Cutting
from aaclip_med.presets import Window

OPTIONS = ["--adapters", "demo", "--preset", "brain-mri", "--image-size", "80"]


@pytest.fixture(scope="module")
def written(heads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs for an index of which one case cannot be read."""
    out = tmp_path_factory.mktemp("evaluation")
    assert main(["evaluate", "--index", str(heads / "broken.jsonl"), *OPTIONS, "--out", str(out)]) == 3
    return out


def test_metrics_say_what_was_found_beside_the_baselines(written):
    metrics = json.loads((written / "metrics.json").read_text())
    assert set(metrics["baselines"]) == {"intensity", "difference", "untrained"}
    assert metrics["counts"]["failed"] == 1
    assert metrics["failures"][0]["case"] == "empty"
    assert metrics["intervals"]["pixel_auroc"][0] <= metrics["pixel_auroc"] <= metrics["intervals"]["pixel_auroc"][1]
    assert len(metrics["verdict"]) == 2
    for rate in ("0.125", "0.25", "0.5", "1", "2", "4", "8"):
        assert 0 <= metrics[f"lesion_sensitivity_at_{rate}"] <= 1


def test_the_rows_in_markdown_and_latex_say_the_same(written):
    metrics = json.loads((written / "metrics.json").read_text())
    markdown = (written / "metrics.md").read_text()
    latex = (written / "metrics.tex").read_text()
    value = f"{100 * metrics['pixel_auroc']:.2f}"
    head, rule, row = (line.split("|")[1:-1] for line in markdown.splitlines()[:3])
    assert len(head) == len(rule) == len(row)
    assert row[head.index(" pixel AUROC ")].strip().startswith(value)
    assert f"{value}\\,[" in latex
    assert latex.count("\\\\") == 5
    assert "In %, with 95 % intervals over patients" in markdown
    assert r"In \%, with 95 \% intervals" in latex
    assert all(sentence in markdown for sentence in metrics["verdict"])


def test_cases_have_a_row_each_and_no_patient(written):
    text = (written / "cases.csv").read_text()
    rows = {row["case"]: row for row in csv.DictReader(text.splitlines())}
    assert list(rows) == [*(f"head_{n}" for n in range(5)), "empty"]
    assert "p0" not in text
    assert rows["empty"]["status"] == "failed"
    assert rows["empty"]["score"] == ""
    assert rows["head_1"]["lesions"] == "1"
    assert 0 <= float(rows["head_1"]["dice"]) <= 1
    assert rows["head_0"]["pixel_auroc"] == rows["head_0"]["dice"] == ""
    assert all(0 <= float(row["score"]) <= 1 for row in rows.values() if row["score"])


def test_the_pictures_show_curves_and_outlined_truth(written):
    curves = np.asarray(Image.open(written / "curves.png").convert("RGB"))
    montage = np.asarray(Image.open(written / "montage.png").convert("RGB")).astype(int)
    assert curves.shape[0] > 300
    assert (curves == (0x1F, 0x4E, 0x79)).all(axis=-1).sum() > 300
    assert (np.abs(montage - (0x3D, 0xDC, 0x97)).sum(axis=-1) < 30).sum() > 100


def test_best_median_and_worst_are_each_shown_once():
    assert _choose(1) == [("only", 0)]
    assert _choose(2) == [("best", 0), ("worst", 1)]
    assert _choose(3) == [("best", 0), ("median", 1), ("worst", 2)]
    assert _choose(11) == [("best", 0), ("best", 1), ("median", 4), ("median", 5), ("worst", 9), ("worst", 10)]


def test_the_terminal_tells_that_a_window_beats_the_detector_and_that_three_patients_are_few(heads, tmp_path, capsys):
    options = ["--adapters", "none", "--backbone", "tiny", "--preset", "brain-mri", "--image-size", "80"]
    assert main(["evaluate", "--index", str(heads / "index.jsonl"), *options, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "A window beats this detector: pixel_auroc" in printed
    assert "A window beats this detector" in (tmp_path / "metrics.md").read_text()
    (doubt,) = json.loads((tmp_path / "metrics.json").read_text())["doubts"]
    assert doubt.startswith("Doubtful intervals: 3 patients, 2 of them abnormal, 3 with normal slices.")
    assert doubt in printed
    markdown = (tmp_path / "metrics.md").read_text()
    assert doubt in markdown
    assert "(doubtful intervals, see below)" in markdown.splitlines()[2]
    assert "(doubtful intervals, see below)" in (tmp_path / "metrics.tex").read_text()


def test_where_no_case_can_be_scored_the_exit_code_is_1(heads, tmp_path, capsys):
    index = heads / "only_empty.jsonl"
    index.write_text((heads / "broken.jsonl").read_text().splitlines()[-1] + "\n")
    assert main(["evaluate", "--index", str(index), *OPTIONS, "--out", str(tmp_path)]) == 1
    assert "failed" in capsys.readouterr().err
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["pixel_auroc"] is None
    assert metrics["reasons"]["pixel_auroc"] == "no pixels at all"
    assert not (tmp_path / "montage.png").exists()


def test_an_organ_mask_and_a_window_change_what_is_judged(heads, tmp_path):
    organs = tmp_path / "organs"
    organs.mkdir()
    for number in range(5):
        (organs / f"head_{number}.nii.gz").write_bytes((heads / "mask_1.nii.gz").read_bytes())
    options = [*OPTIONS, "--mask", str(organs), "--window", "100", "900", "--image-score", "top5%"]
    assert main(["evaluate", "--index", str(heads / "index.jsonl"), *options, "--out", str(tmp_path / "out")]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    organ = nib.load(heads / "mask_1.nii.gz").get_fdata() > 0
    shown = [nib.load(heads / f"head_{number}.nii.gz").get_fdata()[organ] for number in (0, 2, 4)]
    assert metrics["counts"]["slices"] == 5 * 3
    assert metrics["normal_mean_intensity"] == pytest.approx(((np.concatenate(shown) - 100) / 800).mean(), rel=0.05)
    assert metrics["slice_score"] == "the mean of its map's highest 5 %, smoothed along a volume (Gaussian, 0.4 patches)"
    assert metrics["slice_score"] in (tmp_path / "out" / "metrics.md").read_text()


def test_the_command_and_the_function_take_the_same_options(heads, tmp_path):
    index = heads / "two.jsonl"
    index.write_text("".join(line + "\n" for line in (heads / "index.jsonl").read_text().splitlines()[:2]))
    options = [*OPTIONS, "--plane", "native", "--stride", "2", "--window", "100", "900", "--image-score", "top5%"]
    assert main(["evaluate", "--index", str(index), *options, "--out", str(tmp_path / "command")]) == 0
    evaluation = evaluate_index(
        str(index),
        "demo",
        str(tmp_path / "function"),
        cutting=Cutting(plane="native", stride=2),
        image_score="top5%",
        preset="brain-mri",
        image_size=80,
        window=Window("hu", 100, 900),
    )
    texts = [(tmp_path / name / "metrics.json").read_text() for name in ("command", "function")]
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["pixel_auroc"] == evaluation.figures["pixel_auroc"].value
