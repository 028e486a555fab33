"""Scores and truths of a whole set, in little memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage

from aaclip_med.data.index import Case
from aaclip_med.evaluation.intervals import draw_figures
from aaclip_med.evaluation.views import View
from aaclip_med.inference.predictor import pool_slices
from aaclip_med.inference.refinement import PUBLISHED, Refinement, pool_scores
from aaclip_med.scoring import rates
from aaclip_med.scoring.bins import Counts, count_quantiles
from aaclip_med.scoring.bootstrap import DRAWS, find_interval
from aaclip_med.scoring.curve import PIXEL_FIGURES, BinnedCurve, share_regions
from aaclip_med.scoring.froc import RATES, Detections, FrocCurve, FrocTable, find_peaks, match_lesions
from aaclip_med.scoring.metrics import (
    Domain,
    Figure,
    auroc,
    average_precision,
    explain_missing_class,
    reference_image_scores,
)

Array = np.ndarray[Any, Any]

CASE_BINS = 1024
LESION_FIGURES = ("lesion_sensitivity", *(f"lesion_sensitivity_at_{rate:g}" for rate in RATES))
"""The mean over, and each of, 1/8 to 8 false positives a volume."""
NO_LESION = "no lesion in any mask"
IN_SLICE = np.zeros((3, 3, 3), dtype=bool)
IN_SLICE[1] = True
EVERYWHERE = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class CaseRecord:
    """What is kept of a case.

    score: the volume's, or the picture's. slice_labels: (n,), one for each slice whose label is known; slice_scores and
    detection: (n,). pixels, inside: None without a mask. lesion_slice: the slice with the largest lesion. error: why nothing
    could be scored, else None; false_truth: it is the mask that cannot be used, not the scan.
    """

    case: Case
    is_picture: bool
    score: float
    slice_scores: Array
    slice_labels: Array
    detection: Array
    pixels: Counts | None = None
    inside: Counts | None = None
    lesions: Detections | None = None
    lesion_slice: int = 0
    error: str | None = None
    false_truth: bool = False

    @property
    def missing(self) -> bool:
        """Whether it has no scores."""
        return self.error is not None

    @property
    def conflict(self) -> str | None:
        """What label and mask say of each other where they disagree in the slices used, else None."""
        if self.missing or not self.case.mask_path or self.case.label == self.slice_labels.any():
            return None
        said, shown = ("abnormal", "empty") if self.case.label else ("normal", "not empty")
        return f"labelled {said}, its mask is {shown} in the slices used"

    @property
    def patient(self) -> str:
        """The row's patient, else the case itself."""
        return self.case.patient if self.case.patient is not None else f"row {self.case.row} {self.case.image_path}"


