"""The figures of an evaluation, computed again from the maps by scikit-learn and by hand."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from aaclip_med.data.index import Case, read_index
from aaclip_med.data.slices import cut_case
from aaclip_med.errors import InputError
from aaclip_med.evaluation.baselines import COMPARED, judge_baselines
from aaclip_med.evaluation.evaluation import Evaluation
from aaclip_med.evaluation.intervals import FEW_PATIENTS, doubt_intervals
from aaclip_med.evaluation.report import list_cases
from aaclip_med.evaluation.run import evaluate_cases
from aaclip_med.evaluation.tally import CaseRecord, Tally
from aaclip_med.evaluation.views import score_cases
from aaclip_med.inference.cutting import Cutting
from aaclip_med.inference.predictor import Predictor
from aaclip_med.inference.refinement import Refinement
from aaclip_med.model.preprocess import resize_masks, resize_slices
from aaclip_med.scoring.bootstrap import draw_patients
from aaclip_med.scoring.metrics import Figure, evaluate_reference
from aaclip_med.scoring.pooling import pool_maps, smooth_scores
from tests.cli.conftest import OBLIQUE


@pytest.fixture(scope="module")
def evaluation(heads: Path, demo_predictor: Predictor) -> Evaluation:
    by_slice = replace(demo_predictor.refinement, reach=0.0)
    predictor = Predictor(demo_predictor.detector, demo_predictor.preset, refinement=by_slice)
    return evaluate_cases(read_index(heads / "index.jsonl"), predictor)


@pytest.fixture(scope="module")
def stacks(heads: Path, demo_predictor: Predictor) -> dict[str, list[np.ndarray]]:
    """Maps, masks, intensities and detection scores on the detector's grid, a stack a case."""
    every: dict[str, list[np.ndarray]] = {"maps": [], "masks": [], "grey": [], "inside": [], "detection": []}
    for case in read_index(heads / "index.jsonl"):
        cut = cut_case(case, demo_predictor.preset)
        scores = demo_predictor.score_cut(cut)
        masks, grey = (torch.from_numpy(np.asarray(part[cut.used], np.float32))[:, None] for part in (cut.masks, cut.images))
        every["maps"].append(scores.log_odds)
        every["detection"].append(scores.detection)
        every["masks"].append(resize_masks(masks, 80)[:, 0].numpy() > 0)
        every["inside"].append(resize_masks((grey > 0).float(), 80)[:, 0].numpy() > 0)
        every["grey"].append(resize_slices(grey, 80)[:, 0].numpy())
    return every


def test_under_reference_the_figures_are_the_released_programs(evaluation, stacks):
    maps, masks, detection = (np.concatenate(stacks[name]) for name in ("maps", "masks", "detection"))
    labels = masks.any(axis=(1, 2))
    for name, figure in evaluate_reference(maps, masks, detection, labels, "medical").items():
        assert evaluation.figures[name].value == pytest.approx(figure.value, abs=1e-5)


def test_the_industrial_protocol_is_the_released_programs_too(heads, demo_predictor, stacks):
    cases = read_index(heads / "index.jsonl")
    predictor = Predictor(demo_predictor.detector, demo_predictor.preset, domain="industrial")
    figures = evaluate_cases(cases, predictor).figures
    scores = [predictor.score_cut(cut_case(case, predictor.preset)) for case in cases]
    maps, detection = (np.concatenate([getattr(one, name) for one in scores]) for name in ("log_odds", "detection"))
    masks = np.concatenate(stacks["masks"])
    for name, figure in evaluate_reference(maps, masks, detection, masks.any(axis=(1, 2)), "industrial").items():
        assert figures[name].value == pytest.approx(figure.value, abs=1e-5)


def test_a_volumes_score_is_the_mean_of_its_three_highest_slices(evaluation, stacks):
    scores = [np.sort(maps.max(axis=(1, 2)))[-3:].mean() for maps in stacks["maps"]]
    labels = [masks.any() for masks in stacks["masks"]]
    assert evaluation.figures["volume_auroc"].value == pytest.approx(roc_auc_score(labels, scores))
    assert evaluation.figures["volume_ap"].value == pytest.approx(average_precision_score(labels, scores))


