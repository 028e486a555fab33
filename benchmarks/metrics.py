"""Streaming pixel figures against scikit-learn's: difference, speed per pixel, and memory for a whole benchmark.

    OMP_NUM_THREADS=1 python benchmarks/metrics.py [--maps 3715] [--exact 10000000]

Maps of 518x518 are streamed, as many as BMAD's brain test set has, and the process's highest memory is read; then scores of
several shapes are compared with ``roc_auc_score`` and ``average_precision_score``, without and with regions (AUPRO).
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage

from aaclip_med.scoring.curve import BinnedCurve
from aaclip_med.scoring.metrics import Figure

SIZE = 518
RATE = 0.02
Array = np.ndarray[Any, Any]


def crowd(z: Array) -> Array:
    """30 clusters far apart, each a few neighbouring float32 numbers."""
    level = (2.0 ** (np.arange(30) / 4)).astype(np.float32)[np.random.default_rng(1).integers(0, 30, z.size)]
    middle = (level.view(np.int32) & ~np.int32(0xFFFF)) + 0x8000
    return (middle + np.clip(np.round(2 * z), -8, 8).astype(np.int32)).astype(np.int32).view(np.float32)


def rise(z: Array) -> Array:
    """Ever more scores that lie far above those before, close together."""
    late = np.random.default_rng(1).random(z.size) < 0.002 * np.arange(z.size) / z.size
    return np.where(late, 100 + 0.1 * z, z)


SHAPES: dict[str, Callable[[Array], Array]] = {
    "bell": lambda z: z,
    "probability": lambda z: 1 / (1 + np.exp(2 - z)),
    "skewed": lambda z: np.exp(3 * z),
    "crowded below 1": lambda z: 1 - 10.0 ** (-6 - z),
    "crowded above 0": lambda z: np.exp(5 * z - 40),
    "narrow": lambda z: 7 + 1e-4 * z,
    "256 levels": lambda z: np.clip(np.round(128 + 30 * z), 0, 255),
    "30 clusters": crowd,
    "high ones late": rise,
    "ascending": np.sort,
}


def compare(shape: str, count: int) -> tuple[float, float, float, float, float]:
    """Differences of AUROC and AP, and processor nanoseconds a pixel: ours without and with regions, and scikit-learn's."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    random = np.random.default_rng(0)
    truth = random.random(count) < RATE
    scores = SHAPES[shape](random.standard_normal(count) + 1.5 * truth).astype(np.float32)
    figures, ours = count_pixels(scores, truth, regions=False)
    _, with_regions = count_pixels(scores, truth, regions=True)
    start = time.process_time()
    area, precision = roc_auc_score(truth, scores), average_precision_score(truth, scores)
    theirs = time.process_time() - start
    off = figures["auroc"].value - area, figures["ap"].value - precision
    return *off, *(spent / count * 1e9 for spent in (ours, with_regions, theirs))


def count_pixels(scores: Array, truth: Array, regions: bool) -> tuple[dict[str, Figure], float]:
    """The figures, and processor seconds of it, of pixels (N,) that come a map at a time; regions of 50 abnormal ones."""
    curve, spent = BinnedCurve(), 0.0
    for first in range(0, scores.size, SIZE * SIZE):
        part = slice(first, first + SIZE * SIZE)
        ids = np.where(truth[part], (np.cumsum(truth[part]) + 49) // 50, 0) if regions else None
        start = time.process_time()
        curve.add(scores[part], truth[part], ids)
        spent += time.process_time() - start
    start = time.process_time()
    figures = curve.figures()
    return figures, spent + time.process_time() - start


def stream(maps: int) -> tuple[float, int]:
    """Processor seconds spent in the curve, and pixels, of ``maps`` maps that differ from each other in level and spread."""
    random = np.random.default_rng(1)
    smooth = [ndimage.gaussian_filter(random.standard_normal((SIZE, SIZE)), 12).astype(np.float32) for _ in range(8)]
    smooth = [one / one.std() for one in smooth]
    curve, spent = BinnedCurve(), 0.0
    for number in range(maps):
        spread, level = 0.5 + random.random(), 2 * random.standard_normal()
        scores = smooth[number % 8] * np.float32(spread) + np.float32(level)
        truth = smooth[(number + 3) % 8] + smooth[number % 8] > 3.5 if number % 3 else np.zeros((SIZE, SIZE), dtype=bool)
        start = time.process_time()
        curve.add(scores, truth)
        spent += time.process_time() - start
    start = time.process_time()
    curve.figures()
    return spent + time.process_time() - start, curve.total


def main() -> None:
    """Print a table, then the stream's figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=3715)
    parser.add_argument("--exact", type=int, default=10_000_000, help="pixels compared with scikit-learn, each shape")
    options = parser.parse_args()
    before = _highest_mb()
    seconds, pixels = stream(options.maps)
    after = _highest_mb()
    print(
        f"{options.maps} maps of {SIZE}x{SIZE}, {pixels:.3g} pixels: {seconds:.0f} s, {seconds / pixels * 1e9:.1f} ns a pixel"
    )
    print(f"highest memory of the process {after:.0f} MB ({before:.0f} MB before the first map)\n")
    print(
        f"{'scores':16}{'AUROC off':>11}{'AP off':>11}{'ns a pixel':>12}{'with regions':>14}{'scikit-learn':>14}{'times':>12}"
    )
    for shape in SHAPES:
        area, precision, ours, regions, theirs = compare(shape, options.exact)
        times = f"{theirs / ours:.0f}, {theirs / regions:.0f}"
        print(f"{shape:16}{area:11.1e}{precision:11.1e}{ours:12.1f}{regions:14.1f}{theirs:14.0f}{times:>12}", flush=True)


def _highest_mb() -> float:
    """Peak resident memory, in MB; Linux counts it in kB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main()
