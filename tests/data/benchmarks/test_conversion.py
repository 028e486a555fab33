"""Slices from volumes: geometry first, then what each recipe does to values, masks and splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aaclip_med.data.benchmarks.registry import build_benchmark_index
from aaclip_med.data.conversion import convert
from aaclip_med.data.conversion.brats import cut_brain
from aaclip_med.data.conversion.liver import cut_liver
from aaclip_med.data.conversion.scans import Scan
from aaclip_med.data.index import read_index
from aaclip_med.data.planes import SlicePlan
from aaclip_med.data.volumes import case_name
from aaclip_med.errors import AaclipError, InputError, OutputError

from ..conftest import make_affine

AXIAL_SHAPES = {"RAS": (5, 6, 104), "LPS": (5, 6, 104), "PIR": (5, 104, 6), "SRA": (104, 5, 6), "ARI": (5, 6, 104)}


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.array(image)


def refusal(*arguments: Any, kind: type[AaclipError] = InputError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        convert(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- geometry ------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    codes=st.sampled_from(sorted(AXIAL_SHAPES)),
    angles=st.tuples(*[st.floats(-20, 20)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 3)] * 3),
    place=st.tuples(st.integers(60, 99), st.integers(0, 4), st.integers(0, 5)),
    recipe=st.sampled_from(["bmad", "corrected"]),
)
def test_a_marked_voxel_of_an_oblique_scan_comes_back_at_the_planned_pixel(
    tmp_path_factory: pytest.TempPathFactory,
    codes: str,
    angles: tuple[float, float, float],
    spacing: tuple[float, float, float],
    place: tuple[int, int, int],
    recipe: str,
) -> None:
    shape = AXIAL_SHAPES[codes] if recipe == "corrected" else (5, 6, 104)
    number, *rest = place
    axis = shape.index(104)
    voxel = [*rest]
    voxel.insert(axis, number)
    array = np.random.default_rng(0).integers(0, 400, shape, dtype=np.int16)
    labels = np.zeros(shape, np.uint8)
    array[tuple(voxel)], labels[tuple(voxel)] = 500, 4
    folder = tmp_path_factory.mktemp("oblique")
    affine = make_affine(codes, spacing, angles, (12.0, -7.0, 30.0))
    scan = Scan("a", "a", save(folder / "a_flair.nii.gz", array, affine), save(folder / "a_seg.nii.gz", labels, affine))
    slices = cut_brain(scan, recipe, "test")
    assert slices.plan is not None
    assert slices.plan.axis == axis
    marked = np.argwhere(slices.masks)
    assert len(marked) == 1
    at, row, column = marked[0].tolist()
    assert slices.numbers[at] == number
    assert slices.plan.voxel_index(number, row, column) == tuple(voxel)
    assert slices.pictures[at, row, column] == slices.pictures[at].max() == 255


def test_a_corrected_slice_shows_the_patients_right_on_the_left_and_the_front_at_the_top(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 100, (5, 6, 104), dtype=np.int16)
    labels = np.zeros(array.shape, np.uint8)
    labels[4, 5, 70] = 1  # in RAS: rightmost, foremost
    scan = Scan("a", "a", save(tmp_path / "a.nii.gz", array), save(tmp_path / "b.nii.gz", labels))
    assert np.argwhere(cut_brain(scan, "corrected", "test").masks).tolist() == [[10, 0, 0]]
    assert np.argwhere(cut_brain(scan, "bmad", "test").masks).tolist() == [[10, 5, 4]]


def test_a_pixel_of_a_written_slice_is_traced_to_its_voxel_through_the_account(tmp_path: Path) -> None:
    draw_brats(tmp_path / "source")
    convert("brats2021", tmp_path / "source", tmp_path / "out", "corrected", (0.4, 0.2, 0.4))
    account = json.loads((tmp_path / "out" / "conversion.json").read_text())
    case = next(case for case in read_index(tmp_path / "out" / "index.jsonl") if case.label)
    assert case.mask_path is not None
    name, _, number = case.name.rpartition("_")
    plan = SlicePlan(**account["scans"][name]["plan"])
    row, column = np.argwhere(read(case.mask_path))[0].tolist()
    labels = nib.load(tmp_path / "source" / name / f"{name}_seg.nii.gz")
    assert labels.dataobj[plan.voxel_index(int(number), row, column)] > 0


# --- BraTS ---------------------------------------------------------------------------------------------------------


def draw_brats(folder: Path, patients: int = 5) -> None:
    """Heads (8, 9, 104) with a tumour of labels 1 and 4 in slices 70 to 79."""
    rng = np.random.default_rng(0)
    for number in range(patients):
        head = np.zeros((8, 9, 104), np.int16)
        head[1:7, 1:8] = rng.integers(100, 900, (6, 7, 104))
        labels = np.zeros(head.shape, np.uint8)
        labels[3, 4, 70:80] = 1
        labels[4, 4, 70:80] = 4
        name = f"BraTS2021_{number:05}"
        save(folder / name / f"{name}_flair.nii.gz", head, make_affine("LPS"))
        save(folder / name / f"{name}_seg.nii.gz", labels, make_affine("LPS"))


@pytest.mark.parametrize("recipe", ["bmad", "corrected"])
def test_brats_becomes_bmads_layout_with_each_patient_in_one_split(tmp_path: Path, recipe: str) -> None:
    draw_brats(tmp_path / "source")
    summary = convert("brats2021", tmp_path / "source", tmp_path / "out", recipe, (0.4, 0.2, 0.4))
    assert (summary.scans, summary.patients) == (5, 5)
    assert summary.counts == {
        "train": {"normal": 60, "abnormal": 0, "abnormal_without_mask": 0},
        "val": {"normal": 30, "abnormal": 10, "abnormal_without_mask": 0},
        "test": {"normal": 60, "abnormal": 20, "abnormal_without_mask": 0},
    }
    cases = read_index(summary.index)
    rebuilt = build_benchmark_index("bmad-brain", tmp_path / "out")
    assert {(c.image_path, c.mask_path, c.label, c.split, c.patient) for c in rebuilt} == {
        (c.image_path, c.mask_path, c.label, c.split, c.patient) for c in cases
    }
    assert {int(case.name.rpartition("_")[2]) for case in cases if case.label} == set(range(70, 80))
    assert read(cases[0].image_path).shape == (9, 8)
    account = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert (account["recipe"], account["counts"]) == (recipe, summary.counts)
    assert account["scans"]["BraTS2021_00000"]["image"] == "BraTS2021_00000_flair.nii.gz"
    assert str(tmp_path) not in json.dumps(account)
    assert not list(tmp_path.rglob(".*"))


def test_masks_are_grey_under_bmad_and_binary_when_corrected(tmp_path: Path) -> None:
    draw_brats(tmp_path, 1)
    name = "BraTS2021_00000"
    scan = Scan(name, name, tmp_path / name / f"{name}_flair.nii.gz", tmp_path / name / f"{name}_seg.nii.gz")
    assert np.unique(cut_brain(scan, "bmad", "test").masks).tolist() == [0, 64, 255]
    assert np.unique(cut_brain(scan, "corrected", "test").masks).tolist() == [0, 255]


def test_bmad_stretches_each_slice_and_corrected_the_whole_head(tmp_path: Path) -> None:
    array = np.zeros((8, 9, 104), np.int16)
    array[1:7, 1:8] = np.random.default_rng(0).integers(100, 300, (6, 7, 104))
    array[3, 3, ::2] = 900
    scan = Scan("a", "a", save(tmp_path / "a.nii.gz", array), save(tmp_path / "b.nii.gz", np.zeros(array.shape, np.uint8)))
    by_slice, by_head = (cut_brain(scan, recipe, "test").pictures for recipe in ("bmad", "corrected"))
    assert (by_slice.max(axis=(1, 2)) == 255).all()
    assert by_head[0].max() == 255
    assert by_head[1].max() < 120


def test_what_is_not_brats_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    assert "no folder BraTS2021_<five digits> in it; the layout should be" in refusal("brats2021", tmp_path, tmp_path / "o")
    draw_brats(tmp_path, 3)
    (tmp_path / "BraTS2021_00001" / "BraTS2021_00001_seg.nii.gz").unlink()
    assert "BraTS2021_00001: no BraTS2021_00001_seg.nii.gz" in refusal("brats2021", tmp_path, tmp_path / "o")
    save(tmp_path / "BraTS2021_00001" / "BraTS2021_00001_seg.nii.gz", np.zeros((8, 9, 104), np.uint8))
    assert "mm from its scan" in refusal("brats2021", tmp_path, tmp_path / "o")
    assert not list(tmp_path.glob(".*"))
    assert not (tmp_path / "o").exists()


def test_a_head_of_fewer_than_a_hundred_slices_is_refused(tmp_path: Path) -> None:
    draw_brats(tmp_path, 3)
    for part in ("flair", "seg"):
        save(tmp_path / "BraTS2021_00002" / f"BraTS2021_00002_{part}.nii.gz", np.indices((8, 9, 50))[0].astype(np.uint8))
    assert "50 axial slices, and slices 60 to 99 are used" in refusal("brats2021", tmp_path, tmp_path / "o")


def test_patients_without_normal_slices_or_too_few_of_them_are_refused(tmp_path: Path) -> None:
    draw_brats(tmp_path, 2)
    assert "2 patients cannot be split over 3 splits" in refusal("brats2021", tmp_path, tmp_path / "o")
    draw_brats(tmp_path, 3)
    for number in range(3):
        name = f"BraTS2021_{number:05}"
        save(tmp_path / name / f"{name}_seg.nii.gz", np.zeros((8, 9, 104), np.uint8), make_affine("LPS"))
    assert "no abnormal slice in test; add patients" in refusal("brats2021", tmp_path, tmp_path / "o")


# --- liver ---------------------------------------------------------------------------------------------------------


def draw_ct(folder: Path, image: str, labels: str, liver: int, tumour: int | None) -> None:
    """A CT (8, 9, 6) in HU: liver 60 in slices 1 to 4, a bone of 900 in slice 1, and a tumour of 10 in slice 3."""
    array = np.full((8, 9, 6), -900, np.int16)
    array[1:7, 1:8] = 0
    label = np.zeros(array.shape, np.uint8)
    label[2:6, 2:6, 1:5] = liver
    array[label > 0] = 60
    array[2, 2, 1:5] = 5 + 3 * liver + 10 * int(case_name(image)[-1])
    array[6, 7, 1] = 900
    label[1, 1, 5] = 1 if tumour is None else 0  # another organ of BTCV, in a slice without liver
    if tumour is not None:
        label[3, 3, 3], array[3, 3, 3] = tumour, 10
    save(folder / image, array, make_affine("RAS"))
    save(folder / labels, label, make_affine("RAS"))


def draw_livers(folder: Path) -> None:
    draw_ct(folder / "BTCV", "img/img0001.nii.gz", "label/label0001.nii.gz", 6, None)
    for number in range(4):
        draw_ct(folder / "LiTS", f"volume-{number}.nii", f"segmentation-{number}.nii", 1, 2)


@pytest.mark.parametrize("recipe", ["bmad", "corrected"])
def test_btcv_becomes_train_and_lits_val_and_test(tmp_path: Path, recipe: str) -> None:
    draw_livers(tmp_path / "source")
    summary = convert("liver", tmp_path / "source", tmp_path / "out", recipe)
    assert summary.counts == {
        "train": {"normal": 4, "abnormal": 0, "abnormal_without_mask": 0},
        "val": {"normal": 3, "abnormal": 1, "abnormal_without_mask": 0},
        "test": {"normal": 9, "abnormal": 3, "abnormal_without_mask": 0},
    }
    cases = read_index(summary.index)
    assert {case.patient for case in cases if case.split == "train"} == {"BTCV_1"}
    assert {case.patient for case in cases if case.split != "train"} == {f"LiTS_{number}" for number in range(4)}
    assert {case.name.rpartition("_")[2] for case in cases if case.label} == {"3"}
    assert [case.patient for case in build_benchmark_index("bmad-liver", tmp_path / "out")][:4] == ["BTCV_1"] * 4
    for case in cases:
        assert np.count_nonzero(read(case.image_path)) == 16  # nothing outside of the liver


def test_the_same_hu_is_the_same_grey_in_train_and_test_only_when_corrected(tmp_path: Path) -> None:
    draw_livers(tmp_path)
    btcv = Scan("BTCV_1", "BTCV_1", tmp_path / "BTCV/img/img0001.nii.gz", tmp_path / "BTCV/label/label0001.nii.gz")
    lits = Scan("LiTS_0", "LiTS_0", tmp_path / "LiTS/volume-0.nii", tmp_path / "LiTS/segmentation-0.nii")
    scans = ((btcv, "train"), (lits, "test"))
    greys = {
        recipe: [cut_liver(scan, recipe, split).pictures[:2].max(axis=(1, 2)).tolist() for scan, split in scans]
        for recipe in ("bmad", "corrected")
    }
    assert greys["corrected"] == [[147, 147], [147, 147]]  # (60 + 200) / 450
    assert greys["bmad"] == [[136, 255], [147, 255]]  # (60 + 900) / 1800 in train, and in test by the slice's own range
    assert cut_liver(lits, "bmad", "test").numbers == [1, 2, 3, 4]


def test_liver_sets_that_are_incomplete_are_refused(tmp_path: Path) -> None:
    draw_livers(tmp_path)
    (tmp_path / "LiTS" / "segmentation-2.nii").unlink()
    assert "volume-2.nii: no segmentation-2" in refusal("liver", tmp_path, tmp_path / "o")
    draw_ct(tmp_path / "LiTS", "volume-2.nii", "segmentation-2.nii", 1, 2)
    draw_ct(tmp_path / "more", "volume-2.nii", "segmentation-9.nii", 1, 2)
    assert "has the same number; keep one" in refusal("liver", tmp_path, tmp_path / "o")
    assert "no file volume-<number>.nii.gz of LiTS below it" in refusal("liver", tmp_path / "BTCV", tmp_path / "o")
    assert "no file img<number>.nii.gz of BTCV below it" in refusal("liver", tmp_path / "LiTS", tmp_path / "o")


def test_a_label_map_without_liver_and_fractions_without_a_test_are_refused(tmp_path: Path) -> None:
    draw_livers(tmp_path)
    assert "give val or test a share" in refusal("liver", tmp_path, tmp_path / "o", fractions=(1.0, 0.0, 0.0))
    draw_ct(tmp_path / "BTCV", "img/img0001.nii.gz", "label/label0001.nii.gz", 3, None)
    assert "label0001.nii.gz: no liver in it (label 6)" in refusal("liver", tmp_path, tmp_path / "o")


# --- RESC ----------------------------------------------------------------------------------------------------------


def draw_resc(folder: Path, scans: tuple[str, ...], ending: str = ".png") -> None:
    rng = np.random.default_rng(0)
    for scan in scans:
        for number in range(1, 4):
            mask = np.zeros((6, 10), np.uint8)
            mask[2:4, 3:5] = 128 if number == 2 else 0
            for kind, picture in (("original_images", rng.integers(0, 255, (6, 10), dtype=np.uint8)), ("label_images", mask)):
                path = folder / kind / scan / f"{number}{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)


RESC_SCANS = ("P1_Cube_4-26-2011_OD", "P1_Cube_4-26-2011_OS", "P2_Cube_1-2-2012_OD", "P3_Cube_3-4-2013_OS")


@pytest.mark.parametrize(("recipe", "value"), [("bmad", 128), ("corrected", 255)])
@pytest.mark.parametrize("ending", [".png", ".bmp"])
def test_both_eyes_of_a_patient_fall_into_one_split_and_dates_stay_behind(
    tmp_path: Path, recipe: str, value: int, ending: str
) -> None:
    draw_resc(tmp_path / "source" / "train", RESC_SCANS, ending)
    summary = convert("resc", tmp_path / "source", tmp_path / "out", recipe, (0.3, 0.3, 0.4))
    cases = read_index(summary.index)
    assert (summary.scans, summary.patients) == (4, 3)
    assert {case.patient for case in cases} == {"P1", "P2", "P3"}
    assert {(case.class_name, case.preset) for case in cases} == {("Retina", "retinal-oct")}
    assert all(np.unique(read(case.mask_path)).tolist() == [0, value] for case in cases if case.mask_path)
    assert [case.patient for case in build_benchmark_index("bmad-retina-resc", tmp_path / "out")].count(None) == 0
    written = (tmp_path / "out" / "conversion.json").read_text() + "".join(case.name for case in cases)
    assert "2011" not in written
    assert "RESC_P1-2" in written
    source = tmp_path / "source" / "train" / "original_images" / RESC_SCANS[2] / f"1{ending}"
    copy = next(case for case in cases if case.name == "RESC_P2-1_1")
    assert np.array_equal(read(copy.image_path), read(source))


def test_resc_without_labels_or_with_others_is_refused(tmp_path: Path) -> None:
    assert "no folder of B-scans in it (original_images, " in refusal("resc", tmp_path, tmp_path / "o")
    draw_resc(tmp_path, RESC_SCANS)
    labels = tmp_path / "label_images" / RESC_SCANS[0]
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(labels / "2.png")
    assert "6 x 10 pixels, its label picture 3 x 3" in refusal("resc", tmp_path, tmp_path / "o")
    (labels / "2.png").write_bytes(b"no picture")
    assert "2.png: cannot be read as a picture" in refusal("resc", tmp_path, tmp_path / "o")
    (labels / "2.png").unlink()
    assert f"no label picture 2 in {labels}" in refusal("resc", tmp_path, tmp_path / "o")
    for path in labels.iterdir():
        path.unlink()
    assert f"{labels}: no picture <number>.png in it" in refusal("resc", tmp_path, tmp_path / "o")
    labels.rmdir()
    assert f"no folder of its labels in {labels.parent}" in refusal("resc", tmp_path, tmp_path / "o")
    for ending in ("a", "b"):
        (labels.parent / f"{labels.name}_{ending}").mkdir()
    assert f"{labels.name}_a, {labels.name}_b; keep one" in refusal("resc", tmp_path, tmp_path / "o")
    labels.parent.rename(tmp_path / "unknown")
    assert "no folder of labels beside it (label_images, " in refusal("resc", tmp_path, tmp_path / "o")


def test_resc_is_found_under_the_other_names_it_goes_by(tmp_path: Path) -> None:
    draw_resc(tmp_path / "a" / "Edema_trainingset", RESC_SCANS[:2], ".bmp")
    for scan in (tmp_path / "a" / "Edema_trainingset" / "label_images").iterdir():
        scan.rename(scan.with_name(f"{scan.name}_labelMark"))
    for number, scan in enumerate(RESC_SCANS[2:]):  # a folder for each scan, B-scans right in it
        draw_resc(tmp_path / "b", (scan,))
        place = tmp_path / "a" / f"P{number + 7}_x"
        place.mkdir()
        (tmp_path / "b" / "original_images" / scan).rename(place / "Images")
        (tmp_path / "b" / "label_images" / scan).rename(place / "GT")
        for path in [*(place / "Images").iterdir(), *(place / "GT").iterdir()]:
            path.rename(path.with_name(f"slice_{path.name}"))
    summary = convert("resc", tmp_path / "a", tmp_path / "out", "corrected", (0.3, 0.3, 0.4))
    assert {case.patient for case in read_index(summary.index)} == {"P1", "P7", "P8"}
    assert sum(case.label for case in read_index(summary.index)) >= 2
    twice = tmp_path / "a" / "P7_x" / "Images" / "other_2.png"
    twice.write_bytes((tmp_path / "a" / "P7_x" / "Images" / "slice_2.png").read_bytes())
    assert "other_2.png has the same number" in refusal("resc", tmp_path / "a", tmp_path / "o")


# --- the whole -----------------------------------------------------------------------------------------------------


def test_unknown_words_and_folders_are_refused(tmp_path: Path) -> None:
    assert "unknown source 'kits'; choose one of brats2021" in refusal("kits", tmp_path, tmp_path / "o")
    assert "unknown recipe 'mine'; choose one of bmad" in refusal("resc", tmp_path, tmp_path / "o", "mine")
    assert "gone: no such folder" in refusal("resc", tmp_path / "gone", tmp_path / "o")


def test_a_folder_that_holds_something_is_never_written_to(tmp_path: Path) -> None:
    draw_resc(tmp_path / "source", RESC_SCANS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    message = refusal("resc", tmp_path / "source", tmp_path / "out", kind=OutputError)
    assert "there is something already; choose another --out" in message
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    (tmp_path / "out" / "mine.txt").unlink()
    assert convert("resc", tmp_path / "source", tmp_path / "out").index.is_file()


def test_the_same_source_gives_the_same_files(tmp_path: Path) -> None:
    draw_resc(tmp_path / "source", RESC_SCANS)
    for name in ("a", "b"):
        convert("resc", tmp_path / "source", tmp_path / name)
    files = [
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("a", "b")
    ]
    assert files[0] == files[1]