def test_slice_scores_of_the_detector_and_of_the_intensity_are_smoothed_alike(heads, demo_predictor, stacks):
    cases, reach = read_index(heads / "index.jsonl"), demo_predictor.refinement.reach
    assert reach > 0
    evaluation = evaluate_cases(cases, demo_predictor)
    labels = np.concatenate(stacks["masks"]).any(axis=(1, 2))
    for name, shares, figures in (
        ("maps", (0.0,), evaluation.figures),
        ("grey", (0.0, 0.01), evaluation.baselines["intensity"]),
    ):
        smoothed = []
        for share in shares:
            for case, maps in zip(cases, stacks[name], strict=True):
                cut = cut_case(case, demo_predictor.preset)
                smoothed.append(smooth_scores(pool_maps(maps, share), demo_predictor.place_slices(cut, cut.used), reach))
        pooled = np.concatenate(smoothed).reshape(len(shares), -1)
        assert figures["image_auroc"].value == pytest.approx(max(roc_auc_score(labels, one) for one in pooled))


def test_figures_inside_leave_out_what_the_window_shows_black(evaluation, stacks):
    maps, masks, inside = (np.concatenate(stacks[name]) for name in ("maps", "masks", "inside"))
    assert 0.2 < inside.mean() < 0.8
    expected = roc_auc_score(masks[inside], maps[inside])
    assert evaluation.figures["inside_pixel_auroc"].value == pytest.approx(expected, abs=1e-5)


def test_the_windowed_intensity_stands_beside_as_a_score(evaluation, stacks):
    grey, masks = np.concatenate(stacks["grey"]), np.concatenate(stacks["masks"])
    figures = evaluation.baselines["intensity"]
    assert figures["pixel_auroc"].value == pytest.approx(roc_auc_score(masks.ravel(), grey.ravel()), abs=1e-5)
    highest = np.sort(grey.reshape(len(grey), -1), axis=1)[:, -64:].mean(axis=1)  # the top 1 % of 80 x 80 pixels
    expected = [roc_auc_score(masks.any(axis=(1, 2)), pooled) for pooled in (grey.max(axis=(1, 2)), highest)]
    assert figures["image_auroc"].value == pytest.approx(max(expected))
    assert expected[0] < expected[1]  # a maximum is what the window clips
    assert evaluation.baseline_tallies["intensity"].slice_score == "the mean of its map's highest 1 %"
    volumes = [[np.sort(pool_maps(maps, share))[-3:].mean() for maps in stacks["grey"]] for share in (0.0, 0.01)]
    truth = [one.any() for one in stacks["masks"]]
    assert figures["volume_auroc"].value == pytest.approx(max(roc_auc_score(truth, scores) for scores in volumes))


def test_the_difference_from_the_normal_mean_stands_beside(evaluation, stacks):
    grey, masks, inside = (np.concatenate(stacks[name]) for name in ("grey", "masks", "inside"))
    normal = inside & ~masks.any(axis=(1, 2))[:, None, None]
    assert evaluation.normal_mean == pytest.approx(grey[normal].mean(), rel=1e-5)
    difference = np.abs(grey - grey[normal].mean()) * inside
    expected = roc_auc_score(masks.ravel(), difference.ravel())
    assert evaluation.baselines["difference"]["pixel_auroc"].value == pytest.approx(expected, abs=1e-4)


def test_the_untrained_tower_beside_is_the_zero_shot_detector(evaluation, heads, untrained_predictor):
    alone = evaluate_cases(read_index(heads / "index.jsonl"), untrained_predictor)
    for name in COMPARED:
        assert evaluation.baselines["untrained"][name].value == pytest.approx(alone.figures[name].value, abs=1e-4)
    assert "untrained" not in alone.baselines


def test_a_detector_that_a_window_beats_is_reported_as_such(heads, untrained_predictor):
    alone = evaluate_cases(read_index(heads / "index.jsonl"), untrained_predictor)
    assert alone.baselines["intensity"]["pixel_auroc"].value > alone.figures["pixel_auroc"].value
    assert alone.verdict[0].startswith("A window beats this detector: pixel_auroc 0.9")
    assert "(windowed intensity) against 0." in alone.verdict[0]


