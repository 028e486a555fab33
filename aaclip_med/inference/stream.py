"""Slices through the detector, in batches that do not stop at the border of a case."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from aaclip_med.arrays import make_array
from aaclip_med.data.slices import WindowedSlices
from aaclip_med.inference.refinement import PUBLISHED, Refinement, score_pictures
from aaclip_med.model.attention import ROWS_AT_ONCE
from aaclip_med.model.detector import Detector
from aaclip_med.model.onnx_engine import OnnxEngine
from aaclip_med.model.preprocess import choose_side, resize_slices
from aaclip_med.model.similarity import Domain

Array = np.ndarray[Any, Any]

Stack: TypeAlias = "Array | WindowedSlices"
"""Slices (S, H, W) or (S, H, W, 3) in [0, 1]."""

LOG_ODDS_LIMIT = 40.0
"""Log odds are kept within this distance of 0; trained detectors stay within 20."""

MOST_SLICES = 16
"""Slices at once where nobody says: 22,000 tokens of the published tower."""

FREE_SHARE = 0.5
"""Of a GPU's free memory, what a batch may take."""

VALUES_A_TOKEN, VALUES_A_PIXEL = 16, 16
"""What is in memory at once, at most: of each token so many times the tower's width (queries, keys, values, the MLP's four, and
what they come from), of each pixel so many values. Four bytes each."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SliceScores:
    """What the detector says of some slices, on its own square grid.

    log_odds: (S, size, size) float32; unrefined: the mean over levels of the abnormal minus the normal logit, blurred; the
        released program's map is ``levels * (log_odds + 1) / 2``. detection: (S,), in [0, 1].
    """

    log_odds: Array
    detection: Array


def count_nothing(slices: int) -> None:
    """Tell nobody."""
    del slices


class _Result(NamedTuple):
    """log_odds: (B, size, size); detection: (B,); on the device."""

    log_odds: torch.Tensor
    detection: torch.Tensor


class _Stack:
    """A stack that is under way: the scores of its slices, once the first are known, and how many of them are."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.scores: SliceScores | None = None
        self.known = 0

    @property
    def missing(self) -> int:
        return self.length - self.known

    def add(self, log_odds: Array, detection: Array) -> None:
        if self.scores is None:
            maps = make_array((self.length, *log_odds.shape[1:]), np.float32)
            self.scores = SliceScores(maps, np.empty(self.length, dtype=np.float32))
        place = slice(self.known, self.known + len(detection))
        self.scores.log_odds[place], self.scores.detection[place] = log_odds, detection
        self.known = place.stop


def choose_batch_size(detector: Detector, device: torch.device) -> int:
    """Slices at once where nobody says: on a CPU what it computes at once, on a GPU what its free memory holds."""
    if device.type == "cuda":
        return fit_batch(torch.cuda.mem_get_info(device)[0], detector)
    return min(MOST_SLICES, _most_at_once(detector))


def fit_batch(free: int, detector: Detector) -> int:
    """The largest of 1, 2, 4, ... ``MOST_SLICES`` slices that take no more than ``FREE_SHARE`` of ``free`` bytes; else 1."""
    side = detector.config.image_size
    values = VALUES_A_TOKEN * _count_tokens(detector) * detector.tower.vision_width + VALUES_A_PIXEL * side * side
    count = MOST_SLICES
    while count > 1 and 4 * values * count > FREE_SHARE * free:
        count //= 2
    return count


def _count_tokens(detector: Detector) -> int:
    rows, columns = detector.tower.grid
    return rows * columns + 1


