"""Names and folders of images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from aaclip_med.data.volumes import case_name, find_images, is_image_file, list_files, printable, read_volume

from ..conftest import SaveScan
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


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("a.nii.gz", ["a.nii.gz"]),
        ("a.mha", ["a.mha"]),
        ("a.nrrd", ["a.nrrd"]),
        ("a.mhd", ["a.mhd", "a.raw"]),
        ("a.nhdr", ["a.nhdr", "a.raw"]),
        ("a.img", ["a.hdr", "a.img"]),
        ("a.img.gz", ["a.hdr.gz", "a.img.gz"]),
        ("a.png", ["a.png"]),
        ("missing.mhd", ["missing.mhd"]),
    ],
)
def test_the_files_of_a_volume_are_its_own_and_what_holds_its_voxels_or_header(
    save: SaveScan, tmp_path: Path, name: str, files: list[str]
) -> None:
    (tmp_path / "other.raw").touch()
    if name != "missing.mhd":
        save(name, np.arange(20, dtype=np.uint8).reshape(4, 5) if name == "a.png" else None)
    assert sorted(list_files(tmp_path / name)) == [tmp_path / file for file in files]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.mhd", "ElementDataFile = LIST\nd/s1.raw\nd/s2.raw\n"),
        ("a.mhd", "ElementDataFile = d/s%d.raw 1 2 1\n"),
        ("a.nhdr", "data file: LIST\nd/s1.raw\nd/s2.raw\n"),
        ("a.nhdr", "data file: d/s%d.raw 1 2 1\n"),
        ("a.nhdr", "Data File: d/s%d.raw 1 2 1\n\n"),
        ("a.mhd", "ElementDataFile=d/s12.raw"),
        ("a.nhdr", "datafile: d/s12.raw\n"),
    ],
)
def test_voxels_in_a_list_or_a_row_of_files_are_files_of_the_volume(tmp_path: Path, name: str, said: str) -> None:
    sizes = {
        "a.mhd": "ObjectType = Image\nNDims = 3\nDimSize = 3 4 2\nElementType = MET_UCHAR\n",
        "a.nhdr": "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 3 4 2\nencoding: raw\n",
    }
    (tmp_path / name).write_text(sizes[name] + said)
    (tmp_path / "d").mkdir()
    voxels = np.arange(24, dtype=np.uint8)
    parts = {"s12.raw": voxels} if "s12" in said else {"s1.raw": voxels[:12], "s2.raw": voxels[12:]}
    for part, values in parts.items():
        values.tofile(tmp_path / "d" / part)
    assert read_volume(tmp_path / name).array.ravel(order="F").tolist() == voxels.tolist()
    assert list_files(tmp_path / name) == (tmp_path / name, *(tmp_path / "d" / part for part in parts))