def test_the_verdict_names_only_what_was_lost():
    ours = {name: Figure(0.8) for name in COMPARED} | {"volume_auroc": Figure(math.nan, "no normal volumes among 2")}
    theirs = {name: Figure(0.7) for name in COMPARED} | {"image_ap": Figure(0.9)}
    (sentence,) = judge_baselines(ours, {"intensity": theirs})
    assert sentence == "A window beats this detector: image_ap 0.9000 (windowed intensity) against 0.8000."
    (sentence,) = judge_baselines(ours, {"difference": {name: Figure(0.7) for name in COMPARED}})
    assert sentence == "A window reaches this detector in none of 6 figures."


def test_a_tie_with_a_window_is_called_one():
    ours = {name: Figure(0.8) for name in COMPARED}
    theirs = {name: Figure(0.7) for name in COMPARED} | {"pixel_ap": Figure(0.8)}
    (sentence,) = judge_baselines(ours, {"intensity": theirs})
    assert sentence == "A window reaches this detector: pixel_ap 0.8000 (windowed intensity) against 0.8000."
    (sentence,) = judge_baselines(ours, {"intensity": theirs | {"image_ap": Figure(0.9)}})
    assert sentence == (
        "A window beats this detector: image_ap 0.9000 (windowed intensity) against 0.8000 and reaches this detector: "
        "pixel_ap 0.8000 (windowed intensity) against 0.8000."
    )


def test_every_figure_has_an_interval_over_patients_around_it(evaluation):
    assert evaluation.counts["patients"] == 3
    for name, figure in evaluation.figures.items():
        assert figure.reason is None, name
        assert figure.low is not None, name
        assert figure.low - 2e-3 <= figure.value <= figure.high + 2e-3, name


def test_one_patient_alone_has_figures_without_intervals(heads, untrained_predictor):
    cases = [replace(case, patient="p") for case in read_index(heads / "index.jsonl")]
    evaluation = evaluate_cases(cases, untrained_predictor)
    assert all(figure.low is None for figure in evaluation.figures.values())
    assert evaluation.figures["pixel_auroc"].reason is None
    said = evaluation.to_json()
    assert said["intervals"]["pixel_auroc"] == [None, None]
    assert said["interval_reasons"]["pixel_auroc"] == "all cases are of one patient, and intervals draw patients"
    assert said["doubts"] == ["No intervals: all cases are of one patient, and intervals draw patients."]


def _records(abnormal: int, normal: int, named: bool = True) -> list[CaseRecord]:
    nothing = np.zeros(0)
    return [
        CaseRecord(Case(Path(f"{n}"), label, "Brain", patient=f"{label} {n}" if named else None), True, 0.0, *[nothing] * 3)
        for label, count in ((1, abnormal), (0, normal))
        for n in range(count)
    ]


def test_intervals_over_fewer_than_ten_patients_of_a_kind_are_doubted():
    assert doubt_intervals(_records(10, 10)) == []
    (doubt,) = doubt_intervals(_records(9, 30))
    assert doubt.startswith("Doubtful intervals: 39 patients, 9 of them abnormal, 30 with normal slices. Below 10")
    (doubt,) = doubt_intervals(_records(4, 0))
    assert doubt.startswith("Doubtful intervals: 4 patients")
    (doubt,) = doubt_intervals(_records(10, 10, named=False))
    assert doubt.startswith("20 of 20 rows name no patient")


@pytest.mark.parametrize(("patients", "coverage"), [(5, 0.845), (FEW_PATIENTS, 0.904), (30, 0.936)])
def test_intervals_of_few_patients_cover_about_what_the_t_distribution_says(patients, coverage):
    weights = draw_patients(patients, 400)
    means = np.random.default_rng(0).normal(size=(6000, patients)) @ weights.T / patients
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    assert ((low <= 0) & (high >= 0)).mean() == pytest.approx(coverage, abs=0.025)


