"""The bank of normal patches and the level weights: learned by ``calibrate``, kept in the adapters file, used by all."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.nn import functional

from aaclip_med.cli.main import main
from aaclip_med.data.index import Case, read_index
from aaclip_med.data.volumes import read_volume
from aaclip_med.errors import InputError
from aaclip_med.evaluation.views import View, score_cases
from aaclip_med.inference.bank import choose_coreset, collect_bank
from aaclip_med.inference.calibrating import keep_apart
from aaclip_med.inference.cutting import Cutting
from aaclip_med.inference.job import JobRequest, load_job_predictor
from aaclip_med.inference.levels import learn_levels, spread_weights
from aaclip_med.inference.network import build_network
from aaclip_med.inference.predictor import Predictor, load_predictor
from aaclip_med.inference.refinement import PUBLISHED, Refinement
from aaclip_med.model.checkpoint import read_checkpoint
from aaclip_med.zoo.packing import pack_bundle
from tests.cli.conftest import OBLIQUE, draw_head

MODEL = ["--preset", "brain-mri", "--image-size", "80", "--device", "cpu"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six heads: two normal ones to calibrate on; for training and validation a normal and an abnormal one each."""
    folder = tmp_path_factory.mktemp("bank")
    rows: dict[str, list[dict[str, object]]] = {"normals": [], "learning": []}
    for number in range(6):
        ill = number in (3, 5)
        array, mask = draw_head(number, lesion=ill)
        nib.save(nib.Nifti1Image(array, OBLIQUE), folder / f"{number}.nii.gz")
        nib.save(nib.Nifti1Image(mask, OBLIQUE), folder / f"{number}_mask.nii.gz")
        row = {"image_path": f"{number}.nii.gz", "mask_path": f"{number}_mask.nii.gz", "label": int(ill), "class_name": "Brain"}
        cut = {"slices": [2, 4], "split": "train" if number < 4 else "val"}
        kind, more = ("normals", {}) if number < 2 else ("learning", cut)
        rows[kind].append(row | {"patient": f"p{number}"} | more)
    for name, part in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


@pytest.fixture(scope="module")
def learned(study: Path) -> Path:
    """Demonstration adapters with a bank of 64 patches a level and level weights, calibrated with both."""
    path = study / "learned.safetensors"
    rows = str(study / "learning.jsonl")
    options = ["--bank", rows, "--bank-size", "64", "--level-weights", rows, "--out", str(path)]
    assert main(["calibrate", "--index", str(study / "normals.jsonl"), "--adapters", "demo", *MODEL, *options]) == 0
    return path


@pytest.fixture(scope="module")
def predictor(learned: Path) -> Predictor:
    return load_predictor(learned, image_size=80, device="cpu")


