"""The ablation, from the command line and in parts, on a small study."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from aaclip_med import build_detector
from aaclip_med.cli.main import main
from aaclip_med.data.index import read_index
from aaclip_med.errors import InputError
from aaclip_med.evaluation.ablation import BASELINES, ablate, judge, judge_baselines
from aaclip_med.evaluation.ablation_table import FIGURES, judge_lines
from aaclip_med.evaluation.baselines import strip_adapters
from aaclip_med.evaluation.variants import METHOD, SCORING, Variant, choose_variants
from aaclip_med.inference.predictor import Predictor
from aaclip_med.inference.refinement import BEST, PUBLISHED, Refinement
from aaclip_med.presets import get_preset
from aaclip_med.training.bundle import train

QUICK = {"image_size": 40, "text_epochs": 1, "image_epochs": 1}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five bright-lesioned heads, two of them for testing, one for validation."""
    folder = tmp_path_factory.mktemp("ablation")
    rows = []
    for number in range(5):
        rng = np.random.default_rng(number)
        i, j, _ = np.indices((28, 30, 6))
        array = np.where((i - 14) ** 2 + (j - 15) ** 2 < 144, 300 + 30 * rng.standard_normal((28, 30, 6)), 0)
        mask = np.zeros(array.shape, dtype=np.uint8)
        mask[9:15, 11:17, 2:4] = 1
        for name, data in ((f"{number}.nii.gz", (array + 400.0 * mask).astype(np.int16)), (f"{number}_mask.nii.gz", mask)):
            nib.save(nib.Nifti1Image(data, np.diag([2.0, 2.0, 4.0, 1.0])), folder / name)
        row = {"image_path": f"{number}.nii.gz", "mask_path": f"{number}_mask.nii.gz", "label": 1, "class_name": "Brain"}
        rows.append(row | {"split": ("test", "test", "train", "train", "val")[number]})
    path = folder / "index.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_one_command_makes_one_table(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--index", str(index), "--preset", "brain-mri", "--out", str(tmp_path / "out"), "--image-size", "40"]
    assert main(["ablate", *arguments, "--only", "scoring", "--quick"]) == 0
    with (tmp_path / "out" / "ablation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows[len(BASELINES) :]] == [METHOD[0].name, *(variant.name for variant in SCORING)]
    assert all(0.0 <= float(row["pixel_auroc"]) <= 1.0 for row in rows)
    assert float(rows[0]["pixel_auroc"]) > 0.99, "the lesion is the brightest there is"
    shown = capsys.readouterr().out
    assert shown == (tmp_path / "out" / "ablation.md").read_text()
    table, verdict, quoted = shown.split("\n\n")
    assert len(table.splitlines()) == len(rows) + 2
    assert verdict.startswith(f"- pixel AUROC: {BASELINES[0]} reaches or beats, with {float(rows[0]['pixel_auroc']):.4f}, ")
    assert quoted.startswith("Published, ")
    assert "the whole method 0.927, 0.833" in quoted


def test_variants_that_train_differ_from_the_first_and_levels_are_those_asked_for(index: Path, tmp_path: Path) -> None:
    chosen = choose_variants(["as trained by default", "no disentangling", "deepest level alone"])
    said: list[str] = []
    rows = ablate(index, "brain-mri", tmp_path, train, shared=QUICK, variants=chosen, say=said.append)
    assert [row.name for row in rows[len(BASELINES) :]] == [variant.name for variant in chosen]
    assert len({row.pixel_auroc for row in rows[len(BASELINES) :]}) > 1
    assert len(said) == 4
    assert (tmp_path / "run_deepest_level_alone_seed0" / "adapters.safetensors").is_file()


def test_rows_are_of_one_plane_unless_they_say_so_even_where_best_would_fuse(index: Path, tmp_path: Path) -> None:
    for path in index.parent.glob("*.nii.gz"):
        scan = nib.load(path)
        cubes = np.repeat(np.asarray(scan.dataobj), 3, axis=2)
        nib.save(nib.Nifti1Image(cubes, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / path.name)
    (tmp_path / "index.jsonl").write_text(index.read_text())
    names = ["best", "best, three planes"]
    rows = ablate(tmp_path / "index.jsonl", "brain-mri", tmp_path / "out", train, shared=QUICK, variants=choose_variants(names))
    one, three = rows[len(BASELINES) :]
    assert [one.name, three.name] == names
    assert one.pixel_ap != three.pixel_ap


def test_seeds_are_trained_apart_and_the_table_has_their_mean_and_deviation(index: Path, tmp_path: Path) -> None:
    chosen = choose_variants(["published"])
    ablate(index, "brain-mri", tmp_path, train, shared=QUICK, variants=chosen, seeds=[0])
    rows = ablate(index, "brain-mri", tmp_path, train, shared=QUICK, variants=chosen, seeds=[0, 3])[len(BASELINES) :]
    assert [(row.name, row.seed) for row in rows] == [("published", 0), ("published", 3)]
    one, other = (row.pixel_auroc for row in rows)
    assert one != other
    with (tmp_path / "ablation.csv").open(newline="") as file:
        line = list(csv.DictReader(file))[-1]
    assert line["runs"] == "2"
    assert line["pixel_auroc"] == f"{(one + other) / 2:.4f}"
    assert line["pixel_auroc_sd"] == f"{abs(one - other) / 2**0.5:.4f}"
    assert f"{line['pixel_auroc']} ± {line['pixel_auroc_sd']}" in (tmp_path / "ablation.md").read_text()


def test_the_verdict_names_the_best_baseline_and_every_variant_that_it_reaches() -> None:
    def line(group: str, name: str, *figures: float) -> dict[str, Any]:
        return {"group": group, "variant": name} | dict(zip(FIGURES, figures, strict=True))

    lines = [
        line("baseline", "window", 0.9, 0.8, 0.1, math.nan),
        line("baseline", "tower", 0.7, 0.85, 0.2, math.nan),
        line("scoring", "a", 0.95, 0.85, 0.3, math.nan),
        line("scoring", "b", 0.89, 0.86, 0.3, math.nan),
    ]
    assert judge_lines(lines) == [
        "- pixel AUROC: window reaches or beats, with 0.9000, b.",
        "- pixel AUROC in the body: tower reaches or beats, with 0.8500, a.",
        "- pixel AP: no baseline reaches any variant; the best has 0.2000.",
        "- slice AUROC: undefined, the test rows have one class only.",
    ]


def test_an_abnormal_test_row_without_a_mask_is_refused_by_its_number(index: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in index.read_text().splitlines()]
    del rows[1]["mask_path"]
    other = index.with_name("no_mask.jsonl")
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="row 2 is abnormal and has no mask"):
        ablate(other, "brain-mri", tmp_path, train)


def test_the_untrained_tower_is_the_one_that_evaluate_shows(index: Path) -> None:
    """Without adapters, and scored as best: its maps are those of ``strip_adapters``."""
    cases = read_index(index)
    *_, untrained = judge_baselines(cases[2:], cases[:2], "brain-mri", "tiny", {"image_size": 40})
    detector = build_detector("tiny", image_size=40, seed=5)
    trained = Predictor(detector, get_preset("brain-mri"), refinement=replace(BEST, fuse=0.0))
    assert judge("baseline", untrained.name, cases[:2], strip_adapters(trained)) == untrained
    assert judge("baseline", untrained.name, cases[:2], trained) != untrained


def test_the_windowed_intensity_is_judged_as_by_hand(index: Path) -> None:
    cases = read_index(index)
    intensity, smoothed, distance, untrained = judge_baselines(cases[2:], cases[:2], "brain-mri", "tiny", {"image_size": 40})
    assert intensity.pixel_auroc > 0.99
    assert intensity.slice_auroc == 1.0
    assert (smoothed.pixel_auroc, smoothed.pixel_ap) == (intensity.pixel_auroc, intensity.pixel_ap)
    assert smoothed.slice_auroc > 0.9
    assert distance.body_auroc > 0.9
    assert untrained.pixel_auroc < intensity.pixel_auroc


def test_without_test_rows_the_index_is_refused(index: Path, tmp_path: Path) -> None:
    lines = [line.replace('"test"', '"train"') for line in index.read_text().splitlines()]
    other = index.with_name("no_test.jsonl")
    other.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="needs rows of split 'test'"):
        ablate(other, "brain-mri", tmp_path, train)


