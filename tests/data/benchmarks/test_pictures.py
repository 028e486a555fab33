"""Benchmarks of pictures: BMAD, the industrial sets, the polyps."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aaclip_med.data.benchmarks.layouts import count_cases
from aaclip_med.data.benchmarks.names import FORMAT_NAMES
from aaclip_med.data.benchmarks.registry import FORMATS, build_benchmark_index
from aaclip_med.data.index import Case, read_index, write_index
from aaclip_med.errors import InputError

from .conftest import DrawPictures


def refusal(format_name: str, folder: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        build_benchmark_index(format_name, folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def tell(cases: Sequence[Case], folder: Path) -> list[tuple[str, int, str | None]]:
    return [(case.image_path.relative_to(folder).as_posix(), case.label, case.split) for case in cases]


def draw_brain(draw: DrawPictures, masks: str = "label") -> None:
    draw("train/good/img", "00003_60.png", "00003_61.png")
    draw("valid/good/img", "00025_99.png")
    draw("valid/Ungood/img", "00124_60.png")
    draw(f"valid/Ungood/{masks}", "00124_60.png")
    draw("test/good/img", "00000_96.png")
    draw("test/Ungood/img", "BraTS2021_00002_60.png", "BraTS2021_00002_68.png")
    draw(f"test/Ungood/{masks}", "BraTS2021_00002_60.png", "BraTS2021_00002_68.png")


def test_every_format_of_the_command_line_is_there_and_says_what_it_is() -> None:
    assert tuple(FORMATS) == FORMAT_NAMES
    assert all(layout.title and layout.tree and layout.source for layout in FORMATS.values())


def test_an_unknown_format_and_an_option_of_another_format_are_refused(tmp_path: Path) -> None:
    assert "unknown format 'brats'; choose one of bmad-brain" in refusal("brats", tmp_path)
    assert "format mvtec has no option class_name; it takes none" in refusal("mvtec", tmp_path, class_name="Brain")
    assert "no option suffix; it takes class_name" in refusal("kvasir", tmp_path, suffix="FLAIR")


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_a_folder_that_is_not_there_or_empty_is_refused_with_the_layout(tmp_path: Path, name: str) -> None:
    for folder in (tmp_path / "gone", tmp_path):
        assert f"; the layout should be {FORMATS[name].tree}" in refusal(name, folder)


# --- BMAD ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", ["label", "anomaly_mask"])
def test_bmads_splits_labels_masks_and_patients_come_from_its_names(draw: DrawPictures, tmp_path: Path, masks: str) -> None:
    draw_brain(draw, masks)
    cases = build_benchmark_index("bmad-brain", tmp_path)
    assert tell(cases, tmp_path) == [
        ("train/good/img/00003_60.png", 0, "train"),
        ("train/good/img/00003_61.png", 0, "train"),
        ("valid/good/img/00025_99.png", 0, "val"),
        ("valid/Ungood/img/00124_60.png", 1, "val"),
        ("test/good/img/00000_96.png", 0, "test"),
        ("test/Ungood/img/BraTS2021_00002_60.png", 1, "test"),
        ("test/Ungood/img/BraTS2021_00002_68.png", 1, "test"),
    ]
    assert [case.patient for case in cases[::3]] == ["BraTS2021_00003", "BraTS2021_00124", "BraTS2021_00002"]
    assert cases[3].mask_path == tmp_path / "valid" / "Ungood" / masks / "00124_60.png"
    assert {(case.class_name, case.preset) for case in cases} == {("Brain", "brain-mri")}
    assert count_cases(cases)["test"] == {"normal": 1, "abnormal": 2, "abnormal_without_mask": 0}
    write_index(cases, tmp_path / "index.jsonl")
    assert read_index(tmp_path / "index.jsonl") == cases


def test_patient_7_of_btcv_and_patient_7_of_lits_are_two_people(draw: DrawPictures, tmp_path: Path) -> None:
    draw("train/good", "7_50.png")
    draw("test/good/img", "7_51.png")
    draw("test/Ungood/img", "7_52.png")
    draw("test/Ungood/label", "7_52.png")
    cases = build_benchmark_index("bmad-liver", tmp_path)
    assert [case.patient for case in cases] == ["BTCV_7", "LiTS_7", "LiTS_7"]
    assert {case.class_name for case in cases} == {"Liver"}


@pytest.mark.parametrize(
    ("name", "picture", "class_name", "patient"),
    [
        ("bmad-retina-oct2017", "CNV-1016042-3.jpeg", "Retina_OCT2017", "1016042"),
        ("bmad-chest", "0004cfab-14fd-4e49-80ba-63a80b6bddd6.png", "Chest", "0004cfab-14fd-4e49-80ba-63a80b6bddd6"),
        ("bmad-chest", "17.png", "Chest", None),
        ("bmad-histopathology", "1000.png", "Histopathology", None),
    ],
)
def test_sets_without_pixel_masks_give_abnormal_cases_without_a_mask(
    draw: DrawPictures, tmp_path: Path, name: str, picture: str, class_name: str, patient: str | None
) -> None:
    draw("train/good", "1.png")
    draw("test/good", "1.png")
    draw("test/Ungood", picture)
    case = build_benchmark_index(name, tmp_path)[-1]
    assert (case.label, case.mask_path, case.class_name, case.patient) == (1, None, class_name, patient)


def test_another_class_name_may_be_given(draw: DrawPictures, tmp_path: Path) -> None:
    draw_brain(draw)
    assert {case.class_name for case in build_benchmark_index("bmad-brain", tmp_path, class_name="Head")} == {"Head"}


def test_ungood_pictures_without_masks_and_masks_without_pictures_are_named(draw: DrawPictures, tmp_path: Path) -> None:
    draw_brain(draw)
    (tmp_path / "test/Ungood/label/BraTS2021_00002_68.png").rename(tmp_path / "test/Ungood/label/x.png")
    message = refusal("bmad-brain", tmp_path)
    assert f"{tmp_path}/test/Ungood/label/x.png: a mask without an image" in message
    assert f"{tmp_path}/test/Ungood/img/BraTS2021_00002_68.png: no mask" in message
    shutil.rmtree(tmp_path / "test/Ungood/label")
    assert "test/Ungood: no folder label or anomaly_mask in it; the layout should be" in refusal("bmad-brain", tmp_path)


def test_a_test_folder_without_normal_pictures_is_another_layout(draw: DrawPictures, tmp_path: Path) -> None:
    draw_brain(draw)
    shutil.rmtree(tmp_path / "test/good")
    assert f"{tmp_path}/test/good: no such folder; the layout should be train/good" in refusal("bmad-brain", tmp_path)
    shutil.rmtree(tmp_path / "test")
    assert f"{tmp_path}: no folder 'test' in it" in refusal("bmad-brain", tmp_path)


def test_a_patient_in_train_and_test_is_a_leak_unless_allowed(draw: DrawPictures, tmp_path: Path) -> None:
    draw_brain(draw)
    draw("test/good/img", "00003_80.png")
    message = refusal("bmad-brain", tmp_path)
    assert "patient BraTS2021_00003 is in train and test" in message
    assert message.endswith("or allow leaks to take the set as it is published")
    assert len(build_benchmark_index("bmad-brain", tmp_path, allow_leaks=True)) == 8


def test_the_same_file_under_two_names_in_train_and_test_is_a_leak(draw: DrawPictures, tmp_path: Path) -> None:
    draw("train/good", "1.png")
    draw("test/good", "2.png")
    draw("test/Ungood", "3.png")
    shutil.copy(tmp_path / "train/good/1.png", tmp_path / "test/good/9.png")
    message = refusal("bmad-histopathology", tmp_path)
    assert f"{tmp_path}/test/good/9.png and {tmp_path}/train/good/1.png are the same file, in train and test" in message


def test_the_same_file_twice_in_one_split_is_no_leak(draw: DrawPictures, tmp_path: Path) -> None:
    draw("test/good", "2.png")
    draw("test/Ungood", "3.png")
    shutil.copy(tmp_path / "test/good/2.png", tmp_path / "test/good/9.png")
    assert len(build_benchmark_index("bmad-histopathology", tmp_path)) == 3


# --- industrial ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "good", "bad", "mask"),
    [
        ("mvtec", "good", "crack", "000_mask.png"),
        ("mpdd", "good", "hole", "000_mask.png"),
        ("btad", "ok", "ko", "000.png"),
        ("visa", "good", "bad", "000.png"),
    ],
)
def test_a_folder_a_class_gives_cases_of_every_class(
    draw: DrawPictures, tmp_path: Path, name: str, good: str, bad: str, mask: str
) -> None:
    classes = ("bottle", "cable")
    draw(f"train/{good}", "000.png", "001.png", under=classes)
    draw(f"test/{good}", "000.png", under=classes)
    draw(f"test/{bad}", "000.png", under=classes)
    draw(f"ground_truth/{bad}", mask, under=classes)
    (tmp_path / "license.txt").touch()
    cases = build_benchmark_index(name, tmp_path)
    kinds = [(0, "test"), (0, "train"), (0, "train"), (1, "test")]
    assert sorted((case.class_name, case.label, case.split) for case in cases) == [
        (one, *kind) for one in classes for kind in kinds
    ]
    assert [case.mask_path for case in cases if case.label] == [tmp_path / one / "ground_truth" / bad / mask for one in classes]
    assert {case.class_name for case in build_benchmark_index(name, tmp_path / "cable")} == {"cable"}


def test_an_industrial_set_of_another_layout_is_refused(draw: DrawPictures, tmp_path: Path) -> None:
    draw("bottle/train/good", "000.png")
    assert f"{tmp_path}: no folder <class>/test in it; the layout should be <class>" in refusal("mvtec", tmp_path)
    (tmp_path / "bottle/test").mkdir()
    assert "no folder good and none of a defect in it" in refusal("mvtec", tmp_path)
    draw("bottle/test/crack", "000.png")
    assert f"{tmp_path}/bottle/ground_truth/crack: no such folder" in refusal("mvtec", tmp_path)
    draw("bottle/ground_truth/crack", "000.png", "000_mask.png")
    assert "000_mask.png: a second mask beside 000.png; keep one" in refusal("mvtec", tmp_path)
    (tmp_path / "bottle/train/good/000.png").unlink()
    assert f"{tmp_path}/bottle/train/good: no picture in it" in refusal("mvtec", tmp_path)


def test_bitmaps_are_read_but_not_as_copies_beside_other_pictures(draw: DrawPictures, tmp_path: Path) -> None:
    draw("03/train/ok", "000.bmp", "001.bmp", "001.png")
    draw("03/test/ok", "000.bmp")
    draw("03/test/ko", "000.bmp")
    draw("03/ground_truth/ko", "000.bmp")
    cases = build_benchmark_index("btad", tmp_path)
    assert [case.image_path.name for case in cases] == ["000.bmp", "001.png", "000.bmp", "000.bmp"]
    assert [case.mask_path for case in cases] == [*(None,) * 2, tmp_path / "03/ground_truth/ko/000.bmp", None]


def test_pictures_of_a_kind_that_is_not_read_are_refused_until_each_has_a_png_beside_it(
    draw: DrawPictures, tmp_path: Path
) -> None:
    draw("03/train/ok", "000.gif", "001.gif")
    draw("03/test/ok", "000.png")
    message = refusal("btad", tmp_path)
    assert f"{tmp_path}/03/train/ok/000.gif: 2 pictures of {tmp_path}/03/train/ok are .gif files" in message
    assert "save each beside itself as PNG (as with: magick mogrify -format png *.gif)" in message
    draw("03/train/ok", "000.png", "001.png")
    assert [case.image_path.name for case in build_benchmark_index("btad", tmp_path)] == ["000.png", "001.png", "000.png"]


VISA_HEAD = "object,split,label,image,mask\n"


def draw_visa(draw: DrawPictures, folder: Path, *rows: str) -> None:
    draw("candle/Data/Images/Normal", "0000.JPG", "0001.JPG")
    draw("candle/Data/Images/Anomaly", "000.JPG")
    draw("candle/Data/Masks/Anomaly", "000.png")
    (folder / "split_csv").mkdir()
    (folder / "split_csv" / "1cls.csv").write_text(VISA_HEAD + "".join(f"{row}\n" for row in rows))


VISA_ROWS = (
    "candle,train,normal,candle/Data/Images/Normal/0000.JPG,",
    "candle,test,normal,candle/Data/Images/Normal/0001.JPG,",
    "candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png",
)


def test_visa_is_split_as_its_own_table_says(draw: DrawPictures, tmp_path: Path) -> None:
    draw_visa(draw, tmp_path, *VISA_ROWS)
    cases = build_benchmark_index("visa", tmp_path)
    assert tell(cases, tmp_path) == [
        ("candle/Data/Images/Normal/0000.JPG", 0, "train"),
        ("candle/Data/Images/Normal/0001.JPG", 0, "test"),
        ("candle/Data/Images/Anomaly/000.JPG", 1, "test"),
    ]
    assert [case.mask_path for case in cases] == [None, None, tmp_path / "candle/Data/Masks/Anomaly/000.png"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("candle,train,normal,candle/Data/Images/Normal/9.JPG,", "9.JPG: no such image"),
        ("candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,", "an anomaly without a mask"),
        ("candle,valid,normal,candle/Data/Images/Normal/0000.JPG,", "split 'valid'"),
        ("candle,test,broken,candle/Data/Images/Normal/0000.JPG,", "label 'broken'"),
        ("candle,test,normal", "no such image"),
    ],
)
def test_a_bad_row_of_visas_table_is_named(draw: DrawPictures, tmp_path: Path, row: str, message: str) -> None:
    draw_visa(draw, tmp_path, row)
    found = refusal("visa", tmp_path)
    assert "1cls.csv:2: " in found
    assert message in found


def test_visa_without_its_table_or_with_another_is_refused(draw: DrawPictures, tmp_path: Path) -> None:
    draw_visa(draw, tmp_path, *VISA_ROWS)
    table = tmp_path / "split_csv" / "1cls.csv"
    table.write_text("object,split\ncandle,train\n")
    assert "no column label, image, mask" in refusal("visa", tmp_path)
    table.write_bytes(b"\xff\xfe")
    assert "cannot be read as CSV" in refusal("visa", tmp_path)
    table.unlink()
    assert "no table split_csv/1cls.csv" in refusal("visa", tmp_path)


# --- polyps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("cvc-clinicdb", "Colon_clinicDB"),
        ("cvc-colondb", "Colon_colonDB"),
        ("cvc-300", "Colon_cvc300"),
        ("kvasir", "Colon_Kvasir"),
    ],
)
def test_every_picture_of_polyps_is_abnormal_with_its_mask(
    draw: DrawPictures, tmp_path: Path, name: str, class_name: str
) -> None:
    draw("images", "1.jpg", "2.jpg")
    draw("masks", "1.png", "2.png")
    cases = build_benchmark_index(name, tmp_path)
    assert [(case.label, case.class_name, case.split) for case in cases] == [(1, class_name, None)] * 2
    assert [case.mask_path for case in cases] == [tmp_path / "masks" / "1.png", tmp_path / "masks" / "2.png"]


def test_clinicdb_is_read_in_its_own_folders(draw: DrawPictures, tmp_path: Path) -> None:
    draw("Original", "1.tif", "2.tif")
    draw("Ground Truth", "1.tif", "2.tif")
    cases = build_benchmark_index("cvc-clinicdb", tmp_path)
    assert [case.image_path for case in cases] == [tmp_path / "Original" / "1.tif", tmp_path / "Original" / "2.tif"]
    assert [case.mask_path for case in cases] == [tmp_path / "Ground Truth" / "1.tif", tmp_path / "Ground Truth" / "2.tif"]


def test_polyps_without_masks_are_named_up_to_ten(draw: DrawPictures, tmp_path: Path) -> None:
    draw("images", *[f"{number:02}.png" for number in range(13)])
    draw("masks", "00.png")
    message = refusal("kvasir", tmp_path)
    assert f"{tmp_path}/images/10.png: no mask" in message
    assert "11.png" not in message
    assert "and 2 more" in message
