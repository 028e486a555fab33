"""The authors' figures on an index, and one for volumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from aaclip_med.data.index import Case
from aaclip_med.data.slices import CutCase, cut_case
from aaclip_med.errors import AaclipError
from aaclip_med.inference.predictor import Predictor, pool_slices
from aaclip_med.inference.stream import LOG_ODDS_LIMIT, SliceScores
from aaclip_med.model.preprocess import resize_masks
from aaclip_med.scoring.metrics import BinnedCurve, Figure, auroc, average_precision, reference_image_scores

Array = np.ndarray[Any, Any]
Track = Callable[[Sequence[Case]], Iterable[Case]]

BINS = 2**22
"""Of the pixel curve over the log odds: finer than 2e-5 each, so that scores far from 0 still differ."""


class Tally:
    """Scores and truths of a whole set, in little memory.

    Pixels are counted on the detector's square grid, masks brought to it by nearest neighbour, as the released program
    does. A slice's score is its map's maximum (medical), or the mean of that and the detection score, both min-max scaled
    over the set (industrial).
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.pixels = BinnedCurve(-LOG_ODDS_LIMIT, LOG_ODDS_LIMIT, BINS)
        self.low, self.high = LOG_ODDS_LIMIT, -LOG_ODDS_LIMIT
        self.slice_labels: list[int] = []
        self.slice_maxima: list[float] = []
        self.detections: list[float] = []
        self.volume_labels: list[int] = []
        self.volume_scores: list[float] = []
        self.unmasked = 0

    def add(self, case: Case, cut: CutCase) -> None:
        """Score one case."""
        scores = self.predictor.score_cut(cut)
        self.low, self.high = min(self.low, float(scores.log_odds.min())), max(self.high, float(scores.log_odds.max()))
        if not cut.volume.is_picture:
            self.volume_labels.append(case.label)
            self.volume_scores.append(pool_slices(scores.maxima))
        if cut.masks is not None:
            size = scores.log_odds.shape[-1]
            masks = resize_masks(torch.from_numpy(cut.masks[cut.used].astype(np.float32))[:, None], size)[:, 0].numpy() > 0
            self.pixels.add(scores.log_odds, masks)
            self._add_slices(scores, np.asarray(cut.masks[cut.used].any(axis=(1, 2))))
        elif cut.volume.is_picture:
            self._add_slices(scores, np.array([case.label]))
        else:
            self.unmasked += 1

    def _add_slices(self, scores: SliceScores, labels: Array) -> None:
        self.slice_labels += [int(label) for label in labels]
        self.slice_maxima += scores.maxima.tolist()
        self.detections += scores.detection.tolist()

    def figures(self) -> dict[str, Figure]:
        """The five figures, as fractions."""
        labels = np.array(self.slice_labels)
        scores = np.array(self.slice_maxima)
        if self.predictor.domain == "industrial" and len(scores):
            scaled = (scores - self.low) / max(self.high - self.low, 1e-12)
            scores = reference_image_scores(scaled, np.array(self.detections), "industrial")
        return {
            "pixel_auroc": self.pixels.auroc(),
            "pixel_ap": self.pixels.average_precision(),
            "image_auroc": auroc(labels, scores),
            "image_ap": average_precision(labels, scores),
            "volume_auroc": auroc(np.array(self.volume_labels), np.array(self.volume_scores), "volumes"),
        }


@dataclass
class Evaluation:
    """What ``metrics.json`` says."""

    figures: dict[str, Figure]
    counts: dict[str, int]
    failures: list[dict[str, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Figures as fractions, null where undefined, each of those with its reason."""
        values = {name: figure.value for name, figure in self.figures.items()}
        reasons = {name: figure.reason for name, figure in self.figures.items() if figure.reason}
        return {**values, "reasons": reasons, "counts": self.counts, "failures": self.failures}


def evaluate_cases(cases: Sequence[Case], predictor: Predictor, track: Track = iter) -> Evaluation:
    """Score every case of an index and compare with its masks. A case that cannot be scored is listed and left out."""
    tally = Tally(predictor)
    failures = []
    for case in track(cases):
        try:
            tally.add(case, cut_case(case, predictor.preset))
        except AaclipError as error:
            failures.append({"case": case.name, "error": str(error)})
    counts = {
        "cases": len(cases) - len(failures),
        "volumes": len(tally.volume_labels),
        "abnormal_volumes": sum(tally.volume_labels),
        "slices": len(tally.slice_labels),
        "abnormal_slices": sum(tally.slice_labels),
        "volumes_without_mask": tally.unmasked,
        "failed": len(failures),
    }
    return Evaluation(tally.figures(), counts, failures)


def evaluate_intensity(cases: Sequence[Case], predictor: Predictor) -> dict[str, float]:
    """Pixel and slice AUROC of the windowed intensity itself, on the slices' own grid: what a window alone would reach."""
    pixels = BinnedCurve(0.0, 1.0)
    labels: list[int] = []
    maxima: list[float] = []
    for case in cases:
        cut = cut_case(case, predictor.preset)
        if cut.masks is None or cut.images.ndim == 4:
            continue
        images, masks = cut.images[cut.used], cut.masks[cut.used]
        pixels.add(images, masks)
        labels += masks.any(axis=(1, 2)).astype(int).tolist()
        maxima += images.max(axis=(1, 2)).tolist()
    return {
        "intensity_pixel_auroc": pixels.auroc().value,
        "intensity_image_auroc": auroc(np.array(labels), np.array(maxima)).value,
    }