def test_a_coreset_covers_better_than_chance_and_is_the_same_each_time() -> None:
    features = functional.normalize(torch.randn(400, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    chosen = choose_coreset(features, 40, seed=1)
    assert len(set(chosen.tolist())) == 40
    torch.testing.assert_close(chosen, choose_coreset(features, 40, seed=1))

    def reach(numbers: torch.Tensor) -> float:
        return float((features @ features[numbers].T).amax(dim=1).min())

    assert reach(chosen) > max(reach(torch.randperm(400)[:40]) for _ in range(20))
    assert choose_coreset(features[:7], 40).tolist() == list(range(7))


def test_the_file_holds_bank_weights_and_calibration_and_says_so(learned: Path, predictor: Predictor) -> None:
    checkpoint = read_checkpoint(learned)
    assert checkpoint.bank is not None
    assert [(level.dtype, len(level)) for level in checkpoint.bank] == [(torch.float16, 64)] * len(predictor.detector.levels)
    assert not any(name.startswith("bank") for name in checkpoint.tensors)
    assert checkpoint.digest == load_predictor("demo", "brain-mri").checkpoint.digest  # type: ignore[union-attr]
    said = checkpoint.provenance
    assert said["bank"]["patches"] == [64] * len(checkpoint.bank)
    assert said["level_weights"]["pixel_ap"] >= said["level_weights"]["equal_pixel_ap"]
    assert predictor.refinement.bank_weight == 10.0
    assert predictor.refinement.level_weights == pytest.approx(said["level_weights"]["weights"])
    assert said["refinement"] == predictor.refinement.to_json()
    assert said["calibration"]["refinement"] == predictor.refinement.to_scale()
    assert len(torch.cat(checkpoint.bank).norm(dim=-1).unique()) < 20
    torch.testing.assert_close(torch.cat(checkpoint.bank).float().norm(dim=-1).mean(), torch.tensor(1.0), atol=1e-3, rtol=0)


def test_scoring_and_the_network_of_bundles_use_it_and_say_so(
    learned: Path, predictor: Predictor, study: Path, tmp_path: Path
) -> None:
    volume = read_volume(study / "3.nii.gz")
    heat = predictor.rescale(predictor.predict_volume(volume).heatmap)
    plain = load_predictor("demo", "brain-mri", image_size=80, device="cpu")
    assert not np.allclose(predictor.predict_volume(volume).heatmap, plain.predict_volume(volume).heatmap, atol=0.1)

    network = build_network(load_predictor(learned, image_size=80, device="cpu"))
    cut = predictor.prepare(volume).cuts[0]
    with torch.no_grad():
        drawn = network(torch.from_numpy(cut.images[cut.used])[:, None])[:, 0].numpy()
    np.testing.assert_allclose(drawn, cut.plan.cut(heat)[cut.used], atol=2e-3)

    options = ["--adapters", str(learned), "--image-size", "80", "--device", "cpu"]
    assert main(["score", str(study / "3.nii.gz"), *options, "--out", str(tmp_path / "scored"), "--no-report"]) == 0
    written = nib.load(tmp_path / "scored" / "heatmaps" / "3_heatmap.nii.gz").get_fdata()
    np.testing.assert_allclose(written, heat, atol=1e-5)
    run = json.loads((tmp_path / "scored" / "run.json").read_text())
    assert run["refinement"]["bank_weight"] == 10.0
    assert run["provenance"]["bank"]["cases"] == 2


def test_jobs_and_packed_bundles_have_it_too(learned: Path, tmp_path: Path) -> None:
    job = load_job_predictor(JobRequest("scan.nii.gz", str(learned), device="cpu"))
    assert job.bank is not None
    assert job.refinement.bank_weight == 10.0
    packed = read_checkpoint(pack_bundle(learned, tmp_path / "packed") / "models" / "adapters.safetensors")
    stored = read_checkpoint(learned)
    assert packed.bank is not None
    assert stored.bank is not None
    for ours, theirs in zip(packed.bank, stored.bank, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_bank_weight_without_a_bank_is_refused(learned: Path) -> None:
    with pytest.raises(InputError, match="hold no bank of normal patches; make one with aaclip-med calibrate --bank"):
        load_predictor("demo", "brain-mri", refinement=Refinement(bank_weight=5.0))
    assert load_predictor(learned, refinement=Refinement(bank_weight=5.0)).bank is not None
    with pytest.raises(InputError, match="the bank of normal patches is of 1 levels, and the detector has 4"):
        load_predictor("demo", "brain-mri", bank=[torch.zeros(3, 8)])
    with pytest.raises(InputError, match=r"\(3, 8\), .* and the detector's are \d+ wide"):
        load_predictor("demo", "brain-mri", bank=[torch.zeros(3, 8)] * 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bank", "normals.jsonl"], "take other patients for each"),
        (["--level-weights", "normals.jsonl"], "take other patients for each"),
        (["--bank-weight", "3"], "say with --bank which rows"),
        (["--bank", "learning.jsonl", "--bank-weight", "-1"], "take a number above 0"),
        (["--bank", "learning.jsonl", "--bank-size", "0"], "take 1 or more"),
    ],
)
def test_what_cannot_be_learned_is_refused(
    study: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [str(study / option) if option.endswith(".jsonl") else option for option in options]
    arguments = ["calibrate", "--index", str(study / "normals.jsonl"), "--adapters", "demo", *MODEL, *options]
    assert main([*arguments, "--out", str(tmp_path / "out.safetensors")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("calibrated", "learned", "is_refused"),
    [
        ("p1_t1.nii.gz", ["p1_t2.nii.gz"], True),
        ("p1/t1.nii.gz", ["p1/flair.nii.gz", "p2/t1.nii.gz"], True),
        ("p1/t1.nii.gz", ["p2/t1.nii.gz", "p3/t1.nii.gz"], False),
        ("scan/t1.nii.gz", ["scan/series/t1.nii.gz"], False),
        ("a/1.png", ["b/1.png"], False),
    ],
)
def test_no_patient_that_names_tell_is_both_learned_from_and_calibrated_on(
    calibrated: str, learned: list[str], is_refused: bool, tmp_path: Path
) -> None:
    case, *lessons = (Case(tmp_path / name, 0, "Brain") for name in (calibrated, *learned))
    with pytest.raises(InputError, match=f"{calibrated}: it or its patient is in two") if is_refused else nullcontext():
        keep_apart([case], lessons)


def test_patches_of_the_bank_come_from_slices_without_a_lesion(study: Path) -> None:
    cases = read_index(study / "learning.jsonl")
    plain = load_predictor("demo", "brain-mri", image_size=80, refinement=PUBLISHED)
    ill = [replace(case, slices=(3, 4)) for case in cases if case.label]
    with pytest.raises(InputError, match="no slice without a lesion"):
        collect_bank(ill, plain)


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 6])
def test_weights_lie_evenly_on_the_simplex_with_equal_ones_among_them(levels: int) -> None:
    every = list(spread_weights(levels))
    assert len(every) == len(set(every)) <= 500
    np.testing.assert_allclose(np.sum(every, axis=1), 1.0)
    assert min(np.abs(np.array(every) - 1 / levels).max(axis=1)) < 1e-12
    assert {tuple(float(number == level) for number in range(levels)) for level in range(levels)} <= set(every)


def test_learned_weights_are_the_best_of_the_grid_by_real_scoring(study: Path) -> None:
    cases = [case for case in read_index(study / "learning.jsonl") if case.split == "val"]
    plain = load_predictor("demo", "brain-mri", image_size=80, device="cpu", refinement=Refinement(sigma=0.4, sharpen=3))

    def judge(weights: tuple[float, ...] | None) -> float:
        plain.refine(replace(plain.refinement, level_weights=weights))
        views = [view for _, view in score_cases(cases, plain, Cutting()) if isinstance(view, View)]
        truth, maps = (np.concatenate([getattr(view, name).ravel() for view in views]) for name in ("masks", "maps"))
        return float(average_precision_score(truth, maps))

    found = learn_levels(cases, plain)
    assert plain.refinement.level_weights is None
    assert found.equal_pixel_ap == pytest.approx(judge(None), abs=1e-3)
    assert found.pixel_ap == pytest.approx(judge(found.weights), abs=1e-3)
    assert found.pixel_ap > found.equal_pixel_ap
    assert all(found.pixel_ap >= judge(corner) - 1e-3 for corner in ((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)))
    with pytest.raises(InputError, match="no lesion"):
        learn_levels([case for case in cases if not case.label], plain)
