from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from aaclip_med.data.index import Case, read_index, write_index
from aaclip_med.data.pairs import build_index
from aaclip_med.data.scans import unique_names
from aaclip_med.errors import InputError

from .conftest import SaveScan, make_affine


def write_rows(folder: Path, *rows: Any, touch: Sequence[str] = ("a.png", "b.png", "m.png")) -> Path:
    """An index file of ``rows`` (text as it is, objects as JSON) beside empty image files."""
    for name in touch:
        (folder / name).touch()
    path = folder / "index.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def row(image: str = "a.png", **more: Any) -> dict[str, Any]:
    return {"image_path": image, "label": 0, "class_name": "Brain"} | more


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_index(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_index_of_the_authors_is_read_as_it_is(tmp_path: Path) -> None:
    for name in ("Brain/test/Ungood/img/1.png", "Brain/test/Ungood/anomaly_mask/1.png", "Brain/test/good/img/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    path = write_rows(
        tmp_path,
        '{"image_path": "Brain/test/Ungood/img/1.png", "label": 1.0, "class_name": "Brain", '
        '"mask_path": "Brain/test/Ungood/anomaly_mask/1.png", "specie_name": "Ungood"}',
        "",
        '{"image_path": "Brain/test/good/img/1.png", "label": 0.0, "class_name": "Brain", "mask_path": ""}',
    )
    folder = tmp_path / "Brain" / "test"
    assert read_index(path) == [
        Case(folder / "Ungood/img/1.png", 1, "Brain", folder / "Ungood/anomaly_mask/1.png", row=1),
        Case(folder / "good/img/1.png", 0, "Brain", row=3),
    ]


@pytest.mark.parametrize(("label", "read"), [(0, 0), (1, 1), (0.0, 0), (1.0, 1), (True, 1), (False, 0), ("0", 0), ("1", 1)])
def test_a_label_is_zero_or_one_in_any_notation(tmp_path: Path, label: Any, read: int) -> None:
    assert read_index(write_rows(tmp_path, row(label=label)))[0].label == read


@pytest.mark.parametrize("mask", [None, "", "m.png"])
@pytest.mark.parametrize("label", [0, 1])
def test_a_mask_is_optional_under_either_label(tmp_path: Path, mask: str | None, label: int) -> None:
    case = read_index(write_rows(tmp_path, row(mask_path=mask, label=label)))[0]
    assert case.mask_path == (tmp_path / mask if mask else None)


def test_every_optional_key_is_read(tmp_path: Path) -> None:
    path = write_rows(tmp_path, row(plane="coronal", patient=7, split="val", preset="liver-ct", slices=[3, 9], modality="CT"))
    case = read_index(path)[0]
    assert (case.plane, case.patient, case.split, case.preset, case.slices) == (
        *("coronal", "7", "val", "liver-ct"),
        (3, 9),
    )
    assert case.name == "a"


def test_a_key_like_a_known_one_is_passed_over_beside_it(tmp_path: Path) -> None:
    case = read_index(write_rows(tmp_path, row(mask_path="m.png", mask=True, patient="p", patient_id=3)))[0]
    assert (case.mask_path, case.patient) == (tmp_path / "m.png", "p")


def test_relative_paths_start_at_the_root_and_absolute_ones_stay(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "a.png").touch()
    (tmp_path / "b.png").touch()
    path = write_rows(tmp_path, row("a.png"), row(str(tmp_path / "b.png")), touch=())
    assert [case.image_path for case in read_index(path, root)] == [root / "a.png", tmp_path / "b.png"]


def test_windows_text_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = write_rows(tmp_path, row())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(read_index(path)) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        (row(image=""), "no image_path"),
        ({"image_path": "a.png", "class_name": "Brain"}, "no label"),
        ({"image_path": "a.png", "label": 0}, "no class_name"),
        (row(image="gone.png"), "no such file"),
        (row(image=5), "image_path 5; it must be a string"),
        (row(mask_path="gone.png"), "mask_path"),
        (row(image="notes.txt"), "not an image of a known ending"),
        (row(label=2), "label 2; it must be 0 or 1"),
        (row(label="ill"), 'label "ill"'),
        (row(label=None), "label null"),
        (row(label=float("nan")), "label NaN"),
        (row(class_name=3), "no class_name"),
        (row(plane="diagonal"), 'unknown plane "diagonal"; choose one of axial'),
        (row(split="validation"), 'unknown split "validation"; choose one of train, val, test'),
        (row(preset="knee"), 'unknown preset "knee"; choose one of brain-mri'),
        (row(patient=[1]), "patient [1]; it must be a string"),
        (row(slices=[5, 3]), "slices [5, 3]; write [first, last]"),
        (row(slices=[-1, 3]), "slices [-1, 3]"),
        (row(slices=[1, 2, 3]), "slices [1, 2, 3]"),
        (row(slices=[1.5, 3]), "slices [1.5, 3]"),
        (row(slices=[False, True]), "slices [false, true]"),
        (row(slices=3), "slices 3"),
        (row(mask="m.png"), "unknown key 'mask'; did you mean 'mask_path'?"),
        (row(maskpath="m.png"), "unknown key 'maskpath'; did you mean 'mask_path'?"),
        (row(Patient="m"), "unknown key 'Patient'; did you mean 'patient'?"),
        (row(slice=[1, 2]), "unknown key 'slice'; did you mean 'slices'?"),
        ({"imagepath": "a.png", "label": 0, "class_name": "Brain"}, "did you mean 'image_path'?"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, bad: Any, message: str) -> None:
    path = write_rows(tmp_path, row("b.png"), bad, touch=("a.png", "b.png", "m.png", "notes.txt"))
    found = refusal(path)
    assert f"{path}:2: " in found
    assert message in found
    assert f"{path}:1: " not in found


def test_all_bad_lines_are_reported_at_once_ten_by_name(tmp_path: Path) -> None:
    path = write_rows(tmp_path, *[row("b.png", label=9, slices=[n, n]) for n in range(14)])
    message = refusal(path)
    assert [f"{path}:{n}: " in message for n in (1, 10, 11)] == [True, True, False]
    assert message.endswith("; and 4 more")


def test_the_same_image_twice_is_refused_unless_its_slices_differ(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to("a.png")
    path = write_rows(tmp_path, row(slices=[0, 3]), row(slices=[4, 7]), row("link.png", slices=[0, 3]))
    assert f"{path}:3: the image of line 1 again" in refusal(path)
    assert len(read_index(write_rows(tmp_path, row(slices=[0, 3]), row(slices=[4, 7])))) == 2


def test_an_empty_a_missing_and_a_binary_index_are_refused(tmp_path: Path) -> None:
    assert "no case in this index" in refusal(write_rows(tmp_path, "", "  "))
    assert "cannot be read (No such file" in refusal(tmp_path / "gone.jsonl")
    (tmp_path / "index.jsonl").write_bytes(json.dumps(row()).encode() + b"\n" + "{é}".encode("latin-1"))
    assert "index.jsonl:2: not UTF-8" in refusal(tmp_path / "index.jsonl")


def test_a_written_index_is_read_back_the_same_after_its_folder_moved(tmp_path: Path) -> None:
    before, after, elsewhere = tmp_path / "before", tmp_path / "after", tmp_path / "elsewhere.png"
    (before / "img").mkdir(parents=True)
    elsewhere.touch()
    for name in ("img/é.png", "img/b.png", "m.png"):
        (before / name).touch()
    cases = [
        Case(before / "img/é.png", 1, "Brain", before / "m.png", "axial", "p1", "train", "brain-mri", (0, 4), row=1),
        Case(before / "img/b.png", 0, "Liver", row=2),
        Case(elsewhere, 0, "Liver", row=3),
    ]
    write_index(cases, before / "index.jsonl")
    assert read_index(before / "index.jsonl") == cases
    before.rename(after)
    moved = read_index(after / "index.jsonl")
    assert [case.image_path for case in moved] == [after / "img/é.png", after / "img/b.png", elsewhere]
    assert [replace(case, image_path=Path(), mask_path=None) for case in moved] == [
        replace(case, image_path=Path(), mask_path=None) for case in cases
    ]


# --- a folder of scans and masks -----------------------------------------------------------------------------------

ILL = np.zeros((5, 6, 7), np.uint8)
ILL[2, 3, 4] = 2
WELL = np.zeros((5, 6, 7), np.uint8)


def build_refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        build_index(folder, "brain-mri", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("scan", "mask"),
    [
        ("p1.nii.gz", "p1_mask.nii.gz"),
        ("p1_flair.nii.gz", "p1_flair_seg.nii.gz"),
        ("p1_flair.nii.gz", "p1_tumour.nii.gz"),
        ("p1_image.nrrd", "p1_label.nrrd"),
        ("p1.mha", "p1_Segmentation.nii"),
        ("deep/er/p1.nii.gz", "deep/er/p1_gt.nii.gz"),
    ],
)
def test_a_mask_is_found_beside_its_scan(save: SaveScan, tmp_path: Path, scan: str, mask: str) -> None:
    image, mask_path = save(scan), save(mask, ILL)
    patient = image.name.partition(".")[0].removesuffix("_flair")
    assert build_index(tmp_path, "brain-mri") == [
        Case(image, 1, "Brain", mask_path, patient=patient, preset="brain-mri", row=1)
    ]


@pytest.mark.parametrize(("images", "masks"), [("images", "masks"), ("images", "labels"), ("imagesTr", "labelsTr")])
def test_a_mask_is_found_in_the_folder_of_masks(save: SaveScan, tmp_path: Path, images: str, masks: str) -> None:
    for name, mask in (("p1", ILL), ("sub/p2", WELL)):
        save(f"{images}/{name}.nii.gz")
        save(f"{masks}/{name}.nii.gz", mask)
    cases = build_index(tmp_path, "liver-ct")
    assert [(case.name, case.label, case.class_name) for case in cases] == [("p1", 1, "Liver"), ("p2", 0, "Liver")]
    assert [case.mask_path for case in cases] == [
        tmp_path / masks / "p1.nii.gz",
        tmp_path / masks / "sub" / "p2.nii.gz",
    ]


def test_a_mask_of_the_full_name_goes_before_one_of_the_stem(save: SaveScan, tmp_path: Path) -> None:
    for scan in ("p_1.nii.gz", "p_2.nii.gz"):
        save(scan)
    save("p_1_mask.nii.gz", ILL)
    save("p_2_mask.nii.gz", WELL)
    assert [(case.name, case.label) for case in build_index(tmp_path, "brain-mri")] == [("p_1", 1), ("p_2", 0)]


def test_a_scan_without_a_mask_is_refused_unless_it_may_count_as_normal(save: SaveScan, tmp_path: Path) -> None:
    bare = save("p1.nii.gz")
    assert f"{bare}: no mask" in build_refusal(tmp_path)
    case = build_index(tmp_path, "brain-mri", unlabelled_are_normal=True)[0]
    assert (case.label, case.mask_path) == (0, None)


def test_a_mask_that_could_belong_to_several_scans_is_refused(save: SaveScan, tmp_path: Path) -> None:
    for name in ("p1_t1.nii.gz", "p1_flair.nii.gz"):
        save(name)
    save("p1_seg.nii.gz", ILL)
    assert "could belong to p1_flair.nii.gz, p1_t1.nii.gz" in build_refusal(tmp_path)


def test_a_mask_without_a_scan_and_a_scan_with_two_masks_are_refused(save: SaveScan, tmp_path: Path) -> None:
    save("a/p1.nii.gz")
    save("a/p2_mask.nii.gz", ILL)
    assert "belongs to no scan" in build_refusal(tmp_path / "a")
    for name in ("p1.nii.gz", "p1_seg.nii.gz", "p1_mask.nii.gz"):
        save(f"b/{name}", ILL)
    assert "has another mask" in build_refusal(tmp_path / "b")
    save("c/images/p1.nii.gz")
    save("c/masks/p9.nii.gz", ILL)
    assert "no image of this name" in build_refusal(tmp_path / "c")


def test_files_of_one_name_and_different_endings_are_refused_in_folders_side_by_side(save: SaveScan, tmp_path: Path) -> None:
    for name in ("a/images/p1.nii.gz", "a/masks/p1.nii", "a/masks/p1.nii.gz", "b/images/p1.nii", "b/images/p1.nrrd"):
        save(name, ILL)
    masks = tmp_path / "a" / "masks"
    assert f"{masks / 'p1.nii.gz'}: p1.nii.gz has another mask, {masks / 'p1.nii'}; keep one" in build_refusal(tmp_path / "a")
    save("b/masks/p1.nii", ILL)
    assert "could belong to p1.nii, p1.nrrd" in build_refusal(tmp_path / "b", unlabelled_are_normal=True)


def test_a_mask_of_another_geometry_is_refused(save: SaveScan, tmp_path: Path) -> None:
    save("p1.nii.gz")
    save("p1_mask.nii.gz", ILL, make_affine("LPS"))
    assert "mm from its scan" in build_refusal(tmp_path)


def test_a_mask_suffix_of_ones_own_is_taken(save: SaveScan, tmp_path: Path) -> None:
    save("p1.nii.gz")
    save("p1-roi.nii.gz", ILL)
    assert build_index(tmp_path, "brain-mri", mask_suffixes=("-roi",))[0].label == 1


def test_the_patient_is_what_the_pattern_finds(save: SaveScan, tmp_path: Path) -> None:
    for name in ("sub-01_ses-1.nii.gz", "sub-01_ses-2.nii.gz"):
        save(name)
    cases = build_index(tmp_path, "brain-mri", unlabelled_are_normal=True, patient_pattern="(sub-[0-9]+)")
    assert [case.patient for case in cases] == ["sub-01", "sub-01"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "not a regular expression"),
        ("sub", "has 0 groups"),
        ("(a)(b)", "has 2 groups"),
        ("(xyz)", "does not match"),
    ],
)
def test_a_pattern_that_finds_no_patient_is_refused(save: SaveScan, tmp_path: Path, pattern: str, message: str) -> None:
    save("sub-01.nii.gz")
    assert message in build_refusal(tmp_path, unlabelled_are_normal=True, patient_pattern=pattern)


