from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from aaclip_med.data.volumes import case_name, find_images, is_image_file, read_mask, read_volume
from aaclip_med.errors import InputError

from .conftest import GEOMETRIES, SaveScan, make_affine, make_scan

SCAN_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".NII.GZ", ".NII", ".NRRD", ".MHA")


def refusal(path: Path, read: Callable[[Path], object] = read_volume) -> str:
    """The one line with which ``path`` is refused."""
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


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


def test_trailing_axes_of_length_one_are_dropped_and_remembered(save: SaveScan) -> None:
    volume = read_volume(save("scan.nii.gz", make_scan((5, 6, 7, 1, 1))))
    assert volume.array.shape == (5, 6, 7)
    assert volume.stored_shape == (5, 6, 7, 1, 1)


@pytest.mark.parametrize("ending", [".png", ".tif", ".tiff", ".PNG"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
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


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_colour_picture_becomes_rgb(tmp_path: Path, mode: str) -> None:
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[1, 2] = 255, 0, 0
    Image.fromarray(rgb).convert(mode).save(tmp_path / "slice.png")
    volume = read_volume(tmp_path / "slice.png")
    assert volume.array.shape == (6, 4, 1, 3)
    np.testing.assert_array_equal(volume.array[2, 1, 0], (255, 0, 0))


def test_a_jpeg_is_read(save: SaveScan) -> None:
    volume = read_volume(save("slice.JPG", np.linspace(0, 255, 256).astype(np.uint8).reshape(16, 16)))
    assert volume.array.shape == (16, 16, 1)


# --- refusals ------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "gone.nii.gz")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "a folder" in refusal(tmp_path)


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "not an image" in refusal(tmp_path / "notes.txt")


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".jpg", ".tif"])
@pytest.mark.parametrize("content", [b"", b"not an image at all " * 40])
def test_a_file_of_other_content_is_refused(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"scan{ending}"
    path.write_bytes(content)
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha"])
@pytest.mark.parametrize("lost", [4, 60])
def test_a_truncated_scan_is_refused(save: SaveScan, name: str, lost: int) -> None:
    path = save(name)
    path.write_bytes(path.read_bytes()[:-lost])
    message = refusal(path)
    assert "cannot be read" in message or "damaged" in message


def test_a_truncated_uncompressed_nifti_is_refused_by_its_size(save: SaveScan) -> None:
    path = save("a.nii")
    path.write_bytes(path.read_bytes()[:-1])
    assert "too small for the 420 bytes" in refusal(path)


def test_a_truncated_compressed_metaimage_is_refused(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(make_scan((20, 20, 20))), str(tmp_path / "a.mha"), useCompression=True)
    (tmp_path / "a.mha").write_bytes((tmp_path / "a.mha").read_bytes()[:-50])
    assert "end too early" in refusal(tmp_path / "a.mha")


def test_bytes_after_the_voxels_are_passed_over(save: SaveScan) -> None:
    path = save("a.nii")
    packed = path.with_suffix(".nii.gz")
    packed.write_bytes(gzip.compress(path.read_bytes() + b"\0" * 3_000_000))
    np.testing.assert_array_equal(read_volume(packed).array, make_scan())


def test_a_truncated_picture_is_refused(save: SaveScan) -> None:
    path = save("a.png", np.arange(200, dtype=np.uint8).reshape(10, 20))
    path.write_bytes(path.read_bytes()[:-30])
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a.nrrd"])
def test_a_flipped_bit_in_compressed_voxels_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    sitk.WriteImage(sitk.GetImageFromArray(make_scan((20, 20, 20))), str(path), useCompression=True)
    content = bytearray(path.read_bytes())
    content[-2000] ^= 1
    path.write_bytes(content)
    assert "cannot be read" in refusal(path)


def test_a_flipped_bit_in_a_separate_compressed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mhd"
    sitk.WriteImage(sitk.GetImageFromArray(make_scan((20, 20, 20))), str(path), useCompression=True)
    assert read_volume(path).array.shape == (20, 20, 20)
    voxels = tmp_path / "a.zraw"
    content = bytearray(voxels.read_bytes())
    content[500] ^= 1
    voxels.write_bytes(content)
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize(("name", "voxels"), [("a.nhdr", "a.raw"), ("a.mhd", "a.raw")])
def test_a_header_without_its_voxel_file_is_refused(save: SaveScan, tmp_path: Path, name: str, voxels: str) -> None:
    path = save(name)
    (tmp_path / voxels).unlink(missing_ok=True)
    (tmp_path / f"{voxels}.gz").unlink(missing_ok=True)
    assert "cannot be read" in refusal(path)


def test_complex_voxels_are_refused(save: SaveScan) -> None:
    assert "complex" in refusal(save("a.nii.gz", make_scan().astype(np.complex64)))


def test_a_colour_nifti_is_refused(save: SaveScan) -> None:
    rgb = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert "colour (RGB)" in refusal(save("a.nii.gz", rgb))


def test_a_vector_image_is_refused(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 4, 5, 2)), isVector=True), str(tmp_path / "a.mha"))
    assert "vector" in refusal(tmp_path / "a.mha")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_refused(save: SaveScan, name: str, value: float) -> None:
    scan = make_scan().astype(np.float32)
    scan[0, 0, :3] = value
    assert "3 of 210 voxels are NaN or infinite" in refusal(save(name, scan))


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha"])
def test_a_constant_volume_is_refused(save: SaveScan, name: str) -> None:
    assert "every voxel is 7" in refusal(save(name, np.full((3, 4, 5), 7, np.int16)))


