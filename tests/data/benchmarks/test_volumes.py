"""Sets of volumes: Decathlon tasks and BIDS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from aaclip_med.data.benchmarks.lesions import read_labels
from aaclip_med.data.benchmarks.registry import build_benchmark_index, list_benchmark
from aaclip_med.data.volumes import read_mask, read_volume
from aaclip_med.errors import InputError

from ..conftest import GEOMETRIES, SaveScan, make_affine

LABELS = np.zeros((5, 6, 7), np.uint8)
LABELS[1:4, 1:4, 1:4] = 1
LABELS[2, 3, 2] = 2
ORGAN_ALONE = np.minimum(LABELS, 1)


def refusal(format_name: str, folder: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        build_benchmark_index(format_name, folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("codes", ["RAS", "LPI", "PIR", "SRA"])
def test_a_label_map_whose_axes_run_another_way_is_turned_to_its_scan(save: SaveScan, codes: str) -> None:
    image = nib.Nifti1Image(LABELS, GEOMETRIES["oblique"])
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))
    turned = image.as_reoriented(turn)
    like = read_volume(save("scan.nii.gz", None, image.affine))
    found = read_labels(save("labels.nii.gz", np.asarray(turned.dataobj), turned.affine), like)
    np.testing.assert_array_equal(found, LABELS)
    assert found.dtype == np.int16


# --- Medical Segmentation Decathlon --------------------------------------------------------------------------------


def describe(folder: Path, *names: str, name: str = "Liver", labels: dict[str, str] | None = None, **more: Any) -> None:
    training = [{"image": f"./imagesTr/{one}.nii.gz", "label": f"./labelsTr/{one}.nii.gz"} for one in names]
    known = {"0": "background", "1": "liver", "2": "cancer"} if labels is None else labels
    (folder / "dataset.json").write_text(json.dumps({"name": name, "labels": known, "training": training} | more))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_chosen_labels_become_masks_of_their_own_in_the_same_grid(save: SaveScan, tmp_path: Path, geometry: str) -> None:
    affine = GEOMETRIES[geometry]
    for name, labels in (("liver_0", LABELS), ("liver_1", ORGAN_ALONE)):
        save(f"task/imagesTr/{name}.nii.gz", None, affine)
        save(f"task/labelsTr/{name}.nii.gz", labels, affine)
    describe(tmp_path / "task", "liver_0", "liver_1", test=["./imagesTs/liver_2.nii.gz"])
    listing = list_benchmark("msd", tmp_path / "task", lesion_labels=[2], masks_folder=tmp_path / "masks")
    assert [(case.name, case.label, case.patient, case.split) for case in listing.cases] == [
        ("liver_0", 1, "liver_0", None),
        ("liver_1", 0, "liver_1", None),
    ]
    assert {(case.class_name, case.preset) for case in listing.cases} == {("Liver", "liver-ct")}
    assert [path.name for path in listing.passed_over] == ["liver_2.nii.gz"]
    mask = listing.cases[0].mask_path
    assert mask == tmp_path / "masks" / "liver_0_lesion.nii.gz"
    assert np.array_equal(read_mask(mask, read_volume(listing.cases[0].image_path)), LABELS == 2)
    assert nib.load(mask).get_data_dtype() == np.uint8


def test_a_derived_mask_holds_no_text_of_its_source(save: SaveScan, tmp_path: Path) -> None:
    save("imagesTr/liver_0.nii.gz")
    image = nib.Nifti1Image(LABELS.astype(np.int16), np.eye(4))
    image.header["descrip"] = b"Jane Doe"
    image.header.set_slope_inter(1, 0)
    (tmp_path / "labelsTr").mkdir()
    nib.save(image, tmp_path / "labelsTr" / "liver_0.nii.gz")
    describe(tmp_path, "liver_0")
    case = build_benchmark_index("msd", tmp_path, lesion_labels=[1, 2], masks_folder=tmp_path / "masks")[0]
    assert case.mask_path is not None
    mask = nib.load(case.mask_path)
    assert bytes(mask.header["descrip"]).strip(b"\0") == b""
    assert np.array_equal(np.asarray(mask.dataobj), LABELS > 0)


def test_labels_are_told_by_their_values_after_the_files_own_scaling(save: SaveScan, tmp_path: Path) -> None:
    save("imagesTr/liver_0.nii.gz")
    path = save("labelsTr/liver_0.nii", LABELS)
    content = bytearray(path.read_bytes())
    content[112:116] = np.float32(0.5).tobytes()  # scl_slope (NIfTI-1, byte 112): a stored 2 is a 1
    path.write_bytes(content)
    training = [{"image": "imagesTr/liver_0.nii.gz", "label": "labelsTr/liver_0.nii"}]
    describe(tmp_path, training=training)
    case = build_benchmark_index("msd", tmp_path, lesion_labels=[1], masks_folder=tmp_path / "masks")[0]
    assert case.mask_path is not None
    assert np.array_equal(np.asarray(nib.load(case.mask_path).dataobj), LABELS == 2)


def test_a_task_of_one_label_needs_no_choice_and_no_copy(save: SaveScan, tmp_path: Path) -> None:
    save("imagesTr/lung_0.nii.gz")
    labels = save("labelsTr/lung_0.nii.gz", LABELS)
    describe(tmp_path, "lung_0", name="Lung", labels={"0": "background", "1": "cancer"})
    case = build_benchmark_index("msd", tmp_path)[0]
    assert (case.label, case.mask_path, case.class_name, case.preset) == (1, labels, "Lung", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "labels 1 (liver), 2 (cancer); say which are lesions with lesion_labels"),
        ({"lesion_labels": [3], "masks_folder": Path("m")}, "no label 3; there are 1 (liver), 2 (cancer)"),
        ({"lesion_labels": [], "masks_folder": Path("m")}, "no label chosen"),
        ({"lesion_labels": [2]}, "say where to with masks_folder"),
    ],
)
def test_labels_that_cannot_be_told_are_refused(save: SaveScan, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    save("imagesTr/liver_0.nii.gz")
    save("labelsTr/liver_0.nii.gz", LABELS)
    describe(tmp_path, "liver_0")
    assert message in refusal("msd", tmp_path, **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "'name', 'labels' or a list 'training' with an entry is missing"),
        (json.dumps({"name": "Liver", "labels": {}, "training": []}), "with an entry is missing"),
        (
            json.dumps({"name": "Liver", "labels": {"1": "a"}, "training": ["a.nii.gz"]}),
            "training entry 1 is not {image, label}",
        ),
        (
            json.dumps({"name": "Liver", "labels": {"1": "a"}, "training": [{"image": "a.nii.gz", "label": "b.nii.gz"}]}),
            "a.nii.gz: no such image",
        ),
    ],
)
def test_a_description_of_another_form_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    assert message in refusal("msd", tmp_path)


def test_a_scan_of_several_channels_and_labels_elsewhere_are_refused(save: SaveScan, tmp_path: Path) -> None:
    save("imagesTr/b.nii.gz", np.random.default_rng(0).integers(0, 9, (5, 6, 7, 4)).astype(np.int16))
    save("labelsTr/b.nii.gz", LABELS)
    describe(tmp_path, "b", labels={"1": "tumour"})
    assert "4 volumes" in refusal("msd", tmp_path)
    save("imagesTr/b.nii.gz", None, make_affine("LPS"))
    assert "mm from its scan" in refusal("msd", tmp_path)


# --- BIDS ----------------------------------------------------------------------------------------------------------


def test_a_bids_folder_gives_a_case_a_scan_with_its_lesion_mask(save: SaveScan, tmp_path: Path) -> None:
    for place in ("sub-01/anat/sub-01", "sub-02/ses-1/anat/sub-02_ses-1", "sub-02/ses-2/anat/sub-02_ses-2"):
        save(f"{place}_FLAIR.nii.gz")
        save(f"{place}_T1w.nii.gz")
        save(f"derivatives/manual/{place}_label-lesion_mask.nii.gz", ORGAN_ALONE if "ses-2" not in place else LABELS * 0)
        save(f"derivatives/strip/{place}_desc-brain_mask.nii.gz", ORGAN_ALONE)
    cases = build_benchmark_index("bids", tmp_path, suffix="FLAIR")
    assert [(case.name, case.label, case.patient) for case in cases] == [
        ("sub-01_FLAIR", 1, "sub-01"),
        ("sub-02_ses-1_FLAIR", 1, "sub-02"),
        ("sub-02_ses-2_FLAIR", 0, "sub-02"),
    ]
    assert cases[1].mask_path == tmp_path / "derivatives/manual/sub-02/ses-1/anat/sub-02_ses-1_label-lesion_mask.nii.gz"
    assert {(case.class_name, case.preset, case.split) for case in cases} == {("Brain", "brain-mri", None)}
    assert "scans of several kinds, FLAIR, T1w; choose one with suffix" in refusal("bids", tmp_path)
    assert "no scan ends in _bold.nii.gz; there are FLAIR, T1w" in refusal("bids", tmp_path, suffix="bold")


def test_a_lesions_mask_goes_before_a_plain_one_and_that_before_a_dseg(save: SaveScan, tmp_path: Path) -> None:
    save("sub-01/anat/sub-01_T1w.nii.gz")
    found = []
    for name in ("sub-01_dseg", "sub-01_space-orig_mask", "sub-01_desc-tumor_mask"):
        save(f"derivatives/x/sub-01/anat/{name}.nii.gz", ORGAN_ALONE)
        mask = build_benchmark_index("bids", tmp_path, lesion_labels=[1], masks_folder=tmp_path / "m")[0].mask_path
        assert mask is not None
        found.append(mask.name)
    assert found == ["sub-01_T1w_lesion.nii.gz", "sub-01_space-orig_mask.nii.gz", "sub-01_desc-tumor_mask.nii.gz"]


def test_a_dseg_needs_to_be_told_which_values_are_lesions(save: SaveScan, tmp_path: Path) -> None:
    save("sub-01/anat/sub-01_T1w.nii.gz")
    save("derivatives/x/sub-01/anat/sub-01_dseg.nii.gz", LABELS)
    assert "say which are lesions with lesion_labels" in refusal("bids", tmp_path)
    assert "say where to with masks_folder" in refusal("bids", tmp_path, lesion_labels=[2])
    case = build_benchmark_index("bids", tmp_path, lesion_labels=[2], masks_folder=tmp_path / "m")[0]
    assert case.mask_path is not None
    assert np.array_equal(np.asarray(nib.load(case.mask_path).dataobj), LABELS == 2)


def test_runs_are_told_apart_and_two_masks_for_one_scan_are_refused(save: SaveScan, tmp_path: Path) -> None:
    for run in (1, 2):
        save(f"sub-01/anat/sub-01_run-{run}_T1w.nii.gz")
        save(f"derivatives/x/sub-01/anat/sub-01_run-{run}_mask.nii.gz", ORGAN_ALONE * (run - 1))
    assert [case.label for case in build_benchmark_index("bids", tmp_path)] == [0, 1]
    save("derivatives/y/sub-01/anat/sub-01_run-1_mask.nii.gz", ORGAN_ALONE)
    message = refusal("bids", tmp_path)
    assert "sub-01_run-1_T1w.nii.gz: several masks (derivatives/x/" in message


def test_a_mask_of_another_kind_of_scan_or_run_is_not_taken(save: SaveScan, tmp_path: Path) -> None:
    for name in ("sub-01_T1w", "sub-01_FLAIR"):
        save(f"sub-01/anat/{name}.nii.gz")
    for name in ("sub-01_T1w_mask", "sub-01_task-rest_mask", "sub-01_FLAIR_label-lesion_mask"):
        save(f"derivatives/x/sub-01/anat/{name}.nii.gz", ORGAN_ALONE)
    for kind, mask in (("T1w", "sub-01_T1w_mask.nii.gz"), ("FLAIR", "sub-01_FLAIR_label-lesion_mask.nii.gz")):
        case = build_benchmark_index("bids", tmp_path, suffix=kind)[0]
        assert case.mask_path is not None
        assert case.mask_path.name == mask


def draw_groups(save: SaveScan, folder: Path) -> None:
    for name in ("01", "02"):
        save(f"sub-{name}/anat/sub-{name}_T1w.nii.gz")
    (folder / "participants.tsv").write_text("participant_id\tgroup\nsub-01\tcontrol\nsub-02\tpatient\n")


def test_participants_of_a_normal_group_need_no_mask_and_others_are_abnormal(save: SaveScan, tmp_path: Path) -> None:
    draw_groups(save, tmp_path)
    options = {"group_column": "group", "normal_groups": ["control"]}
    cases = build_benchmark_index("bids", tmp_path, **options)
    assert [(case.label, case.mask_path) for case in cases] == [(0, None), (1, None)]
    message = refusal("bids", tmp_path)
    assert f"{tmp_path}/sub-01/anat/sub-01_T1w.nii.gz: no lesion mask below derivatives" in message
    save("derivatives/x/sub-01/anat/sub-01_mask.nii.gz", ORGAN_ALONE)
    assert "a lesion in a participant whose group is normal" in refusal("bids", tmp_path, **options)


def test_a_column_that_is_not_there_is_refused_though_a_row_has_a_tab_too_many(save: SaveScan, tmp_path: Path) -> None:
    draw_groups(save, tmp_path)
    table = tmp_path / "participants.tsv"
    table.write_text(table.read_text().replace("control\n", "control\t\n"))
    message = refusal("bids", tmp_path, group_column="diagnosis", normal_groups=["control"])
    assert message.endswith("no column diagnosis; there are participant_id, group")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_column": "group"}, "give group_column and normal_groups together"),
        ({"normal_groups": ["control"]}, "give group_column and normal_groups together"),
        ({"group_column": "diagnosis", "normal_groups": ["x"]}, "no column diagnosis; there are participant_id, group"),
        ({"group_column": "group", "normal_groups": ["HC"]}, "nobody's group is HC; there are control, patient"),
    ],
)
def test_a_column_or_group_that_is_not_there_is_refused(
    save: SaveScan, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    draw_groups(save, tmp_path)
    assert message in refusal("bids", tmp_path, **options)
    (tmp_path / "participants.tsv").unlink()
    if len(options) == 2:
        assert "participants.tsv: cannot be read as a table" in refusal("bids", tmp_path, **options)


def test_a_label_map_with_nan_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.arange(120, dtype=np.float32).reshape(4, 5, 6), np.eye(4)), tmp_path / "scan.nii.gz")
    nib.save(nib.Nifti1Image(np.full((4, 5, 6), np.nan, np.float32), np.eye(4)), tmp_path / "labels.nii.gz")
    with pytest.raises(InputError, match=r"labels.nii.gz.*NaN"):
        read_labels(tmp_path / "labels.nii.gz", read_volume(tmp_path / "scan.nii.gz"))
