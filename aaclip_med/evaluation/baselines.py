"""What stands beside every result: the windowed intensity, its distance from the normal mean, and the untrained tower."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aaclip_med.data.index import Case
from aaclip_med.errors import AaclipError
from aaclip_med.evaluation.tally import Tally
from aaclip_med.evaluation.views import View, frame_case, score_cases, show_other
from aaclip_med.inference.cutting import Cutting
from aaclip_med.inference.predictor import Predictor
from aaclip_med.inference.refinement import Refinement
from aaclip_med.model.detector import Detector
from aaclip_med.scoring.metrics import Figure

Array = np.ndarray[Any, Any]
Track = Callable[[Sequence[Case]], Iterable[Case]]

INTENSITY, DIFFERENCE, UNTRAINED = "intensity", "difference", "untrained"
TITLES = {
    INTENSITY: "windowed intensity",
    DIFFERENCE: "its absolute difference from the normal mean",
    UNTRAINED: "untrained tower",
}
COMPARED = ("pixel_auroc", "pixel_ap", "inside_pixel_auroc", "inside_pixel_ap", "image_auroc", "image_ap", "volume_auroc")
TOP_SHARE = 0.01
WHY_LEFT_OUT = {
    DIFFERENCE: "no pixel inside a normal slice, so no normal mean",
    UNTRAINED: "the detector itself is the tower without adapters",
}


@dataclass
class NormalMean:
    """The mean windowed intensity of the pixels inside normal slices, over a set."""

    total: float = 0.0
    count: int = 0

    def add(self, view: View) -> None:
        """Take in the normal slices of a case: those without a lesion, or all of a normal row."""
        if view.masks is None and view.case.label:
            return
        shown = show_other(view, lambda grey, _: grey).maps
        normal = np.ones(len(shown), dtype=bool) if view.masks is None else ~view.masks.any(axis=(1, 2))
        inside = shown[normal][view.inside[normal]]
        self.total += float(inside.sum(dtype=np.float64))
        self.count += inside.size

    @property
    def value(self) -> float:
        """The mean; NaN without a normal slice."""
        return self.total / self.count if self.count else float("nan")


def strip_adapters(predictor: Predictor) -> Predictor:
    """The same tower, untrained: zero-shot, without adapters, calibration, or the level weights and the bank of the trained."""
    detector = Detector(predictor.detector.config, predictor.detector.tower, adapted=False)
    detector.tower_hash = predictor.detector.tower_hash
    precision = {"torch.bfloat16": "bf16", "torch.float16": "fp16", "torch.int8": "int8"}.get(str(predictor.dtype), "float32")
    stripped = Predictor(
        detector,
        predictor.preset,
        device=str(predictor.device),
        precision=precision,
        batch_size=predictor.batch_size,
        domain=predictor.domain,
        refinement=replace(predictor.refinement, level_weights=None, bank_weight=0.0),
        drop_background=predictor.drop_background,
    )
    stripped.calibrated_plane = predictor.calibrated_plane
    return stripped


def tally_baselines(
    cases: Sequence[Case], predictor: Predictor, cutting: Cutting, refinement: Refinement, mean: float, track: Track = iter
) -> dict[str, Tally]:
    """The baselines' tallies by name, on the grid and slices that the detector was judged on, pooled by its ``refinement``.

    A window is pooled over the highest 1 % of a slice too, since what it clips is as bright in every slice; the pooling that
    tells slices better apart is taken, for volumes the one that tells these. Outside the body the difference from the normal
    mean is 0. Without a normal slice there is no mean, and that one is left out; where the detector has no adapters, the
    untrained tower is.
    """
    names = [INTENSITY, *([DIFFERENCE] if np.isfinite(mean) else []), *([UNTRAINED] if predictor.detector.adapted else [])]
    tallies = {name: Tally(refinement, predictor.domain if name == UNTRAINED else "medical") for name in names}
    wider = {name: Tally(replace(refinement, pool_share=TOP_SHARE)) for name in names if name != UNTRAINED}
    if UNTRAINED in tallies:
        views = (view for _, view in score_cases(track(cases), strip_adapters(predictor), cutting))
    else:
        views = (frame_case(case, predictor, cutting) for case in track(cases))
    for view in views:
        if isinstance(view, AaclipError):
            raise view
        if UNTRAINED in tallies:
            tallies[UNTRAINED].add(view)
        shown = {INTENSITY: show_other(view, lambda grey, _: grey)}
        if DIFFERENCE in tallies:
            shown[DIFFERENCE] = show_other(view, lambda grey, inside: np.abs(grey - np.float32(mean)) * inside)
        for name, other in shown.items():
            tallies[name].add(other)
            wider[name].add(replace(other, masks=None))
    for name, tally in wider.items():
        tally.pixels, tally.inside = tallies[name].pixels, tallies[name].inside
        tallies[name] = _take_better(tallies[name], tally)
    return tallies


def _take_better(one: Tally, other: Tally) -> Tally:
    """The tally whose slices are told better apart, its volumes scored by the one whose volumes are."""
    figures, others = one.figures(), other.figures()
    if others["image_auroc"].value > figures["image_auroc"].value:
        one, other, figures, others = other, one, others, figures
    if others["volume_auroc"].value > figures["volume_auroc"].value:
        one.records = [replace(own, score=twin.score) for own, twin in zip(one.records, other.records, strict=True)]
    return one


def judge_baselines(detector: dict[str, Figure], baselines: dict[str, dict[str, Figure]]) -> list[str]:
    """Plain sentences: what of the detector's figures a window or the untrained tower beats or reaches."""
    windows = {name: figures for name, figures in baselines.items() if name != UNTRAINED}
    sentences = [_judge("A window", detector, windows)]
    if UNTRAINED in baselines:
        sentences.append(_judge("The untrained tower", detector, {UNTRAINED: baselines[UNTRAINED]}))
    return sentences


def _judge(rival: str, detector: dict[str, Figure], others: dict[str, dict[str, Figure]]) -> str:
    lost: dict[str, list[str]] = {"beats": [], "reaches": []}
    compared = 0
    for name in COMPARED:
        ours = detector[name]
        theirs = [(figures[name].value, TITLES[other]) for other, figures in others.items() if figures[name].reason is None]
        if ours.reason is not None or not theirs:
            continue
        compared += 1
        best, title = max(theirs)
        equal = math.isclose(best, ours.value, rel_tol=1e-9)
        if equal or best > ours.value:
            lost["reaches" if equal else "beats"].append(f"{name} {best:.4f} ({title}) against {ours.value:.4f}")
    said = " and ".join(f"{verb} this detector: {'; '.join(figures)}" for verb, figures in lost.items() if figures)
    if said:
        return f"{rival} {said}."
    return f"{rival} reaches this detector in none of {compared} figures." if compared else f"{rival}: nothing to compare."
