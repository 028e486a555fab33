"""DICOM series among the things to score, and as rows of an index."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from aaclip_med.data.dicom import list_series, read_series
from aaclip_med.data.index import read_index, write_index
from aaclip_med.data.pairs import build_index
from aaclip_med.data.slices import cut_case
from aaclip_med.data.sources import find_sources, read_source
from aaclip_med.data.volumes import read_mask
from aaclip_med.errors import InputError
from aaclip_med.presets import get_preset


def test_series_and_files_in_one_folder_are_sources_alike(save_series: Any) -> None:
    folder = save_series()[0].parent
    rng = np.random.default_rng(0)
    nib.save(nib.Nifti1Image(rng.normal(size=(5, 6, 7)).astype(np.float32), np.eye(4)), folder / "scan.nii.gz")
    sources, passed_over = find_sources([folder])
    (series,) = list_series([folder])
    assert [source.name for source in sources] == ["scan", series.name]
    assert passed_over == []
    np.testing.assert_array_equal(sources[1].read().array, read_series(series)[0].array)


def test_a_folder_with_nothing_to_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="no image in this folder"):
        find_sources([tmp_path])


def test_a_row_of_an_index_may_name_a_folder_with_one_series(save_series: Any, tmp_path: Path) -> None:
    folder = save_series()[0].parent
    volume = read_source(folder)
    mask = np.zeros(volume.array.shape, dtype=np.uint8)
    mask[2, 3, 1] = 1
    nib.save(nib.Nifti1Image(mask, volume.affine), tmp_path / "lesion.nii.gz")
    row = {"image_path": str(folder), "label": 1, "class_name": "Liver", "mask_path": "lesion.nii.gz"}
    (tmp_path / "index.jsonl").write_text(json.dumps(row) + "\n")
    (case,) = read_index(tmp_path / "index.jsonl")
    cut = cut_case(case, get_preset("brain-mri"))
    assert cut.masks is not None
    np.testing.assert_array_equal(cut.plan.paste(cut.masks), mask > 0)


def test_a_folder_with_two_series_is_no_row(save_series: Any, tmp_path: Path) -> None:
    folder = save_series()[0].parent
    other = tmp_path / "both"
    shutil.copytree(folder, other / "a")
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)), other / "b.nii.gz")
    with pytest.raises(InputError, match="2 volumes in it"):
        read_source(other)


@pytest.mark.parametrize("turn", [(1, 0, 2), (0, 1, 2), (2, 1, 0)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (1, -1, 1), (-1, 1, -1)])
def test_a_mask_whose_axes_run_another_way_is_turned(
    save_series: Any, tmp_path: Path, turn: tuple[int, int, int], flips: tuple[int, int, int]
) -> None:
    volume = read_source(save_series()[0].parent)
    mask = np.zeros(volume.array.shape, dtype=np.uint8)
    mask[1, 2, 0] = 1
    image = nib.Nifti1Image(mask, volume.affine)
    turned = image.as_reoriented(np.array(list(zip(turn, flips, strict=True)), dtype=float))
    nib.save(turned, tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", volume), mask > 0)


def test_each_volume_of_a_series_is_a_source_of_its_own_and_is_read_alone(save_series: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 900, (3, 5, 6, 7)).astype(np.int16)
    for echo, block in enumerate(pixels):
        save_series(block, folder=f"scan/echo_{echo}", EchoTime=10.0 + echo, InstanceNumber=lambda n, e=echo: n + 1 + 10 * e)
    folder = save_series(pixels[0], folder="scan/echo_0", EchoTime=10.0)[0].parent.parent
    sources, _ = find_sources([folder])
    (series,) = list_series([folder])
    assert [source.name for source in sources] == [f"{series.name}_{n}" for n in (1, 2, 3)]
    for source, volume in zip(sources, read_series(series), strict=True):
        np.testing.assert_array_equal(source.read().array, volume.array)
        np.testing.assert_allclose(source.read().affine, volume.affine)


def test_a_row_may_name_a_dicom_file_whatever_its_name(save_series: Any, tmp_path: Path) -> None:
    path = save_series()[2]
    row = {"image_path": str(path), "label": 0, "class_name": "Liver"}
    (tmp_path / "index.jsonl").write_text(json.dumps(row) + "\n")
    (case,) = read_index(tmp_path / "index.jsonl")
    np.testing.assert_array_equal(read_source(case.image_path).array, read_series(list_series([path])[0])[0].array)


@pytest.mark.parametrize("layout", ["folders", "suffixes"])
def test_a_folder_of_series_and_masks_becomes_an_index(save_series: Any, tmp_path: Path, layout: str) -> None:
    images, masks = ("study/images", "study/masks") if layout == "folders" else ("study", "study")
    for number, marked in ((7, True), (8, False)):
        folder = save_series(folder=f"{images}/p.{number}", SeriesInstanceUID=f"1.2.{number}")[0].parent
        volume = read_source(folder)
        mask = np.zeros(volume.array.shape, np.uint8)
        mask[1, 1, 1] = marked
        place = tmp_path / masks / (f"p.{number}.nii.gz" if layout == "folders" else f"p.{number}_mask.nii.gz")
        place.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(mask, volume.affine), place)
    cases = build_index(tmp_path / "study", "liver-ct")
    assert [(case.name, case.patient, case.label) for case in cases] == [("p.7", "p.7", 1), ("p.8", "p.8", 0)]


def test_series_behind_a_linked_folder_are_in_the_index(save_series: Any, tmp_path: Path) -> None:
    folder = save_series(folder="elsewhere/p.7")[0].parent
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "p.7").symlink_to(folder)
    (case,) = build_index(tmp_path / "study", "liver-ct", unlabelled_are_normal=True)
    assert case.image_path == tmp_path / "study" / "p.7"
    np.testing.assert_array_equal(read_source(case.image_path).array, read_source(folder).array)


def test_series_right_in_the_folder_are_not_passed_over(save_series: Any) -> None:
    folder = save_series()[0].parent
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)), folder / "b.nii.gz")
    with pytest.raises(InputError, match="DICOM files right in it; put each series into a folder"):
        build_index(folder, "liver-ct", unlabelled_are_normal=True)


def test_damaged_series_and_those_in_a_form_that_is_not_read_fail_and_what_is_no_scan_is_passed_over(
    save_series: Any, save_slice: Any, tmp_path: Path
) -> None:
    whole = save_series()[0]
    for size in (200, 300):
        (tmp_path / f"cut_{size}").write_bytes(whole.read_bytes()[:size])
    save_series(folder="flat", SeriesInstanceUID="1.1", RescaleSlope=0)
    save_slice("colour", SeriesInstanceUID="1.2", SamplesPerPixel=3, PhotometricInterpretation="RGB", Rows=2)
    save_slice("mosaic", SeriesInstanceUID="1.3", ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"])
    save_slice("seg", SeriesInstanceUID="1.4", Modality="SEG")
    save_slice("scout", SeriesInstanceUID="1.5", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    screen = {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "SamplesPerPixel": 3}
    save_slice("dose", SeriesInstanceUID="1.6", **screen)
    sources, passed_over = find_sources([tmp_path])
    assert [source.path.name for source in sources] == ["colour", "cut_200", "cut_300", "flat", "mosaic", "scan"]
    assert [source.is_sound for source in sources] == [False, False, False, False, False, True]
    for source in sources[:-1]:
        with pytest.raises(InputError, match=source.name):
            source.read()
    assert [item.path.name for item in passed_over] == ["dose", "scout", "seg"]
    np.testing.assert_array_equal(read_source(tmp_path).array, sources[-1].read().array)


@pytest.mark.parametrize("ending", [".img", ".IMG", ".png", ".nii"])
def test_dicom_files_named_as_images_are_slices_of_one_series(save_series: Any, tmp_path: Path, ending: str) -> None:
    folder = save_series()[0].parent
    expected = read_source(folder).array
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name + ending))
    (source,) = find_sources([tmp_path]).sources
    np.testing.assert_array_equal(source.read().array, expected)
    assert len(find_sources([folder / f"003{ending}"]).sources) == 1
    (case,) = build_index(tmp_path, "liver-ct", unlabelled_are_normal=True)
    assert case.image_path == folder
    write_index([case], tmp_path / "index.jsonl")
    np.testing.assert_array_equal(read_source(read_index(tmp_path / "index.jsonl")[0].image_path).array, expected)


@pytest.mark.parametrize("name", ["case7", "case7_ct"])
def test_the_mask_of_a_series_in_a_folder_is_passed_over(save_series: Any, tmp_path: Path, name: str) -> None:
    volume = read_source(save_series(folder=f"study/{name}")[0].parent)
    nib.save(nib.Nifti1Image(volume.array, volume.affine), tmp_path / "study" / "case7_seg.nii.gz")
    sources, passed_over = find_sources([tmp_path / "study"])
    assert [source.series is not None for source in sources] == [True]
    assert [(item.path.name, item.reason) for item in passed_over] == [("case7_seg.nii.gz", "a mask or a heatmap")]


@pytest.mark.parametrize(("images", "masks"), [("images", "masks"), ("images", "labels"), ("imagesTr", "labelsTr")])
def test_masks_in_a_folder_beside_that_of_the_scans_are_passed_over(
    save_series: Any, tmp_path: Path, images: str, masks: str
) -> None:
    save_series(folder=f"study/{images}/p.7")
    scan = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    for name in (f"{images}/sub/p1", f"{masks}/sub/p1", f"{masks}/p.7", f"{masks}/p1", "masks/other"):
        path = tmp_path / "study" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(scan, path)
    sources, passed_over = find_sources([tmp_path / "study"])
    assert sorted(source.path.name for source in sources) == ["other.nii.gz", "p.7", "p1.nii.gz", "p1.nii.gz"]
    found = [item.path.relative_to(tmp_path / "study").as_posix() for item in passed_over]
    assert found == [f"{masks}/p.7.nii.gz", f"{masks}/sub/p1.nii.gz"]
    assert len(find_sources([tmp_path / "study" / masks]).sources) >= 3


def test_results_of_a_run_are_no_scans_whatever_they_are(save_series: Any, tmp_path: Path) -> None:
    save_series(folder="study/p1")
    save_series(folder="study/out/dicom", SeriesInstanceUID="1.2")
    result = tmp_path / "study" / "out" / "heat.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)), result)
    (tmp_path / "study" / "out" / ".run").mkdir()
    (tmp_path / "study" / "out" / ".run" / "settings.json").touch()
    sources, passed_over = find_sources([tmp_path / "study"])
    assert [source.path.name for source in sources] == ["p1"]
    assert [(item.path.name, item.reason) for item in passed_over] == [
        ("heat.nii.gz", "a result of an earlier run"),
        ("001", "a result of an earlier run"),
    ]
    (case,) = build_index(tmp_path / "study", "liver-ct", unlabelled_are_normal=True)
    assert case.image_path == tmp_path / "study" / "p1"
    (tmp_path / "study" / "p1").rename(tmp_path / "p1")
    with pytest.raises(InputError, match="no scan in this folder"):
        build_index(tmp_path / "study", "liver-ct", unlabelled_are_normal=True)


def test_sources_of_one_name_are_numbered(save_series: Any, tmp_path: Path) -> None:
    """Series without any UID, and damaged files, are named by nothing that tells the folders they lie in apart."""
    for folder in ("study/a", "study/b"):
        whole = save_series(folder=folder, SeriesInstanceUID=None, StudyInstanceUID=None)[0]
        (whole.parent / "cut").write_bytes(whole.read_bytes()[:200])
    names = [source.name for source in find_sources([tmp_path]).sources]
    assert len(names) == 4
    assert names[2:] == [f"{name}_2" for name in names[:2]]