def test_a_killed_ablation_goes_on_where_it_was_and_its_rows_are_kept(index: Path, tmp_path: Path) -> None:
    chosen = [
        Variant("scoring", "published", refinement=PUBLISHED),
        Variant("scoring", "less blur", refinement=Refinement(sigma=0.4)),
    ]
    trained: list[str] = []

    def count(overrides: dict[str, Any]) -> Path:
        trained.append(overrides["output_dir"])
        return train(overrides)

    def die(text: str) -> None:
        if text.startswith("seed 0, 2 of 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablate(index, "brain-mri", tmp_path, count, shared=QUICK, variants=chosen, say=die)
    kept = json.loads((tmp_path / "ablation.json").read_text())["rows"]
    assert [row["name"] for row in kept] == [*BASELINES, "published"]
    said: list[str] = []
    rows = ablate(index, "brain-mri", tmp_path, count, shared=QUICK, variants=chosen, say=said.append)
    assert said == ["seed 0, 2 of 2: less blur"]
    assert len(trained) == 1
    assert [row.name for row in rows] == [*BASELINES, "published", "less blur"]
    assert rows[3].pixel_auroc == kept[3]["pixel_auroc"]
    with pytest.raises(InputError, match=r"other settings \(image_size\)"):
        ablate(index, "brain-mri", tmp_path, count, shared=QUICK | {"image_size": 80}, variants=chosen)


def test_rows_can_be_asked_for_by_name(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [variant.name for variant in choose_variants(["best", "published"])] == ["published", "best"]
    arguments = ["ablate", "--index", str(index), "--preset", "brain-mri", "--out", str(tmp_path), "--variants", "beast"]
    assert main(arguments) == 2
    assert "no variant 'beast'; choose from: as trained by default;" in capsys.readouterr().err


def test_without_validation_rows_their_variant_is_left_out_and_told(index: Path, tmp_path: Path) -> None:
    other = index.with_name("no_val.jsonl")
    other.write_text(index.read_text().replace('"val"', '"train"'))
    chosen = choose_variants(["level weights learned on validation rows"])
    said: list[str] = []
    rows = ablate(other, "brain-mri", tmp_path, train, shared=QUICK, variants=chosen, say=said.append)
    assert [row.name for row in rows] == list(BASELINES)
    assert said[-1].startswith(f"left out: {chosen[0].name}: level weights are learned from rows of split 'val'")
