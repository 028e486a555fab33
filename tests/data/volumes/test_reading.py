"""What is read, and how it lies."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from aaclip_med.data.volumes import LPS_TO_RAS, read_volume
from aaclip_med.data.volumes.reading import read_unchecked
from aaclip_med.data.writing import write_heatmap

from ..conftest import GEOMETRIES, SaveScan, make_scan
from .conftest import refusal

SCAN_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".NII.GZ", ".NII", ".NRRD", ".MHA")


@pytest.mark.parametrize("ending", SCAN_ENDINGS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_format_gives_the_same_array_and_affine(save: SaveScan, ending: str, geometry: str) -> None:
    scan, affine = make_scan(), GEOMETRIES[geometry]
    volume = read_volume(save(f"scan{ending}", scan, affine))
    np.testing.assert_array_equal(volume.array, scan)
    assert volume.array.dtype == np.int16
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    assert volume.stored_shape == scan.shape
    assert not volume.is_picture
    assert (volume.header is not None) == ending.lower().startswith(".nii")


def test_a_point_of_an_itk_image_keeps_its_place_in_ras(save: SaveScan) -> None:
    path = save("scan.nrrd", affine=GEOMETRIES["oblique"])
    lps = sitk.ReadImage(str(path)).TransformIndexToPhysicalPoint((1, 2, 3))
    ras = read_volume(path).affine @ (1, 2, 3, 1)
    np.testing.assert_allclose(ras[:3], (-lps[0], -lps[1], lps[2]), atol=1e-9)


def test_a_volume_tells_its_spacing_orientation_and_voxel_volume(save: SaveScan) -> None:
    volume = read_volume(save("scan.nii.gz", affine=GEOMETRIES["oblique"]))
    assert volume.spacing == pytest.approx((0.8, 1.1, 3.3))
    assert volume.orientation == "LPI"
    assert volume.voxel_ml == pytest.approx(0.8 * 1.1 * 3.3 / 1000)


def test_a_nifti_slope_is_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(make_scan(), np.eye(4))
    image.header.set_slope_inter(1, 0)
    path = tmp_path / "scan.nii"
    nib.save(image, path)
    with path.open("r+b") as stream:
        stream.seek(112)
        stream.write(struct.pack("<ff", 2.0, -1024.0))
    volume = read_volume(path)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, make_scan() * 2.0 - 1024)


@pytest.mark.parametrize(
    ("stored", "read"),
    [("u1", "u1"), (">i2", "i2"), ("i4", "i4"), ("f4", "f4"), ("f8", "f4"), (">f8", "f4")],
)
def test_integers_stay_as_stored_and_wide_floats_become_float32(tmp_path: Path, stored: str, read: str) -> None:
    values = np.arange(60, dtype=stored).reshape(3, 4, 5)
    header = nib.Nifti1Header(endianness=">" if stored.startswith(">") else "<")
    header.set_data_dtype(values.dtype)
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(values, np.eye(4), header), path)
    volume = read_volume(path)
    assert volume.array.dtype == np.dtype(read)
    np.testing.assert_array_equal(volume.array, values)


def test_a_nifti_with_a_qform_alone_is_placed_by_it(tmp_path: Path) -> None:
    affine = GEOMETRIES["oblique"]
    image = nib.Nifti1Image(make_scan(), None)
    image.set_qform(affine, code=1)
    image.set_sform(None, code=0)
    nib.save(image, tmp_path / "scan.nii.gz")
    np.testing.assert_allclose(read_volume(tmp_path / "scan.nii.gz").affine, affine, atol=1e-4)


def test_a_nifti_without_codes_is_placed_as_nibabel_places_it(tmp_path: Path) -> None:
    image = nib.Nifti1Image(make_scan(), None)
    image.header.set_zooms((1.0, 2.0, 3.0))
    nib.save(image, tmp_path / "scan.nii.gz")
    volume = read_volume(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(volume.affine, nib.load(tmp_path / "scan.nii.gz").affine)
    assert volume.spacing == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("unit", ["meter", "mm", "micron", "unknown"])
@pytest.mark.parametrize("form", ["qform", "sform"])
def test_a_nifti_lies_where_itk_puts_it_whatever_its_unit_of_length(tmp_path: Path, unit: str, form: str) -> None:
    affine = GEOMETRIES["oblique"]
    image = nib.Nifti1Image(make_scan().astype(np.float32), None)
    image.header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    getattr(image, f"set_{form}")(affine, 1)
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    seen = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    for index in ((0, 0, 0), (2, 3, 4)):
        point = LPS_TO_RAS[:3, :3] @ seen.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((volume.affine @ (*index, 1))[:3], point, rtol=1e-4)
    write_heatmap(tmp_path / "heat.nii.gz", np.zeros(volume.array.shape), volume)
    np.testing.assert_allclose(read_unchecked(tmp_path / "heat.nii.gz").affine, volume.affine, rtol=1e-6)


def test_trailing_axes_of_length_one_are_dropped_and_remembered(save: SaveScan) -> None:
    volume = read_volume(save("scan.nii.gz", make_scan((5, 6, 7, 1, 1))))
    assert volume.array.shape == (5, 6, 7)
    assert volume.stored_shape == (5, 6, 7, 1, 1)


@pytest.mark.parametrize(
    ("ending", "dtype"),
    [*itertools.product([".png", ".tif", ".tiff", ".PNG"], [np.uint8, np.uint16]), (".bmp", np.uint8)],
)
def test_a_grey_picture_has_x_first_and_keeps_its_bits(save: SaveScan, ending: str, dtype: type) -> None:
    grey = (np.arange(40) * 6.3 * (257 if dtype is np.uint16 else 1)).astype(dtype).reshape(8, 5)
    volume = read_volume(save(f"slice{ending}", grey))
    np.testing.assert_array_equal(volume.array, grey[:, :, None])
    assert volume.array.dtype == dtype
    assert volume.is_picture
    assert volume.stored_shape == (8, 5, 1)
    np.testing.assert_array_equal(volume.affine, np.diag([-1, -1, 1, 1]))


def test_a_grey_picture_loses_its_transparency(tmp_path: Path) -> None:
    Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5)).convert("LA").save(tmp_path / "slice.png")
    assert read_volume(tmp_path / "slice.png").array.shape == (5, 4, 1)


@pytest.mark.parametrize("ending", [".png", ".bmp"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_colour_picture_becomes_rgb(tmp_path: Path, mode: str, ending: str) -> None:
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[1, 2] = 255, 0, 0
    Image.fromarray(rgb).convert(mode).save(tmp_path / f"slice{ending}")
    volume = read_volume(tmp_path / f"slice{ending}")
    assert volume.array.shape == (6, 4, 1, 3)
    np.testing.assert_array_equal(volume.array[2, 1, 0], (255, 0, 0))


def test_a_jpeg_is_read(save: SaveScan) -> None:
    volume = read_volume(save("slice.JPG", np.linspace(0, 255, 256).astype(np.uint8).reshape(16, 16)))
    assert volume.array.shape == (16, 16, 1)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_one_volume_of_a_four_dimensional_file_is_chosen_by_its_number(tmp_path: Path, ending: str) -> None:
    blocks = [make_scan(seed=seed) for seed in range(3)]
    path = tmp_path / f"a{ending}"
    if ending == ".nii.gz":
        nib.save(nib.Nifti1Image(np.stack(blocks, axis=-1), np.eye(4)), path)
    else:
        sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(block.T) for block in blocks]), str(path))
    for number, block in enumerate(blocks):
        np.testing.assert_array_equal(read_volume(path, number=number).array, block)
    assert "it holds 3" in refusal(path, lambda path: read_volume(path, number=3))
