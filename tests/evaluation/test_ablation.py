"""The ablation, from the command line and in parts, on a small study."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from aaclip_med.cli.main import main
from aaclip_med.data.index import read_index
from aaclip_med.errors import InputError
from aaclip_med.evaluation.ablation import BASELINES, ablate, judge_baselines
from aaclip_med.evaluation.variants import METHOD, SCORING, Variant, choose_variants
from aaclip_med.inference.refinement import PUBLISHED, Refinement
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
    assert len(shown.splitlines()) == len(rows) + 2


def test_variants_that_train_differ_from_the_first_and_levels_are_those_asked_for(index: Path, tmp_path: Path) -> None:
    chosen = choose_variants(["as trained by default", "no disentangling", "deepest level alone"])
    said: list[str] = []
    rows = ablate(index, "brain-mri", tmp_path, train, shared=QUICK, variants=chosen, say=said.append)
    assert [row.name for row in rows[len(BASELINES) :]] == [variant.name for variant in chosen]
    assert len({row.pixel for row in rows[len(BASELINES) :]}) > 1
    assert len(said) == 4
    assert (tmp_path / "run_deepest_level_alone" / "adapters.safetensors").is_file()


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
    assert one.precision != three.precision


def test_the_windowed_intensity_is_judged_as_by_hand(index: Path) -> None:
    cases = read_index(index)
    intensity, smoothed, distance, untrained = judge_baselines(cases[2:], cases[:2], "brain-mri", "tiny", {"image_size": 40})
    assert intensity.pixel > 0.99
    assert intensity.slices == 1.0
    assert (smoothed.pixel, smoothed.precision) == (intensity.pixel, intensity.precision)
    assert smoothed.slices > 0.9
    assert distance.body > 0.9
    assert untrained.pixel < intensity.pixel


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
        if text.startswith("2 of 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablate(index, "brain-mri", tmp_path, count, shared=QUICK, variants=chosen, say=die)
    kept = json.loads((tmp_path / "ablation.json").read_text())["rows"]
    assert [row["name"] for row in kept] == [*BASELINES, "published"]
    said: list[str] = []
    rows = ablate(index, "brain-mri", tmp_path, count, shared=QUICK, variants=chosen, say=said.append)
    assert said == ["2 of 2: less blur"]
    assert len(trained) == 1
    assert [row.name for row in rows] == [*BASELINES, "published", "less blur"]
    assert rows[3].pixel == kept[3]["pixel"]
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
