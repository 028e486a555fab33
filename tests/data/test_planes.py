from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aaclip_med.data.planes import SlicePlan, plan_slices, plan_volume
from aaclip_med.data.volumes import read_volume
from aaclip_med.errors import InputError
from aaclip_med.presets import PLANES, PlaneName

from .conftest import GEOMETRIES, SaveScan, make_affine

ALL_ORIENTATIONS = [
    "".join(codes) for pairs in itertools.permutations(("RL", "AP", "SI")) for codes in itertools.product(*pairs)
]
# Which way rows and columns run in RAS: to the posterior (-A), the feet (-S) or the left (-R).
DIRECTIONS = {
    "axial": ((0, -1, 0), (-1, 0, 0)),
    "coronal": ((0, 0, -1), (-1, 0, 0)),
    "sagittal": ((0, 0, -1), (0, -1, 0)),
}
SLICE_DIRECTION = {"axial": 2, "coronal": 1, "sagittal": 0}

affines = st.builds(
    make_affine,
    st.sampled_from(ALL_ORIENTATIONS),
    st.tuples(*[st.floats(0.3, 6.0)] * 3),
    st.tuples(*[st.floats(-25.0, 25.0)] * 3),
    st.tuples(*[st.floats(-300.0, 300.0)] * 3),
)
shapes = st.tuples(*[st.integers(1, 6)] * 3)
planes = st.sampled_from(PLANES)


def number_voxels(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape)


@given(affines, planes, shapes, st.sampled_from([(), (3,)]))
def test_paste_is_the_exact_inverse_of_cut(
    affine: np.ndarray, plane: PlaneName, shape: tuple[int, int, int], channels: tuple[int, ...]
) -> None:
    plan = plan_slices(affine, plane, shape)
    array = number_voxels(shape + channels)
    stack = plan.cut(array)
    assert stack.shape == plan.stack_shape + channels
    assert np.shares_memory(stack, array)
    np.testing.assert_array_equal(plan.paste(stack), array)
    other = number_voxels(plan.stack_shape + channels)
    np.testing.assert_array_equal(plan.cut(plan.paste(other)), other)


@given(affines, planes, shapes)
def test_a_slice_number_is_the_index_along_the_inputs_own_axis(
    affine: np.ndarray, plane: PlaneName, shape: tuple[int, int, int]
) -> None:
    plan = plan_slices(affine, plane, shape)
    array = number_voxels(shape)
    for number, picture in enumerate(plan.cut(array)):
        assert set(picture.ravel()) == set(array.take(number, axis=plan.axis).ravel())


@given(affines, planes, shapes, st.data())
def test_a_pixel_is_traced_back_to_its_voxel(
    affine: np.ndarray, plane: PlaneName, shape: tuple[int, int, int], data: st.DataObject
) -> None:
    plan = plan_slices(affine, plane, shape)
    array = number_voxels(shape)
    pixel = tuple(data.draw(st.integers(0, n - 1)) for n in plan.stack_shape)
    assert plan.cut(array)[pixel] == array[plan.voxel_index(*pixel)]


@settings(max_examples=200)
@given(affines, st.sampled_from(sorted(DIRECTIONS)), shapes)
def test_rows_and_columns_run_in_radiological_convention(
    affine: np.ndarray, plane: PlaneName, shape: tuple[int, int, int]
) -> None:
    plan = plan_slices(affine, plane, shape)

    def point(slice_number: int, row: int, column: int) -> np.ndarray:
        return (affine @ (*plan.voxel_index(slice_number, row, column), 1))[:3]

    down, right = DIRECTIONS[plane]
    row_step, column_step = point(0, 1, 0) - point(0, 0, 0), point(0, 0, 1) - point(0, 0, 0)
    slice_step = point(1, 0, 0) - point(0, 0, 0)
    assert row_step @ down > 0.5 * np.linalg.norm(row_step)
    assert column_step @ right > 0.5 * np.linalg.norm(column_step)
    assert abs(slice_step[SLICE_DIRECTION[plane]]) > 0.5 * np.linalg.norm(slice_step)
    steps = [np.linalg.norm(step) for step in (row_step, column_step, slice_step)]
    assert plan.pixel_spacing(np.linalg.norm(affine[:3, :3], axis=0)) == pytest.approx(steps)


@pytest.mark.parametrize("plane", sorted(DIRECTIONS))
@pytest.mark.parametrize("codes", ALL_ORIENTATIONS)
def test_the_right_anterior_superior_corner_shows_at_the_top_left(codes: str, plane: PlaneName) -> None:
    # In an axial and a coronal slice the left edge is the patient's right, in a sagittal slice it is anterior.
    shape = (3, 4, 5)
    scan = np.zeros(shape)
    scan[tuple(n - 1 if code in "RAS" else 0 for n, code in zip(shape, codes, strict=True))] = 1
    plan = plan_slices(make_affine(codes), plane, shape)
    slice_number, row, column = np.argwhere(plan.cut(scan))[0]
    assert (row, column) == (0, 0)
    positive = codes[plan.axis] in "RAS"
    assert slice_number == (plan.stack_shape[0] - 1 if positive else 0)


def test_native_shows_the_file_as_a_picture_viewer_does() -> None:
    plan = plan_slices(GEOMETRIES["oblique left-handed"], "native", (3, 4, 5))
    array = number_voxels((3, 4, 5))
    assert plan == SlicePlan(2, 1, 0, False, False, (3, 4, 5))
    np.testing.assert_array_equal(plan.cut(array)[2], array[:, :, 2].T)


@pytest.mark.parametrize("plane", PLANES)
def test_a_picture_is_shown_as_it_is_in_every_plane(save: SaveScan, plane: PlaneName) -> None:
    rows = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    volume = read_volume(save("slice.png", rows.swapaxes(0, 1)))
    np.testing.assert_array_equal(plan_volume(volume, plane).cut(volume.array)[0], rows)


def test_a_volume_is_planned_by_its_affine(save: SaveScan) -> None:
    volume = read_volume(save("scan.nii.gz", affine=GEOMETRIES["sagittal stack"]))
    assert plan_volume(volume, "sagittal") == plan_slices(volume.affine, "sagittal", (5, 6, 7))
    assert plan_volume(volume, "sagittal").axis == 2


def test_an_unknown_plane_is_refused() -> None:
    with pytest.raises(InputError, match="unknown plane 'diagonal'; choose one of axial"):
        plan_slices(np.eye(4), "diagonal", (3, 4, 5))  # type: ignore[arg-type]


def test_an_array_of_another_shape_is_not_cut_or_pasted() -> None:
    plan = plan_slices(np.eye(4), "axial", (3, 4, 5))
    with pytest.raises(ValueError, match="does not fit"):
        plan.cut(np.zeros((3, 4, 6)))
    with pytest.raises(ValueError, match="does not fit"):
        plan.paste(np.zeros((3, 4, 5)))
