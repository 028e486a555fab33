"""What is refused, in one line that names the file."""

from __future__ import annotations

import gzip
import os
import resource
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from aaclip_med.data.volumes import read_volume

from ..conftest import SaveScan, make_scan
from .conftest import refusal


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "gone.nii.gz")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "a folder" in refusal(tmp_path)


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "not an image" in refusal(tmp_path / "notes.txt")


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".jpg", ".tif", ".bmp"])
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


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
def test_finite_values_beyond_float32_are_not_called_infinite(save: SaveScan, name: str) -> None:
    scan = make_scan().astype(np.float64)
    scan[0, 0, 0] = 1e300
    assert "too large for float32" in refusal(save(name, scan))


def test_a_nrrd_whose_name_is_no_utf8_is_refused_by_name(save: SaveScan) -> None:
    path = save("a.nrrd", make_scan())
    assert "path is no UTF-8 cannot be opened" in refusal(path.rename(path.with_name(os.fsdecode(b"lat\xe9.nrrd"))))


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


ABSURD = {
    "a.nrrd": "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 1600 1600 1600\n"
    "space directions: (1,0,0) (0,1,0) (0,0,1)\nendian: little\nencoding: {}\nspace origin: (0,0,0)\n\n",
    "a.mha": "ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = {}\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
    "Offset = 0 0 0\nElementSpacing = 1 1 1\nDimSize = 1600 1600 1600\nElementType = MET_SHORT\nElementDataFile = LOCAL\n",
}


@pytest.mark.parametrize(("name", "how"), [("a.nrrd", "raw"), ("a.nrrd", "gzip"), ("a.mha", "False"), ("a.mha", "True")])
def test_an_itk_file_too_small_for_its_header_is_refused_before_memory_is_taken(tmp_path: Path, name: str, how: str) -> None:
    (tmp_path / name).write_bytes(ABSURD[name].format(how).encode() + zlib.compress(bytes(99)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "too small for the 8192000000 bytes" in refusal(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000


@pytest.mark.parametrize(("name", "data"), [("a.nhdr", "a.raw"), ("a.mhd", "a.raw")])
def test_a_voxel_file_too_small_for_its_header_is_refused(save: SaveScan, name: str, data: str) -> None:
    path = save(name)
    voxels = path.parent / data
    voxels.write_bytes(voxels.read_bytes()[:-30])
    assert "damaged, too small for the 420 bytes" in refusal(path)


def test_a_compressed_metaimage_of_fewer_voxels_than_its_header_says_is_refused(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(make_scan()), str(tmp_path / "a.mha"), useCompression=True)
    content = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(content.replace(b"DimSize = 7 6 5", b"DimSize = 7 6 9"))
    assert "420 bytes of voxels and not the 756 it declares" in refusal(tmp_path / "a.mha")


def test_a_bomb_behind_the_voxels_is_refused(save: SaveScan) -> None:
    path = save("a.nii")
    bomb = path.with_suffix(".nii.gz")
    with gzip.open(bomb, "wb", compresslevel=1) as stream:
        stream.write(path.read_bytes())
        for _ in range(70):
            stream.write(bytes(1 << 20))
    assert "behind the voxels" in refusal(bomb)
