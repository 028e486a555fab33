"""Rows of an index against the files they name: what ``index check`` finds, and what training says of labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aaclip_med.cli.main import main
from aaclip_med.data.index import read_index
from aaclip_med.data.slices import SliceStore
from aaclip_med.presets import get_preset

from .conftest import SaveScan, make_affine

SHAPE = (5, 6, 7)
EMPTY = np.zeros(SHAPE, np.uint8)
LESION = EMPTY.copy()
LESION[2, 3, 4] = 1


def check(folder: Path, capsys: pytest.CaptureFixture[str], *options: str, **row: Any) -> str:
    """What ``index check`` says of a good row and, behind it, ``row``; empty where all is well."""
    rows: list[dict[str, Any]] = [{"image_path": "good.nii.gz", "label": 1, "mask_path": "lesion.nii.gz"}]
    rows.append({"image_path": "scan.nii.gz"} | row)
    index = folder / "index.jsonl"
    index.write_text("".join(json.dumps({"class_name": "Brain"} | row) + "\n" for row in rows))
    code = main(["index", "check", str(index), *options])
    said = capsys.readouterr()
    assert (code, bool(said.out)) in ((0, True), (2, False))
    return "" if code == 0 else next(line for line in said.err.splitlines() if line.startswith("aaclip-med: "))


@pytest.fixture(autouse=True)
def scans(save: SaveScan) -> None:
    for seed, name in enumerate(("good.nii.gz", "scan.nii.gz", "scan.nrrd", "scan.mha")):
        save(name, np.random.default_rng(seed).integers(1, 900, SHAPE, dtype=np.int16), make_affine())
    for name, mask in (("empty", EMPTY), ("lesion", LESION)):
        for ending in ("nii.gz", "nii", "nrrd", "mha"):
            save(f"{name}.{ending}", mask, make_affine())


@pytest.mark.parametrize("options", [(), ("--quick",)])
@pytest.mark.parametrize("scan", ["scan.nii.gz", "scan.nrrd", "scan.mha"])
@pytest.mark.parametrize("ending", ["nii.gz", "nii", "nrrd", "mha"])
def test_rows_that_agree_with_their_masks_pass(
    scan: str, ending: str, options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label, mask in ((0, "empty"), (1, "lesion")):
        assert check(tmp_path, capsys, *options, image_path=scan, label=label, mask_path=f"{mask}.{ending}") == ""


@pytest.mark.parametrize(
    ("label", "mask", "words"),
    [
        (1, "empty", "labelled abnormal (1), and the mask is empty; write label 0, or correct the mask"),
        (0, "lesion", "labelled normal (0), and 1 voxels of the mask are above 0; write label 1, or correct the mask"),
    ],
)
def test_a_label_that_its_mask_contradicts_is_named_with_its_row(
    label: int, mask: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"label": label, "mask_path": f"{mask}.nii.gz"}
    assert f"row 2: {tmp_path / mask}.nii.gz: {words}" in check(tmp_path, capsys, **row)
    assert check(tmp_path, capsys, "--quick", **row) == ""


@pytest.mark.parametrize("options", [(), ("--quick",)])
@pytest.mark.parametrize(
    ("mask", "affine", "words"),
    [
        (np.ones((5, 6, 8), np.uint8), make_affine(), "the mask's shape is (5, 6, 8)"),
        (LESION, make_affine(origin=(2, 0, 0)), "lies up to 2 mm from its scan"),
        (np.ones((*SHAPE, 2), np.uint8), make_affine(), "2 volumes (shape (5, 6, 7, 2))"),
    ],
)
def test_a_mask_that_does_not_lie_as_its_scan_is_named_by_its_header(
    mask: np.ndarray,
    affine: np.ndarray,
    words: str,
    options: tuple[str, ...],
    save: SaveScan,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = save("bad.nii.gz", mask, affine)
    said = check(tmp_path, capsys, *options, label=1, mask_path="bad.nii.gz")
    assert f"row 2: {path}: " in said
    assert words in said
    assert words in check(tmp_path, capsys, *options, label=0, organ_path="bad.nii.gz")


@pytest.mark.parametrize(("value", "words"), [(np.nan, "1 of 210 values are NaN or infinite"), (-3, "below 0 (lowest -3)")])
def test_values_that_no_mask_has_are_named(
    value: float, words: str, save: SaveScan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = LESION.astype(np.float32)
    mask[0, 0, 0] = value
    path = save("bad.nii.gz", mask, make_affine())
    said = check(tmp_path, capsys, label=1, mask_path="bad.nii.gz")
    assert f"row 2: {path}: " in said
    assert words in said


def test_a_damaged_scan_or_mask_and_an_empty_organ_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "torn.nii.gz").write_bytes((tmp_path / "lesion.nii.gz").read_bytes()[:60])
    assert "row 2: " in (said := check(tmp_path, capsys, label=1, mask_path="torn.nii.gz"))
    assert "torn.nii.gz: cannot be read as NIfTI" in said
    (tmp_path / "fake.nii.gz").write_bytes(b"no scan")
    assert "fake.nii.gz: cannot be read as NIfTI" in check(tmp_path, capsys, image_path="fake.nii.gz", label=0)
    assert "the organ mask is empty" in check(tmp_path, capsys, label=0, organ_path="empty.nii.gz")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"label": 1, "slices": [3, 5], "plane": "axial"}, ""),
        ({"label": 0, "slices": [0, 3], "plane": "axial"}, ""),
        ({"label": 0, "slices": [0, 3]}, ""),
        ({"label": 0, "slices": [0, 3], "preset": "brain-mri"}, ""),
        ({"label": 1, "slices": [0, 3], "preset": "brain-mri"}, "the mask is empty in its slices"),
        ({"label": 0, "slices": [2, 2], "plane": "sagittal"}, "1 voxels of the mask are above 0 in its slices"),
        ({"label": 1, "slices": [4, 7], "plane": "axial"}, "slices 4 to 7 are named, but it has 7 in this plane"),
    ],
)
def test_labels_are_of_the_slices_that_the_row_names(
    row: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = check(tmp_path, capsys, mask_path="lesion.nii.gz", **row)
    assert words in said
    assert bool(words) == bool(said)


def test_every_row_is_looked_at_and_ten_are_named(tmp_path: Path, save: SaveScan, capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for n in range(12):
        save(f"{n}.nii.gz", np.random.default_rng(n).integers(1, 900, SHAPE, dtype=np.int16), make_affine())
        rows.append({"image_path": f"{n}.nii.gz", "label": 1, "class_name": "Brain", "mask_path": "empty.nii.gz"})
    (tmp_path / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["index", "check", str(tmp_path / "index.jsonl")]) == 2
    said = capsys.readouterr().err
    assert "row 10: " in said
    assert "row 11: " not in said
    assert "; and 2 more" in said


def test_training_notes_labels_that_masks_contradict_each_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("good", 1, "lesion"), ("scan", 1, "empty")]
    lines = [
        json.dumps({"image_path": f"{i}.nii.gz", "label": n, "class_name": "Brain", "mask_path": f"{m}.nii.gz"})
        for i, n, m in rows
    ]
    (tmp_path / "index.jsonl").write_text("\n".join(lines))
    cases = read_index(tmp_path / "index.jsonl")
    for _ in range(2):
        SliceStore(cases, get_preset("brain-mri"), tmp_path / "cache")
        said = capsys.readouterr().err
        assert said.startswith("aaclip-med: note: row 2 is labelled abnormal, its mask is empty in the slices used")
        assert "row 1" not in said
    SliceStore(cases[:1], get_preset("brain-mri"), tmp_path / "cache")
    assert capsys.readouterr().err == ""
