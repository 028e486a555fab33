from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aaclip_med.cli.main import main
from aaclip_med.data.index import SPLITS, Case
from aaclip_med.data.sampling import check_copies, check_leaks, few_shot, patient_of, split_by_patient
from aaclip_med.errors import InputError

from .conftest import make_scan, write_scan


def make_cases(normal: int, abnormal: int, class_name: str = "Brain") -> list[Case]:
    labels = [0] * normal + [1] * abnormal
    return [Case(Path(f"{class_name}/{n:03}.png"), label, class_name) for n, label in enumerate(labels)]


def make_patients(well: int, ill: int, each: int = 2) -> list[Case]:
    """Each patient has ``each`` scans; of an ill one only the last is abnormal."""
    return [
        Case(Path(f"p{n}_{scan}.nii.gz"), int(n >= well and scan == each - 1), "Brain", patient=f"p{n}")
        for n in range(well + ill)
        for scan in range(each)
    ]


# --- few-shot ------------------------------------------------------------------------------------------------------


def test_few_shot_takes_as_many_normal_as_abnormal_of_each_class() -> None:
    chosen = few_shot(make_cases(9, 7) + make_cases(4, 5, "Liver"), 4, seed=0)
    assert Counter((case.class_name, case.label) for case in chosen) == {
        (name, label): 4 for name in ("Brain", "Liver") for label in (0, 1)
    }
    assert len(set(chosen)) == 16


@settings(max_examples=30)
@given(st.randoms(use_true_random=False), st.integers(0, 2**32 - 1))
def test_few_shot_does_not_depend_on_the_order_of_the_index(shuffler: random.Random, seed: int) -> None:
    cases = make_cases(9, 7) + make_cases(4, 5, "Liver")
    chosen = few_shot(cases, 3, seed)
    shuffler.shuffle(cases)
    assert few_shot(cases, 3, seed) == chosen


def test_few_shot_goes_by_the_seed_and_by_the_class_alone() -> None:
    brain, liver = make_cases(30, 30), make_cases(30, 30, "Liver")
    assert few_shot(brain, 4, seed=1) != few_shot(brain, 4, seed=2)
    assert few_shot(brain, 4, seed=1) == few_shot(brain + liver, 4, seed=1)[:8]


def test_fewer_shots_are_part_of_more() -> None:
    cases = make_cases(30, 30)
    assert set(few_shot(cases, 2, seed=0)) < set(few_shot(cases, 16, seed=0))


def test_a_class_with_too_few_cases_is_named_with_its_counts() -> None:
    with pytest.raises(InputError, match="class Liver has 5 normal and 2 abnormal cases, too few for 4 shots"):
        few_shot(make_cases(9, 9) + make_cases(5, 2, "Liver"), 4, seed=0)


def test_less_than_one_shot_is_refused() -> None:
    with pytest.raises(InputError, match="0 shots"):
        few_shot(make_cases(3, 3), 0, seed=0)


# --- splits --------------------------------------------------------------------------------------------------------


def patients_in(cases: list[Case], split: str, label: int | None = None) -> set[str]:
    return {patient_of(case) for case in cases if case.split == split and label in (None, case.label)}


@given(
    st.integers(0, 30),
    st.integers(0, 30),
    st.sampled_from([(0.7, 0.15, 0.15), (0.6, 0.4, 0.0), (0.0, 0.5, 0.5), (1.0, 0.0, 0.0), (0.98, 0.01, 0.01)]),
    st.integers(0, 1000),
)
def test_patients_stay_whole_and_every_split_gets_its_share(
    well: int, ill: int, fractions: tuple[float, float, float], seed: int
) -> None:
    cases = make_patients(well, ill)
    needed = sum(fraction > 0 for fraction in fractions)
    if well + ill < needed:
        with pytest.raises(InputError, match=f"{well + ill} patients cannot be split over {needed} splits"):
            split_by_patient(cases, fractions, seed)
        return
    split = split_by_patient(cases, fractions, seed)
    check_leaks(split)
    assert [replace(case, split=None) for case in split] == cases
    sizes = [len(patients_in(split, name)) for name in SPLITS]
    assert sum(sizes) == well + ill
    for size, fraction, name in zip(sizes, fractions, SPLITS, strict=True):
        if fraction == 0:
            assert size == 0
        else:
            assert size >= 1
            assert abs(size - fraction * (well + ill)) < 3
            assert patients_in(split, name, label=1) or ill < needed


