"""Streaming pixel figures against scikit-learn's: difference, speed per pixel, and memory for a whole benchmark.

    OMP_NUM_THREADS=1 python benchmarks/metrics.py [--maps 3715] [--exact 10000000]

Scores of several shapes are compared with ``roc_auc_score`` and ``average_precision_score``; then maps of 518x518 are streamed,
as many as BMAD's brain test set has, and the process's highest memory is read.
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

SIZE = 518
RATE = 0.02
Array = np.ndarray[Any, Any]

SHAPES: dict[str, Callable[[Array], Array]] = {
    "bell": lambda z: z,
    "probability": lambda z: 1 / (1 + np.exp(2 - z)),
    "skewed": lambda z: np.exp(3 * z),
    "crowded below 1": lambda z: 1 - 10.0 ** (-6 - z),
    "crowded above 0": lambda z: np.exp(5 * z - 40),
    "narrow": lambda z: 7 + 1e-4 * z,
    "256 levels": lambda z: np.clip(np.round(128 + 30 * z), 0, 255),
}


def compare(shape: str, count: int) -> tuple[float, float, float, float]:
    """Differences of AUROC and AP, and processor nanoseconds a pixel, ours and scikit-learn's."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    random = np.random.default_rng(0)
    truth = random.random(count) < RATE
    scores = SHAPES[shape](random.standard_normal(count) + 1.5 * truth).astype(np.float32)
    start = time.process_time()
    curve = BinnedCurve()
    for first in range(0, count, SIZE * SIZE):
        curve.add(scores[first : first + SIZE * SIZE], truth[first : first + SIZE * SIZE])
    figures = curve.figures()
    ours = time.process_time() - start
    start = time.process_time()
    exact_area, exact_precision = roc_auc_score(truth, scores), average_precision_score(truth, scores)
    theirs = time.process_time() - start
    return figures["auroc"].value - exact_area, figures["ap"].value - exact_precision, ours / count * 1e9, theirs / count * 1e9


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
    print(f"{'scores':16} {'AUROC off by':>13} {'AP off by':>13} {'ns a pixel':>11} {'scikit-learn':>13} {'times':>6}")
    for shape in SHAPES:
        area, precision, ours, theirs = compare(shape, options.exact)
        print(f"{shape:16} {area:13.1e} {precision:13.1e} {ours:11.1f} {theirs:13.0f} {theirs / ours:6.0f}", flush=True)


def _highest_mb() -> float:
    """Peak resident memory, in MB; Linux counts it in kB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main()
