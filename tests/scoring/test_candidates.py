"""Lesion candidates in oblique, flipped and flat geometry."""

from __future__ import annotations

import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from aaclip_med.errors import InputError
from aaclip_med.scoring.candidates import label_candidates

OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix() @ np.diag([-0.5, 0.8, 4.0])
OBLIQUE[:3, 3] = [12.0, -40.0, 7.5]


def to_ras(affine: np.ndarray, voxel: tuple[float, ...]) -> np.ndarray:
    return (affine @ [*voxel, 1.0])[:3]


def build_heatmap() -> np.ndarray:
    """A box peaking at 0.9 off its centre, a single voxel of 0.95, and a plate of 0.6."""
    heatmap = np.full((20, 24, 16), 0.1, dtype=np.float32)
    heatmap[2:5, 3:7, 4:6] = 0.7
    heatmap[4, 6, 5] = 0.9
    heatmap[15, 20, 12] = 0.95
    heatmap[8:12, 10:14, 9] = 0.6
    return heatmap


def test_candidates_are_numbered_from_the_highest_peak():
    candidates, _ = label_candidates(build_heatmap(), 0.5, OBLIQUE, 2)
    assert [one.id for one in candidates] == [1, 2, 3]
    assert [one.peak for one in candidates] == pytest.approx([0.95, 0.9, 0.6])
    assert [one.voxels for one in candidates] == [1, 24, 16]


def test_a_candidate_lies_where_the_affine_says():
    box = label_candidates(build_heatmap(), 0.5, OBLIQUE, 2)[0][1]
    assert box.centroid_voxel == pytest.approx((3.0, 4.5, 4.5))
    assert box.centroid_ras == pytest.approx(to_ras(OBLIQUE, (3.0, 4.5, 4.5)))
    assert box.peak_ras == pytest.approx(to_ras(OBLIQUE, (4, 6, 5)))
    assert box.volume_ml == pytest.approx(24 * 0.5 * 0.8 * 4.0 / 1000)
    assert box.mean == pytest.approx((23 * 0.7 + 0.9) / 24)


@pytest.mark.parametrize(("axis", "span"), [(0, (2, 4)), (1, (3, 6)), (2, (4, 5))])
def test_the_slice_range_is_inclusive_along_the_slice_axis(axis, span):
    box = label_candidates(build_heatmap(), 0.5, OBLIQUE, axis)[0][1]
    assert (box.first_slice, box.last_slice) == span


def test_the_label_map_carries_the_ids():
    heatmap = build_heatmap()
    candidates, labels = label_candidates(heatmap, 0.5, OBLIQUE, 2)
    assert labels.dtype == np.uint16
    assert labels.shape == heatmap.shape
    assert ((labels > 0) == (heatmap >= 0.5)).all()
    for one in candidates:
        assert (labels == one.id).sum() == one.voxels
        assert heatmap[labels == one.id].max() == np.float32(one.peak)


def test_small_regions_are_left_out_of_list_and_map():
    candidates, labels = label_candidates(build_heatmap(), 0.5, OBLIQUE, 2, minimum_ml=0.01)
    assert [(one.id, one.voxels) for one in candidates] == [(1, 24), (2, 16)]
    assert np.bincount(labels.ravel()).tolist()[1:] == [24, 16]


def test_voxels_touching_at_a_corner_are_one_candidate():
    heatmap = np.zeros((4, 4, 4), dtype=np.float32)
    heatmap[1, 1, 1] = heatmap[2, 2, 2] = 1.0
    (only,), _ = label_candidates(heatmap, 0.5, np.eye(4), 2)
    assert only.centroid_voxel == (1.5, 1.5, 1.5)
    assert only.peak_ras == (1.0, 1.0, 1.0)


def test_equal_peaks_go_by_volume():
    heatmap = np.zeros((9, 3, 1), dtype=np.float32)
    heatmap[1, 1] = heatmap[5:8, 1] = 0.8
    assert [one.voxels for one in label_candidates(heatmap, 0.8, np.eye(4), 2)[0]] == [3, 1]


def test_a_picture_has_candidates_in_its_one_slice():
    heatmap = np.zeros((30, 20, 1), dtype=np.float32)
    heatmap[4:8, 5:10, 0] = 0.9
    (only,), _ = label_candidates(heatmap, 0.5, np.diag([0.2, 0.3, 1.0, 1.0]), 2)
    assert (only.first_slice, only.last_slice) == (0, 0)
    assert only.centroid_ras == pytest.approx((5.5 * 0.2, 7.0 * 0.3, 0.0))


def test_a_cold_heatmap_has_no_candidates():
    candidates, labels = label_candidates(build_heatmap(), 0.99, OBLIQUE, 2)
    assert candidates == []
    assert not labels.any()