def _most_at_once(detector: Detector) -> int:
    return max(1, ROWS_AT_ONCE // _count_tokens(detector))


class SliceStream:
    """Stacks of slices in, their scores out, in order.

    Every batch has one shape, the last is filled up: so a slice's scores do not depend on the slices it shares a batch with.
    Batches are of ``batch_size`` slices, on a CPU of no more than it computes at once: one of the published tower's. Where a
    GPU's memory does not hold a batch, batches halve, and ``batch_size`` says so. ``detector`` is prepared for inference.
    """

    def __init__(
        self,
        detector: Detector,
        anchors: torch.Tensor,
        domain: Domain,
        device: torch.device,
        batch_size: int,
        engine: OnnxEngine | None = None,
        refinement: Refinement = PUBLISHED,
        bank: Sequence[torch.Tensor] | None = None,
    ) -> None:
        """``engine``: computes in the detector's place, in float32."""
        self.detector = detector
        self.engine = engine
        self.anchors = anchors
        self.domain: Domain = domain
        self.device = device
        self.batch_size = min(batch_size, _most_at_once(detector)) if device.type == "cpu" else batch_size
        self.refinement = refinement
        self.bank = bank
        self.done = 0

    def score(self, stacks: Iterable[Stack], report: Callable[[int], None] = count_nothing) -> Iterator[SliceScores]:
        """The scores of each stack, S at least 1; sizes may differ.

        ``report`` is told the number of slices done after each batch; what it raises ends the work. While a GPU works on a
        batch, the one before it is fetched.

        Raises:
            MemoryError: not even one slice fits.
        """
        open_stacks: deque[_Stack] = deque()
        under_way: _Result | None = None
        for batch in self._fill(stacks, open_stacks):
            launched = self._launch(batch)
            if under_way is not None:
                yield from self._settle(under_way, open_stacks, report)
            under_way = launched
        if under_way is not None:
            yield from self._settle(under_way, open_stacks, report)

    def _fill(self, stacks: Iterable[Stack], open_stacks: deque[_Stack]) -> Iterator[torch.Tensor]:
        """Batches (B, 1 or 3, size, size) of resized slices; the last may be short, and the last before another size."""
        pieces: list[torch.Tensor] = []
        held = 0
        for stack in stacks:
            open_stacks.append(_Stack(len(stack)))
            start = 0
            while start < len(stack):
                piece = self._resize(stack[start : start + self.batch_size - held])
                if pieces and piece.shape[-1] != pieces[0].shape[-1]:
                    yield torch.cat(pieces)
                    pieces, held = [], 0
                if pieces and piece.shape[1] != pieces[0].shape[1]:
                    pieces, piece = [part.expand(-1, 3, -1, -1) for part in pieces], piece.expand(-1, 3, -1, -1)
                pieces.append(piece)
                start += len(piece)
                held += len(piece)
                if held >= self.batch_size:
                    yield torch.cat(pieces)
                    pieces, held = [], 0
        if pieces:
            yield torch.cat(pieces)

    @torch.inference_mode()
    def _resize(self, images: Array) -> torch.Tensor:
        chunk = torch.from_numpy(np.ascontiguousarray(images))
        if self.device.type == "cuda":
            chunk = chunk.pin_memory()
        chunk = chunk.to(self.device, non_blocking=True)
        chunk = chunk.unsqueeze(1) if chunk.ndim == 3 else chunk.movedim(-1, 1)
        side = choose_side(chunk.shape[-2], chunk.shape[-1], self.detector.config.image_size, self.refinement.zoom)
        return resize_slices(chunk.float(), side)

    @torch.inference_mode()
    def _launch(self, batch: torch.Tensor) -> _Result:
        if len(batch) > self.batch_size:
            parts = [self._launch(part) for part in batch.split(self.batch_size)]
            return _Result(torch.cat([part.log_odds for part in parts]), torch.cat([part.detection for part in parts]))
        try:
            return self._run(batch)
        except torch.OutOfMemoryError:
            if self.batch_size == 1:
                raise MemoryError("out of memory on the GPU with one slice at a time; take --device cpu") from None
        torch.cuda.empty_cache()  # only here: the error holds on to what was computed
        self.batch_size //= 2
        _log.warning("out of memory on the GPU; going on with %d slices at once", self.batch_size)
        return self._launch(batch)

    def _run(self, batch: torch.Tensor) -> _Result:
        """Log odds (B, size, size) and detection scores (B,), still on the device."""
        if self.engine is not None:
            return _Result(*self.engine.score(batch))
        count = len(batch)
        if count < self.batch_size:
            batch = torch.cat([batch, batch[-1:].expand(self.batch_size - count, -1, -1, -1)])
        log_odds, detection = score_pictures(self.detector, batch, self.anchors, self.domain, self.refinement, self.bank)
        return _Result(log_odds[:count].float().clamp(-LOG_ODDS_LIMIT, LOG_ODDS_LIMIT), detection[:count].float())

    def _settle(self, result: _Result, open_stacks: deque[_Stack], report: Callable[[int], None]) -> Iterator[SliceScores]:
        """Deal a batch's results out to the stacks they belong to; those that are complete are handed on."""
        log_odds, detection = result.log_odds.cpu().numpy(), result.detection.cpu().numpy()
        self.done += len(detection)
        report(self.done)
        start = 0
        while start < len(detection):
            stack = open_stacks[0]
            end = min(len(detection), start + stack.missing)
            stack.add(log_odds[start:end], detection[start:end])
            start = end
            if stack.missing == 0 and stack.scores is not None:
                open_stacks.popleft()
                yield stack.scores
