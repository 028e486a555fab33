"""When three planes are fused without being asked for, and who agrees on it: predictor, rows, calibration, bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from aaclip_med import build_detector
from aaclip_med.data.index import Case, read_index
from aaclip_med.data.volumes import Volume
from aaclip_med.errors import InputError
from aaclip_med.evaluation.ablation import judge
from aaclip_med.evaluation.run import evaluate_cases
from aaclip_med.evaluation.views import View, score_cases
from aaclip_med.inference.calibrating import calibrate, store_calibration
from aaclip_med.inference.cutting import Cutting, check_calibrated_alike, cut_planes
from aaclip_med.inference.network import build_network
from aaclip_med.inference.predictor import Predictor, load_predictor
from aaclip_med.inference.refinement import BEST, PUBLISHED
from aaclip_med.model.checkpoint import Checkpoint
from aaclip_med.presets import get_preset
from aaclip_med.zoo.inferer import VolumeInferer
from tests.cli.conftest import draw_head

CUBES = np.array([[-2.0, 0.1, 0.0, 20.0], [0.1, 2.0, 0.2, -30.0], [0.0, -0.2, 2.2, 5.0], [0.0, 0.0, 0.0, 1.0]])
"""Voxels about as deep as wide, oblique."""
SLABS = CUBES @ np.diag([1.0, 1.0, 2.5, 1.0])


def a_predictor(refinement=BEST, preset: str = "brain-mri", **options) -> Predictor:
    return Predictor(build_detector("tiny", image_size=40), get_preset(preset), refinement=refinement, **options)


def a_volume(shape: tuple[int, int, int] = (20, 22, 16), affine: np.ndarray = CUBES, is_picture: bool = False) -> Volume:
    array = np.random.default_rng(0).uniform(50, 400, shape).astype(np.float32)
    return Volume(array, affine, Path("scan.nii.gz"), None, shape, is_picture)


@pytest.mark.parametrize(
    ("options", "volume", "limits", "plane"),
    [
        ({}, a_volume(), None, "all"),
        ({"refinement": PUBLISHED}, a_volume(), None, "axial"),
        ({"preset": "liver-ct"}, a_volume(), None, "all"),
        ({"preset": "retinal-oct"}, a_volume(), None, "native"),
        ({"domain": "industrial"}, a_volume(), None, "axial"),
        ({}, a_volume(affine=SLABS), None, "axial"),
        ({}, a_volume((40, 40, 16)), None, "axial"),
        ({}, a_volume((20, 22, 1), is_picture=True), None, "axial"),
        ({}, a_volume(), (2, 9), "axial"),
    ],
    ids=["cubes", "published", "another preset", "b-scans", "industrial", "thick slices", "a slab", "picture", "range"],
)
def test_whole_volumes_of_voxels_as_deep_as_wide_are_fused_under_best_alone(options, volume, limits, plane) -> None:
    assert a_predictor(**options).choose_plane(volume, limits) == plane


def test_nobody_asking_is_asking_for_what_is_chosen() -> None:
    predictor = a_predictor()
    for affine, plane in ((CUBES, "all"), (SLABS, "axial")):
        unasked, asked = (predictor.predict_volume(a_volume(affine=affine), name) for name in (None, plane))
        np.testing.assert_array_equal(unasked.heatmap, asked.heatmap)
        np.testing.assert_array_equal(unasked.slice_scores, asked.slice_scores)


def test_fusing_is_worth_other_maps() -> None:
    predictor = a_predictor()
    fused, single = (predictor.predict_volume(a_volume(), name).heatmap for name in (None, "axial"))
    assert not np.allclose(fused, single, atol=1e-3)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """Two cubes, one with a lesion, and two of thick slices."""
    folder = tmp_path_factory.mktemp("rows")
    lines = []
    for number, affine in enumerate((CUBES, CUBES, SLABS, SLABS)):
        array, mask = draw_head(number, lesion=number % 2 == 1)
        array, mask = (np.repeat(one, 3, axis=2) if affine is CUBES else one for one in (array, mask))
        nib.save(nib.Nifti1Image(array, affine), folder / f"head_{number}.nii.gz")
        nib.save(nib.Nifti1Image(mask, affine), folder / f"mask_{number}.nii.gz")
        row = {"image_path": f"head_{number}.nii.gz", "label": number % 2, "class_name": "Brain"}
        lines.append(json.dumps(row | {"mask_path": f"mask_{number}.nii.gz"}) + "\n")
    (folder / "index.jsonl").write_text("".join(lines))
    return read_index(folder / "index.jsonl")


def test_each_row_is_judged_on_the_grid_that_suits_it(rows: list[Case]) -> None:
    predictor = a_predictor()
    for case, view in score_cases(rows, predictor, Cutting()):
        assert isinstance(view, View)
        prediction = predictor.predict_volume(view.cut.volume)
        if "0" in case.name or "1" in case.name:
            assert (view.plane, view.maps.shape) == ("all", view.cut.images.shape)
            np.testing.assert_allclose(view.maps, view.cut.plan.cut(prediction.heatmap), atol=1e-5)
        else:
            assert (view.plane, view.maps.shape[1:]) == ("axial", (40, 40))
            np.testing.assert_allclose(view.maps.max(axis=(1, 2)).max(), prediction.heatmap.max(), atol=0.5)


def test_evaluation_compares_with_baselines_of_the_same_slices(rows: list[Case]) -> None:
    cases = rows[:2]
    found, asked = (evaluate_cases(cases, a_predictor(), cutting=Cutting(plane=plane)) for plane in (None, "all"))
    figures = [{name: figure.value for name, figure in one.figures.items()} for one in (found, asked)]
    np.testing.assert_equal(figures[0], figures[1])
    for name, baseline in asked.baselines.items():
        assert baseline["pixel_auroc"].value == found.baselines[name]["pixel_auroc"].value


def test_rows_of_an_ablation_are_of_one_plane_unless_they_say_so(rows: list[Case]) -> None:
    predictor = a_predictor(replace(BEST, fuse=0.0))
    one, three = (judge("scoring", "", rows[:2], predictor, plane) for plane in (None, "all"))
    assert one != three
    assert judge("scoring", "", rows[:2], a_predictor()) == three


def test_a_bank_and_level_weights_are_learned_in_the_planes_that_are_scored(rows: list[Case]) -> None:
    fused, single = (cut_planes(case, a_predictor(), Cutting()) for case in (rows[1], rows[3]))
    assert [cut.plan.axis for cut in fused] == [2, 1, 0]
    assert [cut.plan.axis for cut in single] == [2]
    assert all(cut.masks is not None and cut.masks.any() for cut in fused)


def keep(predictor: Predictor, path: Path) -> Path:
    """The predictor's adapters in a file of their own."""
    detector = predictor.detector
    marks = {"refinement": predictor.refinement.to_json()}
    checkpoint = Checkpoint(detector.config, detector.adapter_state(), detector.tower_hash, "brain-mri", provenance=marks)
    path.write_bytes(checkpoint.to_bytes())
    return path