# --- output names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/d/a.nii.gz", "/d/b.nii.gz"], ["a", "b"]),
        (["/d/b/a.nii.gz", "/d/c/a.nii.gz", "/d/c/e.nii.gz"], ["b_a", "c_a", "e"]),
        (["/d/x/b/a.nii.gz", "/d/y/b/a.nii.gz"], ["x_b_a", "y_b_a"]),
        (["/d/a.nii.gz", "/d/a.nrrd"], ["a_nii_gz", "a_nrrd"]),
        (["/d/b/A.nii.gz", "/d/c/a.nii.gz"], ["b_A", "c_a"]),
        (["/d/b/a.nii.gz", "/d/c/a.nii.gz", "/d/b_a.nii.gz"], ["d_b_a", "c_a", "b_a"]),
        (["/d/a.nii.gz", "/d/a.nii.gz", "/d/a_2.nii.gz"], ["a", "a_3", "a_2"]),
        (["/d/x/pA/t.nii.gz", "/d/x/pB/t.nii.gz", "/d/x/pB/T.nii.gz"], ["t", "t_nii_gz_2", "T_nii_gz"]),
        (["/d/x/b/a.nii", "/d/x/b/A.nii", "/d/x/c/a.nii", "/d/x/c/A.nii"], ["b_a_nii_2", "b_A_nii", "c_a_nii_2", "c_A_nii"]),
    ],
)
def test_clashing_names_alone_are_told_apart_by_their_folders(paths: list[str], names: list[str]) -> None:
    assert unique_names(paths) == names
    assert sorted(unique_names(paths[::-1])) == sorted(names)
    assert len(set(unique_names(paths))) == len(paths)


def test_names_of_relative_paths_come_from_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert unique_names(["a.nii.gz", "b/a.nii.gz"]) == ["study_a", "b_a"]


def test_no_name_is_longer_than_a_file_s_with_what_outputs_add() -> None:
    long = ["/d/" + "n" * 232, "/d/" + "n" * 231 + "m", "/d/" + "\u00e9" * 110]
    names = unique_names(long)
    assert len(set(names)) == 3
    assert all(len(name.encode()) <= 200 for name in names)
    assert names[0].startswith("n" * 191 + "-")
    assert unique_names(long[:1]) == names[:1]


def test_an_index_reads_back_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    image = tmp_path / os.fsdecode(b"lat\xe9.nii.gz")
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)), image)
    cases = build_index(tmp_path, "brain-mri", unlabelled_are_normal=True)
    assert cases[0].patient == "lat\\xe9"
    write_index(cases, tmp_path / "index.jsonl")
    (tmp_path / "index.jsonl").read_text(encoding="utf-8")
    assert [case.image_path for case in read_index(tmp_path / "index.jsonl")] == [image]
