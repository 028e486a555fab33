"""What ``aaclip-med evaluate`` leaves behind."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from aaclip_med.cli.main import main
from aaclip_med.data.index import Case, read_index
from aaclip_med.errors import InputError
from aaclip_med.evaluation.montage import _choose
from aaclip_med.evaluation.plots import build_curves
from aaclip_med.evaluation.report import build_latex
from aaclip_med.evaluation.run import evaluate_cases, evaluate_index
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
    cells = [line.removesuffix(r" \\").split(" & ") for line in latex.splitlines() if " & " in line][1:]
    assert [cell.replace("--", "–").replace(r"\%", "%") for cell, *_ in cells] == [name.strip() for name in head[1:]]
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in markdown.splitlines()[2:6]]
    assert [[cell.replace("--", "–") for cell in column] for column in zip(*cells, strict=True)][1:] == rows
    assert "In %, with 95 % intervals over patients" in markdown
    assert r"In \%, with 95 \% intervals" in latex
    assert all(sentence in markdown for sentence in metrics["verdict"])


def test_cases_have_a_row_each_and_no_patient(written, heads):
    text = (written / "cases.csv").read_text()
    rows = {row["case"]: row for row in csv.DictReader(text.splitlines())}
    assert list(rows) == [*(f"head_{n}" for n in range(5)), "empty"]
    assert "p0" not in text.replace(str(heads), "")
    assert rows["empty"]["status"] == "failed"
    assert rows["empty"]["score"] == ""
    assert rows["head_1"]["lesions"] == "1"
    assert 0 <= float(rows["head_1"]["dice"]) <= 1
    assert rows["head_0"]["pixel_auroc"] == rows["head_0"]["dice"] == ""
    assert all(0 <= float(row["score"]) <= 1 for row in rows.values() if row["score"])
    (failure,) = json.loads((written / "metrics.json").read_text())["failures"]
    assert rows["empty"]["reason"] == failure["error"]
    assert rows["head_0"]["reason"].startswith("no abnormal pixels among ")
    assert rows["head_1"]["reason"] == ""
    assert all(bool(row.pop("reason")) is ("" in row.values()) for row in rows.values())


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
    latex = (tmp_path / "metrics.tex").read_text()
    assert r"(doubtful \\ intervals, \\ see below)" in latex
    assert doubt.replace("%", r"\%") in latex


def _evaluate_rows(heads: Path, out: Path, keep: Callable[[dict[str, Any]], bool], **changes: Any) -> dict[str, Any]:
    """``metrics.json`` of the zero-shot tower on the rows of the index that ``keep`` accepts, each changed."""
    rows = [json.loads(line) for line in (heads / "index.jsonl").read_text().splitlines()]
    index = heads / f"{out.name}.jsonl"
    index.write_text("".join(json.dumps(row | changes) + "\n" for row in rows if keep(row)))
    options = ["--adapters", "none", "--backbone", "tiny", "--preset", "brain-mri", "--image-size", "80"]
    assert main(["evaluate", "--index", str(index), *options, "--out", str(out)]) == 0
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


def _list_unexplained(metrics: dict[str, Any]) -> set[str]:
    """What is null in ``metrics.json`` without a reason."""
    own = {name for name, value in metrics.items() if value is None} - metrics["reasons"].keys()
    return own | {
        f"{name}.{figure}"
        for name, figures in metrics["baselines"].items()
        for figure, value in figures.items()
        if (value is None) is not (figure in metrics["baseline_reasons"].get(name, {}))
    }


def test_of_normals_alone_every_figure_and_every_baselines_figure_has_its_reason(heads, tmp_path):
    metrics = _evaluate_rows(heads, tmp_path / "normals", lambda row: row["label"] == 0)
    assert metrics["baseline_reasons"].keys() == metrics["baselines"].keys() == {"intensity", "difference"}
    assert metrics["baseline_reasons"]["intensity"]["image_ap"] == "no abnormal slices among 24"
    assert not _list_unexplained(metrics)
    assert metrics["baselines_left_out"] == {"untrained": "the detector itself is the tower without adapters"}
    rows = list(csv.DictReader((tmp_path / "normals" / "cases.csv").read_text().splitlines()))
    assert [(row["lesions"], row["lesions_found"], row["false_positives"]) for row in rows] == [("0", "", "")] * 3
    assert all(row["reason"].endswith("; no lesion in any mask, so no threshold for detections") for row in rows)
    for name in ("metrics.md", "metrics.tex"):
        text = (tmp_path / "normals" / name).read_text()
        assert "slice AP: no abnormal slices among 24" in text
        assert "lesion sensitivity: no lesion in any mask" in text


def test_without_a_normal_slice_the_difference_is_left_out_and_that_is_said(heads, tmp_path, capsys):
    organ = nib.load(heads / "mask_1.nii.gz")
    nib.save(nib.Nifti1Image(np.ones(organ.shape, np.uint8), organ.affine), heads / "everywhere.nii.gz")
    metrics = _evaluate_rows(heads, tmp_path / "ill", lambda row: row["label"] == 1, mask_path="everywhere.nii.gz")
    assert metrics["normal_mean_intensity"] is None
    why = "no pixel inside a normal slice, so no normal mean"
    assert metrics["reasons"]["normal_mean_intensity"] == metrics["baselines_left_out"]["difference"] == why
    assert not _list_unexplained(metrics)
    assert f"No baseline 'difference': {why}." in capsys.readouterr().out
    assert f"left out: {why}" in (tmp_path / "ill" / "metrics.md").read_text()


def test_an_abnormal_volume_without_a_mask_says_so_in_its_row(heads, tmp_path):
    _evaluate_rows(heads, tmp_path / "bare", lambda row: row["image_path"] < "head_2", mask_path=None)
    normal, abnormal = csv.DictReader((tmp_path / "bare" / "cases.csv").read_text().splitlines())
    assert normal["reason"].startswith("no abnormal pixels among ")
    assert (abnormal["pixel_auroc"], abnormal["lesions"], abnormal["reason"]) == ("", "", "no mask")


def test_one_case_of_one_patient_is_spoken_of_in_the_singular(heads, tmp_path):
    _evaluate_rows(heads, tmp_path / "one", lambda row: row["image_path"] == "head_1.nii.gz")
    for name in ("metrics.md", "metrics.tex"):
        text = (tmp_path / "one" / name).read_text()
        assert "1 case of 1 patient, 8 slices (3 abnormal), 1 lesion; plane: axial." in text


def test_the_latex_table_has_a_label_and_no_sign_that_latex_takes_for_its_own(heads, untrained_predictor):
    evaluation = evaluate_cases(read_index(heads / "index.jsonl")[:2], untrained_predictor)
    latex = build_latex(evaluation, "50 % of R&D_1 {#2} ~$^\\", "a note")
    assert latex.startswith("% needs \\usepackage{booktabs}\n\\begin{table}\n")
    assert "\n\\label{tab:50-of-r-d-1-2}\n" in latex
    assert r"\shortstack[r]{50 \% of \\ R\&D\_1 \{\#2\} \\ \textasciitilde{}\$\textasciicircum{}\textbackslash{}" in latex
    assert r"\shortstack[r]{windowed \\ intensity}" in latex


def test_pictures_say_at_how_many_false_positives_lesions_are_found(heads, demo_predictor):
    evaluation = evaluate_cases(read_index(heads / "index.jsonl"), demo_predictor)
    *_, free = build_curves(evaluation, "heads").axes
    (label,) = free.get_legend().get_texts()
    assert label.get_text() == f"lesions {evaluation.figures['lesion_sensitivity'].value:.3f}"
    assert free.get_legend().get_title().get_text() == "mean sensitivity"


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


@pytest.fixture
def namesakes(heads: Path, tmp_path: Path) -> list[dict[str, object]]:
    """Rows of p0/t1, p1/t1 and p2/t1, normal; ``organs`` has a mask for t1."""
    rows = []
    for number in range(3):
        (tmp_path / f"p{number}").mkdir()
        scan = shutil.copy(heads / f"head_{2 * number}.nii.gz", tmp_path / f"p{number}" / "t1.nii.gz")
        rows.append({"image_path": str(scan), "label": 0, "class_name": "Brain", "patient": f"p{number}"})
    (tmp_path / "organs").mkdir()
    shutil.copy(heads / "mask_1.nii.gz", tmp_path / "organs" / "t1.nii.gz")
    return rows


@pytest.mark.parametrize("command", ["evaluate", "calibrate", "calibrate --bank", "calibrate --level-weights"])
def test_two_scans_of_one_name_do_not_share_an_organ_mask(namesakes, command, tmp_path, capsys):
    index, other = tmp_path / "index.jsonl", tmp_path / "other.jsonl"
    name, *option = command.split()
    index.write_text("".join(json.dumps(row) + "\n" for row in (namesakes[:1] if option else namesakes[:2])))
    other.write_text(json.dumps(namesakes[2]) + "\n")
    out = tmp_path / ("out" if name == "evaluate" else "out.safetensors")
    options = [*OPTIONS, "--mask", str(tmp_path / "organs"), "--out", str(out), *option, *([str(other)] if option else [])]
    assert main([name, "--index", str(index), *options]) == 2
    assert "two scans have the name t1" in (said := capsys.readouterr().err)
    assert "name the organ mask of each in its row, as organ_path" in said
    assert not (out / "metrics.json").exists()
    assert not out.is_file()


def test_parts_of_one_scan_share_its_organ_mask(namesakes, tmp_path):
    rows = [namesakes[0] | {"slices": slices} for slices in ([2, 3], [4, 4])]
    (tmp_path / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cases = read_index(tmp_path / "index.jsonl")
    Cutting(masks=tmp_path / "organs").check_names(cases)
    with pytest.raises(InputError, match=f"{cases[0].image_path} and .*p1/t1.nii.gz"):
        Cutting(masks=tmp_path / "organs").check_names([*cases, replace(cases[0], image_path=tmp_path / "p1" / "t1.nii.gz")])
    Cutting(masks=tmp_path / "organs" / "t1.nii.gz").check_names(
        [Case(tmp_path / f"p{n}" / "t1.nii.gz", 0, "") for n in (0, 1)]
    )


@pytest.mark.parametrize(
    ("options", "row", "calibrated"),
    [
        ({}, {}, True),
        ({"window": Window("hu", 0, 2000)}, {}, False),
        ({"refinement": "published"}, {}, False),
        ({}, {"plane": "coronal"}, False),
        ({}, {"organ_path": "mask_1.nii.gz"}, False),
        ({}, {"preset": "liver-ct"}, False),
    ],
)
def test_cases_have_calibrated_scores_only_where_they_are_scored_as_the_calibration_was_made(
    options, row, calibrated, heads, tmp_path
):
    normal, abnormal = (json.loads(line) for line in (heads / "index.jsonl").read_text().splitlines()[:2])
    index = heads / "unlike.jsonl"
    index.write_text(json.dumps(normal) + "\n" + json.dumps(abnormal | row) + "\n")
    evaluation = evaluate_index(index, "demo", tmp_path, preset="brain-mri", image_size=80, device="cpu", **options)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["run"]["calibrated"] is calibrated
    assert ("UNCALIBRATED" in (tmp_path / "metrics.md").read_text()) is not calibrated
    with (tmp_path / "cases.csv").open(newline="") as stream:
        scores = [float(case["score"]) for case in csv.DictReader(stream)]
    probabilities = [1 / (1 + np.exp(-record.score)) for record in evaluation.tally.records]
    assert np.allclose(scores, probabilities, atol=1e-6) is not calibrated


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


def test_rows_whose_labels_their_masks_contradict_are_named(heads, tmp_path, capsys):
    rows = [json.loads(line) for line in (heads / "index.jsonl").read_text().splitlines()[:4]]
    rows[0]["label"], rows[1]["label"] = 1, 0
    rows[3] |= {"label": 0, "slices": [0, 1]}  # beside its lesion
    (heads / "contrary.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--adapters", "demo", "--preset", "brain-mri", "--image-size", "80", "--out", str(tmp_path)]
    assert main(["evaluate", "--index", str(heads / "contrary.jsonl"), *options]) == 0
    (note,) = [line for line in capsys.readouterr().err.splitlines() if "note" in line]
    said = (tmp_path / "metrics.md").read_text()
    (caution,) = json.loads((tmp_path / "metrics.json").read_text())["cautions"]
    for text in (note, said, caution):
        assert "row 1 is labelled abnormal, its mask is empty in the slices used" in text
        assert "row 2 is labelled normal, its mask is not empty in the slices used" in text
        assert "row 3" not in text
        assert "row 4" not in text
    with (tmp_path / "cases.csv").open(newline="") as stream:
        reasons = [case["reason"] for case in csv.DictReader(stream)]
    assert [reason.startswith("labelled") for reason in reasons] == [True, True, False, False]


def test_rows_that_were_learned_from_are_named_beside_their_figures(heads, tmp_path, capsys):
    rows = [json.loads(line) for line in (heads / "index.jsonl").read_text().splitlines()[:3]]
    for row, split in zip(rows, ("train", "val", "test"), strict=True):
        row["split"] = split
    index = heads / "split.jsonl"
    index.write_text("".join(json.dumps(row) + "\n" for row in rows))
    caution = "2 of 3 rows are of split train or val"
    assert main(["evaluate", "--index", str(index), *OPTIONS, "--out", str(tmp_path / "all")]) == 0
    assert caution in capsys.readouterr().err
    assert caution in (tmp_path / "all" / "metrics.md").read_text()
    assert caution in (tmp_path / "all" / "metrics.tex").read_text()
    assert main(["evaluate", "--index", str(index), "--split", "test", *OPTIONS, "--out", str(tmp_path / "test")]) == 0
    assert "split train" not in capsys.readouterr().err


def test_the_figures_say_of_which_rows_and_by_which_cut_they_are(heads, tmp_path):
    index = heads / "one.jsonl"
    index.write_text((heads / "index.jsonl").read_text().splitlines()[1] + "\n")
    options = ["--plane", "coronal", "--stride", "2", "--window", "100", "900", "--image-score", "top5%"]
    assert main(["evaluate", "--index", str(index), *OPTIONS, *options, "--out", str(tmp_path)]) == 0
    settings = json.loads((tmp_path / "metrics.json").read_text())["settings"]
    assert settings["index"] == "one.jsonl"
    assert settings["index_sha256"] == hashlib.sha256(index.read_bytes()).hexdigest()
    assert settings["splits"] == {"none": 1}
    assert (settings["plane"], settings["planes"], settings["stride"]) == ("coronal", {"coronal": 1}, 2)
    assert settings["window"] == ["hu", 100.0, 900.0]
    assert settings["image_score"] == "top5%"
    assert "plane: coronal; one slice in 2 scored, heat interpolated between" in (tmp_path / "metrics.md").read_text()
