"""The one inference function: slices in, heatmap out. Every entry point goes through it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from aaclip_med.arrays import make_array, split_slabs
from aaclip_med.data.fusion import choose_plane, cut_names, weigh_planes
from aaclip_med.data.slices import CutCase, cut_volume
from aaclip_med.data.volumes import Volume
from aaclip_med.errors import InputError
from aaclip_med.inference.memory import choose_batch_size, explain_full_gpu
from aaclip_med.inference.refinement import PUBLISHED, Refinement, find_refinement, pool_scores
from aaclip_med.inference.stream import SliceScores, SliceStream, Stack, count_nothing
from aaclip_med.model.build import build_detector
from aaclip_med.model.checkpoint import ZERO_SHOT, Checkpoint, find_checkpoint, read_checkpoint
from aaclip_med.model.detector import Detector
from aaclip_med.model.onnx_engine import OnnxEngine
from aaclip_med.model.precision import choose_device, choose_dtype
from aaclip_med.model.preprocess import choose_side
from aaclip_med.model.similarity import Domain
from aaclip_med.presets import Preset, Window, get_preset
from aaclip_med.scoring.calibration import Calibration

Array = np.ndarray[Any, Any]

Report = Callable[[float], None]


def ignore(share: float) -> None:
    """Tell nobody."""
    del share


TOP_SLICES = 3
CHUNK = 32
"""Maps brought to the slices' size at once."""


@dataclass(frozen=True)
class Prediction:
    """A case's scores in log odds.

    heatmap: (I, J, K) float32 in the volume's own grid; empty slices and everything outside the organ hold the volume's
    lowest value. axis: the array axis along which slices are counted. slices: the numbers of the scored slices;
    slice_scores, pooled of the maps as ``Refinement.describe_pooling`` says, and detection: (S,) each; score: the mean of the
    three highest slice scores.
    """

    heatmap: Array
    axis: int
    slices: list[int]
    slice_scores: Array
    detection: Array
    score: float


@dataclass(frozen=True)
class Prepared:
    """A volume cut: its cuts (one, or one a plane), and of each the slices to score, (S, H, W) or (S, H, W, 3)."""

    volume: Volume
    organ: Array | None
    stride: int
    cuts: tuple[CutCase, ...]
    stacks: tuple[Stack, ...]


