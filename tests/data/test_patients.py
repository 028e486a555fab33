"""Which scans are of one patient, over layouts of folders, and that no patient is in two splits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aaclip_med.cli.main import main
from aaclip_med.data.index import Case, read_index
from aaclip_med.data.patients import find_patients
from aaclip_med.data.sampling import check_leaks, name_patients, split_by_patient
from aaclip_med.errors import InputError

from .conftest import make_scan, write_scan

FOLDER = Path("study")
KINDS = ("t1", "T2", "flair", "t1ce")
IDS = st.one_of(
    st.integers(1, 40).map("p{}".format),
    st.integers(1, 40).map("{:03}".format),
    st.integers(1, 40).map("sub-{:02}".format),
    st.integers(1, 40).map("BraTS20_Training_{:03}".format),
    st.text("abcdefgh0123456789", min_size=5, max_size=8),
)
LAYOUTS = {
    "a folder a patient": "{p}/{k}",
    "a folder a patient, below images": "images/{p}/{k}",
    "a folder a patient, below sets": "{s}/{p}/{k}",
    "a folder a patient, by label": "{l}/{p}/{k}",
    "a folder a session": "{p}/ses-1/{k}",
    "sessions as folders": "{p}/{v}/{k}",
    "a folder a kind": "{k}/{p}",
    "a folder a kind, below the patient": "{p}/{k}/image",
    "BIDS": "{p}/anat/{p}_{k}",
    "BIDS with sessions": "{p}/{v}/anat/{p}_{v}_{k}",
    "BraTS": "{p}/{p}_{k}",
    "flat": "{p}",
    "flat, by kind": "{p}_{k}",
    "flat, with sessions": "{p}_{v}_{k}",
    "flat, with sessions last": "{p}-{k}-{v}",
    "flat, as BIDS": "{p}_{v}_run-01_{k}",
    "sets, with sessions": "{s}/{p}_{v}_{k}",
    "a folder a kind, with sessions": "{k}/{p}_{v}",
    "a folder a session, in names too": "{v}/{p}_{k}",
    "sets": "{s}/{p}",
}


def find(*names: str, pattern: str | None = None) -> list[str]:
    return find_patients([FOLDER / f"{name}.nii.gz" for name in names], FOLDER, pattern)


def lay_out(layout: str, patients: list[str]) -> dict[str, str]:
    """The scans of ``patients`` in a layout, each with whom it is of."""
    scans = {}
    for n, patient in enumerate(patients):
        fixed = {"s": ("train", "test")[n % 2], "l": ("normal", "abnormal")[n % 2]}
        for kind in KINDS:
            for visit in ("ses-1", "visit2"):
                scans[layout.format(p=patient, k=kind, v=visit, **fixed)] = patient
    return scans


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
@settings(max_examples=20)
@given(st.lists(IDS, min_size=3, max_size=9, unique_by=str.casefold), st.integers(0, 99))
def test_all_scans_of_a_patient_go_into_one_split(layout: str, patients: list[str], seed: int) -> None:
    scans = lay_out(layout, patients)
    images = [FOLDER / f"{scan}.nii.gz" for scan in scans]
    found = find_patients(images, FOLDER)
    assert len(set(zip(found, scans.values(), strict=True))) == len(set(found)) == len(patients)
    rows = [Case(image, 0, "Brain", patient=patient) for image, patient in zip(images, found, strict=True)]
    splits: dict[str, set[str | None]] = {}
    for row, patient in zip(split_by_patient(rows, seed=seed), scans.values(), strict=True):
        splits.setdefault(patient, set()).add(row.split)
    assert all(len(split) == 1 for split in splits.values())


@settings(max_examples=50)
@given(
    st.sampled_from(("{a}/{b}", "{a}/{b}/t1", "{a}/{b}/{k}", "{a}/x/{b}", "{b}/{a}/{k}")),
    st.lists(IDS, min_size=2, max_size=5, unique_by=str.casefold),
    st.lists(st.text("uvwxyz", min_size=2, max_size=6), min_size=2, max_size=5, unique=True),
)
def test_where_two_parts_of_the_path_may_be_the_patient_none_is_guessed(
    layout: str, ones: list[str], others: list[str]
) -> None:
    names = {layout.format(a=a, b=b, k=kind) for a in ones for b in others for kind in KINDS}
    with pytest.raises(InputError, match="its patient cannot be told"):
        find(*sorted(names))


@pytest.mark.parametrize(
    "names", [("t1", "p1/t1"), ("ses-1/t1", "ses-2/t1"), ("a/001", "b/001", "b/002"), ("T1/x", "T2/x", "T3/x")]
)
def test_a_patient_that_cannot_be_told_is_refused_with_what_to_write(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"--patient-pattern '\(\[\^/\]\+\)/\[\^/\]\+\$' for a scan's folder"):
        find(*names)


def test_one_scan_of_the_same_name_in_each_folder_is_of_the_folder() -> None:
    assert find("p1/t1", "p2/t1", "p3/t1") == find("p1/volume", "p2/volume", "p3/volume") == ["p1", "p2", "p3"]
    assert find("a/thing", "b/thing") == ["a", "b"]
    assert find("p1/scan_1", "p1/scan_2", "p2/scan_1") == ["p1", "p1", "p2"]


def test_a_kind_of_scan_is_no_patient_even_where_no_name_comes_again() -> None:
    assert find("p1/t1", "p1/flair", "p2/t2") == ["p1", "p1", "p2"]


def test_a_scan_that_only_one_folder_has_is_of_that_folder_too() -> None:
    assert find("p1/t1", "p1/registered", "p2/t1") == ["p1", "p1", "p2"]


def test_names_that_do_not_come_again_stand_for_patients_as_before() -> None:
    assert find("healthy/a", "healthy/b", "ill/c") == ["a", "b", "c"]
    assert find("siteA/x1", "siteB/x2") == ["x1", "x2"]
    assert find("image_001", "image_002") == ["image_001", "image_002"]


def test_scans_whose_names_differ_by_kind_or_time_alone_are_of_one_patient() -> None:
    assert find("p1_t1", "p1_t2", "p2_t1") == ["p1", "p1", "p2"]
    assert find("sub-01_ses-1_FLAIR", "sub-01_ses-2_FLAIR", "sub-02_ses-baseline") == ["sub-01", "sub-01", "sub-02"]
    assert find("train/p1_t1", "test/p1_t1", "train/p2_visit2") == ["p1", "p1", "p2"]
    assert find("liver_scan_1", "liver_scan_2", "head_0", "head_1") == ["liver_scan_1", "liver_scan_2", "head_0", "head_1"]
    assert find("sub-01/ses-1/sub-01_ses-1_T1w", "sub-01/ses-2/sub-01_ses-2_T1w") == ["sub-01", "sub-01"]
    assert find("liver/liver_0", "liver/liver_1", "liver/liver_2_ct") == ["liver_0", "liver_1", "liver_2"]
    with pytest.raises(InputError, match="p1 is the name"):
        find("a/p1_t1", "b/p1_t2", "b/p2_t1")


def test_a_pattern_finds_the_patient_in_the_path_below_the_folder() -> None:
    names = ("p1/t1", "p1/flair", "p2/t1")
    for pattern in ("/(p[0-9]+)/", "(p[0-9]+)", "^(p[0-9]+)/", "^/(p[0-9]+)", "([^/]+)/[^/]+$", "^([^/]+)/"):
        assert find(*names, pattern=pattern) == ["p1", "p1", "p2"], pattern
    assert find("a/p1/s/t1", "b/p1/s/t1", pattern="^([^/]+/[^/]+)/") == ["a/p1", "b/p1"]


@pytest.mark.parametrize("pattern", ["^(sub-[0-9]+)", "(sub-[0-9]+)_ses", "([^_]+)_", "(sub-[0-9]+)", "^([^_/]+)_ses-[0-9]$"])
@pytest.mark.parametrize("folder", ["", "deep/er/"])
def test_a_pattern_that_matches_names_still_does(pattern: str, folder: str) -> None:
    found = find(f"{folder}sub-01_ses-1", f"{folder}sub-01_ses-2", f"{folder}sub-02_ses-1", pattern=pattern)
    assert found == ["sub-01", "sub-01", "sub-02"]


def test_a_pattern_that_means_one_in_names_and_another_in_paths_is_refused() -> None:
    with pytest.raises(InputError, match="finds '1' in the name and '001' in the path 'p001/t1'; write one"):
        find("p001/t1", "p001/t2", "p002/t1", pattern="([0-9]+)")


def test_the_command_line_splits_a_study_of_folders_by_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(6):
        folder = tmp_path / "study" / f"p{n}"
        folder.mkdir(parents=True)
        for k, kind in enumerate(KINDS):
            write_scan(folder / f"{kind}.nii.gz", make_scan(seed=10 * n + k))
            write_scan(folder / f"{kind}_mask.nii.gz", np.full((5, 6, 7), n % 2, np.uint8))
    index, split = str(tmp_path / "index.jsonl"), str(tmp_path / "split.jsonl")
    assert main(["index", "build", str(tmp_path / "study"), "--preset", "brain-mri", "--out", index]) == 0
    assert capsys.readouterr().out == "24 cases: 12 normal, 12 abnormal\n6 patients, told by names and folders\n"
    assert main(["index", "split", index, "--out", split]) == 0
    assert main(["index", "check", split]) == 0
    splits = {(case.image_path.parent, case.split) for case in read_index(split)}
    assert len(splits) == len({folder for folder, _ in splits}) == 6
    command = ["index", "build", str(tmp_path / "study"), "--preset", "brain-mri", "--patient-pattern", "/(p[0-9]+)/", "--out"]
    assert main([*command, str(tmp_path / "other.jsonl")]) == 0
    assert read_index(tmp_path / "other.jsonl") == read_index(index)


def test_rows_without_a_patient_are_split_by_the_folders_they_lie_in(tmp_path: Path) -> None:
    rows = [Case(tmp_path / f"p{n}" / f"{kind}.nii.gz", n % 2, "Brain") for n in range(5) for kind in KINDS]
    split = split_by_patient(rows)
    assert [case.patient for case in split] == [case.image_path.parent.name for case in rows]
    assert len({(case.patient, case.split) for case in split}) == 5
    torn = [replace(case, patient=None, split="train" if case.name == "t1" else "test") for case in rows]
    with pytest.raises(InputError, match="patient p0 is in train and test"):
        check_leaks(name_patients(torn))
    kept = [Case(tmp_path / f"p{n}" / "t1.nii.gz", 0, "Brain", patient="one") for n in range(5)]
    assert name_patients(kept) == kept
    pictures = [Case(tmp_path / f"p{n}" / "1.png", 0, "Brain") for n in range(5)]
    assert name_patients(pictures) == pictures
