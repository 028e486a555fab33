"""One volume scored, on the scale of the outputs: what a folder's rows, a job and the server all say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aaclip_med.data.volumes import Volume
from aaclip_med.inference.cutting import Cutting
from aaclip_med.inference.predictor import Prediction, Predictor, Report, ignore
from aaclip_med.scoring.candidates import Candidate, LabelMap, label_candidates

Array = np.ndarray[Any, Any]

CALIBRATED_THRESHOLD = 0.999
UNCALIBRATED_THRESHOLD = 0.5


@dataclass(frozen=True)
class ScoredCase:
    """heatmap: (I, J, K) float32 in [0, 1]. axis: along which slices are counted. slices, slice_scores, detection: (S,) each.

    slice_scores, and score, the volume's, are rescaled to heat after pooling in log odds. p_value and percentile (of normal
    volumes): None where uncalibrated. labels: (I, J, K), each candidate's voxels hold its id, others 0.
    """

    heatmap: Array
    axis: int
    slices: list[int]
    slice_scores: Array
    detection: Array
    score: float
    p_value: float | None
    percentile: float | None
    candidates: list[Candidate]
    labels: LabelMap

    @property
    def peak_slice(self) -> int:
        """The slice with the highest score."""
        return self.slices[int(self.slice_scores.argmax())]


def choose_threshold(predictor: Predictor, asked: float | None) -> float:
    """The heat at which a candidate begins: what was asked for, else the default of calibrated or uncalibrated scores."""
    if asked is not None:
        return asked
    return CALIBRATED_THRESHOLD if predictor.calibration else UNCALIBRATED_THRESHOLD


def score_case(
    volume: Volume,
    predictor: Predictor,
    cutting: Cutting,
    organ: Array | None,
    threshold: float,
    minimum_ml: float,
    report: Report = ignore,
) -> ScoredCase:
    """Score ``volume``; ``organ`` (I, J, K) bool or None; candidates have at least ``minimum_ml`` millilitres.

    Raises:
        InputError: as ``Predictor.predict_volume``.
        MemoryError: not even one slice fits into memory.
    """
    prediction = predictor.predict_volume(volume, cutting.plane, cutting.slices, organ, cutting.stride, report)
    return finish_case(volume, predictor, prediction, threshold, minimum_ml)


def finish_case(
    volume: Volume, predictor: Predictor, prediction: Prediction, threshold: float, minimum_ml: float
) -> ScoredCase:
    """A prediction on the scale of the outputs, with its candidates of at least ``minimum_ml`` millilitres."""
    heatmap = predictor.rescale(prediction.heatmap)
    candidates, labels = label_candidates(heatmap, threshold, volume.affine, prediction.axis, minimum_ml)
    return ScoredCase(
        heatmap,
        prediction.axis,
        prediction.slices,
        predictor.rescale(prediction.slice_scores),
        prediction.detection,
        float(predictor.rescale(prediction.score)),
        predictor.calibration.p_value(prediction.score) if predictor.calibration else None,
        predictor.calibration.percentile(prediction.score) if predictor.calibration else None,
        candidates,
        labels,
    )
