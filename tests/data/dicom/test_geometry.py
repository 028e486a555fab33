from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from scipy.ndimage import binary_erosion
from scipy.spatial.transform import Rotation

from aaclip_med.data.dicom import list_series, read_series
from aaclip_med.errors import InputError

from .conftest import AXIAL, OBLIQUE, SaveSeries, format_ds, make_pixels, make_slice, normal_of, save_dataset

angles = st.floats(-180, 180)
millimetres = st.floats(0.3, 4.0)


def ras_of(path: Path, row: int, column: int) -> np.ndarray:
    """Where PS3.3 C.7.6.2.1.1 puts a pixel, by the tags alone."""
    ds = dcmread(path)
    cosines = np.array(ds.ImageOrientationPatient, dtype=float)
    between_rows, between_columns = map(float, ds.PixelSpacing)
    lps = np.array(ds.ImagePositionPatient, dtype=float)
    lps = lps + cosines[:3] * between_columns * column + cosines[3:] * between_rows * row
    return lps * (-1, -1, 1)


@settings(max_examples=50)
@given(st.tuples(angles, angles, angles), st.tuples(millimetres, millimetres, millimetres), st.integers(0, 2**32 - 1))
def test_a_marked_voxel_comes_back_at_the_same_point(
    turns: tuple[float, float, float], spacing: tuple[float, float, float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    turn = Rotation.from_euler("xyz", turns, degrees=True).as_matrix()
    cosines, normal, origin = [*turn[:, 0], *turn[:, 1]], turn[:, 2], rng.uniform(-300, 300, 3)
    pixels = np.zeros((5, 6, 7), dtype=np.int16)
    mark = tuple(int(rng.integers(n)) for n in pixels.shape)
    pixels[mark] = 1000
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, n in enumerate(rng.permutation(5)):
            place = origin + n * spacing[2] * normal
            ds = make_slice(
                pixels[n],
                PixelSpacing=format_ds(spacing[:2]),
                ImageOrientationPatient=format_ds(cosines),
                ImagePositionPatient=format_ds(place),
                InstanceNumber=int(rng.integers(100)),
            )
            paths.append(save_dataset(ds, Path(folder) / str(name)))
            if n == mark[0]:
                expected = ras_of(paths[-1], mark[1], mark[2])
        (volume,) = read_series(list_series([folder])[0])
    (index,) = np.argwhere(volume.array == 1000)
    assert tuple(index) == (mark[2], mark[1], mark[0])
    np.testing.assert_allclose((volume.affine @ (*index, 1))[:3], expected, atol=1e-3)
    assert np.linalg.det(volume.affine) > 0
    assert volume.spacing == pytest.approx((spacing[1], spacing[0], spacing[2]), rel=1e-5)


def test_slices_are_ordered_by_position_and_not_by_name_or_number(save_series: SaveSeries) -> None:
    pixels = make_pixels()
    paths = save_series(pixels, InstanceNumber=lambda n: (n * 3) % 5)
    (series,) = list_series([paths[0].parent])
    (volume,) = read_series(series)
    np.testing.assert_array_equal(volume.array, pixels.T)
    assert series.shape == volume.array.shape == volume.stored_shape == (7, 6, 5)
    assert series.spacing == pytest.approx((0.7, 0.9, 2.0))
    assert series.problems == ()
    assert not volume.is_picture


def test_a_series_that_runs_against_the_normal_is_turned_right_handed(save_series: SaveSeries) -> None:
    pixels = make_pixels()
    paths = save_series(pixels, step=-2.0)
    (volume,) = read_series(list_series(paths)[0])
    np.testing.assert_array_equal(volume.array, pixels[::-1].T)
    np.testing.assert_allclose(volume.affine[:3, 3], ras_of(paths[-1], 0, 0), atol=1e-6)
    assert np.linalg.det(volume.affine) > 0


@pytest.mark.parametrize(
    ("cosines", "plane"),
    [(AXIAL, "axial"), ((1, 0, 0, 0, 0, -1), "coronal"), ((0, 1, 0, 0, 0, -1), "sagittal"), (OBLIQUE, "oblique")],
)
def test_a_series_tells_its_plane(save_series: SaveSeries, cosines: tuple[float, ...], plane: str) -> None:
    assert list_series(save_series(cosines=cosines))[0].plane == plane


def test_jitter_below_one_percent_is_tolerated(save_series: SaveSeries) -> None:
    pixels = make_pixels()
    (series,) = list_series(save_series(pixels, positions=(0, 2.01, 3.995, 6.01, 8.0)))
    (volume,) = read_series(series)
    assert series.problems == ()
    assert volume.spacing[2] == pytest.approx(2.0)
    np.testing.assert_array_equal(volume.array, pixels.T)


def test_missing_slices_are_refused_with_their_number_and_place(save_series: SaveSeries) -> None:
    paths = save_series(positions=(0, 2, 4, 10, 12), cosines=AXIAL, origin=(0, 0, 100))
    (series,) = list_series(paths)
    assert series.refused is not None
    assert "2 slices missing at a spacing of 2 mm, between 104.00 and 110.00 mm" in series.refused
    with pytest.raises(InputError, match="2 slices missing") as caught:
        read_series(series)
    assert str(paths[0].parent) in str(caught.value)


def test_missing_slices_are_interpolated_when_a_spacing_is_given(save_series: SaveSeries) -> None:
    pixels = make_pixels()
    (series,) = list_series(save_series(pixels, positions=(0, 2, 4, 8, 10)))
    (volume,) = read_series(series, (9.0, 9.0, 2.0))
    assert volume.spacing == pytest.approx((0.7, 0.9, 2.0))
    assert volume.stored_shape == (7, 6, 5)
    np.testing.assert_array_equal(volume.array[:, :, [0, 1, 2, 4, 5]], pixels.T)
    np.testing.assert_allclose(volume.array[:, :, 3], (pixels[2].T + pixels[3].T) / 2, atol=0.51)


def test_a_varying_increment_is_refused_and_interpolated_on_demand(save_series: SaveSeries) -> None:
    depths = np.array((0.0, 2.0, 4.0, 7.0, 11.0))
    pixels = np.broadcast_to((depths * 10)[:, None, None], (5, 6, 7)).astype(np.int16)
    (series,) = list_series(save_series(pixels, positions=depths.tolist()))
    assert series.refused is not None
    assert "varies from 2 to 4 mm" in series.refused
    (volume,) = read_series(series, (1.0, 1.0, 0.5))
    np.testing.assert_array_equal(volume.array[3, 3], np.arange(0, 110.1, 5))


def test_gantry_tilt_is_straightened_onto_an_orthogonal_grid(save_series: SaveSeries) -> None:
    """A tilted gantry: slices move sideways. A ramp over the room must be the same ramp in the volume."""
    tilt = np.radians(20)
    cosines = (1.0, 0.0, 0.0, 0.0, np.cos(tilt), -np.sin(tilt))
    normal, down = normal_of(cosines), np.array(cosines[3:])
    step = np.array((0.0, 0.0, 3.0))
    slope = np.array((3.0, 8.0, 5.0))

    def ramp(points: np.ndarray) -> np.ndarray:
        return points @ slope + 1000

    origin = np.array((-10.0, -20.0, 30.0))
    rows, columns = np.mgrid[:12, :9]
    places = [origin + n * step for n in range(6)]
    planes = [ramp(p + columns[..., None] * (0.7, 0, 0) + rows[..., None] * 0.9 * down) for p in places]
    along = float(step @ normal)
    paths = save_series(
        np.rint(planes).astype(np.int16), cosines=cosines, origin=origin, step=along, shift=step - along * normal
    )
    (series,) = list_series(paths)
    assert "20.0 degrees (gantry tilt)" in series.problems[0]
    (volume,) = read_series(series)
    assert series.shape == volume.array.shape
    assert volume.stored_shape == (9, 12, 6)
    columns_of = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(columns_of.T @ columns_of, np.eye(3), atol=1e-9)
    covered = binary_erosion(volume.array > volume.array.min(), np.ones((1, 3, 1)))
    inside = np.argwhere(covered)
    ras = (np.c_[inside, np.ones(len(inside))] @ volume.affine.T)[:, :3]
    assert len(inside) >= 6 * 9 * 9
    np.testing.assert_allclose(volume.array[covered], ramp(ras * (-1, -1, 1)), atol=1.01)


def test_a_single_slice_says_where_its_depth_is_from(save_series: SaveSeries) -> None:
    pixels = make_pixels((1, 6, 7))
    for tags, depth, words in (
        ({}, 2.5, "its thickness"),
        ({"SliceThickness": None, "SpacingBetweenSlices": 3.5}, 3.5, "its thickness"),
        ({"SliceThickness": None}, 1.0, "assumed"),
    ):
        (series,) = list_series(save_series(pixels, **tags))
        assert words in series.problems[0]
        assert read_series(series)[0].spacing == pytest.approx((0.7, 0.9, depth))


def test_equal_positions_need_a_spacing_and_are_ordered_by_number(save_series: SaveSeries) -> None:
    pixels = make_pixels()
    (series,) = list_series(save_series(pixels, step=0.0))
    assert series.refused is not None
    assert "all 5 slices lie at one position" in series.refused
    assert "give the voxel spacing" in series.refused
    (volume,) = read_series(series, (0.5, 0.6, 3.0))
    np.testing.assert_array_equal(volume.array, pixels.T)
    assert volume.spacing == pytest.approx((0.5, 0.6, 3.0))
    np.testing.assert_allclose(volume.affine[:3, 2] / 3, normal_of(OBLIQUE) * (-1, -1, 1), atol=1e-9)


def test_without_orientation_a_spacing_gives_axes_to_the_left_back_and_head(save_series: SaveSeries) -> None:
    (series,) = list_series(save_series(ImageOrientationPatient=None, ImagePositionPatient=None))
    assert series.plane == "none"
    assert "no usable ImageOrientationPatient" in str(series.refused)
    (volume,) = read_series(series, (0.5, 0.6, 3.0))
    np.testing.assert_allclose(volume.affine, np.diag((-0.5, -0.6, 3.0, 1.0)))


def test_an_orientation_that_is_no_right_angle_is_not_used(save_series: SaveSeries) -> None:
    assert "no usable ImageOrientationPatient" in str(
        list_series(save_series(ImageOrientationPatient=[1, 0, 0, 0.5, 0.8, 0]))[0].refused
    )


def test_slices_without_position_or_number_have_no_order(save_series: SaveSeries) -> None:
    (series,) = list_series(save_series(ImagePositionPatient=None, InstanceNumber=3))
    with pytest.raises(InputError, match="the order is not known"):
        read_series(series, (1.0, 1.0, 1.0))


def test_missing_pixel_spacing_is_refused_and_may_be_given(save_series: SaveSeries) -> None:
    (series,) = list_series(save_series(PixelSpacing=None))
    assert "no PixelSpacing" in str(series.refused)
    assert read_series(series, (0.5, 0.6, 9.0))[0].spacing == pytest.approx((0.5, 0.6, 2.0))


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, float("nan"))])
def test_a_spacing_must_be_positive(save_series: SaveSeries, spacing: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="three positive numbers"):
        read_series(list_series(save_series())[0], spacing)