def test_a_case_that_fails_is_left_out_but_counts_as_zeros_for_mood(heads, demo_predictor, stacks, evaluation):
    broken = evaluate_cases(read_index(heads / "broken.jsonl"), demo_predictor)
    assert [failure["case"] for failure in broken.failures] == ["empty"]
    assert broken.figures["pixel_auroc"].value == pytest.approx(evaluation.figures["pixel_auroc"].value)
    assert evaluation.figures["mood_pixel_ap"].value == evaluation.figures["pixel_ap"].value
    maps, masks = stacks["maps"], stacks["masks"]
    lost = nib.load(heads / "mask_1.nii.gz").get_fdata()
    axis = int(np.argmax(np.abs(OBLIQUE[2, :3])))
    lost = torch.from_numpy(np.moveaxis(lost, axis, 0).astype(np.float32))[:, None]
    missing = resize_masks(lost, 80).numpy().ravel() > 0
    probability = 1 / (1 + np.exp(-np.concatenate([one.ravel() for one in maps]).astype(np.float64)))
    truth = np.concatenate([*(one.ravel() for one in masks), missing])
    expected = average_precision_score(truth, np.concatenate([probability, np.zeros(missing.size)]))
    assert broken.figures["mood_pixel_ap"].value == pytest.approx(expected, abs=1e-3)
    scores = [np.sort(one.max(axis=(1, 2)))[-3:].mean() for one in maps]
    labels = [*(one.any() for one in masks), True]
    assert broken.figures["mood_sample_ap"].value == pytest.approx(average_precision_score(labels, [*scores, -99.0]))


def test_a_case_whose_mask_cannot_be_used_costs_the_detector_nothing(heads, demo_predictor, evaluation, tmp_path):
    cases = read_index(heads / "index.jsonl")
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5), np.uint8), OBLIQUE), tmp_path / "other.nii.gz")
    spoilt = evaluate_cases([*cases, replace(cases[1], mask_path=tmp_path / "other.nii.gz", patient="p9")], demo_predictor)
    assert len(spoilt.failures) == 1
    assert spoilt.counts["patients"] == evaluation.counts["patients"]
    for name in ("mood_sample_ap", "mood_pixel_ap"):
        assert spoilt.figures[name].value == pytest.approx(evaluation.figures[name].value)
        assert spoilt.figures[name].low == pytest.approx(evaluation.figures[name].low, abs=1e-9)


def test_intervals_are_drawn_from_the_patients_that_were_scored(heads, demo_predictor):
    cases = read_index(heads / "broken.jsonl")
    whole, broken = evaluate_cases(cases[:-1], demo_predictor), evaluate_cases(cases, demo_predictor)
    for name in ("pixel_auroc", "image_ap", "volume_ap", "lesion_sensitivity"):
        assert (broken.figures[name].low, broken.figures[name].high) == (whole.figures[name].low, whole.figures[name].high)
    assert broken.counts["patients"] == whole.counts["patients"]


def test_lesions_outside_a_rows_slices_are_neither_missed_nor_listed(heads, demo_predictor, tmp_path):
    case = read_index(heads / "index.jsonl")[1]
    mask = nib.load(case.mask_path)
    two = mask.get_fdata().astype(np.uint8)
    two[12:15, 12:15, 6:] = 1  # the other lies in slices 2 to 4
    nib.save(nib.Nifti1Image(two, mask.affine), tmp_path / "two.nii.gz")
    for slices, lesions in ((None, 2), ((0, 5), 1), ((6, 7), 1), ((3, 7), 2), ((0, 1), 0)):
        evaluation = evaluate_cases([replace(case, mask_path=tmp_path / "two.nii.gz", slices=slices)], demo_predictor)
        assert evaluation.counts["lesions"] == lesions
        (row,) = list_cases(evaluation, demo_predictor)
        assert row["lesions"] == lesions


@pytest.mark.parametrize(("slices", "count"), [(None, 8), ((2, 3), 2), ((9, 11), 0)])
def test_a_case_that_fails_counts_for_mood_with_its_rows_slices(slices, count, heads, demo_predictor):
    *scored, failed = read_index(heads / "broken.jsonl")
    tally = evaluate_cases([scored[0], replace(failed, slices=slices)], demo_predictor).tally
    assert sum(part.sum() for part in tally.records[1].pixels[1:3]) == count * 80 * 80


