"""How many slices a device's memory holds, and what happens where it holds fewer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from aaclip_med.model.attention import ROWS_AT_ONCE
from aaclip_med.model.detector import Detector

Result = TypeVar("Result")

MOST_SLICES = 32
"""Slices at once where nobody says: 44,000 tokens of the published tower."""

FREE_SHARE = 0.5
"""Of a GPU's free memory, what a batch may take."""

VALUES_A_TOKEN, VALUES_A_PIXEL = 16, 16
"""What is in memory at once, at most: of each token so many times the tower's width (queries, keys, values, the MLP's four, and
what they come from), of each pixel so many values. Four bytes each."""

FULL = "out of memory on the GPU with {}; free it, or take a smaller --batch-size or --image-size, or --device cpu"

_log = logging.getLogger(__name__)


def choose_batch_size(detector: Detector, device: torch.device) -> int:
    """Slices at once where nobody says: on a CPU what it computes at once, on a GPU what its free memory holds."""
    if device.type == "cuda":
        return fit_batch(_count_free(device), detector)
    return min(MOST_SLICES, count_at_once(detector))


def fit_batch(free: int, detector: Detector) -> int:
    """The largest of 1, 2, 4, ... ``MOST_SLICES`` slices that take no more than ``FREE_SHARE`` of ``free`` bytes; else 1."""
    side = detector.config.image_size
    values = VALUES_A_TOKEN * _count_tokens(detector) * detector.tower.vision_width + VALUES_A_PIXEL * side * side
    count = MOST_SLICES
    while count > 1 and 4 * values * count > FREE_SHARE * free:
        count //= 2
    return count


def count_at_once(detector: Detector) -> int:
    """Slices that a CPU takes through a block together."""
    return max(1, ROWS_AT_ONCE // _count_tokens(detector))


def _count_tokens(detector: Detector) -> int:
    rows, columns = detector.tower.grid
    return rows * columns + 1


def _count_free(device: torch.device) -> int:
    """Bytes: what the driver has, and what torch keeps of freed memory."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def halve_until_it_fits(run: Callable[[int], Result], count: int) -> tuple[Result, int]:
    """What ``run`` gives for ``count`` slices at once, or for half as many and so on; and how many it was.

    Raises:
        MemoryError: not even one slice fits.
    """
    while True:
        try:
            return run(count), count
        except torch.OutOfMemoryError:
            if count == 1:
                raise MemoryError(FULL.format("one slice at a time")) from None
        torch.cuda.empty_cache()  # not in the except clause: the error holds on to what was computed
        count //= 2
        _log.warning("out of memory on the GPU; going on with %d slices at once", count)


@contextmanager
def explain_full_gpu(doing: str) -> Iterator[None]:
    """Where a GPU's memory is full, say what to do; also as a decorator.

    Raises:
        MemoryError: a GPU's memory is full.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError, or the driver's own where it cannot even start
        if "out of memory" not in str(error):
            raise
        raise MemoryError(FULL.format(doing)) from None