def test_what_is_calibrated_in_three_planes_is_scored_in_three(rows: list[Case], tmp_path: Path) -> None:
    path = keep(a_predictor(), tmp_path / "adapters.safetensors")
    for cases, plane in ((rows[:1], "all"), (rows[2:3], "axial")):
        predictor = load_predictor(path)
        calibration, scale = calibrate(cases, predictor)
        assert scale["plane"] == plane
        store_calibration(predictor, calibration, tmp_path / "calibrated.safetensors", scale)
        calibrated = load_predictor(tmp_path / "calibrated.safetensors")
        for affine in (CUBES, SLABS):
            assert calibrated.choose_plane(a_volume(affine=affine)) == plane


def test_demo_adapters_are_scored_as_best_in_the_plane_they_were_calibrated_in() -> None:
    predictor = load_predictor("demo", "brain-mri", refinement="best")
    check_calibrated_alike(predictor, None, False)
    assert predictor.choose_plane(a_volume()) == "axial"
    with pytest.raises(InputError, match="calibrated with plane axial, and would score with plane all"):
        check_calibrated_alike(predictor, "all", False)


def test_a_calibration_is_of_scans_of_one_kind(rows: list[Case]) -> None:
    normal = [rows[0], rows[2]]
    with pytest.raises(InputError, match=r"head_2\.nii\.gz: voxels of 2, 2.*in plane axial.*before it in plane all.*--plane"):
        calibrate(normal, a_predictor())
    _, scale = calibrate(normal, a_predictor(), cutting=Cutting(plane="axial"))
    assert scale["plane"] == "axial"


def test_a_bundle_fuses_as_the_predictor_does(rows: list[Case], tmp_path: Path) -> None:
    predictor = load_predictor(keep(a_predictor(), tmp_path / "adapters.safetensors"))
    calibration, scale = calibrate(rows[:1], predictor)
    store_calibration(predictor, calibration, tmp_path / "adapters.safetensors", scale)
    predictor = load_predictor(tmp_path / "adapters.safetensors")
    network = build_network(predictor)
    volume = a_volume()
    scan = torch.from_numpy(volume.array)[None, None]
    for given in (network, torch.jit.script(network)):
        with torch.no_grad():
            drawn = VolumeInferer(predictor, "all", batch_size=5)(scan, given)[0, 0].numpy()
        wanted = predictor.rescale(
            predictor.predict_volume(Volume(volume.array, np.eye(4), volume.path, None, (20, 22, 16), False), "all").heatmap
        )
        np.testing.assert_allclose(drawn, wanted, atol=1e-5)
        assert wanted.std() > 0.0


def test_a_network_without_log_odds_cannot_be_fused() -> None:
    predictor = a_predictor()
    with pytest.raises(InputError, match="set plane to one of them"):
        VolumeInferer(predictor, "all")(torch.rand(1, 1, 20, 22, 16), lambda images: images)
