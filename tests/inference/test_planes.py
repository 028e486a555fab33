"""What windows, organs, planes and strides do to a heatmap, and what they leave alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from aaclip_med import build_detector
from aaclip_med.data.slices import cut_volume
from aaclip_med.data.volumes import Volume, read_volume
from aaclip_med.data.writing import write_heatmap
from aaclip_med.errors import InputError
from aaclip_med.inference.predictor import Predictor
from aaclip_med.presets import PLANES, get_preset

OBLIQUE = np.array([[-1.9, 0.2, 0.3, 40.0], [0.2, 1.9, 0.5, -50.0], [0.1, -0.4, 4.0, 10.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """A detector with fresh adapters."""
    return Predictor(build_detector("tiny", image_size=40), get_preset("brain-mri"))


def a_volume(shape: tuple[int, int, int] = (22, 20, 9), affine: np.ndarray = OBLIQUE, seed: int = 0) -> Volume:
    """Noise with an empty rim of slices at both ends of every axis."""
    array = np.zeros(shape, dtype=np.float32)
    inside = tuple(slice(1, -1) for _ in shape)
    array[inside] = np.random.default_rng(seed).uniform(50, 400, array[inside].shape)
    return Volume(array, affine, Path("scan.nii.gz"), None, shape, is_picture=False)


def test_a_stride_scores_fewer_slices_and_interpolates_between_them(predictor: Predictor) -> None:
    cut = cut_volume(a_volume(), predictor.preset)
    full, thin = predictor.predict(cut), predictor.predict(cut, stride=2)
    assert full.slices == [1, 2, 3, 4, 5, 6, 7]
    assert thin.slices == [1, 3, 5, 7]
    np.testing.assert_array_equal(thin.heatmap[:, :, 3], full.heatmap[:, :, 3])
    np.testing.assert_allclose(thin.heatmap[:, :, 4], (full.heatmap[:, :, 3] + full.heatmap[:, :, 5]) / 2, atol=1e-5)
    with pytest.raises(InputError, match="stride 0"):
        predictor.predict(cut, stride=0)


def test_outside_an_organ_nothing_is_seen_and_nothing_is_scored(predictor: Predictor) -> None:
    volume = a_volume()
    organ = np.zeros(volume.array.shape, dtype=bool)
    organ[5:15, 6:14, 3:6] = True
    found = predictor.predict_volume(volume, organ=organ)
    assert found.slices == [3, 4, 5]
    assert (found.heatmap[~organ] == found.heatmap.min()).all()
    changed = Volume(
        np.where(organ, volume.array, 7.0).astype(np.float32), OBLIQUE, volume.path, None, volume.stored_shape, False
    )
    np.testing.assert_array_equal(predictor.predict_volume(changed, organ=organ).heatmap, found.heatmap)


def test_three_planes_are_averaged_by_the_resolution_of_their_slices(predictor: Predictor) -> None:
    volume = a_volume(affine=np.diag([1.0, 1.0, 4.0, 1.0]))
    fused = predictor.predict_volume(volume, "all").heatmap
    single = {name: predictor.predict_volume(volume, name).heatmap for name in ("axial", "coronal", "sagittal")}
    wanted = (single["axial"] + (single["coronal"] + single["sagittal"]) / 4.0) / 1.5
    np.testing.assert_allclose(fused, wanted, atol=1e-4)
    with pytest.raises(InputError, match="slice ranges"):
        predictor.predict_volume(volume, "all", limits=(1, 2))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    angles=st.tuples(*[st.floats(-180, 180) for _ in range(3)]),
    spacing=st.tuples(*[st.floats(0.3, 8) for _ in range(3)]),
    flips=st.tuples(*[st.sampled_from((-1, 1)) for _ in range(3)]),
    origin=st.tuples(*[st.floats(-300, 300) for _ in range(3)]),
    plane=st.sampled_from(PLANES),
    shape=st.tuples(*[st.integers(3, 9) for _ in range(3)]),
    data=st.data(),
)
def test_a_marked_voxel_comes_back_at_its_own_point_in_every_plane_and_geometry(
    angles, spacing, flips, origin, plane, shape, data, tmp_path_factory
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * np.array(spacing) * np.array(flips)
    affine[:3, 3] = origin
    voxel = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    rng = np.random.default_rng(0)
    array = rng.integers(0, 1000, shape).astype(np.int16)
    folder = tmp_path_factory.mktemp("geometry")
    nib.save(nib.Nifti1Image(array, affine), folder / "scan.nii")
    volume = read_volume(folder / "scan.nii")
    plan = cut_volume(volume, get_preset("brain-mri"), plane).plan

    stack = plan.cut(volume.array)
    np.testing.assert_array_equal(plan.paste(stack), array)
    marks = np.zeros(shape, dtype=np.float32)
    marks[voxel] = 1.0
    heat = np.ascontiguousarray(plan.cut(marks))
    write_heatmap(folder / "heat.nii.gz", plan.paste(heat), volume)

    back = nib.load(folder / "heat.nii.gz")
    (found,) = np.argwhere(back.get_fdata() == 1.0)
    point = back.affine @ [*found, 1.0]
    np.testing.assert_allclose(point[:3], (affine @ [*voxel, 1.0])[:3], atol=1e-3)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", "native", "all"])
def test_a_crop_shows_the_foreground_alone_and_moves_no_voxel(plane: str) -> None:
    cropping = Predictor(build_detector("tiny", image_size=40), replace(get_preset("brain-mri"), crop=True))
    volume = a_volume((24, 20, 9), np.diag([2.0, 2.0, 2.0, 1.0]))
    volume.array[:8] = 0
    volume.array[:, 15:] = 0
    found = cropping.predict_volume(volume, plane)
    assert found.heatmap.shape == volume.array.shape
    if plane != "all":
        cut = cut_volume(volume, cropping.preset, plane)
        seen = np.zeros(cut.plan.stack_shape, dtype=bool)
        cut.crop(seen)[cut.used] = True
        seen = cut.plan.paste(seen)
        assert seen[volume.array > 0].all()
        assert not seen.all()
        assert (found.heatmap[~seen] == found.heatmap.min()).all()
        shown = cut.crop(cut.plan.cut(volume.array))[cut.used]
        assert np.corrcoef(shown.ravel(), cut.images[cut.used].ravel())[0, 1] > 0.98
