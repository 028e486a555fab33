"""Whole scans with synthetic lesions, on disk."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from aaclip_med.cli.main import main
from aaclip_med.data.index import Case, read_index
from aaclip_med.data.slices import cut_case
from aaclip_med.data.synthesis import Synthesis
from aaclip_med.data.synthesis.study import synthesise_study
from aaclip_med.data.volumes import read_mask, read_volume
from aaclip_med.errors import InputError, OutputError
from aaclip_med.presets import get_preset

OBLIQUE = np.array([[-1.9, 0.2, 0.3, 40.0], [0.2, 1.9, 0.5, -50.0], [0.1, -0.4, 4.0, 10.0], [0.0, 0.0, 0.0, 1.0]])


def write_liver(folder: Path, seed: int) -> Path:
    """A round body (36, 40, 12) in HU, oblique, with a bone far above the window."""
    i, j, k = np.indices((36, 40, 12))
    body = ((i - 18) ** 2 + (j - 20) ** 2) < 15**2
    noise = np.random.default_rng(seed).normal(0, 10, body.shape)
    array = np.where(body, 60 + 40 * np.sin(i / 3 + seed) * np.cos(j / 4 + k / 2) + noise, -1000)
    array[18:20, 30:33] = 1200
    path = folder / f"ct_{seed}.nii.gz"
    nib.save(nib.Nifti1Image(array.astype(np.int16), OBLIQUE), path)
    return path


def write_organ(folder: Path) -> Path:
    organ = np.zeros((36, 40, 12), np.uint8)
    organ[8:18, 10:28] = 1
    nib.save(nib.Nifti1Image(organ, OBLIQUE), folder / "organ.nii.gz")
    return folder / "organ.nii.gz"


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    organ = write_organ(tmp_path)
    return [
        Case(write_liver(tmp_path, 0), 0, "Liver", patient="a", split="train"),
        Case(write_liver(tmp_path, 1), 0, "Liver", patient="b", split="test", organ_path=organ),
        Case(write_liver(tmp_path, 2), 0, "Liver", patient="c", slices=(3, 6)),
        Case(write_liver(tmp_path, 3), 1, "Liver", patient="d"),
    ]


def test_each_normal_scan_gets_a_twin_that_differs_under_its_mask_alone(cases: list[Case], tmp_path: Path) -> None:
    study = synthesise_study(cases, get_preset("liver-ct"), tmp_path / "out", synthesis=Synthesis(fewest=20))
    rows = read_index(study.index)
    assert [row.label for row in rows] == [0, 0, 0, 1, 1, 1]
    assert study.scans == 3
    for normal, twin in zip(rows[:3], rows[3:], strict=True):
        assert (twin.patient, twin.split, twin.slices) == (normal.patient, normal.split, normal.slices)
        before, after = read_volume(normal.image_path), read_volume(twin.image_path)
        assert twin.mask_path is not None
        mask = read_mask(twin.mask_path, after)
        np.testing.assert_array_equal(after.affine, before.affine)
        assert after.array.dtype == before.array.dtype
        np.testing.assert_array_equal(after.array[~mask], before.array[~mask])
        assert np.mean(after.array[mask] != before.array[mask]) > 0.9
        assert after.array[mask].min() >= -200
        assert after.array[mask].max() <= 250


def test_sessions_of_one_patient_stay_one_patient(tmp_path: Path) -> None:
    cases = []
    for patient in ("p1", "p2"):
        for session in (1, 2):
            path = write_liver(tmp_path, len(cases)).rename(tmp_path / f"{patient}_ses-{session}.nii.gz")
            cases.append(Case(path, 0, "Liver"))
    rows = read_index(synthesise_study(cases, get_preset("liver-ct"), tmp_path / "out", synthesis=Synthesis(fewest=20)).index)
    assert [row.patient for row in rows] == ["p1", "p1", "p2", "p2"] * 2


def test_lesions_of_a_volume_go_through_its_slices_and_stay_in_organ_and_range(cases: list[Case], tmp_path: Path) -> None:
    synthesis = Synthesis(fewest=20, sizes=(0.02, 0.05))
    rows = read_index(synthesise_study(cases, get_preset("liver-ct"), tmp_path / "out", 1, synthesis).index)
    masks = [read_mask(row.mask_path, read_volume(row.image_path)) for row in rows[3:] if row.mask_path]
    organ = read_mask(cases[1].organ_path or Path(), read_volume(cases[1].image_path))
    assert all((mask.any(axis=(0, 1)).sum()) > 1 for mask in masks)
    assert not masks[1][~organ].any()
    assert not masks[2][:, :, [*range(3), *range(7, 12)]].any()


def test_the_window_shows_what_was_drawn(cases: list[Case], tmp_path: Path) -> None:
    preset = get_preset("liver-ct")
    rows = read_index(synthesise_study(cases[:1], preset, tmp_path / "out").index)
    normal, twin = (cut_case(row, preset) for row in rows)
    assert twin.masks is not None
    change = np.abs(np.asarray(twin.images) - np.asarray(normal.images))[twin.masks]
    assert change.mean() > 0.03


def test_a_picture_stays_a_picture(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:80, :90]
    grey = (120 + 60 * np.sin(rows / 7) * np.cos(columns / 9)).astype(np.uint8)
    Image.fromarray(np.stack([grey, grey // 2, grey // 3], axis=-1)).save(tmp_path / "polyp.png")
    case = Case(tmp_path / "polyp.png", 0, "Retina")
    rows_ = read_index(synthesise_study([case], get_preset("retinal-oct"), tmp_path / "out").index)
    after = read_volume(rows_[1].image_path)
    mask = read_mask(rows_[1].mask_path or Path(), after)
    assert after.array.shape == (90, 80, 1, 3)
    np.testing.assert_array_equal(after.array[~mask], read_volume(case.image_path).array[~mask])
    assert mask.any()


def test_the_command_writes_the_same_study_for_the_same_seed(
    cases: list[Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"image_path": str(cases[0].image_path), "label": 0, "class_name": "Liver"}
    (tmp_path / "index.jsonl").write_text(json.dumps(row) + "\n")
    arguments = ["synthesise", "--index", str(tmp_path / "index.jsonl"), "--preset", "liver-ct", "--out"]
    for name, seed in (("one", "5"), ("same", "5"), ("other", "6")):
        assert main([*arguments, str(tmp_path / name), "--seed", seed]) == 0
    assert "synthetic lesions: 1;" in capsys.readouterr().out
    one, same, other = (read_volume(tmp_path / name / "images" / "ct_0.nii.gz").array for name in ("one", "same", "other"))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert main([*arguments, str(tmp_path / "one")]) == OutputError.exit_code


def test_a_study_without_a_normal_scan_leaves_nothing_behind(cases: list[Case], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no normal row"):
        synthesise_study(cases[3:], get_preset("liver-ct"), tmp_path / "out")
    with pytest.raises(InputError, match="too little of the body"):
        synthesise_study(cases[:1], get_preset("liver-ct"), tmp_path / "out", synthesis=Synthesis(fewest=10**6))
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