def test_a_constant_picture_is_refused(save: SaveScan) -> None:
    assert "every voxel is 7" in refusal(save("a.png", np.full((3, 4), 7, np.uint8)))


def test_a_two_dimensional_volume_is_refused(save: SaveScan, tmp_path: Path) -> None:
    assert "2-D" in refusal(save("a.nii.gz", make_scan((5, 6))))
    sitk.WriteImage(sitk.GetImageFromArray(make_scan((5, 6))), str(tmp_path / "a.nrrd"))
    assert "2-D" in refusal(tmp_path / "a.nrrd")


def test_several_volumes_in_one_file_are_refused(save: SaveScan, tmp_path: Path) -> None:
    assert "3 volumes" in refusal(save("a.nii.gz", make_scan((4, 5, 6, 3))))
    sitk.WriteImage(sitk.GetImageFromArray(make_scan((3, 4, 5, 6)), isVector=False), str(tmp_path / "a.nrrd"))
    assert "3 volumes" in refusal(tmp_path / "a.nrrd")


def test_a_picture_of_several_pages_is_refused(tmp_path: Path) -> None:
    page = Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page, page])
    assert "3 pages" in refusal(tmp_path / "a.tif")


def test_a_picture_of_32_bits_is_refused(save: SaveScan) -> None:
    assert "8 or 16 bits" in refusal(save("a.tif", np.arange(20, dtype=np.int32).reshape(4, 5) * 100_000))


def with_header(path: Path, **fields: object) -> Path:
    """Overwrite header fields of an uncompressed NIfTI file, unchecked."""
    content = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan])
@pytest.mark.parametrize("qform_code", [0, 1])
def test_a_nifti_without_a_positive_spacing_is_refused(
    save: SaveScan, caplog: pytest.LogCaptureFixture, size: float, qform_code: int
) -> None:
    path = with_header(save("a.nii"), pixdim=[1, size, 1, 1, 1, 1, 1, 1], sform_code=0, qform_code=qform_code)
    assert "spacing" in refusal(path)
    assert caplog.records == []


@pytest.mark.parametrize("spacing", ["0 1 1", "-1 1 1", "nan 1 1"])
def test_a_metaimage_without_a_positive_spacing_is_refused(save: SaveScan, spacing: str) -> None:
    path = save("a.mha")
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing = 1 1 1", f"ElementSpacing = {spacing}".encode()))
    assert "spacing" in refusal(path)


def test_an_nrrd_without_a_positive_spacing_is_refused(tmp_path: Path) -> None:
    header = "NRRD0004\ntype: float\ndimension: 3\nsizes: 2 2 2\nspacings: {} 1 1\nencoding: raw\nendian: little\n\n"
    for spacing in ("0", "-1"):
        (tmp_path / "a.nrrd").write_bytes(header.format(spacing).encode() + np.arange(8, dtype="<f4").tobytes())
        assert "spacing" in refusal(tmp_path / "a.nrrd")


def test_a_nifti_with_odd_voxel_sizes_beside_its_sform_is_read_in_silence(
    save: SaveScan, caplog: pytest.LogCaptureFixture
) -> None:
    path = with_header(save("a.nii"), pixdim=[1, -1, 0, 1, 1, 1, 1, 1], sform_code=1)
    packed = path.with_suffix(".nii.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for scan in (path, packed):
        assert read_volume(scan).spacing == (1.0, 1.0, 1.0)
    assert caplog.records == []


def test_an_sform_with_an_axis_of_no_length_is_refused(save: SaveScan) -> None:
    assert "spacing (0.0, 1.0, 1.0) mm" in refusal(with_header(save("a.nii"), srow_x=[0, 0, 0, 0]))


def test_a_singular_affine_is_refused(save: SaveScan) -> None:
    assert "singular" in refusal(with_header(save("a.nii"), srow_x=[1, 1, 0, 0], srow_y=[1, 1, 0, 0]))
    path = save("a.mha")
    path.write_bytes(path.read_bytes().replace(b"Matrix = -1 0 0 0 -1 0 0 0 1", b"Matrix = 1 0 0 1 0 0 0 0 1"))
    assert "singular" in refusal(path)


def test_an_affine_with_nan_is_refused(save: SaveScan) -> None:
    assert "NaN" in refusal(with_header(save("a.nii"), srow_x=[np.nan, 0, 0, 0]))


@pytest.mark.parametrize("length", [0, -4])
def test_an_axis_without_voxels_is_refused(save: SaveScan, length: int) -> None:
    assert "axis without voxels" in refusal(with_header(save("a.nii"), dim=[3, length, 6, 7, 1, 1, 1, 1]))


def test_an_absurd_header_is_refused_before_memory_is_taken(save: SaveScan, tmp_path: Path) -> None:
    assert "GiB" in refusal(with_header(save("a.nii"), dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]))
    (tmp_path / "a.nrrd").write_text(
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 90000 90000 90000\nencoding: raw\nendian: little\n\n"
    )
    assert "GiB" in refusal(tmp_path / "a.nrrd")


