from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aaclip_med.data.volumes import Volume, read_volume
from aaclip_med.data.windowing import apply_window, find_range
from aaclip_med.errors import InputError
from aaclip_med.presets import PRESETS, Window

from .conftest import SaveScan

BRAIN = PRESETS["brain-mri"].window
LIVER = PRESETS["liver-ct"].window
AS_IS = Window("as_is")


def volume_of(array: np.ndarray) -> Volume:
    return Volume(array, np.eye(4), Path("scan.nii.gz"), None, array.shape, is_picture=False)


def make_head(air: float = 0.0, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A ball of tissue around 500 with a dark core (fluid, 60): the scan, its head and its fluid."""
    rng = np.random.default_rng(0)
    x, y, z = np.ogrid[-20:21, -20:21, -20:21]
    radius = np.sqrt(x**2 + y**2 + z**2)
    head, fluid = radius < 17, radius < 5
    scan = np.where(head, rng.normal(500, 60, radius.shape), air + np.abs(rng.normal(0, noise, radius.shape)))
    scan[fluid] = rng.normal(60, 5, int(fluid.sum()))
    return scan.astype(np.float32), head, fluid


def test_hounsfield_units_are_stretched_and_clipped() -> None:
    values = np.array([-1024, -200, 25, 250, 3000], np.int16).reshape(5, 1, 1)
    windowed = apply_window(volume_of(values), LIVER)
    assert windowed.dtype == np.float32
    np.testing.assert_allclose(windowed.ravel(), [0, 0, 0.5, 1, 1])


def test_a_skull_stripped_background_is_exactly_zero_and_dark_fluid_is_not() -> None:
    scan, head, fluid = make_head()
    edge = np.random.default_rng(1).random(scan.shape) < 0.02
    scan[~head & edge] = -3.0
    windowed = apply_window(volume_of(scan), BRAIN)
    assert (windowed[~head] == 0).all()
    assert (windowed[fluid] > 0).mean() > 0.75
    assert windowed[fluid].mean() < 0.1 < windowed[head & ~fluid].min()
    assert 0.002 < (windowed[head] == 1).mean() < 0.01


def test_noise_of_air_stays_dark_and_dark_fluid_stays_apart() -> None:
    scan, head, fluid = make_head(air=5.0, noise=10.0)
    windowed = apply_window(volume_of(scan), BRAIN)
    assert windowed[~head].max() < 0.1
    assert windowed[~head].mean() < 0.02
    assert windowed[fluid].min() > windowed[~head].mean()


def test_a_head_that_fills_most_of_the_volume_keeps_its_fluid() -> None:
    scan, _, fluid = make_head(air=5.0, noise=10.0)
    middle = slice(6, 35)  # the head is over 80 % of this cube
    windowed = apply_window(volume_of(scan[middle, middle, middle]), BRAIN)
    assert (windowed[fluid[middle, middle, middle]] > 0).mean() > 0.9


def test_percentiles_do_not_depend_on_scale_or_memory_order() -> None:
    scan, _, _ = make_head()
    windowed = apply_window(volume_of(scan), BRAIN)
    np.testing.assert_array_equal(apply_window(volume_of(np.asfortranarray(scan)), BRAIN), windowed)
    np.testing.assert_allclose(apply_window(volume_of(scan * 7), BRAIN), windowed, atol=1e-5)


def test_percentiles_of_a_volume_are_those_of_all_its_voxels() -> None:
    rng = np.random.default_rng(0)
    scan = np.zeros((300, 300, 60), np.float32)
    scan[50:250, 50:250] = rng.normal(500, 60, (200, 200, 60))
    windowed = apply_window(volume_of(scan), BRAIN)
    low, high = np.percentile(scan[scan > 0], (BRAIN.low, BRAIN.high))
    np.testing.assert_allclose(windowed, np.clip((scan - low) / (high - low), 0, 1), atol=1e-5)


@pytest.mark.parametrize("shape", [(300, 301, 62), (400, 411, 312)])
def test_the_window_of_a_large_volume_does_not_depend_on_how_its_axes_are_stored(shape: tuple[int, int, int]) -> None:
    scan = np.random.default_rng(0).integers(0, 30_000, shape, dtype=np.int16)
    organ = np.zeros(shape, bool)
    organ[50:150, 20:130, 5:40] = True
    for inside in (None, organ):
        expected = find_range(volume_of(scan), BRAIN, inside)
        for turn in (lambda a: a[::-1], lambda a: a[:, ::-1, ::-1], lambda a: a.transpose(2, 0, 1)):
            assert find_range(volume_of(turn(scan)), BRAIN, None if inside is None else turn(inside)) == expected


def test_percentiles_of_a_volume_too_large_for_all_its_voxels_are_close_to_theirs() -> None:
    scan = np.random.default_rng(0).integers(0, 30_000, (400, 411, 312), dtype=np.int16)
    low, high = np.percentile(scan[scan > np.median(scan[scan <= scan.mean()])], (BRAIN.low, BRAIN.high))
    np.testing.assert_allclose(find_range(volume_of(scan), BRAIN), (low, high), rtol=0.002)


def test_a_large_volume_with_nothing_but_a_speck_is_refused() -> None:
    scan = np.zeros((300, 300, 60), np.uint8)
    scan[1, 1, 1] = 9
    with pytest.raises(InputError, match=r"scan\.nii\.gz: the foreground is 9 throughout under window percentile"):
        apply_window(volume_of(scan), BRAIN)


@pytest.mark.parametrize(
    ("dtype", "top", "full_scale"),
    [
        (np.uint8, 100, 255),
        (np.uint8, 1, 255),
        (np.uint16, 255, 255),
        (np.uint16, 256, 65535),
        (np.int16, 200, 255),
        (np.int16, 300, 65535),
        (np.int32, 1, 1),
        (np.float32, 0.7, 1),
        (np.float32, 254.5, 255),
        (np.float32, 65535, 65535),
    ],
)
def test_as_is_goes_by_the_type_or_by_the_largest_value(dtype: type, top: float, full_scale: float) -> None:
    values = np.array([0, top], dtype).reshape(2, 1, 1)
    windowed = apply_window(volume_of(values), AS_IS)
    np.testing.assert_allclose(windowed.ravel(), [0, top / full_scale], rtol=1e-6)


@pytest.mark.parametrize("window", [AS_IS, BRAIN, LIVER])
@pytest.mark.parametrize(("dtype", "full_scale"), [(np.uint8, 255), (np.uint16, 65535)])
def test_a_picture_is_as_is_under_every_window(save: SaveScan, window: Window, dtype: type, full_scale: int) -> None:
    grey = np.arange(40, dtype=dtype).reshape(8, 5)
    windowed = apply_window(read_volume(save("slice.png", grey)), window)
    assert windowed.dtype == np.float32
    np.testing.assert_allclose(windowed, grey[:, :, None] / full_scale, rtol=1e-6)


def test_a_colour_picture_keeps_its_channels(save: SaveScan) -> None:
    rgb = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    windowed = apply_window(read_volume(save("slice.png", rgb)), AS_IS)
    np.testing.assert_allclose(windowed, rgb[:, :, None] / 255, rtol=1e-6)


def test_black_and_white_and_float_pictures_are_taken_as_they_are(save: SaveScan) -> None:
    black_white = np.eye(5, dtype=bool)
    np.testing.assert_array_equal(apply_window(read_volume(save("a.png", black_white)), AS_IS), black_white[:, :, None])
    grey = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
    np.testing.assert_array_equal(apply_window(read_volume(save("a.tif", grey)), AS_IS), grey[:, :, None])


def test_the_volume_itself_is_left_alone() -> None:
    scan = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    before = scan.copy()
    apply_window(volume_of(scan), Window("hu", 0, 4))
    np.testing.assert_array_equal(scan, before)


@pytest.mark.parametrize(
    ("values", "window", "message"),
    [
        ([0, 1], Window("hu", 5, 5), r"scan\.nii\.gz: window hu 5\.\.5 is empty"),
        ([0, 1], Window("percentile", 99, 1), r"scan\.nii\.gz: window percentile 99\.\.1 is empty"),
        ([0, 1], Window("hu", float("nan"), 1), r"scan\.nii\.gz: window hu nan\.\.1 is empty"),
        (
            [0, 1],
            Window("percentile", -1, 101),
            r"scan\.nii\.gz: window percentile -1..101; percentiles go from 0 to 100",
        ),
        ([300, 900], LIVER, r"scan\.nii\.gz: every voxel is 1 under window hu -200\.\.250 \(values 300 to 900\)"),
        ([-900, -300], LIVER, r"scan\.nii\.gz: every voxel is 0 under window hu -200\.\.250"),
        ([0, 1], BRAIN, r"scan\.nii\.gz: the foreground is 1 throughout under window percentile 0\.5\.\.99\.5"),
        ([-1, 1], AS_IS, r"scan\.nii\.gz: values from -1 to 1 .* choose a preset with another window"),
        ([0, 70000], AS_IS, r"scan\.nii\.gz: values up to 70000"),
    ],
)
def test_a_window_that_shows_nothing_is_refused(values: list[int], window: Window, message: str) -> None:
    with pytest.raises(InputError, match=message):
        apply_window(volume_of(np.array(values, np.int32).reshape(2, 1, 1)), window)


def test_a_float_picture_beyond_one_is_refused(save: SaveScan) -> None:
    with pytest.raises(InputError, match=r"a\.tif: picture of type float32 with values 0 to 9"):
        apply_window(read_volume(save("a.tif", np.arange(10, dtype=np.float32).reshape(2, 5))), AS_IS)
