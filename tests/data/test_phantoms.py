"""Phantoms: reproducible, plausible as files, and not to be solved by intensity alone."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from aaclip_med.data.index import read_index
from aaclip_med.data.phantoms import PHANTOM_PRESETS, Phantom, brain, liver, make_phantom, retina, write_phantom_set
from aaclip_med.data.volumes import Volume, read_mask, read_volume
from aaclip_med.data.windowing import apply_window
from aaclip_med.errors import InputError, OutputError
from aaclip_med.presets import PRESETS, get_preset

SEEDS = range(20, 28)
KINDS = {"brain-mri": brain.KINDS, "liver-ct": liver.KINDS, "retinal-oct": retina.KINDS}

every_preset = pytest.mark.parametrize("preset", PHANTOM_PRESETS)


@cache
def phantom(preset: str, seed: int, abnormal: bool) -> Phantom:
    return make_phantom(preset, seed, abnormal)


def abnormal_phantoms(preset: str) -> list[Phantom]:
    return [phantom(preset, seed, True) for seed in SEEDS]


def spacing(affine: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def slice_axis(preset: str, affine: np.ndarray) -> int:
    """The B-scan axis of OCT, else the one nearest to superior."""
    return 2 if preset == "retinal-oct" else int(np.abs(affine[2, :3] / spacing(affine)).argmax())


def cut(preset: str, affine: np.ndarray, array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, slice_axis(preset, affine), 0).reshape(array.shape[slice_axis(preset, affine)], -1)


def window(preset: str, drawn: Phantom) -> np.ndarray:
    volume = Volume(drawn.array, drawn.affine, Path(f"{preset}.nii.gz"), None, drawn.array.shape, False)
    return np.asarray(apply_window(volume, get_preset(preset).window))


def test_there_are_phantoms_for_every_preset_of_the_package() -> None:
    assert set(PHANTOM_PRESETS) == set(PRESETS)


@every_preset
@pytest.mark.parametrize("abnormal", [False, True])
def test_the_same_seed_draws_the_same_phantom(preset: str, abnormal: bool) -> None:
    first, again = phantom(preset, 20, abnormal), make_phantom(preset, 20, abnormal)
    for one, other in ((first.array, again.array), (first.mask, again.mask), (first.affine, again.affine)):
        np.testing.assert_array_equal(one, other)
    assert first.kinds == again.kinds


@every_preset
def test_another_seed_draws_another_anatomy_in_another_place(preset: str) -> None:
    one, other = phantom(preset, 20, False), phantom(preset, 21, False)
    assert one.array.shape != other.array.shape or (one.array != other.array).mean() > 0.3
    assert not np.allclose(one.affine, other.affine)


@every_preset
def test_the_values_are_of_the_type_and_range_a_scanner_stores(preset: str) -> None:
    for drawn in abnormal_phantoms(preset):
        array, body = drawn.array, drawn.body == 1
        outside, tissue = array[~body], array[body]
        assert 0.3 < body.mean() < 0.9
        if preset == "brain-mri":
            assert array.dtype == np.int16
            assert array.min() >= 0
            assert 200 < array.max() < 3000
            assert np.median(outside) < 0.1 * np.median(tissue)
        elif preset == "liver-ct":
            assert array.dtype == np.int16
            assert -1024 <= array.min() < -980
            assert 350 < array.max() < 1500
            assert np.median(outside) == pytest.approx(-1000, abs=5)
            assert 0 < np.median(tissue) < 110
            assert 0.05 < ((tissue > -130) & (tissue < -70)).mean() < 0.5, "fat"
        else:
            assert array.dtype == np.uint8
            assert array.max() > 230
            assert np.median(outside) < 60 < np.median(tissue)


@every_preset
def test_the_affine_is_oblique_and_anisotropic_and_its_slices_are_thick(preset: str) -> None:
    for drawn in abnormal_phantoms(preset):
        affine, millimetres = drawn.affine, spacing(drawn.affine)
        directions = affine[:3, :3] / millimetres
        np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-9)
        assert abs(np.linalg.det(affine[:3, :3])) == pytest.approx(millimetres.prod())
        tilt = np.degrees(np.arccos(np.clip(np.abs(directions).max(axis=0), 0, 1))).max()
        assert 1.0 < tilt < 15.0
        axis = slice_axis(preset, affine)
        assert millimetres[axis] > 1.5 * np.delete(millimetres, axis).max()
        assert 10 <= drawn.array.shape[axis] <= 28
        centre = affine @ [*((np.array(drawn.array.shape) - 1) / 2), 1]
        assert np.abs(centre[:3]).max() <= 20 + 1e-6


@pytest.mark.parametrize("preset", ["brain-mri", "liver-ct"])
def test_axes_come_in_many_orders_and_both_directions(preset: str) -> None:
    codes = {"".join(nib.aff2axcodes(drawn.affine)) for drawn in abnormal_phantoms(preset)}
    assert len(codes) >= 5
    assert len({code.replace("R", "L").replace("P", "A").replace("I", "S") for code in codes}) >= 3
    assert len({np.sign(np.linalg.det(drawn.affine)) for drawn in abnormal_phantoms(preset)}) == 2


def test_the_liver_lies_on_the_patients_right_whatever_the_axes() -> None:
    for drawn in abnormal_phantoms("liver-ct"):
        lesion = drawn.affine[:3] @ np.vstack([np.argwhere(drawn.mask).T, np.ones(drawn.mask.sum())])
        body = drawn.affine[:3] @ np.vstack([np.argwhere(drawn.body).T, np.ones(drawn.body.sum())])
        assert lesion[0].mean() > body[0].mean()


def test_oct_keeps_columns_depth_and_scans_as_its_axes() -> None:
    for drawn in abnormal_phantoms("retinal-oct"):
        assert drawn.array.shape == (192, 128, 12)
        assert nib.aff2axcodes(drawn.affine) == ("R", "P", "S")
        assert drawn.body[:, 0].max() == 0, "the vitreous is at the top"
        assert drawn.body[:, -1].min() == 1


@every_preset
def test_a_normal_phantom_has_no_lesion(preset: str) -> None:
    for seed in SEEDS[:3]:
        assert phantom(preset, seed, False).mask.max() == 0
        assert phantom(preset, seed, False).kinds == ()


@every_preset
def test_a_mask_marks_one_to_three_lesions_inside_the_body(preset: str) -> None:
    for drawn in abnormal_phantoms(preset):
        assert drawn.mask.dtype == np.uint8
        assert set(np.unique(drawn.mask)) == {0, 1}
        assert drawn.mask.shape == drawn.array.shape
        assert not (drawn.mask & ~drawn.body & 1).any()
        assert 1 <= len(drawn.kinds) <= 3


@every_preset
def test_a_few_phantoms_show_every_kind_of_lesion(preset: str) -> None:
    shown = {kind for seed in range(0, 12, 2) for kind in phantom(preset, seed, True).kinds}
    assert shown == set(KINDS[preset])


@every_preset
def test_about_half_of_the_slices_carry_a_lesion_and_each_a_visible_one(preset: str) -> None:
    shares = []
    for drawn in abnormal_phantoms(preset):
        area = cut(preset, drawn.affine, drawn.mask).mean(axis=1)
        shares.append((area > 0).mean())
        assert area[area > 0].min() >= 0.005
    assert min(shares) >= 0.3
    assert max(shares) <= 0.6
    assert 0.35 <= np.mean(shares) <= 0.55


@every_preset
def test_slices_without_a_lesion_are_those_of_the_normal_twin(preset: str) -> None:
    for seed in SEEDS[:4]:
        ill, well = phantom(preset, seed, True), phantom(preset, seed, False)
        changed = cut(preset, ill.affine, ill.array != well.array).mean(axis=1)
        marked = cut(preset, ill.affine, ill.mask).any(axis=1)
        assert (changed[~marked] == 0).all()
        assert (changed[marked] > 0.004).all()


@every_preset
def test_intensity_alone_does_not_find_the_lesions(preset: str) -> None:
    drawn = [phantom(preset, seed, number % 2 == 0) for number, seed in enumerate(SEEDS)]
    windowed = [window(preset, one) for one in drawn]
    values = np.concatenate([one.ravel() for one in windowed])
    lesion = np.concatenate([one.mask.ravel() for one in drawn])
    body = np.concatenate([one.body.ravel() for one in drawn]) == 1
    typical = np.median(values[body])
    for score in (values, 1 - values, np.abs(values - typical)):
        assert roc_auc_score(lesion, score) < 0.85
        assert roc_auc_score(lesion[body], score[body]) < 0.85
    slices = [cut(preset, one.affine, array) for one, array in zip(drawn, windowed, strict=True)]
    marked = np.concatenate([cut(preset, one.affine, one.mask).any(axis=1) for one in drawn])
    for summary in (np.max, lambda a, axis: np.percentile(a, 99, axis=axis)):
        for turn in (lambda a: a, lambda a: 1 - a):
            assert roc_auc_score(marked, np.concatenate([summary(turn(one), axis=1) for one in slices])) < 0.85


def read_rows(index: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "new"
    write_phantom_set(folder, "brain-mri", n_train=6, n_normal=2, n_test=4, seed=3)
    return folder


def test_a_set_has_its_shares_of_abnormal_phantoms(folder: Path) -> None:
    labels = {part: [row["label"] for row in read_rows(folder / f"{part}.jsonl")] for part in ("train", "calibration", "test")}
    assert (len(labels["train"]), sum(labels["train"])) == (6, 4)
    assert (len(labels["calibration"]), sum(labels["calibration"])) == (2, 0)
    assert (len(labels["test"]), sum(labels["test"])) == (4, 2)


def test_index_rows_name_all_that_is_known_of_a_phantom(folder: Path) -> None:
    assert read_rows(folder / "test.jsonl")[2] == {
        "image_path": "test/brain-mri_test_002.nii.gz",
        "label": 1,
        "class_name": "Brain",
        "mask_path": "masks/brain-mri_test_002_mask.nii.gz",
        "patient": "brain-mri_test_002",
        "split": "test",
        "preset": "brain-mri",
    }


@pytest.mark.parametrize(("part", "split"), [("train", "train"), ("calibration", "val"), ("test", "test")])
def test_the_package_reads_what_was_written(folder: Path, part: str, split: str) -> None:
    for case in read_index(folder / f"{part}.jsonl"):
        assert (case.split, case.preset, case.class_name, case.patient) == (split, "brain-mri", "Brain", case.name)
        volume = read_volume(case.image_path)
        assert case.mask_path is not None
        assert read_mask(case.mask_path, volume).any() == bool(case.label)
        assert volume.array.dtype == np.int16


def test_a_written_volume_is_the_phantom_that_was_drawn(folder: Path) -> None:
    image = nib.load(folder / "test" / "brain-mri_test_000.nii.gz")
    drawn = make_phantom("brain-mri", seed=(3 * 3 + 2) * 10_000, abnormal=True)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), drawn.array)
    np.testing.assert_allclose(image.affine, drawn.affine, atol=1e-4)


def test_no_two_phantoms_of_a_set_show_the_same_anatomy(folder: Path) -> None:
    scans = [np.asanyarray(nib.load(path).dataobj).tobytes() for path in sorted(folder.glob("*/*[0-9].nii.gz"))]
    assert len(scans) == len(set(scans)) == 12


def test_the_test_phantoms_do_not_depend_on_the_number_of_training_phantoms(folder: Path, tmp_path: Path) -> None:
    write_phantom_set(tmp_path, "brain-mri", n_train=0, n_normal=0, n_test=1, seed=3)
    name = "test/brain-mri_test_000.nii.gz"
    one, other = (np.asanyarray(nib.load(place / name).dataobj) for place in (folder, tmp_path))
    np.testing.assert_array_equal(one, other)


def test_an_unknown_preset_a_bad_number_and_a_negative_seed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no phantoms for preset 'knee-mri'; choose one of brain-mri"):
        make_phantom("knee-mri", 0, True)
    with pytest.raises(InputError, match="seed -1"):
        make_phantom("brain-mri", -1, True)
    with pytest.raises(InputError, match="unknown preset 'knee-mri'"):
        write_phantom_set(tmp_path, "knee-mri", 1, 1, 1, 0)
    with pytest.raises(InputError, match="-2 test phantoms"):
        write_phantom_set(tmp_path, "brain-mri", 1, 1, -2, 0)
    with pytest.raises(InputError, match="seed -5"):
        write_phantom_set(tmp_path, "brain-mri", 1, 1, 1, -5)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write phantoms to"):
        write_phantom_set(tmp_path / "file", "brain-mri", 1, 0, 0, 0)


def test_drawing_needs_no_torch() -> None:
    code = "import sys, aaclip_med.data.phantoms; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