def test_patients_with_a_lesion_are_spread_in_proportion() -> None:
    split = split_by_patient(make_patients(60, 40), (0.7, 0.15, 0.15), seed=3)
    assert [len(patients_in(split, name)) for name in SPLITS] == [70, 15, 15]
    assert [len(patients_in(split, name, label=1)) for name in SPLITS] == [28, 6, 6]


def test_a_split_goes_by_the_seed_and_not_by_the_order() -> None:
    cases = make_patients(20, 20)
    split = split_by_patient(cases, seed=1)
    assert split_by_patient(cases[::-1], seed=1) == split[::-1]
    assert split_by_patient(cases, seed=2) != split


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.2), (1.2, -0.1, -0.1), (0.5, 0.5), (float("nan"), 0.5, 0.5)])
def test_fractions_that_are_no_shares_are_refused(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="fractions"):
        split_by_patient(make_patients(5, 5), fractions)


# --- leaks ---------------------------------------------------------------------------------------------------------


def test_one_patient_in_two_splits_is_a_leak() -> None:
    cases = [
        Case(Path("a.nii.gz"), 0, "Brain", patient="p1", split="train"),
        Case(Path("b.nii.gz"), 1, "Brain", patient="p1", split="test"),
    ]
    with pytest.raises(InputError, match="patient p1 is in train and test; keep each patient in one split"):
        check_leaks(cases)
    check_leaks([cases[0], replace(cases[1], split=None)])
    check_leaks([cases[0], replace(cases[1], split="train")])


def test_one_image_in_two_splits_is_a_leak_even_under_two_patients(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "link.png").symlink_to("a.png")
    cases = [
        Case(tmp_path / "a.png", 0, "Brain", patient="p1", split="train", slices=(0, 3)),
        Case(tmp_path / "link.png", 0, "Brain", patient="p2", split="val", slices=(4, 7)),
    ]
    with pytest.raises(InputError, match=r"image .*a\.png is in train and val"):
        check_leaks(cases)


def test_without_a_patient_a_volume_stands_for_it_by_name_and_a_picture_by_path() -> None:
    volumes = [Case(Path(f"{s}/scan7.nii.gz"), 0, "Brain", split=s) for s in ("train", "test")]
    with pytest.raises(InputError, match="patient scan7 is in train and test"):
        check_leaks(volumes)
    check_leaks([Case(Path(f"{s}/00007.png"), 0, "Brain", split=s) for s in ("train", "test")])


def test_many_leaks_are_named_up_to_ten() -> None:
    cases = [
        Case(Path(f"{s}{n}.nii.gz"), 0, "Brain", patient=f"p{n:02}", split=s) for n in range(14) for s in ("train", "test")
    ]
    with pytest.raises(InputError) as caught:
        check_leaks(cases)
    assert "p09" in str(caught.value)
    assert "p10" not in str(caught.value)
    assert "; and 4 more; " in str(caught.value)


def test_a_copy_of_a_file_in_another_split_is_a_leak_for_index_check_and_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seed in (("a", 0), ("c", 1)):
        write_scan(tmp_path / f"{name}.nii.gz", make_scan(seed=seed))
    shutil.copy(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    row = '{"image_path": "%s.nii.gz", "label": 0, "class_name": "Brain", "split": "%s"}\n'
    index = tmp_path / "index.jsonl"
    index.write_text(row % ("a", "train") + row % ("b", "test") + row % ("c", "test"))
    assert main(["index", "check", str(index)]) == 2
    assert "a.nii.gz and " in (said := capsys.readouterr().err)
    assert "are the same file, in train and test; keep it in one split" in said
    split = ["index", "split", str(index), "--fractions", "0.34", "0.33", "0.33", "--out", str(tmp_path / "out.jsonl")]
    assert main(split) == 2
    assert not (tmp_path / "out.jsonl").exists()
    index.write_text(row % ("a", "train") + row % ("b", "train") + row % ("c", "test"))
    assert main(["index", "check", str(index)]) == 0


def test_scans_that_share_a_header_and_not_their_voxels_are_no_copies(tmp_path: Path) -> None:
    cases = []
    for seed, split in ((0, "train"), (1, "test"), (1, "val")):
        (tmp_path / split).mkdir()
        cases.append(Case(write_scan(tmp_path / split / "t1.mhd", make_scan(seed=seed)), 0, "Brain", split=split))
    check_copies(cases[:2])
    with pytest.raises(InputError, match=r"test/t1.mhd and .*val/t1.mhd are the same file, in val and test"):
        check_copies(cases)