def test_more_candidates_than_uint16_holds_keep_their_own_ids():
    heatmap = np.zeros((82, 82, 82), dtype=np.float32)
    heatmap[::2, ::2, ::2] = 1.0
    candidates, labels = label_candidates(heatmap, 0.5, np.eye(4), 0)
    assert labels.dtype == np.int32
    assert len(candidates) == labels.max() == 41**3


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
def test_the_peak_of_a_plateau_is_its_voxel_nearest_to_the_middle_in_mm(codes):
    heatmap = np.zeros((12, 14, 9), dtype=np.float32)
    heatmap[2:9, 3:10, 2:7] = 0.7
    heatmap[3:8, 4:9, 3:6] = 1.0
    heatmap[5, 6, 4] = 0.9  # a dent: the nearest of the plateau is beside it, along the axis of the shortest step
    image = nib.Nifti1Image(heatmap, np.diag([2.0, 3.0, 0.5, 1.0]))
    turned = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(codes)))
    (only,), _ = label_candidates(np.asarray(turned.dataobj), 0.5, turned.affine, 2)
    assert only.peak == 1.0
    assert only.peak_ras[:2] == (10.0, 18.0)
    assert only.peak_ras[2] in (1.5, 2.5)


@pytest.mark.parametrize("order", ["C", "F"])
def test_what_goes_over_chunks_is_one_candidate_and_its_middle_peak_counts(order):
    heatmap = np.zeros((70, 90, 100), dtype=np.float32, order=order)  # chunks of 2**18 end within slices 29 and 58
    heatmap[3:66, 40, 50:52] = 0.5
    heatmap[[20, 40, 60], 40, 51] = 0.75
    heatmap[64:66, 5, 5] = 0.6
    (long, short), labels = label_candidates(heatmap, 0.5, np.eye(4), 0)
    assert (long.voxels, long.peak, long.peak_ras) == (126, 0.75, (40.0, 40.0, 51.0))
    assert long.mean == pytest.approx((123 * 0.5 + 3 * 0.75) / 126)
    assert long.centroid_voxel == pytest.approx((34.0, 40.0, 50.5))
    assert (short.peak_ras, short.voxels) == ((64.0, 5.0, 5.0), 2)
    assert np.array_equal(labels, np.where(heatmap == np.float32(0.6), 2, heatmap > 0))


def test_memory_does_not_grow_with_the_share_of_hot_voxels():
    heatmap = np.random.default_rng(0).random((128, 128, 128)).astype(np.float32)
    peaks = []
    for threshold in (0.999, 0.0):
        tracemalloc.start()
        label_candidates(heatmap, threshold, np.eye(4), 2, 1.0)
        peaks.append(tracemalloc.get_traced_memory()[1] / heatmap.size)
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 12
    assert max(peaks) < 20


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.permutations([0, 1, 2]), st.tuples(*[st.sampled_from([1, -1])] * 3))
def test_turning_the_array_with_its_affine_moves_nothing(seed, order, signs):
    """The same scan stored in another axis order and direction has the same candidates in RAS."""
    heatmap = np.random.default_rng(seed).random((7, 6, 5)).astype(np.float32)
    turned = heatmap.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]
    turn = np.zeros((4, 4))  # voxel in `turned` -> voxel in `heatmap`
    turn[3, 3] = 1
    for new, (old, sign) in enumerate(zip(order, signs, strict=True)):
        turn[old, new] = sign
        turn[old, 3] = 0 if sign == 1 else heatmap.shape[old] - 1
    before, _ = label_candidates(heatmap, 0.9, OBLIQUE, 2)
    after, _ = label_candidates(turned, 0.9, OBLIQUE @ turn, order.index(2))
    assert [(one.id, one.peak, one.voxels) for one in before] == [(one.id, one.peak, one.voxels) for one in after]
    for one, other in zip(before, after, strict=True):
        assert one.centroid_ras == pytest.approx(other.centroid_ras)
        assert one.peak_ras == pytest.approx(other.peak_ras)
        assert one.volume_ml == pytest.approx(other.volume_ml)
        assert one.last_slice - one.first_slice == other.last_slice - other.first_slice


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heatmap": np.zeros((4, 4))}, "shape"),
        ({"heatmap": np.full((2, 2, 2), np.nan)}, "NaN"),
        ({"threshold": float("nan")}, "threshold"),
        ({"affine": np.eye(3)}, "affine"),
        ({"slice_axis": 3}, "slice axis"),
    ],
)
def test_what_cannot_be_searched_is_refused(change, message):
    given_ = {"heatmap": build_heatmap(), "threshold": 0.5, "affine": np.eye(4), "slice_axis": 2, **change}
    with pytest.raises(InputError, match=message):
        label_candidates(**given_)