class Tally:
    """Figures of one detector over a set of cases.

    A slice's score is that of ``pool_scores`` under ``refinement``, as the predictor's is; a volume's the mean of its three
    highest slices. Under ``industrial`` a slice's score is the mean of its map's and its detection score, both min-max scaled
    over the set. ``detailed``: lesions and intervals as well.
    """

    def __init__(self, refinement: Refinement = PUBLISHED, domain: Domain = "medical", detailed: bool = False) -> None:
        self.refinement, self.domain, self.detailed = refinement, domain, detailed
        self.pixels, self.inside = BinnedCurve(), BinnedCurve("pixels inside")
        self.records: list[CaseRecord] = []
        self._low, self._high = math.inf, -math.inf

    def add(self, view: View) -> None:
        """Take in one scored case."""
        maps, masks, case = view.maps, view.masks, view.case
        self._low, self._high = min(self._low, float(maps.min())), max(self._high, float(maps.max()))
        detection = view.detection if np.isfinite(view.detection).all() else None
        pooled = pool_scores(maps, detection, view.places, self.refinement)
        picture = view.cut.volume.is_picture
        if view.cut.masks is not None:
            labels = np.asarray(view.cut.masks[view.numbers].any(axis=(1, 2))).astype(int)
        else:
            labels = np.array([case.label] if picture else [], dtype=int)
        known = len(labels)
        record = CaseRecord(case, picture, pool_slices(pooled), pooled[:known], labels, view.detection[:known])
        if masks is not None:
            regions = ndimage.label(masks, IN_SLICE)[0] if self.detailed and masks.any() else None
            self.pixels.add(maps, masks, regions)
            self.inside.add(maps[view.inside], masks[view.inside])
            if self.detailed:
                record = replace(record, **_look_closer(view, masks, regions))
        self.records.append(record)

    def add_missing(self, case: Case, error: str, pixels: tuple[int, int] | None, false_truth: bool = False) -> None:
        """Take note of a case that ``error`` kept from scores; ``pixels``: its normal and abnormal ones, None where unknown.

        ``false_truth``: it is its mask that cannot be used, so no figure counts it, MOOD's neither.
        """
        lowest = np.array([-np.inf], dtype=np.float32)
        counts = Counts(lowest, np.array([pixels[0]]), np.array([pixels[1]]), np.zeros(1)) if pixels else None
        nothing = np.zeros(0)
        record = CaseRecord(case, False, -math.inf, nothing, nothing, nothing, counts, error=error, false_truth=false_truth)
        self.records.append(record)

    @property
    def slice_score(self) -> str:
        """What a slice's score is, in words."""
        pooled = self.refinement.describe_pooling()
        return f"the mean of {pooled}, and of the detection score, both stretched" if self.domain == "industrial" else pooled

    @property
    def scored(self) -> list[CaseRecord]:
        """The cases that have scores."""
        return [record for record in self.records if not record.missing]

    @property
    def counted(self) -> list[CaseRecord]:
        """The cases that MOOD's figures count: those that have scores, and those whose scan has none."""
        return [record for record in self.records if not record.false_truth]

    def slice_items(self) -> tuple[Array, Array, Array]:
        """Labels, scores and the record's number of every slice whose label is known, (N,) each."""
        scored = self.scored
        labels, scores, detection = (
            np.concatenate([getattr(record, name) for record in scored]) if scored else np.zeros(0)
            for name in ("slice_labels", "slice_scores", "detection")
        )
        if self.domain == "industrial" and len(scores) and np.isfinite(detection).all():
            scaled = (scores - self._low) / max(self._high - self._low, 1e-12)
            scores = reference_image_scores(scaled, detection, "industrial")
        return labels, scores, np.repeat(np.arange(len(scored)), [len(record.slice_labels) for record in scored])

    def froc(self) -> FrocCurve | None:
        """Lesions against false positives; None without a lesion."""
        volumes = [record.lesions for record in self.scored if record.lesions is not None]
        if not any(volume.found.size for volume in volumes):
            return None
        return FrocTable(volumes).curve()

    def sample_items(self) -> tuple[Array, Array]:
        """Label and score of every case that is counted; one without scores is below all others, as MOOD's zeros are."""
        lowest = min((record.score for record in self.scored), default=0.0) - 1.0
        scores = [lowest if record.missing else record.score for record in self.counted]
        return np.array([record.case.label for record in self.counted]), np.array(scores)

    def mood_counts(self) -> Counts:
        """The pixels of all cases that are counted, those without scores at the bottom."""
        whole = self.pixels.counts()
        missing = [record.pixels for record in self.counted if record.missing and record.pixels is not None]
        if not missing:
            return whole
        sums = [np.sum([part[kind] for part in missing], axis=0) for kind in (1, 2, 3)]
        below = Counts(missing[0].lowest, *sums)
        return Counts(*(np.concatenate(pair) for pair in zip(below, whole, strict=True)))

    def figures(self, draws: int = DRAWS, seed: int = 0) -> dict[str, Figure]:
        """Every figure by name; ``detailed`` ones with intervals of ``draws`` draws of patients."""
        names = PIXEL_FIGURES if self.detailed else PIXEL_FIGURES[:2]
        pixel, inside = self.pixels.figures(), self.inside.figures()
        every = {f"pixel_{name}": pixel[name] for name in names}
        every |= {f"inside_pixel_{name}": inside[name] for name in ("auroc", "ap")}
        labels, scores, _ = self.slice_items()
        every |= {"image_auroc": auroc(labels, scores, "slices"), "image_ap": average_precision(labels, scores, "slices")}
        volumes = [record for record in self.scored if not record.is_picture]
        labels, scores = np.array([one.case.label for one in volumes]), np.array([one.score for one in volumes])
        every |= {"volume_auroc": auroc(labels, scores, "volumes"), "volume_ap": average_precision(labels, scores, "volumes")}
        if not self.detailed:
            return every
        every |= self._lesion_figures() | self._mood_figures()
        for name, values in draw_figures(self, draws, seed):
            interval = find_interval(values)
            if interval is not None and every[name].reason is None:
                every[name] = replace(every[name], low=interval[0], high=interval[1])
        return every

    def _lesion_figures(self) -> dict[str, Figure]:
        curve = self.froc()
        if curve is None:
            return dict.fromkeys(LESION_FIGURES, Figure(math.nan, NO_LESION))
        at = curve.at()
        return dict(zip(LESION_FIGURES, map(Figure, [float(at.mean()), *at.tolist()]), strict=True))

    def _mood_figures(self) -> dict[str, Figure]:
        labels, scores = self.sample_items()
        counts = self.mood_counts()
        normal, abnormal = int(counts.normal.sum()), int(counts.abnormal.sum())
        reason = explain_missing_class(abnormal, normal, "pixels")
        pixel = Figure(math.nan, reason) if reason else Figure(float(rates.average_precision(counts.normal, counts.abnormal)))
        return {"mood_sample_ap": average_precision(labels, scores, "cases"), "mood_pixel_ap": pixel}


def _look_closer(view: View, masks: Array, regions: Array | None) -> dict[str, Any]:
    """What of a case's record needs its maps: counts of its pixels, its lesions and detections."""
    inside = view.inside
    places, scores = find_peaks(view.maps, view.spacing)
    own: Array = view.cut.masks  # type: ignore[assignment]
    first, last = view.case.slices or (0, len(own) - 1)
    lesions = np.zeros(own.shape, dtype=np.int32)
    ndimage.label(own[first : last + 1], EVERYWHERE, output=lesions[first : last + 1])
    area = own[view.numbers].sum(axis=(1, 2))
    none = np.zeros(masks.shape, dtype=np.int32) if regions is None else regions
    return {
        "pixels": _count(view.maps, masks, none),
        "inside": _count(view.maps[inside], masks[inside], none[inside]),
        "lesions": match_lesions(view.find_own(places), scores, lesions),
        "lesion_slice": view.numbers[int(area.argmax())],
    }


def _count(maps: Array, masks: Array, regions: Array) -> Counts:
    abnormal = masks.reshape(-1)
    return count_quantiles(maps.reshape(-1), abnormal, share_regions(regions.reshape(-1)[abnormal]), CASE_BINS)
