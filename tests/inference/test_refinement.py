"""What refinements do to maps and to the scores of slices, and that the published scoring is the default."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.nn import functional

from aaclip_med import build_detector
from aaclip_med.data.index import Case
from aaclip_med.data.volumes import Volume
from aaclip_med.errors import InputError
from aaclip_med.inference.calibrating import calibrate, store_calibration
from aaclip_med.inference.cutting import check_calibrated_alike, describe_scale
from aaclip_med.inference.job import JobRequest, run_job
from aaclip_med.inference.network import build_network
from aaclip_med.inference.predictor import Predictor, load_predictor
from aaclip_med.inference.refinement import BEST, PUBLISHED, Refinement, find_refinement, pool_scores, score_pictures, sharpen
from aaclip_med.model.checkpoint import Checkpoint
from aaclip_med.model.detector import Detector
from aaclip_med.model.preprocess import choose_side, normalise_slices
from aaclip_med.presets import Window, get_preset
from aaclip_med.scoring.calibration import CalibrationBuilder
from aaclip_med.zoo.inferer import VolumeInferer
from aaclip_med.zoo.packing import pack_bundle
from tests.cli.conftest import OBLIQUE, draw_head

SIZE = 40


@pytest.fixture(scope="module")
def detector() -> Detector:
    return build_detector("tiny", image_size=SIZE).eval()


@pytest.fixture(scope="module")
def anchors(detector: Detector) -> torch.Tensor:
    with torch.no_grad():
        return detector.encode_noun("scan")


def pictures(side: int = SIZE, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(side))


@torch.no_grad()
def score(detector: Detector, anchors: torch.Tensor, images: torch.Tensor, **options: Any) -> torch.Tensor:
    return score_pictures(detector, images, anchors, "medical", Refinement(**options))[0]


def test_by_default_the_map_is_the_released_programs(detector: Detector, anchors: torch.Tensor) -> None:
    images = pictures()
    with torch.no_grad():
        heatmap, _ = detector(normalise_slices(images), anchors)
    released = 2 * heatmap[:, 0] / len(detector.levels) - 1
    torch.testing.assert_close(score(detector, anchors, images), released, rtol=0, atol=0)
    torch.testing.assert_close(score(detector, anchors, images, sigma=1.5), released, rtol=0, atol=0.05)


def test_with_flips_the_map_of_the_mirror_image_is_the_mirrored_map(detector: Detector, anchors: torch.Tensor) -> None:
    images = pictures()
    mirrored = score(detector, anchors, images.flip(-1), flips=True).flip(-1)
    torch.testing.assert_close(score(detector, anchors, images, flips=True), mirrored, rtol=0, atol=1e-4)
    assert not torch.allclose(score(detector, anchors, images), score(detector, anchors, images.flip(-1)).flip(-1), atol=1e-2)


def test_patches_laid_twice_follow_what_moves_by_half_a_patch(detector: Detector, anchors: torch.Tensor) -> None:
    """A spot two pixels wide, moved by half a patch: the peak moves with it, which one lattice cannot show."""
    peaks = []
    for column in (18, 22):
        image = torch.full((1, 1, SIZE, SIZE), 0.2)
        image[..., 18:20, column : column + 2] = 1.0
        plain = score(detector, anchors, torch.full_like(image, 0.2), shifts=2, sigma=0.0)
        change = (score(detector, anchors, image, shifts=2, sigma=0.0) - plain)[0].abs()
        change[..., :8], change[..., -8:] = 0, 0
        peaks.append(int(change.amax(dim=0).argmax()))
    assert peaks[1] - peaks[0] == pytest.approx(4, abs=2)


def test_tiles_of_a_plain_picture_meet_without_seams(detector: Detector, anchors: torch.Tensor) -> None:
    plain = torch.full((1, 1, 88, 88), 0.6)
    found = score(detector, anchors, plain, zoom=2.2)
    assert found.shape == (1, 88, 88)
    whole = score(detector, anchors, plain[..., :SIZE, :SIZE])
    assert found.min() >= whole.min() - 1e-3
    assert found.max() <= whole.max() + 1e-3
    assert (found[:, 1:] - found[:, :-1]).abs().max() < 0.05


@pytest.mark.parametrize(
    ("height", "width", "zoom", "side"),
    [(240, 240, 1.0, 160), (240, 240, 2.5, 400), (512, 512, 2.5, 400), (108, 88, 2.5, 160), (130, 100, 2.5, 216)],
)
def test_a_slice_is_enlarged_as_far_as_it_has_pixels_to_show(height: int, width: int, zoom: float, side: int) -> None:
    assert choose_side(height, width, 160, zoom) == side


def test_a_sharpened_map_has_its_edge_where_the_slice_has_one() -> None:
    step = torch.zeros(1, 1, 64, 64)
    step[..., 32:] = 1.0
    smeared = functional.avg_pool2d(functional.pad(step, (8,) * 4, mode="replicate"), 17, stride=1)
    before, after = (float(found[0, 0, 30, 32] - found[0, 0, 30, 31]) for found in (smeared, sharpen(smeared, step, 6)))
    assert after > 4 * before
    plain = sharpen(smeared, torch.full_like(step, 0.5), 6)
    assert float(plain[0, 0, 30, 32] - plain[0, 0, 30, 31]) <= before + 1e-6


def test_what_is_no_foreground_has_the_lowest_score_of_its_slice(detector: Detector, anchors: torch.Tensor) -> None:
    images = pictures() * 0.9 + 0.1
    images[..., :10, :] = 0.0
    found = score(detector, anchors, images, foreground=True)
    plain = score(detector, anchors, images)
    lowest = plain.flatten(1).amin(dim=1)[:, None, None]
    torch.testing.assert_close(found[:, :10], lowest.expand(2, 10, SIZE))
    torch.testing.assert_close(found[:, 10:], plain[:, 10:])


def test_level_weights_choose_levels(detector: Detector, anchors: torch.Tensor) -> None:
    images = pictures()
    first, last, both = (
        score(detector, anchors, images, level_weights=w, sigma=1.0) for w in ((1, 0, 0, 0), (0, 0, 0, 1), (3, 0, 0, 1))
    )
    torch.testing.assert_close(both, 0.75 * first + 0.25 * last, rtol=1e-4, atol=1e-3)
    with pytest.raises(InputError, match="3 level_weights do not suit 4 levels"):
        score(detector, anchors, images, level_weights=(1, 1, 1))


def test_patches_of_the_bank_itself_gain_nothing_and_others_do(detector: Detector, anchors: torch.Tensor) -> None:
    images = pictures(count=1)
    refinement = Refinement(bank_weight=10.0, sigma=0.0)
    with torch.no_grad():
        bank = [level[0] for level in detector.encode_image(normalise_slices(images)).levels]
        known, _ = score_pictures(detector, images, anchors, "medical", refinement, bank)
        other, _ = score_pictures(detector, images, anchors, "medical", refinement, [part[:1] for part in bank])
    plain = score(detector, anchors, images, sigma=0.0)
    torch.testing.assert_close(known, plain, rtol=0, atol=1e-3)
    assert (other >= plain - 1e-3).all()
    assert (other > plain + 1e-2).any()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2])
def test_a_slices_score_is_the_mean_of_its_highest_pixels(share: float) -> None:
    maps = np.random.default_rng(0).normal(size=(3, 20, 30)).astype(np.float32)
    detection = np.array([0.0, 0.5, 1.0], dtype=np.float32)
    count = max(1, round(share * 600))
    wanted = np.sort(maps.reshape(3, -1), axis=1)[:, ::-1][:, :count].mean(axis=1)
    np.testing.assert_allclose(pool_scores(maps, None, np.arange(3), Refinement(pool_share=share)), wanted, rtol=1e-5)
    both = pool_scores(maps, detection, np.arange(3), Refinement(pool_share=share, detection_weight=4.0))
    np.testing.assert_allclose(both, wanted + np.array([-4.0, 0.0, 4.0]), rtol=1e-5)


def test_reach_smooths_a_volumes_slice_scores_by_their_distance_and_leaves_its_heat_alone(detector: Detector) -> None:
    rng = np.random.default_rng(3)
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    volume = Volume(rng.integers(1, 200, (40, 48, 9)).astype(np.float32), affine, Path("scan.nii.gz"), None, (40, 48, 9), False)
    plain, smoothed = (
        Predictor(detector, get_preset("brain-mri"), refinement=Refinement(reach=reach)).predict_volume(volume)
        for reach in (0.0, 0.5)
    )
    np.testing.assert_array_equal(smoothed.heatmap, plain.heatmap)
    patch_mm = np.sqrt(40.0 * 48.0) / (SIZE / 8)
    weights = np.exp(-0.5 * (np.subtract.outer(np.arange(9), np.arange(9)) * 3.0 / (0.5 * patch_mm)) ** 2)
    np.testing.assert_allclose(smoothed.slice_scores, weights @ plain.slice_scores / weights.sum(axis=1), rtol=1e-5)
    assert smoothed.slice_scores.std() < plain.slice_scores.std()


def test_a_refinement_survives_json_and_says_only_what_differs() -> None:
    chosen = replace(BEST, level_weights=(1.0, 2.0))
    assert Refinement.from_json(chosen.to_json()) == chosen
    assert PUBLISHED.to_json() == {}
    assert find_refinement(None, {"sharpen": 3}) == Refinement(sharpen=3)
    assert find_refinement("published", {"sharpen": 3}) == PUBLISHED


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pool_share": 1.5}, "pool_share 1.5"),
        ({"reach": -1.0}, "reach -1"),
        ({"fuse": 0.5}, "fuse 0.5"),
        ({"fuse": float("nan")}, "fuse nan"),
        ({"shifts": 0}, "shifts 0"),
        ({"zoom": 0.5}, "zoom 0.5"),
        ({"sharpen": -1}, "sharpen -1"),
        ({"sigma": -1.0}, "sigma -1"),
        ({"level_weights": [0, 0]}, "level_weights"),
        ({"bank_weight": float("nan")}, "bank_weight"),
        ({"blur": 2}, "unknown refinement blur"),
    ],
)
def test_a_refinement_that_makes_no_sense_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Refinement.from_json(values)


def test_scores_are_refused_under_another_refinement_than_they_were_calibrated_with(detector: Detector) -> None:
    builder = CalibrationBuilder(-40.0, 40.0)
    builder.add_volume(np.linspace(-1, 1, 50), 0.5)
    preset = get_preset("brain-mri")
    made = {"calibration": describe_scale(Predictor(detector, preset, refinement=BEST), None, False)}
    checkpoint = Checkpoint(detector.config, detector.adapter_state(), detector.tower_hash, preset.name, provenance=made)
    for refinement in (BEST, PUBLISHED):
        predictor = Predictor(detector, preset, builder.build(), checkpoint, refinement=refinement)
        if refinement == BEST:
            check_calibrated_alike(predictor, None, False)
        else:
            with pytest.raises(InputError, match=r"calibrated with .*refinement"):
                check_calibrated_alike(predictor, None, False)


def test_a_calibration_is_of_one_image_size_and_of_whole_or_dropped_background(tmp_path: Path) -> None:
    normal = tmp_path / "normal.nii.gz"
    nib.save(nib.Nifti1Image(draw_head(0, lesion=False)[0], OBLIQUE), normal)
    case, path = Case(normal, 0, "Brain"), tmp_path / "adapters.safetensors"
    predictor = load_predictor("demo", "brain-mri", image_size=80, device="cpu")
    calibration, scale = calibrate([case], predictor)
    store_calibration(predictor, calibration, path, scale)
    alike = load_predictor(path, device="cpu")
    assert alike.detector.config.image_size == 80
    check_calibrated_alike(alike, None, False)
    VolumeInferer(alike)
    for options, message in (
        ({"image_size": 160}, "calibrated with image size 80, and would score with image size 160"),
        ({"drop_background": True}, "calibrated with drop background False, and would score with drop background True"),
    ):
        other = load_predictor(path, device="cpu", **options)
        job = JobRequest(normal.name)
        for refuse in (
            lambda other=other: check_calibrated_alike(other, None, False),
            lambda other=other: build_network(other),
            lambda other=other: VolumeInferer(other),
            lambda other=other, job=job: run_job(tmp_path, job, other, lambda *_: None),
        ):
            with pytest.raises(InputError, match=message):
                refuse()


def test_a_bundle_is_not_packed_with_a_calibration_that_it_does_not_score_by(tmp_path: Path) -> None:
    path = tmp_path / "adapters.safetensors"
    made = load_predictor("demo", "brain-mri", device="cpu", window=Window("hu", 0.0, 500.0))
    assert made.calibration is not None
    store_calibration(made, made.calibration, path, describe_scale(made, None, within_organ=False))
    with pytest.raises(InputError, match=r"calibrated with window hu 0\.0 500\.0, and would score with window percentile"):
        pack_bundle(path, tmp_path / "bundle")


def test_what_an_older_file_does_not_say_of_its_calibration_is_not_held_against_it() -> None:
    for options in ({}, {"image_size": 80}, {"drop_background": True}):
        predictor = load_predictor("demo", "brain-mri", device="cpu", **options)
        assert predictor.checkpoint is not None
        assert "image size" not in predictor.checkpoint.provenance["calibration"]
        check_calibrated_alike(predictor, None, False)