def test_a_file_too_small_for_its_header_is_refused_before_memory_is_taken(save: SaveScan) -> None:
    path = with_header(save("a.nii"), dim=[3, 2000, 2000, 2000, 1, 1, 1, 1])
    assert "too small" in refusal(path)
    packed = path.with_suffix(".nii.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert "too small" in refusal(packed)


def test_a_picture_bomb_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    assert "cannot be read" in refusal(tmp_path / "a.png")


# --- masks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_mask_is_every_value_above_zero(save: SaveScan, dtype: type) -> None:
    values = np.zeros((5, 6, 7), dtype)
    values[1, 2, 3], values[2, 2, 3] = 1, 4
    if dtype is not np.uint8:
        values[0, 0, 0] = -1
    affine = GEOMETRIES["oblique"]
    like = read_volume(save("scan.nii.gz", affine=affine))
    mask = read_mask(save("mask.nrrd", values, affine), like)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, values > 0)


def test_an_empty_mask_is_fine(save: SaveScan) -> None:
    like = read_volume(save("scan.nii.gz"))
    assert not read_mask(save("mask.nii.gz", np.zeros((5, 6, 7), np.uint8)), like).any()


def test_a_mask_of_another_shape_is_refused_with_both_files_and_shapes(save: SaveScan) -> None:
    like = read_volume(save("scan.nii.gz"))
    message = refusal(save("mask.nii.gz", np.zeros((5, 6, 8), np.uint8)), lambda path: read_mask(path, like))
    assert str(like.path) in message
    assert "(5, 6, 8)" in message
    assert "(5, 6, 7)" in message


@pytest.mark.parametrize(("shift", "fits"), [(0.0005, True), (0.002, False)])
def test_a_mask_may_lie_off_its_scan_by_a_thousandth_of_a_millimetre(save: SaveScan, shift: float, fits: bool) -> None:
    like = read_volume(save("scan.nii.gz", affine=make_affine()))
    path = save("mask.nii.gz", np.ones((5, 6, 7), np.uint8), make_affine(origin=(shift, 0, 0)))
    if fits:
        assert read_mask(path, like).all()
    else:
        message = refusal(path, lambda path: read_mask(path, like))
        assert "0.002 mm" in message
        assert str(like.path) in message


def test_a_mask_turned_about_the_first_voxel_is_refused(save: SaveScan) -> None:
    like = read_volume(save("scan.nii.gz", affine=make_affine()))
    path = save("mask.nii.gz", np.ones((5, 6, 7), np.uint8), make_affine(angles=(0, 0, 0.1)))
    assert "mm from its scan" in refusal(path, lambda path: read_mask(path, like))


def test_a_colour_mask_of_a_picture_is_true_where_any_channel_is(save: SaveScan) -> None:
    like = read_volume(save("slice.png", np.arange(20, dtype=np.uint8).reshape(5, 4)))
    rgb = np.zeros((5, 4, 3), np.uint8)
    rgb[3, 1] = 0, 9, 0
    mask = read_mask(save("mask.png", rgb), like)
    assert np.argwhere(mask).tolist() == [[3, 1, 0]]


def test_a_mask_of_a_picture_of_another_size_is_refused(save: SaveScan) -> None:
    like = read_volume(save("slice.png", np.arange(20, dtype=np.uint8).reshape(5, 4)))
    assert "(4, 5, 1)" in refusal(save("mask.png", np.ones((4, 5), np.uint8)), lambda path: read_mask(path, like))


# --- names ---------------------------------------------------------------------------------------------------------


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


def test_an_empty_folder_a_missing_path_and_another_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").touch()
    assert "no image in this folder" in refusal(tmp_path / "empty", lambda path: find_images([path]))
    assert "no such file or folder" in refusal(tmp_path / "gone", lambda path: find_images([path]))
    assert "not an image" in refusal(tmp_path / "a.txt", lambda path: find_images([path]))
