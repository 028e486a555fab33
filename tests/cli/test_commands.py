"""The commands from end to end, through the same door a user takes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from aaclip_med.cli.main import build_parser, main
from aaclip_med.data.index import read_index, write_index
from aaclip_med.errors import InputError
from aaclip_med.inference.cutting import Cutting, forget_unlike_calibration
from aaclip_med.inference.predictor import load_predictor
from aaclip_med.model.checkpoint import read_checkpoint
from aaclip_med.model.config import FIDELITIES
from scripts.site_hooks import walk_commands


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_help_answers_without_torch_and_numpy() -> None:
    answer = subprocess.run([sys.executable, "-X", "importtime", "-m", "aaclip_med", "--help"], capture_output=True, text=True)
    assert answer.returncode == 0
    assert "| torch" not in answer.stderr
    assert "numpy" not in answer.stderr


def test_training_leaves_one_file_that_says_how_it_was_made(adapters: Path) -> None:
    with safe_open(adapters, framework="np") as stored:
        about = json.loads(stored.metadata()["aaclip_med"])
    assert about["preset"] == "brain-mri"
    assert about["config"]["backbone"] == "tiny"
    assert about["config"]["image_size"] == 40
    assert about["calibration"] is None
    assert len(about["tower_hash"]) == 64
    story = json.loads((adapters.parent / "training.json").read_text())
    assert [len(story["stages"][stage]["epochs"]) for stage in ("text", "image")] == [1, 2]
    assert story["slices"]["validation"] > 0
    assert list((adapters.parent / "tensorboard").rglob("events*"))


def test_scoring_gives_heatmaps_in_each_inputs_own_grid(study: Path, adapters: Path, tmp_path: Path) -> None:
    assert main(["score", str(study / "images"), "--adapters", str(adapters), "--out", str(tmp_path)]) == 0
    source = nib.load(study / "images" / "head_1.nii.gz")
    heatmap = nib.load(tmp_path / "heatmaps" / "head_1_heatmap.nii.gz")
    assert heatmap.shape == source.shape
    assert np.array_equal(heatmap.affine, source.affine)
    assert heatmap.get_data_dtype() == np.float32
    assert (heatmap.header["qform_code"], heatmap.header["sform_code"]) == (
        source.header["qform_code"],
        source.header["sform_code"],
    )
    assert b"uncalibrated" in bytes(heatmap.header["descrip"])
    values = heatmap.get_fdata()
    assert 0 <= values.min() < values.max() <= 1
    volumes = read_table(tmp_path / "volumes.csv")
    assert [row["case"] for row in volumes] == [f"head_{number}" for number in range(4)]
    assert all(row["calibrated"] == "False" and row["p_value"] == "" and row["status"] == "ok" for row in volumes)
    slices = read_table(tmp_path / "slices.csv")
    assert sorted({int(row["slice"]) for row in slices}) == list(range(8))
    assert (tmp_path / "lesions.csv").is_file()
    account = json.loads((tmp_path / "run.json").read_text())
    assert account["failed"] == 0
    assert account["versions"]["torch"]


def test_a_case_is_scored_the_same_alone_as_in_a_folder(study: Path, adapters: Path, tmp_path: Path) -> None:
    for inputs, out in ((study / "images", "all"), (study / "images" / "head_2.nii.gz", "one")):
        assert main(["score", str(inputs), "--adapters", str(adapters), "--out", str(tmp_path / out)]) == 0
    both = [nib.load(tmp_path / out / "heatmaps" / "head_2_heatmap.nii.gz").get_fdata() for out in ("all", "one")]
    assert np.array_equal(*both)


def test_one_bad_case_is_reported_and_the_rest_is_scored(
    study: Path, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(study / "images" / "head_1.nii.gz", tmp_path / "good.nii.gz")
    whole = (tmp_path / "good.nii.gz").read_bytes()
    (tmp_path / "torn.nii.gz").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    assert (
        main(
            [
                "score",
                str(tmp_path / "good.nii.gz"),
                str(tmp_path / "torn.nii.gz"),
                "--adapters",
                str(adapters),
                "--out",
                str(out),
            ]
        )
        == 3
    )
    assert [row["status"] for row in read_table(out / "volumes.csv")] == ["ok", "failed"]
    assert [path.name for path in (out / "heatmaps").iterdir()] == ["good_heatmap.nii.gz"]
    assert "torn.nii.gz" in capsys.readouterr().err


def test_pictures_are_scored_too(adapters: Path, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "slice.png")
    assert main(["score", str(tmp_path / "slice.png"), "--adapters", str(adapters), "--out", str(tmp_path / "out")]) == 0
    assert nib.load(tmp_path / "out" / "heatmaps" / "slice_heatmap.nii.gz").shape == (60, 40, 1)


def test_calibrated_scores_are_fractions_with_p_values(study: Path, adapters: Path, tmp_path: Path) -> None:
    calibrated = tmp_path / "calibrated.safetensors"
    options = ["--index", str(study / "normal.jsonl"), "--adapters", str(adapters), "--out", str(calibrated)]
    assert main(["calibrate", *options]) == 0
    assert main(["score", str(study / "images"), "--adapters", str(calibrated), "--out", str(tmp_path / "out")]) == 0
    volumes = read_table(tmp_path / "out" / "volumes.csv")
    assert all(row["calibrated"] == "True" and 1 / 3 - 1e-5 <= float(row["p_value"]) <= 1 for row in volumes)
    heatmap = nib.load(tmp_path / "out" / "heatmaps" / "head_0_heatmap.nii.gz")
    head = nib.load(study / "images" / "head_0.nii.gz").get_fdata() > 0
    assert 0.3 < np.median(heatmap.get_fdata()[head]) < 0.7
    assert b"fraction" in bytes(heatmap.header["descrip"])


def test_evaluation_writes_the_five_figures(study: Path, adapters: Path, tmp_path: Path) -> None:
    assert main(["evaluate", "--index", str(study / "train.jsonl"), "--adapters", str(adapters), "--out", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for name in ("pixel_auroc", "pixel_ap", "image_auroc", "image_ap", "volume_auroc"):
        assert 0 <= metrics[name] <= 1
    assert metrics["counts"]["abnormal_slices"] == 6


def test_figures_of_one_class_are_null_with_a_reason(study: Path, adapters: Path, tmp_path: Path) -> None:
    assert main(["evaluate", "--index", str(study / "normal.jsonl"), "--adapters", str(adapters), "--out", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for name in ("pixel_auroc", "pixel_ap", "image_auroc", "image_ap", "volume_auroc"):
        assert metrics[name] is None
        assert "abnormal" in metrics["reasons"][name]


def test_zero_shot_needs_no_adapters(study: Path, tmp_path: Path) -> None:
    options = ["--adapters", "none", "--backbone", "tiny", "--image-size", "40", "--preset", "brain-mri"]
    assert main(["score", str(study / "images" / "head_1.nii.gz"), *options, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "heatmaps" / "head_1_heatmap.nii.gz").is_file()


def test_indexes_are_built_split_and_sampled(study: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.jsonl"
    assert main(["index", "build", str(study), "--preset", "brain-mri", "--out", str(index)]) == 0
    assert main(["index", "check", str(index)]) == 0
    assert main(["index", "few-shot", str(index), "--shots", "1", "--out", str(tmp_path / "few.jsonl")]) == 0
    assert len((tmp_path / "few.jsonl").read_text().splitlines()) == 2
    fractions = ["--fractions", "0.5", "0", "0.5"]
    assert main(["index", "split", str(index), *fractions, "--out", str(tmp_path / "split.jsonl")]) == 0
    assert '"split": "test"' in (tmp_path / "split.jsonl").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "{tmp}/missing.nii.gz", "--adapters", "{adapters}"], "missing.nii.gz"),
        (["score", "{tmp}", "--adapters", "{adapters}"], "no image"),
        (["score", "{head}", "--adapters", "{tmp}/none.safetensors"], "no such adapters"),
        (["score", "{head}", "--adapters", "{torn}"], "damaged"),
        (["score", "{head}", "--adapters", "{adapters}", "--backbone", "ViT-B-32"], "was made for backbone 'tiny'"),
        (["score", "{head}", "--adapters", "{adapters}", "--device", "cuda:7"], "cuda"),
        (["score", "{head}", "--adapters", "{adapters}", "--batch-size", "0"], "batch size"),
        (["score", "{head}", "--adapters", "{adapters}", "--image-size", "0"], "image size 0"),
        (["score", "{head}", "--adapters", "{adapters}", "--case-seconds", "0"], "--case-seconds 0: take more than 0"),
        (["score", "{head}", "--adapters", "{adapters}", "--case-seconds", "-1"], "--case-seconds -1: take more than 0"),
        (["score", "{head}", "--adapters", "{adapters}", "--case-seconds", "nan"], "--case-seconds nan: take more than 0"),
        (["score", "{head}", "--adapters", "{adapters}", "--case-seconds", "inf"], "--case-seconds inf: take more than 0"),
        (["score", "{head}", "--adapters", "{adapters}", "--case-megabytes", "-5"], "--case-megabytes -5: take 0 or more"),
        (["score", "", "--adapters", "{adapters}"], "an empty argument (inputs)"),
        (["score", "{head}", "", "--adapters", "{adapters}"], "an empty argument (inputs)"),
        (["score", "{head}", "--adapters", ""], "an empty argument (adapters)"),
        (["score", "{head}", "--adapters", "{adapters}", "--mask", ""], "an empty argument (mask)"),
        (["index", "build", "", "--preset", "brain-mri"], "an empty argument (folder)"),
        (["train", "--preset", "brain-mri", "--backbone", "tiny", "--image-size", "0", "--index", "{index}"], "image size 0"),
        (
            ["train", "--preset", "brain-mri", "--backbone", "tiny", "--seed", "1" + 20 * "0", "--index", "{index}"],
            "seed 100000000000000000000: take a whole number from 0 to 4294967295",
        ),
        (["evaluate", "--index", "{broken}", "--adapters", "{adapters}"], "broken.jsonl:2"),
        (["train", "--preset", "brain-mri", "--backbone", "tiny", "--index", "{broken}"], "broken.jsonl:2"),
        (["train", "--preset", "brain-mri", "--backbone", "nonsense", "--index", "{index}"], "unknown backbone 'nonsense'"),
        (["train", "--preset", "brain-mri", "--backbone", "tiny", "--image-size", "33", "--index", "{index}"], "image size 33"),
        (
            ["train", "--preset", "brain-mri", "--backbone", "tiny", "--adapters", "none", "--index", "{index}"],
            "nothing to train",
        ),
    ],
)
def test_bad_input_gets_one_clear_line_and_exit_code_2(
    arguments: list[str], words: str, study: Path, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    torn, broken = tmp_path / "torn.safetensors", tmp_path / "broken.jsonl"
    torn.write_bytes(adapters.read_bytes()[:2000])
    first = json.dumps({"image_path": str(study / "images" / "head_0.nii.gz"), "label": 0, "class_name": "Brain"})
    broken.write_text(f"{first}\n{{not json\n")
    places = {"tmp": empty, "adapters": adapters, "torn": torn, "broken": broken}
    places |= {"head": study / "images" / "head_0.nii.gz", "index": study / "train.jsonl"}
    out = tmp_path / "out"
    code = main([argument.format(**places) for argument in arguments] + ["--out", str(out)])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("aaclip-med:")]
    assert code == 2
    assert len(lines) == 1
    assert words in lines[0]
    assert not list(out.rglob("*.nii.gz"))
    assert not (out / "adapters.safetensors").exists()


def test_training_from_adapters_takes_their_own_backbone_and_fidelity(study: Path, adapters: Path, tmp_path: Path) -> None:
    begun = read_checkpoint(adapters)
    begun = replace(begun, config=replace(begun.config, fidelity=FIDELITIES["paper"]))
    (tmp_path / "begun.safetensors").write_bytes(begun.to_bytes())
    arguments = ["--preset", "brain-mri", "--text-epochs", "1", "--image-epochs", "1", "--index", str(study / "train.jsonl")]
    assert main(["train", *arguments, "--adapters", str(tmp_path / "begun.safetensors"), "--out", str(tmp_path)]) == 0
    assert read_checkpoint(tmp_path / "adapters.safetensors").config == begun.config


def test_training_offers_no_precision_that_only_scoring_has(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--index", "rows.jsonl", "--preset", "brain-mri", "--out", "out", "--precision", "int8"])
    assert "invalid choice: 'int8'" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["-1", "1.5", "many"])
@pytest.mark.parametrize(
    "command",
    [
        "index few-shot rows.jsonl --shots 1 --out out.jsonl --seed",
        "index split rows.jsonl --out out.jsonl --seed",
        "montage --index rows.jsonl --preset brain-mri --out out.png --seed",
        "train --index rows.jsonl --preset brain-mri --out out --seed",
        "train --index rows.jsonl --preset brain-mri --out out --workers",
        "synthesise --index rows.jsonl --preset brain-mri --out out --seed",
        "demo --out out --seed",
        "ablate --index rows.jsonl --preset brain-mri --out out --seeds 0",
        "protocol bmad --data . --out out --seeds 0",
        "score scan.nii.gz --adapters demo --out out --readers",
    ],
)
def test_seeds_and_counts_are_whole_numbers_from_0(command: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command.split(), value])
    assert end.value.code == 2
    assert f"'{value}' is no whole number from 0" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["score", "scan"], ["demo"], ["convert", "liver", "folder"]])
def test_an_empty_output_is_refused_and_no_name_for_the_current_folder(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = [] if command[0] != "score" else ["--adapters", "demo"]
    assert main([*command, *shown, "--out", ""]) == 2
    assert "an empty argument (out)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_output_is_exit_code_1(
    study: Path, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    options = ["--adapters", str(adapters), "--out", str(tmp_path / "file")]
    assert main(["score", str(study / "images"), *options]) == 1
    assert "a file is in its place" in capsys.readouterr().err


def faulty_volume(fault: str, path: Path) -> Path:
    """A NIfTI file with one fault."""
    array = np.random.default_rng(0).normal(300, 40, (20, 22, 6)).astype(np.float32)
    affine = np.diag([2.0, 2.0, 4.0, 1.0])
    if fault == "NaN":
        array[3, 4, 2] = np.nan
    elif fault == "infinite":
        array[3, 4, 2] = np.inf
    elif fault == "constant":
        array[:] = 7
    elif fault == "2-D":
        array = array[:, :, 0]
    elif fault == "4-D":
        array = np.stack([array, array], axis=3)
    elif fault == "singular":
        affine[2, 2], affine[1, 2] = 0.0, 4.0
    image = nib.Nifti1Image(array, affine)
    if fault == "zero spacing":
        image.set_sform(None, 0)
        image.set_qform(affine, 1)
        image.header["pixdim"][3] = 0
    if fault == "zero spacing":
        with path.open("wb") as file:
            image.header["vox_offset"] = 352
            image.header.write_to(file)
            file.write(b"\0" * (352 - file.tell()) + array.tobytes(order="F"))
    else:
        nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("NaN", "NaN or infinite"),
        ("infinite", "NaN or infinite"),
        ("constant", "every voxel is 7"),
        ("2-D", "2-D image"),
        ("4-D", "2 volumes"),
        ("zero spacing", "voxel spacing"),
        ("singular", "singular"),
        ("not an image", "cannot be read as NIfTI"),
    ],
)
def test_a_faulty_volume_is_named_with_its_fault_and_leaves_no_heatmap(
    fault: str, words: str, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "faulty.nii"
    if fault == "not an image":
        path.write_bytes(b"this is text" * 100)
    else:
        faulty_volume(fault, path)
    assert main(["score", str(path), "--adapters", str(adapters), "--out", str(tmp_path / "out")]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "failed: " in line]
    assert len(lines) == 1
    assert "faulty.nii" in lines[0]
    assert words in lines[0]
    assert not list((tmp_path / "out").rglob("*_heatmap*"))
    assert read_table(tmp_path / "out" / "volumes.csv")[0]["status"] == "failed"


@pytest.mark.parametrize(
    "option",
    [
        *("--stride 0", "--minimum-ml -1", "--minimum-ml nan", "--minimum-ml inf", "--volume -1", "--spacing 0 1 1"),
        *("--spacing 1 1 inf", "--percentiles -5 200", "--percentiles 50 50", "--window 80 0", "--window 0 inf"),
        "--slices 2 4 --plane all",
    ],
)
def test_options_that_are_no_use_to_any_case_are_refused_before_one_is_read(
    option: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(study / "images"), "--adapters", "demo", "--out", str(tmp_path / "out"), *option.split()]
    assert main(["score", *arguments]) == 2
    assert f"aaclip-med: {option.removesuffix(' --plane all')}: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--bids --heatmap-format nrrd", "--heatmap-format nrrd: BIDS holds nii.gz alone"),
        ("--address auto", "--address auto: of a Ray cluster"),
        ("--workers 2 --engine onnx", "--workers 2: of a Ray cluster"),
    ],
)
def test_options_that_would_do_nothing_beside_the_others_are_refused(
    options: str, words: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(study / "images"), "--adapters", "demo", "--out", str(tmp_path / "out"), *options.split()]
    assert main(["score", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_mask_of_another_shape_is_named(
    command: str, study: Path, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nib.save(nib.Nifti1Image(np.ones((5, 6, 7), np.uint8), np.eye(4)), tmp_path / "wrong.nii.gz")
    row = {
        "image_path": str(study / "images" / "head_1.nii.gz"),
        "label": 1,
        "class_name": "Brain",
        "mask_path": "wrong.nii.gz",
    }
    (tmp_path / "index.jsonl").write_text(json.dumps(row) + "\n")
    options = ["--preset", "brain-mri", "--backbone", "tiny"] if command == "train" else ["--adapters", str(adapters)]
    assert main([command, "--index", str(tmp_path / "index.jsonl"), *options, "--out", str(tmp_path / "out")]) in (1, 2)
    error = capsys.readouterr().err
    assert "wrong.nii.gz: the mask's shape is (5, 6, 7)" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "adapters.safetensors").exists()


def test_a_full_disk_ends_scoring_with_one_line_and_no_half_file(study: Path, adapters: Path, tmp_path: Path) -> None:
    """The system refuses any file above 4 kB, as a disk with no more room would."""
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from aaclip_med.cli.main import main; import aaclip_med.batch.run;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); sys.exit(main(sys.argv[1:]))"
    )
    out = tmp_path / "out"
    command = ["score", str(study / "images" / "head_1.nii.gz"), "--adapters", str(adapters), "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("aaclip-med:")] != []
    assert "head_1_heatmap.nii.gz" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in out.rglob("*") if path.is_file()} <= {".lock", ".lock-0-of-1", "settings.json"}


def test_masks_and_earlier_heatmaps_in_a_folder_are_not_scored(study: Path, adapters: Path, tmp_path: Path) -> None:
    for name in ("head_1.nii.gz", "head_1_seg.nii.gz", "old_heatmap.nii.gz", "lone_seg.nii.gz"):
        shutil.copy(study / "images" / "head_1.nii.gz", tmp_path / name)
    out = tmp_path / "out"
    assert main(["score", str(tmp_path), "--adapters", str(adapters), "--out", str(out)]) == 0
    assert [row["case"] for row in read_table(out / "volumes.csv")] == ["head_1", "lone_seg"]
    passed_over = json.loads((out / "run.json").read_text())["passed_over"]
    assert [Path(item["path"]).name for item in passed_over] == ["head_1_seg.nii.gz", "old_heatmap.nii.gz"]


def test_a_run_killed_at_any_moment_ends_with_the_same_adapters(study: Path, adapters: Path, tmp_path: Path) -> None:
    """The fixture's run, killed twice on its way and taken up again, gives the fixture's tensors bit for bit."""
    command = [sys.executable, "-m", "aaclip_med", "train", "--preset", "brain-mri", "--backbone", "tiny"]
    command += ["--image-size", "40", "--text-epochs", "1", "--image-epochs", "2"]
    command += ["--index", str(study / "train.jsonl"), "--out", str(tmp_path)]
    for landmark in ("text_last.pt", "image_last.pt"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
        while process.poll() is None and not (tmp_path / "checkpoints" / landmark).is_file():
            time.sleep(0.005)
        process.kill()
        process.wait()
        assert not (tmp_path / "adapters.safetensors").exists()
    assert main([*command[3:]]) == 0
    with safe_open(adapters, framework="np") as whole, safe_open(tmp_path / "adapters.safetensors", framework="np") as resumed:
        assert sorted(whole.keys()) == sorted(resumed.keys())
        for name in whole.keys():  # noqa: SIM118
            assert np.array_equal(whole.get_tensor(name), resumed.get_tensor(name)), name
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_run_is_not_taken_up_with_other_settings(study: Path, adapters: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--preset",
        "brain-mri",
        "--backbone",
        "tiny",
        "--image-size",
        "40",
        "--text-epochs",
        "1",
        "--image-epochs",
        "3",
    ]
    assert main(["train", *arguments, "--index", str(study / "train.jsonl"), "--out", str(adapters.parent)]) == 2
    assert "other settings (schedule)" in capsys.readouterr().err
    arguments[-1] = "2"
    again = ["--adapters", str(adapters), "--index", str(study / "train.jsonl"), "--out", str(adapters.parent)]
    assert main(["train", *arguments, *again]) == 2
    assert "other settings (adapters)" in capsys.readouterr().err


def test_the_shipped_adapters_give_a_first_heatmap_marked_as_a_demonstration(study: Path, tmp_path: Path) -> None:
    options = ["--adapters", "demo", "--preset", "brain-mri", "--out", str(tmp_path)]
    assert main(["score", str(study / "images" / "head_1.nii.gz"), *options]) == 0
    heatmap = nib.load(tmp_path / "heatmaps" / "head_1_heatmap.nii.gz")
    assert bytes(heatmap.header["descrip"]).startswith(b"aaclip-med DEMONSTRATION")
    for table in ("volumes.csv", "slices.csv"):
        assert all(row["demonstration"] == "True" for row in read_table(tmp_path / table))
    assert json.loads((tmp_path / "run.json").read_text())["demonstration"] is True


def test_an_organ_mask_confines_scores_and_a_missing_one_is_named(
    study: Path, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--adapters", str(adapters), "--mask", str(study / "masks")]
    assert main(["score", str(study / "images" / "head_1.nii.gz"), *options, "--out", str(tmp_path / "one")]) == 0
    organ = nib.load(study / "masks" / "head_1.nii.gz").get_fdata() > 0
    heatmap = nib.load(tmp_path / "one" / "heatmaps" / "head_1_heatmap.nii.gz").get_fdata()
    assert (heatmap[~organ] == heatmap.min()).all()
    assert [int(row["slice"]) for row in read_table(tmp_path / "one" / "slices.csv")] == [2, 3, 4]
    assert main(["score", str(study / "images" / "head_0.nii.gz"), *options, "--out", str(tmp_path / "two")]) == 1
    assert "organ mask is empty" in capsys.readouterr().err


def test_one_volume_of_a_4d_file_is_scored_as_if_it_were_alone(study: Path, adapters: Path, tmp_path: Path) -> None:
    first, second = (nib.load(study / "images" / f"head_{number}.nii.gz") for number in (0, 1))
    nib.save(nib.Nifti1Image(np.stack([first.dataobj, second.dataobj], axis=3), first.affine), tmp_path / "both.nii.gz")
    options = ["--adapters", str(adapters), "--out"]
    assert main(["score", str(tmp_path / "both.nii.gz"), "--volume", "1", *options, str(tmp_path / "four")]) == 0
    assert main(["score", str(study / "images" / "head_1.nii.gz"), *options, str(tmp_path / "three")]) == 0
    heatmaps = [nib.load(path).get_fdata() for path in sorted(tmp_path.rglob("*_heatmap.nii.gz"))]
    np.testing.assert_array_equal(*heatmaps)


def test_every_command_says_in_its_own_help_what_it_is_for() -> None:
    silent = [command.prog for command in walk_commands(build_parser()) if not command.description]
    assert silent == []


def test_scores_are_refused_on_other_cuts_than_they_were_calibrated_on(
    study: Path, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrated = tmp_path / "calibrated.safetensors"
    index = ["--index", str(study / "normal.jsonl"), "--adapters", str(adapters), "--out", str(calibrated)]
    assert main(["calibrate", *index, "--plane", "all"]) == 0
    score = ["score", str(study / "images" / "head_1.nii.gz"), "--adapters", str(calibrated), "--out", str(tmp_path / "out")]
    assert main([*score, "--plane", "axial"]) == 2
    assert "calibrated with plane all, and would score with plane axial; score" in capsys.readouterr().err
    assert main([*score, "--plane", "all", "--window", "0", "900"]) == 2
    assert main([*score, "--plane", "all"]) == 0
    assert main([*score[:-1], str(tmp_path / "unasked")]) == 0
    heatmaps = [nib.load(path).get_fdata() for path in sorted(tmp_path.rglob("*_heatmap.nii.gz"))]
    np.testing.assert_array_equal(*heatmaps)
    assert main(["calibrate", *index[:3], str(calibrated), "--out", str(calibrated)]) == 0
    assert load_predictor(calibrated).calibrated_plane == "axial"


def test_whole_volumes_are_not_measured_by_a_few_slices_of_normal_ones(
    study: Path, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [replace(case, slices=(3, 4)) for case in read_index(study / "normal.jsonl")]
    write_index(cases, tmp_path / "parts.jsonl")
    calibrated = tmp_path / "calibrated.safetensors"
    assert (
        main(["calibrate", "--index", str(tmp_path / "parts.jsonl"), "--adapters", str(adapters), "--out", str(calibrated)])
        == 0
    )
    score = ["score", str(study / "images" / "head_1.nii.gz"), "--adapters", str(calibrated), "--out", str(tmp_path / "out")]
    assert main(score) == 2
    assert "calibrated with ranges of slices True, and would score with ranges of slices False" in capsys.readouterr().err
    assert main([*score, "--slices", "2", "3"]) == 0
    predictor = load_predictor(calibrated)
    for row, is_alike in ((cases[0], True), (replace(cases[0], slices=None), False)):
        kept = forget_unlike_calibration(predictor, [row], Cutting())
        assert (kept.calibration is not None) is is_alike


def test_adapters_that_do_not_say_whether_slices_were_named_are_taken_as_they_are(
    study: Path, adapters: Path, tmp_path: Path
) -> None:
    path = tmp_path / "calibrated.safetensors"
    assert main(["calibrate", "--index", str(study / "normal.jsonl"), "--adapters", str(adapters), "--out", str(path)]) == 0
    held = read_checkpoint(path)
    del held.provenance["calibration"]["ranges of slices"]
    path.write_bytes(held.to_bytes())
    score = ["score", str(study / "images" / "head_1.nii.gz"), "--adapters", str(path), "--slices", "2", "3"]
    assert main([*score, "--out", str(tmp_path / "out")]) == 0


def test_a_scan_of_several_rows_is_not_counted_as_several_normal_scans(
    study: Path, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (case, *_) = read_index(study / "normal.jsonl")
    write_index([replace(case, slices=(n, n)) for n in range(2, 5)], tmp_path / "slices.jsonl")
    out = tmp_path / "calibrated.safetensors"
    assert main(["calibrate", "--index", str(tmp_path / "slices.jsonl"), "--adapters", str(adapters), "--out", str(out)]) == 2
    assert "head_0.nii.gz: 3 normal rows are of this scan, and would count as 3 scans" in capsys.readouterr().err
    assert not out.exists()


def test_a_pair_of_hdr_and_img_is_read(study: Path, adapters: Path, tmp_path: Path) -> None:
    scan = nib.load(study / "images" / "head_1.nii.gz")
    nib.save(nib.Nifti1Pair(np.asarray(scan.dataobj), scan.affine), tmp_path / "pair.img")
    options = ["--adapters", str(adapters), "--out"]
    assert main(["score", str(tmp_path), *options, str(tmp_path / "out")]) == 0
    assert main(["score", str(study / "images" / "head_1.nii.gz"), *options, str(tmp_path / "single")]) == 0
    pair, single = (nib.load(path) for path in sorted(tmp_path.rglob("*_heatmap.nii.gz")))
    np.testing.assert_allclose(pair.affine, single.affine, atol=1e-6)
    np.testing.assert_array_equal(pair.get_fdata(), single.get_fdata())


def test_adapters_trained_on_crops_score_crops_unless_told_otherwise(study: Path, tmp_path: Path) -> None:
    options = ["--preset", "brain-mri", "--backbone", "tiny", "--image-size", "40", "--text-epochs", "1", "--image-epochs", "1"]
    assert main(["train", *options, "--crop", "--index", str(study / "train.jsonl"), "--out", str(tmp_path)]) == 0
    assert load_predictor(tmp_path / "adapters.safetensors").preset.crop
    assert not load_predictor(tmp_path / "adapters.safetensors", crop=False).preset.crop


def test_runs_that_share_a_cache_read_each_scan_once(study: Path, tmp_path: Path) -> None:
    scans = tmp_path / "study"
    shutil.copytree(study, scans)
    options = ["--preset", "brain-mri", "--backbone", "tiny", "--image-size", "40", "--text-epochs", "1", "--image-epochs", "1"]
    options += ["--index", str(scans / "train.jsonl"), "--cache-dir", str(tmp_path / "cache"), "--out"]
    assert main(["train", *options, str(tmp_path / "one")]) == 0
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    assert main(["train", *options, str(tmp_path / "two")]) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")} == written
    assert len(written) == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plane": "coronal"}, "differ in plane"),
        ({"slices": [2, 3]}, "some name an organ or slices and some do not"),
        ({"preset": "liver-ct"}, "a row of preset 'liver-ct'"),
    ],
)
def test_a_calibration_is_made_on_rows_of_one_kind(
    changes: dict[str, str], words: str, study: Path, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"image_path": str(study / "images" / f"head_{n}.nii.gz"), "label": 0, "class_name": "Brain"} for n in (0, 2)]
    rows[1] |= changes
    (tmp_path / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--adapters", str(adapters), "--out", str(tmp_path / "calibrated.safetensors")]
    assert main(["calibrate", "--index", str(tmp_path / "index.jsonl"), *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "calibrated.safetensors").exists()


def test_a_calibration_that_nothing_could_hold_is_refused_before_a_case_is_read(
    adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(b"no scan")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image_path": "broken.nii.gz", "label": 0, "class_name": "Brain"}) + "\n")
    command = ["calibrate", "--index", str(tmp_path / "rows.jsonl"), "--preset", "brain-mri"]
    for options, message in (
        (["--adapters", "none", "--backbone", "tiny", "--out", str(tmp_path / "new")], "only an aaclip-med adapters file can"),
        (["--adapters", str(adapters), "--out", str(tmp_path)], f"{tmp_path}: a folder; say with --out FILE"),
    ):
        assert main([*command, *options]) == 2
        assert message in capsys.readouterr().err


def test_a_smallest_candidate_without_end_is_refused_and_the_adapters_stay_as_they_are(
    study: Path, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Path(shutil.copy(adapters, tmp_path / "adapters.safetensors"))
    command = ["calibrate", "--index", str(study / "normal.jsonl"), "--adapters", str(kept), "--minimum-ml"]
    for value in ("inf", "nan"):
        assert main([*command, value]) == 2
        assert f"aaclip-med: --minimum-ml {value}: take 0 or more, a finite" in capsys.readouterr().err
    assert kept.read_bytes() == adapters.read_bytes()


def test_calibrating_again_mends_adapters_whose_calibration_is_damaged(study: Path, adapters: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "adapters.safetensors"
    damaged.write_bytes(replace(read_checkpoint(adapters), calibration={"damaged": True}).to_bytes())
    with pytest.raises(InputError):
        load_predictor(damaged)
    assert main(["calibrate", "--index", str(study / "normal.jsonl"), "--adapters", str(damaged)]) == 0
    assert load_predictor(damaged).calibration


def test_calibrate_offers_no_option_that_it_passes_over(capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--volume", "1"], ["--spacing", "1", "1", "1"]):
        with pytest.raises(SystemExit):
            main(["calibrate", "--index", "rows.jsonl", "--adapters", "demo", *option])
        assert f"unrecognized arguments: {option[0]}" in capsys.readouterr().err


def test_rows_that_were_trained_on_calibrate_nothing_unless_they_are_asked_for(
    study: Path, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"image_path": str(study / "images" / f"head_{n}.nii.gz"), "label": n % 2, "class_name": "Brain"} for n in range(3)]
    rows = [row | {"split": split} for row, split in zip(rows, ("train", "train", "val"), strict=True)]
    (tmp_path / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "calibrated.safetensors"
    command = ["calibrate", "--index", str(tmp_path / "index.jsonl"), "--adapters", str(adapters), "--out", str(out)]
    assert main(command) == 2
    assert "head_0.nii.gz: 1 of the normal rows are of split train" in (said := capsys.readouterr().err)
    assert "take --split val, rows that training never saw, or --split train if" in said
    assert not out.exists()
    assert main([*command, "--split", "val"]) == 0
    assert main([*command, "--split", "train"]) == 0
