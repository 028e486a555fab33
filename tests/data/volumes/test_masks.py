"""Masks on the grid of their scan."""

from __future__ import annotations

import numpy as np
import pytest

from aaclip_med.data.volumes import read_mask, read_volume

from ..conftest import GEOMETRIES, SaveScan, make_affine
from .conftest import refusal


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


def test_a_jpeg_mask_is_what_was_drawn_before_its_compression(save: SaveScan) -> None:
    drawn = np.zeros((32, 32), np.uint8)
    drawn[9:22, 5:18] = 255
    like = read_volume(save("photo.png", np.arange(1024, dtype=np.uint16).reshape(32, 32)))
    path = save("mask.jpg", drawn)
    assert np.count_nonzero(read_volume(path).array) > np.count_nonzero(drawn)
    np.testing.assert_array_equal(read_mask(path, like)[:, :, 0], drawn > 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_mask_that_holds_no_number_is_refused(save: SaveScan, value: float) -> None:
    like = read_volume(save("scan.nii.gz"))
    values = np.zeros((5, 6, 7), np.float32)
    values[1, 2, 3] = value
    path = save("mask.nii.gz", values)
    assert "1 of 210 voxels are NaN or infinite" in refusal(path, lambda path: read_mask(path, like))


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
