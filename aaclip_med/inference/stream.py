"""Slices through the detector, in batches that do not stop at the border of a case."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from aaclip_med.arrays import make_array
from aaclip_med.data.slices import WindowedSlices
from aaclip_med.inference.memory import count_at_once, explain_full_gpu, halve_until_it_fits
from aaclip_med.inference.refinement import PUBLISHED, Refinement, score_pictures
from aaclip_med.model.detector import Detector
from aaclip_med.model.heatmap import LOG_ODDS_LIMIT
from aaclip_med.model.onnx_engine import OnnxEngine
from aaclip_med.model.preprocess import choose_side, resize_slices
from aaclip_med.model.similarity import Domain

Array = np.ndarray[Any, Any]

Stack: TypeAlias = "Array | WindowedSlices"
"""Slices (S, H, W) or (S, H, W, 3) in [0, 1]."""


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


class _Fetched(NamedTuple):
    """log_odds: (B, size, size); detection: (B,); on the CPU once ``copied`` has come to pass; None: already."""

    log_odds: torch.Tensor
    detection: torch.Tensor
    copied: torch.cuda.Event | None


def _fetch(result: _Result) -> _Fetched:
    """Have the results copied to the CPU as soon as they are there, and before what the GPU is told next.

    torch keeps pinned memory and hands it out again when nobody holds it: batches take two buffers in turn.
    """
    if not result.log_odds.is_cuda:
        return _Fetched(*result, None)
    log_odds, detection = (torch.empty_like(part, device="cpu", pin_memory=True) for part in result)
    log_odds.copy_(result.log_odds, non_blocking=True)
    detection.copy_(result.detection, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(result.log_odds.device))
    return _Fetched(log_odds, detection, copied)


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


def _split(pieces: list[Array], count: int) -> Iterator[list[Array]]:
    """The same slices, ``count`` at a time; the last may be fewer."""
    part: list[Array] = []
    room = count
    for piece in pieces:
        start = 0
        while start < len(piece):
            part.append(piece[start : start + room])
            start += len(part[-1])
            room -= len(part[-1])
            if room == 0:
                yield part
                part, room = [], count
    if part:
        yield part


class SliceStream:
    """Stacks of slices in, their scores out, in order.

    Every batch has one shape, the last is filled up: so a slice's scores do not depend on the slices it shares a batch with.
    Batches are of ``batch_size`` slices, on a CPU of no more than it computes at once: one of the published tower's. Where a
    GPU's memory does not hold a batch, in the slices' own size or the detector's, batches halve, and ``batch_size`` says so.
    ``detector`` is prepared for inference.
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
        self.batch_size = min(batch_size, count_at_once(detector)) if device.type == "cpu" else batch_size
        self.refinement = refinement
        self.bank = bank
        self.done = 0

    def score(self, stacks: Iterable[Stack], report: Callable[[int], None] = count_nothing) -> Iterator[SliceScores]:
        """The scores of each stack, S at least 1; sizes may differ.

        ``report`` is told the number of slices done after each batch; what it raises ends the work. While a GPU works on a
        batch, the results of the one before it, which it copied out by itself, are dealt out.

        Raises:
            MemoryError: not even one slice fits into the GPU's memory.
        """
        open_stacks: deque[_Stack] = deque()
        under_way: _Fetched | None = None
        with explain_full_gpu("slices at hand"):
            for batch in self._fill(stacks, open_stacks):
                launched = self._launch(batch)
                if under_way is not None:
                    yield from self._settle(under_way, open_stacks, report)
                under_way = launched
            if under_way is not None:
                yield from self._settle(under_way, open_stacks, report)

    def _fill(self, stacks: Iterable[Stack], open_stacks: deque[_Stack]) -> Iterator[list[Array]]:
        """Batches of slices in pieces, as they come; the last batch may be short, and the last before another side."""
        pieces: list[Array] = []
        held = 0
        for stack in stacks:
            open_stacks.append(_Stack(len(stack)))
            start = 0
            while start < len(stack):
                piece = stack[start : start + self.batch_size - held]
                if pieces and self._choose_side(piece) != self._choose_side(pieces[0]):
                    yield pieces
                    pieces, held = [], 0
                pieces.append(piece)
                start += len(piece)
                held += len(piece)
                if held >= self.batch_size:
                    yield pieces
                    pieces, held = [], 0
        if pieces:
            yield pieces

    def _choose_side(self, images: Array) -> int:
        height, width = images.shape[1:3]
        return choose_side(height, width, self.detector.config.image_size, self.refinement.zoom)

    @torch.inference_mode()
    def _launch(self, pieces: list[Array]) -> _Fetched:
        def run(count: int) -> _Fetched:
            parts = [self._run(self._resize(part), count) for part in _split(pieces, count)]
            return _fetch(_Result(torch.cat([part.log_odds for part in parts]), torch.cat([part.detection for part in parts])))

        fetched, self.batch_size = halve_until_it_fits(run, self.batch_size)
        return fetched

    def _resize(self, pieces: list[Array]) -> torch.Tensor:
        """Slices of one side as (B, 1 or 3, side, side) on the device."""
        resized = []
        for piece in pieces:
            chunk = torch.from_numpy(np.ascontiguousarray(piece))
            if self.device.type == "cuda":
                chunk = chunk.pin_memory()
            chunk = chunk.to(self.device, non_blocking=True)
            chunk = chunk.unsqueeze(1) if chunk.ndim == 3 else chunk.movedim(-1, 1)
            resized.append(resize_slices(chunk.float(), self._choose_side(piece)))
        channels = max(part.shape[1] for part in resized)
        return torch.cat([part.expand(-1, channels, -1, -1) for part in resized])

    def _run(self, batch: torch.Tensor, size: int) -> _Result:
        """Log odds (B, size, size) and detection scores (B,), still on the device, of a batch filled up to ``size``."""
        if self.engine is not None:
            return _Result(*self.engine.score(batch))
        count = len(batch)
        if count < size:
            batch = torch.cat([batch, batch[-1:].expand(size - count, -1, -1, -1)])
        log_odds, detection = score_pictures(self.detector, batch, self.anchors, self.domain, self.refinement, self.bank)
        return _Result(log_odds[:count].float().clamp(-LOG_ODDS_LIMIT, LOG_ODDS_LIMIT), detection[:count].float())

    def _settle(self, fetched: _Fetched, open_stacks: deque[_Stack], report: Callable[[int], None]) -> Iterator[SliceScores]:
        """Deal a batch's results out to the stacks they belong to; those that are complete are handed on."""
        if fetched.copied is not None:
            fetched.copied.synchronize()
        log_odds, detection = fetched.log_odds.numpy(), fetched.detection.numpy()
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
