"""The one inference function: slices in, heatmap out. Every entry point goes through it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from aaclip_med.data.slices import CutCase, cut_volume
from aaclip_med.data.volumes import Volume
from aaclip_med.errors import InputError
from aaclip_med.model.build import build_detector
from aaclip_med.model.checkpoint import ZERO_SHOT, Checkpoint, find_checkpoint, read_checkpoint
from aaclip_med.model.detector import Detector
from aaclip_med.model.precision import autocast, choose_device, choose_dtype
from aaclip_med.model.preprocess import normalise_slices, resize_slices
from aaclip_med.model.similarity import Domain
from aaclip_med.presets import Preset, Window, get_preset
from aaclip_med.scoring.calibration import Calibration

Array = np.ndarray[Any, Any]

Report = Callable[[float], None]


def ignore(share: float) -> None:
    """Tell nobody."""
    del share


_log = logging.getLogger(__name__)

ALL_PLANES = "all"
TOP_SLICES = 3
LOG_ODDS_LIMIT = 40.0
"""Log odds are kept within this distance of 0; trained detectors stay within 20."""


@dataclass(frozen=True)
class SliceScores:
    """What the detector says of some slices, on its own square grid.

    log_odds: (S, size, size) float32, the mean over levels of the abnormal minus the normal logit, blurred: the released
        program's map is ``levels * (log_odds + 1) / 2``. detection: (S,), in [0, 1].
    """

    log_odds: Array
    detection: Array

    @property
    def maxima(self) -> Array:
        """Each slice's score, (S,): the map's maximum."""
        return self.log_odds.reshape(len(self.log_odds), -1).max(axis=1)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Prediction:
    """A case's scores in log odds.

    heatmap: (I, J, K) float32 in the volume's own grid; empty slices and everything outside the organ hold the volume's
    lowest value. axis: the array axis along which slices are counted. slices: the numbers of the scored slices;
    slice_scores and detection: (S,) each; score: the mean of the three highest slice scores.
    """

    heatmap: Array
    axis: int
    slices: list[int]
    slice_scores: Array
    detection: Array
    score: float


class Predictor:
    """A detector with its anchors, its arithmetic and its calibration."""

    def __init__(
        self,
        detector: Detector,
        preset: Preset,
        calibration: Calibration | None = None,
        checkpoint: Checkpoint | None = None,
        device: str = "auto",
        precision: str = "float32",
        batch_size: int = 16,
        domain: Domain = "medical",
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch size {batch_size}: take 1 or more")
        self.device = choose_device(device)
        self.dtype = choose_dtype(precision, self.device)
        self.detector = detector.to(self.device).eval()
        self.preset = preset
        self.calibration = calibration
        self.checkpoint = checkpoint
        self.batch_size = batch_size
        self.domain: Domain = domain
        with torch.no_grad():
            self.anchors = self.detector.encode_noun(preset.noun_for(detector.config.fidelity.name)).float()

    @property
    def is_demo(self) -> bool:
        """Whether every output must be marked as a demonstration."""
        return self.checkpoint is not None and self.checkpoint.is_demo

    @property
    def note(self) -> str:
        """What every output says of its scores."""
        scale = "calibrated: fraction of normal voxels below" if self.calibration else "UNCALIBRATED model probability"
        return f"{'DEMONSTRATION; ' if self.is_demo else ''}{scale}"

    @torch.inference_mode()
    def score_slices(self, images: Array, report: Report = ignore) -> SliceScores:
        """Score windowed slices (S, H, W) or (S, H, W, 3) in [0, 1]. Where a GPU's memory does not hold a batch, batches halve.

        ``report`` is told the share that is done after each batch; what it raises ends the work.

        Raises:
            MemoryError: not even one slice fits.
        """
        maps, detections = [], []
        start = 0
        while start < len(images):
            try:
                log_odds, detection = self._score_batch(images[start : start + self.batch_size])
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise MemoryError("out of memory on the GPU with one slice at a time; take --device cpu") from None
                self.batch_size //= 2
                torch.cuda.empty_cache()
                _log.warning("out of memory on the GPU; going on with %d slices at once", self.batch_size)
                continue
            maps.append(log_odds)
            detections.append(detection)
            start += len(log_odds)
            report(start / len(images))
        return SliceScores(np.concatenate(maps), np.concatenate(detections))

    def _score_batch(self, images: Array) -> tuple[Array, Array]:
        """Log odds (B, size, size) and detection scores (B,) of windowed slices (B, H, W) or (B, H, W, 3)."""
        chunk = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        chunk = chunk.unsqueeze(1) if chunk.ndim == 3 else chunk.movedim(-1, 1)
        with autocast(self.device, self.dtype):
            batch = normalise_slices(resize_slices(chunk.float(), self.detector.config.image_size))
            heatmap, detection = self.detector(batch, self.anchors, self.domain)
        log_odds = 2.0 * heatmap[:, 0].float() / len(self.detector.levels) - 1.0
        return log_odds.clamp(-LOG_ODDS_LIMIT, LOG_ODDS_LIMIT).cpu().numpy(), detection.float().cpu().numpy()

    def score_cut(self, cut: CutCase, stride: int = 1, report: Report = ignore) -> SliceScores:
        """Score the used slices of a case, or every ``stride``-th of them; outside its organ a map holds its lowest value."""
        numbers = _thin(cut.used, stride)
        scores = self.score_slices(cut.images[numbers], report)
        if cut.organ is not None:
            organ = torch.from_numpy(np.ascontiguousarray(cut.organ[numbers], dtype=np.float32))[:, None]
            inside = functional.interpolate(organ, size=scores.log_odds.shape[-2:], mode="area")[:, 0].numpy() > 0
            scores.log_odds[~inside] = scores.log_odds.min()
        return scores

    def predict(self, cut: CutCase, stride: int = 1, report: Report = ignore) -> Prediction:
        """Score every used slice of a case.

        With ``stride`` n only every n-th used slice (and the last) is scored, and the heatmap between them is interpolated
        linearly: faster, and approximate.

        Raises:
            InputError: the stride is below 1.
        """
        scores = self.score_cut(cut, stride, report)
        numbers = _thin(cut.used, stride)
        height, width = cut.images.shape[1:3]
        lowest = scores.log_odds.min()
        whole = np.full(cut.plan.stack_shape, lowest, dtype=np.float32)
        stack = cut.crop(whole)
        for number, log_odds in zip(numbers, scores.log_odds, strict=True):
            square = torch.from_numpy(log_odds)[None, None]
            stack[number] = functional.interpolate(square, size=(height, width), mode="bilinear", align_corners=False)[0, 0]
        for number in set(cut.used) - set(numbers):
            after = int(np.searchsorted(numbers, number))
            below, above = numbers[after - 1], numbers[after]
            share = (number - below) / (above - below)
            stack[number] = (1.0 - share) * stack[below] + share * stack[above]
        if cut.organ is not None:
            stack[~cut.organ] = lowest
        return Prediction(
            cut.plan.paste(whole), cut.plan.axis, numbers, scores.maxima, scores.detection, pool_slices(scores.maxima)
        )

    def predict_volume(
        self,
        volume: Volume,
        plane: str | None = None,
        limits: tuple[int, int] | None = None,
        organ: Array | None = None,
        stride: int = 1,
        report: Report = ignore,
    ) -> Prediction:
        """Volume in, heatmap out: what the command line, the server and Slicer call.

        ``plane``: an anatomical plane, ``native``, or ``all``: axial, coronal and sagittal maps are averaged, each weighted by
        the resolution of its slices (one over a pixel's area), and slices are counted in the preset's plane. ``limits``: first
        and last slice used, inclusive. ``organ`` (I, J, K) bool: see ``cut_volume``. ``stride``: see ``predict``. ``report`` is
        told the share that is done.

        Raises:
            InputError: the volume, the limits or the organ cannot be used; ``all`` with limits or for a picture.
        """
        if plane != ALL_PLANES:
            return self.predict(cut_volume(volume, self.preset, plane, limits, organ), stride, report)
        if volume.is_picture or limits is not None:
            raise InputError(f"{volume.path}: plane 'all' is for whole volumes; leave it out for pictures and slice ranges")
        total = np.zeros(volume.array.shape, dtype=np.float32)
        weights = 0.0
        for number, name in enumerate(("axial", "coronal", "sagittal")):
            cut = cut_volume(volume, self.preset, name, None, organ)
            row_mm, column_mm, _ = cut.plan.pixel_spacing(volume.spacing)
            weight = 1.0 / (row_mm * column_mm)
            part = self.predict(cut, stride, lambda share, done=number: report((done + share) / 3))  # type: ignore[misc]
            total += weight * part.heatmap
            weights += weight
        total /= weights
        cut = cut_volume(volume, self.preset, None, None, organ)
        numbers = cut.used
        maxima = cut.crop(cut.plan.cut(total))[numbers].reshape(len(numbers), -1).max(axis=1)
        detection = np.full(len(numbers), np.nan, dtype=np.float32)
        return Prediction(total, cut.plan.axis, numbers, maxima, detection, pool_slices(maxima))

    def rescale(self, log_odds: Array | float) -> Array:
        """Log odds to the scale of the outputs, [0, 1]: the fraction of normal voxels below, or the model's probability."""
        if self.calibration is not None:
            return self.calibration.fraction_below(log_odds)
        return (1.0 / (1.0 + np.exp(-np.asarray(log_odds, dtype=np.float64)))).astype(np.float32)


def _thin(used: list[int], stride: int) -> list[int]:
    """Every ``stride``-th slice, and the last."""
    if stride < 1:
        raise InputError(f"stride {stride}: take 1 or more")
    return sorted({*used[::stride], used[-1]})


def pool_slices(scores: Array) -> float:
    """A volume's score of its slices' (S,): the mean of the three highest."""
    return float(np.sort(scores)[-TOP_SLICES:].mean())


def load_predictor(
    adapters: str | Path,
    preset: str | None = None,
    backbone: str | None = None,
    weights: str | None = None,
    image_size: int | None = None,
    fidelity: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    batch_size: int = 16,
    domain: Domain = "medical",
    window: Window | None = None,
    crop: bool | None = None,
) -> Predictor:
    """A predictor from an adapters file (or ``demo``, ``none``, a released pair); ``preset`` defaults to the file's own.

    ``window`` takes the place of the preset's; ``crop`` defaults to what the adapters were trained with.

    Raises:
        InputError, WeightsError, CheckpointError: as ``build_detector``; InputError also where no preset is known.
    """
    checkpoint = None
    if str(adapters) != ZERO_SHOT:
        path = find_checkpoint(adapters, preset)
        checkpoint = read_checkpoint(path) if path.is_file() else None
    name = preset or (checkpoint.preset if checkpoint else None)
    if name is None:
        raise InputError(f"adapters '{adapters}' name no preset; say which with --preset")
    detector = build_detector(backbone, weights, image_size, fidelity, adapters, preset=preset)
    calibration = None
    if checkpoint is not None and checkpoint.calibration is not None:
        calibration = Calibration.from_json(checkpoint.calibration, str(adapters))
    if crop is None:
        crop = bool(checkpoint and checkpoint.provenance.get("crop"))
    task = replace(get_preset(name), crop=crop)
    task = replace(task, window=window) if window else task
    return Predictor(detector, task, calibration, checkpoint, device, precision, batch_size, domain)
