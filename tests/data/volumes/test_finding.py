"""Names and folders of images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aaclip_med.data.volumes import case_name, find_images, is_image_file, printable

from .conftest import refusal


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("x/a.b.nii.gz", "a.b"),
        ("TCGA-DU-7294_flair.nii.gz", "TCGA-DU-7294_flair"),
        ("A.NII.GZ", "A"),
        ("a.nhdr", "a"),
        ("00001.png", "00001"),
        ("a.nii.gz.nii", "a.nii.gz"),
        ("folder", "folder"),
    ],
)
def test_a_case_is_named_by_its_file_without_the_ending(path: str, name: str) -> None:
    assert case_name(path) == name


def test_an_image_file_is_known_by_its_ending() -> None:
    assert is_image_file("a.NII.gz")
    assert is_image_file(Path("b/a.Tiff"))
    assert not is_image_file("a.gz")
    assert not is_image_file("a.txt")


def test_images_are_found_to_the_bottom_sorted_and_once(tmp_path: Path) -> None:
    for name in ("b/deep/er/2.NRRD", "b/1.nii.gz", "a.png", ".hidden.png", ".cache/3.png", "b/notes.txt", "c.raw"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([tmp_path / "b" / "1.nii.gz", tmp_path, tmp_path / "b" / ".." / "a.png"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.png", "b/1.nii.gz", "b/deep/er/2.NRRD"]


def test_a_hidden_parent_of_the_named_folder_does_not_hide_it(tmp_path: Path) -> None:
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "a.nii").touch()
    assert find_images([tmp_path / ".work"]) == [tmp_path / ".work" / "a.nii"]


def test_links_to_folders_are_followed_once_and_a_loop_ends(tmp_path: Path) -> None:
    for name in ("study/a/1.nii.gz", "elsewhere/deep/2.nii.gz"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    study = tmp_path / "study"
    for name, target in (("Z", tmp_path / "elsewhere"), ("a/loop", study), ("A", study / "a"), (".hidden", study / "a")):
        (study / name).symlink_to(target)
    assert [path.relative_to(study).as_posix() for path in find_images([study])] == ["Z/deep/2.nii.gz", "a/1.nii.gz"]


@pytest.mark.parametrize(
    ("text", "written"), [("plain \u00e9", "plain \u00e9"), (os.fsdecode(b"a\xe9\xff"), r"a\xe9\xff"), ("\ud800", r"\ud800")]
)
def test_any_text_can_be_written(text: str, written: str) -> None:
    assert printable(text) == written
    printable(text).encode()


def test_an_empty_folder_a_missing_path_and_another_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").touch()
    assert "no image in this folder" in refusal(tmp_path / "empty", lambda path: find_images([path]))
    assert "no such file or folder" in refusal(tmp_path / "gone", lambda path: find_images([path]))
    assert "not an image" in refusal(tmp_path / "a.txt", lambda path: find_images([path]))