def test_the_image_score_can_be_the_mean_of_the_highest_pixels(heads, demo_predictor, stacks):
    by_slice = replace(demo_predictor.refinement, reach=0.0)
    predictor = Predictor(demo_predictor.detector, demo_predictor.preset, refinement=by_slice)
    figures = evaluate_cases(read_index(heads / "index.jsonl"), predictor, image_score="top5%").figures
    count = round(0.05 * 80 * 80)
    pooled = [np.sort(maps.reshape(len(maps), -1), axis=1)[:, -count:].mean(axis=1) for maps in stacks["maps"]]
    labels = np.concatenate([masks.any(axis=(1, 2)) for masks in stacks["masks"]])
    assert figures["image_auroc"].value == pytest.approx(roc_auc_score(labels, np.concatenate(pooled)))


REFINEMENTS = [
    Refinement(),
    Refinement(pool_share=0.01, detection_weight=10.0),
    Refinement(reach=0.4, detection_weight=-3.0),
    Refinement(fuse=10.0, detection_weight=10.0, reach=0.4),
    Refinement(flips=True),
    Refinement(shifts=2),
    Refinement(zoom=2.0),
    Refinement(sigma=0.4, sharpen=5),
    Refinement(foreground=True),
    Refinement(level_weights=(1.0, 2.0, 0.0, 1.0)),
    Refinement(bank_weight=5.0),
]


@pytest.mark.parametrize("refinement", REFINEMENTS, ids=lambda one: "+".join(one.to_json()) or "published")
def test_slice_scores_are_the_predictors_under_every_refinement(heads, demo_predictor, refinement):
    case = read_index(heads / "index.jsonl")[1]
    detector = demo_predictor.detector
    bank = [torch.nn.functional.normalize(torch.ones(2, detector.tower.embed_dim), dim=1)] * len(detector.levels)
    predictor = Predictor(detector, demo_predictor.preset, refinement=refinement, bank=bank if refinement.bank_weight else None)
    tally = Tally(refinement)
    for _, view in score_cases([case], predictor, Cutting()):
        tally.add(view)
    (record,) = tally.records
    volume = cut_case(case, predictor.preset).volume
    prediction = predictor.predict_volume(volume)
    assert record.slice_scores == pytest.approx(prediction.slice_scores, abs=1e-5)
    assert record.score == pytest.approx(prediction.score, abs=1e-5)


def test_every_field_of_a_refinement_is_tried():
    assert set().union(*(one.to_json() for one in REFINEMENTS)) == {field.name for field in fields(Refinement)}


def test_an_explicit_maximum_is_the_maximum_though_the_refinement_pools(heads, demo_predictor):
    case = read_index(heads / "index.jsonl")[1]
    predictor = Predictor(demo_predictor.detector, demo_predictor.preset, refinement=Refinement(pool_share=0.05))
    pooled, highest = (evaluate_cases([case], predictor, image_score=how).tally for how in (None, "max"))
    assert (pooled.slice_score, highest.slice_score) == ("the mean of its map's highest 5 %", "its map's maximum")
    maps = predictor.score_cut(cut_case(case, predictor.preset)).log_odds
    assert highest.records[0].slice_scores == pytest.approx(maps.max(axis=(1, 2)), abs=1e-5)
    assert (pooled.records[0].slice_scores < highest.records[0].slice_scores).all()


@pytest.mark.parametrize("cutting", [Cutting(stride=2), Cutting(plane="all")], ids=["stride", "all planes"])
def test_interpolated_and_fused_heatmaps_are_judged_on_the_slices_own_grid(cutting, heads, demo_predictor):
    cases = read_index(heads / "index.jsonl")
    figures = evaluate_cases(cases, demo_predictor, cutting=cutting).figures
    maps, masks = [], []
    for case in cases:
        cut = cut_case(case, demo_predictor.preset)
        heat = demo_predictor.predict_volume(cut.volume, cutting.plane, stride=cutting.stride).heatmap
        maps.append(cut.plan.cut(heat)[cut.used].ravel())
        masks.append(cut.masks[cut.used].ravel())
    expected = roc_auc_score(np.concatenate(masks), np.concatenate(maps))
    assert figures["pixel_auroc"].value == pytest.approx(expected, abs=1e-5)


def test_an_unknown_image_score_is_refused(demo_predictor):
    with pytest.raises(InputError, match="image score 'median'"):
        evaluate_cases([], demo_predictor, image_score="median")
