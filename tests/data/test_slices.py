"""The store of slices on disk."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from aaclip_med.data.index import Case, read_index, write_index
from aaclip_med.data.slices import SliceStore, cut_case, cut_volume
from aaclip_med.data.volumes import Volume
from aaclip_med.data.windowing import apply_window
from aaclip_med.presets import get_preset

from .conftest import make_scan, write_scan


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """One grey picture."""
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24), dtype=np.uint8)).save(path)
    return path


def fill(path: Path, cache: Path) -> Path:
    """The folder that the one slice of ``path`` lies in."""
    store = SliceStore([Case(path, 0, "Brain")], get_preset("brain-mri"), cache)
    return store.slices[0].folder


def test_a_file_that_was_copied_or_touched_is_not_cut_again(picture: Path, tmp_path: Path) -> None:
    first = fill(picture, tmp_path / "cache")
    written = (first / "images.npy").stat().st_mtime_ns
    copy = tmp_path / "b.png"
    shutil.copy(picture, copy)
    os.utime(picture, (1, 1))
    assert fill(copy, tmp_path / "cache") == fill(picture, tmp_path / "cache") == first
    assert (first / "images.npy").stat().st_mtime_ns == written


def test_a_file_with_other_content_of_the_same_size_is_cut_anew(picture: Path, tmp_path: Path) -> None:
    first = fill(picture, tmp_path / "cache")
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (20, 24), dtype=np.uint8)).save(picture)
    assert fill(picture, tmp_path / "cache") != first


@pytest.mark.parametrize("name", ["t1.mhd", "t1.nhdr"])
def test_patients_whose_voxels_lie_beside_equal_headers_are_not_mixed_up(tmp_path: Path, name: str) -> None:
    volumes = []
    for seed, patient in enumerate(("p1", "p2")):
        (tmp_path / patient).mkdir()
        volumes.append(write_scan(tmp_path / patient / name, make_scan(seed=seed)))
    first, second = (fill(path, tmp_path / "cache") for path in volumes)
    assert first != second
    for path in volumes[1].parent.iterdir():
        shutil.copy(path, volumes[0].parent)
    assert fill(volumes[0], tmp_path / "cache") == second


def test_a_damaged_memory_of_digests_is_made_again(picture: Path, tmp_path: Path) -> None:
    first = fill(picture, tmp_path / "cache")
    (tmp_path / "cache" / "digests.json").write_text("{half")
    assert fill(picture, tmp_path / "cache") == first


def test_an_organ_confines_the_window_and_the_slices_of_a_case(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array = rng.uniform(0, 100, (10, 11, 6)).astype(np.float32)
    organ = np.zeros(array.shape, dtype=np.uint8)
    organ[2:7, 3:8, 1:4] = 1
    array[organ > 0] += 1000
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    for name, data in (("scan", array), ("organ", organ)):
        nib.save(nib.Nifti1Image(data, affine), tmp_path / f"{name}.nii.gz")
    row = {"image_path": "scan.nii.gz", "label": 0, "class_name": "Brain", "organ_path": "organ.nii.gz"}
    (tmp_path / "index.jsonl").write_text(json.dumps(row) + "\n")
    (case,) = read_index(tmp_path / "index.jsonl")
    write_index([case], tmp_path / "again.jsonl")
    assert read_index(tmp_path / "again.jsonl") == [case]
    cut = cut_case(case, get_preset("brain-mri"))
    inside = cut.plan.cut(organ) > 0
    assert cut.used == [1, 2, 3]
    assert (cut.images[~inside] == 0).all()
    assert cut.images[inside].min() == 0.0
    assert cut.images[inside].mean() == pytest.approx(0.5, abs=0.1)
    store = SliceStore([case], get_preset("brain-mri"), tmp_path / "cache")
    np.testing.assert_allclose(store.image(store.slices[0])[0], cut.images[1], atol=1e-3)
    np.testing.assert_array_equal(store.organ(store.slices[0]), inside[1])


def test_a_case_without_an_organ_is_looked_at_everywhere(picture: Path, tmp_path: Path) -> None:
    store = SliceStore([Case(picture, 0, "Brain")], get_preset("brain-mri"), tmp_path / "cache")
    assert store.organ(store.slices[0]) is None


def test_slices_are_windowed_as_the_whole_volume_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(-1000, 1500, (14, 12, 9)).astype(np.int16)
    organ = rng.random(array.shape) > 0.5
    volume = Volume(array, np.diag([1.0, 1.0, 3.0, 1.0]), tmp_path / "x.nii", None, array.shape, is_picture=False)
    for name in ("liver-ct", "brain-mri"):
        for inside in (None, organ):
            for plane in ("axial", "sagittal"):
                cut = cut_volume(volume, get_preset(name), plane, None, inside)
                whole = cut.plan.cut(apply_window(volume, get_preset(name).window, inside))
                np.testing.assert_array_equal(np.asarray(cut.images), whole)
                np.testing.assert_array_equal(cut.images[3], whole[3])
                np.testing.assert_array_equal(cut.images.choose([2, 3, 4])[:], whole[2:5])
                np.testing.assert_array_equal(cut.images.choose([0, 3, 5])[1:], whole[[3, 5]])


def test_choosing_neighbouring_slices_copies_nothing(tmp_path: Path) -> None:
    array = np.arange(14 * 12 * 9, dtype=np.int16).reshape(14, 12, 9)
    volume = Volume(array, np.eye(4), tmp_path / "x.nii", None, array.shape, is_picture=False)
    images = cut_volume(volume, get_preset("brain-mri")).images
    assert np.shares_memory(images.choose(range(2, 7)).stack, array)


def test_a_row_of_some_slices_keeps_no_others_and_gives_what_the_whole_volume_gives(tmp_path: Path) -> None:
    array, organ = make_scan((10, 11, 12)), np.ones((10, 11, 12), np.uint8)
    organ[:5] = 0
    organ[:, :, 6] = 0
    mask = organ.copy()
    mask[:, :4] = 0
    paths = [write_scan(tmp_path / f"{name}.nii.gz", part) for name, part in (("a", array), ("mask", mask), ("organ", organ))]
    case = Case(paths[0], 1, "Brain", paths[1], organ_path=paths[2])
    rows = [replace(case, slices=(first, last)) for first, last in ((0, 0), (5, 8))]
    whole, parts = (SliceStore(cases, get_preset("brain-mri"), tmp_path / "cache") for cases in ([case], rows))
    assert [item.number for item in parts.slices] == [0, 5, 7, 8]
    assert [len(np.load(item.folder / "images.npy")) for item in parts.slices] == [1, 3, 3, 3]
    every, drawn = {item.number: item for item in whole.slices}, cut_case(case, get_preset("brain-mri")).masks
    for item in parts.slices:
        for read in (SliceStore.image, SliceStore.mask, SliceStore.organ):
            np.testing.assert_array_equal(read(parts, item), read(whole, every[item.number]))
        np.testing.assert_array_equal(parts.mask(item)[0], drawn[item.number])