class Predictor:
    """A detector with its anchors, its arithmetic and its calibration."""

    @explain_full_gpu("the model")
    def __init__(
        self,
        detector: Detector,
        preset: Preset,
        calibration: Calibration | None = None,
        checkpoint: Checkpoint | None = None,
        device: str = "auto",
        precision: str = "float32",
        batch_size: int | None = None,
        domain: Domain = "medical",
        refinement: Refinement = PUBLISHED,
        bank: Sequence[torch.Tensor] | None = None,
        drop_background: bool = False,
    ) -> None:
        """``batch_size`` None: see ``memory.choose_batch_size``; ``drop_background``: see ``Detector.prepare_inference``.

        Raises:
            InputError: an option is unknown, or does not suit the detector or this machine.
            MemoryError: the GPU's memory is full.
        """
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch size {batch_size}: take 1 or more")
        self.device = choose_device(device)
        self.dtype = choose_dtype(precision, self.device)
        self.detector = detector.to(self.device).eval()
        self.preset = preset
        self.calibration = calibration
        self.checkpoint = checkpoint
        self.batch_size = choose_batch_size(self.detector, self.device) if batch_size is None else batch_size
        self.domain: Domain = domain
        self.drop_background = drop_background
        made = checkpoint.provenance.get("calibration") if checkpoint and calibration else None
        self.calibrated_plane: str | None = made.get("plane") if made else None
        self.engine: OnnxEngine | None = None
        self._prepared = False
        self.refine(refinement, bank)
        with torch.no_grad(), _one_thread():
            self.anchors = self.detector.encode_noun(preset.noun_for(detector.config.fidelity.name)).float()

    @explain_full_gpu("a bank of normal patches")
    def refine(self, refinement: Refinement, bank: Sequence[torch.Tensor] | None = None) -> None:
        """Score with ``refinement`` from now on; ``bank``: of each level the unit features (N, E) of normal patches.

        Raises:
            InputError: the refinement weighs a bank, and there is none or one of another detector.
        """
        levels = len(self.detector.levels)
        if refinement.bank_weight and bank is None:
            raise InputError(
                f"bank_weight {refinement.bank_weight:g}: these adapters hold no bank of normal patches; make one with "
                "aaclip-med calibrate --bank"
            )
        if bank is not None and len(bank) != levels:
            raise InputError(
                f"the bank of normal patches is of {len(bank)} levels, and the detector has {levels}; make another"
            )
        width = self.detector.tower.embed_dim
        if bank is not None and any(level.ndim != 2 or level.shape[1] != width for level in bank):
            shapes = ", ".join(str(tuple(level.shape)) for level in bank)
            raise InputError(f"the bank's normal patches are {shapes}, and the detector's are {width} wide; make another")
        self.refinement = refinement
        self.bank = [level.to(self.device, torch.float32) for level in bank] if bank is not None else None

    def forget_calibration(self) -> None:
        """Score as if there were none, in the model's own probability."""
        self.calibration, self.calibrated_plane = None, None

    @property
    def is_demo(self) -> bool:
        """Whether every output must be marked as a demonstration."""
        return self.checkpoint is not None and self.checkpoint.is_demo

    @property
    def note(self) -> str:
        """What every output says of its scores."""
        scale = "calibrated: fraction of normal voxels below" if self.calibration else "UNCALIBRATED model probability"
        return f"{'DEMONSTRATION; ' if self.is_demo else ''}{scale}"

    def choose_plane(self, volume: Volume, limits: tuple[int, int] | None = None) -> str:
        """The plane of a volume where nobody names one: that of the calibration, else what preset and refinement say."""
        fuse = self.refinement.fuse if self.domain == "medical" else 0.0
        return self.calibrated_plane or choose_plane(volume, self.preset, fuse, limits)

    def choose_side(self, height: int, width: int) -> int:
        """The side, in pixels, of the square maps of slices (height, width)."""
        return choose_side(height, width, self.detector.config.image_size, self.refinement.zoom)

    def place_slices(self, cut: CutCase, numbers: Sequence[int]) -> Array:
        """Where slices ``numbers`` of a case lie along their normal, (S,), in patches, which are as wide as in a slice."""
        row_mm, column_mm, slice_mm = cut.plan.pixel_spacing(cut.volume.spacing)
        height, width = cut.images.shape[1:3]
        rows, columns = self.detector.tower.grid
        patch_mm = math.sqrt(row_mm * height / rows * column_mm * width / columns)
        return np.asarray(numbers, dtype=np.float64) * slice_mm / patch_mm

    @explain_full_gpu("the model in another precision")
    def _open_stream(self) -> SliceStream:
        if self.engine is None and not self._prepared:
            self.detector.prepare_inference(self.dtype, self.drop_background)
            self._prepared = True
        arithmetic = (self.domain, self.device, self.batch_size, self.engine)
        return SliceStream(self.detector, self.anchors, *arithmetic, self.refinement, self.bank)

    def score_slices(self, images: Stack, report: Report = ignore) -> SliceScores:
        """Score windowed slices (S, H, W) or (S, H, W, 3) in [0, 1]; ``report`` is told the share that is done.

        Raises:
            MemoryError: not even one slice fits into the GPU's memory.
        """
        stream = self._open_stream()
        (scores,) = stream.score([images], lambda done: report(done / len(images)))
        self.batch_size = stream.batch_size
        return scores

    def score_cut(self, cut: CutCase, stride: int = 1, report: Report = ignore) -> SliceScores:
        """Score the used slices of a case, or every ``stride``-th of them; outside its organ a map holds its lowest value."""
        numbers = thin(cut.used, stride)
        scores = self.score_slices(cut.images.choose(numbers), report)
        _confine(scores, cut, numbers)
        return scores

    def predict(self, cut: CutCase, stride: int = 1, report: Report = ignore) -> Prediction:
        """Score every used slice of a case.

        With ``stride`` n only every n-th used slice (and the last) is scored, and the heatmap between them is interpolated
        linearly: faster, and approximate.

        Raises:
            InputError: the stride is below 1.
        """
        return self._assemble(cut, stride, self.score_cut(cut, stride, report))

    def _assemble(self, cut: CutCase, stride: int, scores: SliceScores) -> Prediction:
        """The heatmap of a case from the maps of its slices."""
        numbers = thin(cut.used, stride)
        size = cut.images.shape[1:3]
        lowest = scores.log_odds.min()
        whole = make_array(cut.plan.stack_shape, np.float32)
        whole[:] = lowest
        stack = cut.crop(whole)
        for start in range(0, len(numbers), CHUNK):
            part = torch.from_numpy(scores.log_odds[start : start + CHUNK])[:, None]  # a GPU is at work on the next batch
            enlarged = functional.interpolate(part, size=size, mode="bilinear", align_corners=False)
            stack[numbers[start : start + CHUNK]] = enlarged[:, 0].numpy()
        for number in set(cut.used) - set(numbers):
            after = int(np.searchsorted(numbers, number))
            below, above = numbers[after - 1], numbers[after]
            share = (number - below) / (above - below)
            stack[number] = (1.0 - share) * stack[below] + share * stack[above]
        if cut.organ is not None:
            stack[~cut.organ] = lowest
        pooled = pool_scores(scores.log_odds, scores.detection, self.place_slices(cut, numbers), self.refinement)
        return Prediction(cut.plan.paste(whole), cut.plan.axis, numbers, pooled, scores.detection, pool_slices(pooled))

    def prepare(
        self,
        volume: Volume,
        plane: str | None = None,
        limits: tuple[int, int] | None = None,
        organ: Array | None = None,
        stride: int = 1,
    ) -> Prepared:
        """Cut a volume for ``predict_prepared``; no arithmetic of the model, so it can run beside it in a thread.

        Arguments and errors: see ``predict_volume``.
        """
        names = cut_names(volume, plane or self.choose_plane(volume, limits), limits)
        cuts = tuple(cut_volume(volume, self.preset, name, limits, organ) for name in names)
        return Prepared(volume, organ, stride, cuts, tuple(cut.images.choose(thin(cut.used, stride)) for cut in cuts))

    def score_prepared(
        self, cases: Iterable[Prepared], report: Callable[[int], None] = count_nothing
    ) -> Iterator[tuple[Prepared, list[SliceScores]]]:
        """Each case with the scores of its cuts, in their order; batches of slices go over the borders of cases.

        Cases are taken from ``cases`` only as they are needed. Outside a cut's organ a map holds its lowest value. ``report``
        is told the number of slices that are done.

        Raises:
            MemoryError: not even one slice fits into the GPU's memory.
        """
        waiting: deque[Prepared] = deque()

        def stacks() -> Iterator[Stack]:
            for case in cases:
                waiting.append(case)
                yield from case.stacks

        stream = self._open_stream()
        parts: list[SliceScores] = []
        for scores in stream.score(stacks(), report):
            self.batch_size = stream.batch_size
            parts.append(scores)
            if len(parts) == len(waiting[0].stacks):
                case = waiting.popleft()
                for cut, part in zip(case.cuts, parts, strict=True):
                    _confine(part, cut, thin(cut.used, case.stride))
                yield case, parts
                parts = []

    def predict_prepared(
        self, cases: Iterable[Prepared], report: Callable[[int], None] = count_nothing
    ) -> Iterator[Prediction]:
        """The predictions of many cases, in their order; see ``score_prepared``."""
        for case, parts in self.score_prepared(cases, report):
            yield self.fuse(case, parts)

    def fuse(self, case: Prepared, parts: list[SliceScores]) -> Prediction:
        """The prediction of a case from the scores of its cuts, averaged where there are three."""
        predictions = [self._assemble(cut, case.stride, scores) for cut, scores in zip(case.cuts, parts, strict=True)]
        if len(predictions) == 1:
            return predictions[0]
        weights = weigh_planes(case.volume, [cut.plan for cut in case.cuts])
        total = make_array(case.volume.array.shape, np.float32)
        for slab in split_slabs(predictions[0].heatmap):
            for weight, part in zip(weights, predictions, strict=True):
                total[slab] += np.float32(weight) * part.heatmap[slab]
        cut = cut_volume(case.volume, self.preset, None, None, case.organ)
        numbers = cut.used
        maps = cut.crop(cut.plan.cut(total))[numbers]
        pooled = pool_scores(maps, None, self.place_slices(cut, numbers), self.refinement)
        detection = np.full(len(numbers), np.nan, dtype=np.float32)
        return Prediction(total, cut.plan.axis, numbers, pooled, detection, pool_slices(pooled))

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
        the resolution of its slices (one over a pixel's area), and slices are counted in the preset's plane; None: see
        ``choose_plane``. ``limits``: first
        and last slice used, inclusive. ``organ`` (I, J, K) bool: see ``cut_volume``. ``stride``: see ``predict``. ``report`` is
        told the share that is done.

        Raises:
            InputError: the volume, the limits or the organ cannot be used; ``all`` with limits or for a picture.
        """
        prepared = self.prepare(volume, plane, limits, organ, stride)
        total = sum(len(stack) for stack in prepared.stacks)
        (prediction,) = self.predict_prepared([prepared], lambda done: report(done / total))
        return prediction

    def rescale(self, log_odds: Array | float) -> Array:
        """Log odds to the scale of the outputs, [0, 1]: the fraction of normal voxels below, or the model's probability."""
        if self.calibration is not None:
            return self.calibration.fraction_below(log_odds)
        return (1.0 / (1.0 + np.exp(-np.asarray(log_odds, dtype=np.float64)))).astype(np.float32)


def _confine(scores: SliceScores, cut: CutCase, numbers: list[int]) -> None:
    """Outside the organ a map holds its lowest value."""
    if cut.organ is not None:
        lowest = scores.log_odds.min()
        for start in range(0, len(numbers), CHUNK):
            organ = np.ascontiguousarray(cut.organ[numbers[start : start + CHUNK]], dtype=np.float32)
            share = functional.interpolate(torch.from_numpy(organ)[:, None], size=scores.log_odds.shape[-2:], mode="area")
            scores.log_odds[start : start + CHUNK][share[:, 0].numpy() <= 0] = lowest


@contextmanager
def _one_thread() -> Iterator[None]:
    """Text features differ in the last digit with the number of threads, and with them every score of a run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def thin(used: list[int], stride: int) -> list[int]:
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
    batch_size: int | None = None,
    domain: Domain = "medical",
    window: Window | None = None,
    crop: bool | None = None,
    refinement: str | Refinement | None = None,
    bank: Sequence[torch.Tensor] | None = None,
    drop_background: bool = False,
    calibrated: bool = True,
) -> Predictor:
    """A predictor from an adapters file (or ``demo``, ``none``, a released pair); ``preset`` defaults to the file's own.

    ``window`` takes the place of the preset's; ``crop`` and ``refinement`` (by name or whole) default to what the adapters were
    trained with, ``bank`` to the file's own. ``calibrated`` False passes over the file's calibration, which
    is not even read.

    Raises:
        InputError, WeightsError, CheckpointError: as ``build_detector``; InputError also where no preset is known.
        MemoryError: the GPU's memory is full.
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
    if calibrated and checkpoint is not None and checkpoint.calibration is not None:
        calibration = Calibration.from_json(checkpoint.calibration, str(adapters))
    if crop is None:
        crop = bool(checkpoint and checkpoint.provenance.get("crop"))
    task = replace(get_preset(name), crop=crop)
    task = replace(task, window=window) if window else task
    refinement = find_refinement(refinement, checkpoint.provenance.get("refinement") if checkpoint else None)
    bank = checkpoint.bank if bank is None and checkpoint else bank
    arithmetic = (device, precision, batch_size, domain)
    return Predictor(detector, task, calibration, checkpoint, *arithmetic, refinement, bank, drop_background)
