"""Small volumes through ``aaclip-med score`` with ``tiny``: how time and memory grow with cases, and ranks. Prints JSON.

    python -m benchmarks.cases COUNT [--ranks N] [--device cpu|cuda]

Without ``--ranks`` in this process, after one volume that is not counted; with it by ``torchrun``, one thread a rank, the start
of the program included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from aaclip_med.batch.run import score_sources
from aaclip_med.data.sources import find_sources
from aaclip_med.inference.predictor import load_predictor
from benchmarks.machine import read_gpu_peak, read_peak, reset_peak

SHAPE = (96, 96, 24)


def write_volumes(folder: Path, count: int) -> Path:
    """Round heads with texture; the folder they are in."""
    folder.mkdir()
    i, j, k = np.indices(SHAPE)
    for number in range(count):
        head = np.where((i - 48) ** 2 + (j - 48) ** 2 < 1600, 300 + 50 * np.sin(i / 5 + number) * np.cos(j / 4 + k), 0)
        nib.save(nib.Nifti1Image(head.astype(np.int16), np.eye(4)), folder / f"case_{number:03d}.nii.gz")
    return folder


def measure_cases(count: int, device: str) -> dict[str, Any]:
    """Seconds a case and peak memory of this process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        predictor = load_predictor("demo", "brain-mri", device=device)
        score_sources(find_sources([write_volumes(folder / "warm", 1)]), predictor, folder / "warm_out")
        found = find_sources([write_volumes(folder / "scans", count)])
        reset_peak(device)
        start = time.perf_counter()
        tally = score_sources(found, predictor, folder / "out")
        seconds = time.perf_counter() - start
    if tally.done != count:
        raise SystemExit(f"{tally.failed} of {count} volumes could not be scored")
    return {"cases": count, "seconds_a_case": seconds / count, "peak_gib": read_peak(), **read_gpu_peak(device)}


def measure_ranks(count: int, ranks: int, device: str) -> dict[str, Any]:
    """Seconds of the whole command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scans = write_volumes(folder / "scans", count)
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(ranks),
            "-m",
            "aaclip_med",
        ]
        command += [
            "score",
            str(scans),
            "--adapters",
            "demo",
            "--preset",
            "brain-mri",
            "--device",
            device,
            "--progress",
            "none",
        ]
        start = time.perf_counter()
        subprocess.run(
            [*command, "--out", str(folder / "out")], check=True, stdout=2, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        seconds = time.perf_counter() - start
        rows = len((folder / "out" / "volumes.csv").read_text(encoding="utf-8").splitlines()) - 1
    if rows != count:
        raise SystemExit(f"{rows} of {count} volumes are in the table")
    return {"cases": count, "ranks": ranks, "seconds": seconds}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("--ranks", type=int)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.ranks is None:
        print(json.dumps(measure_cases(options.count, options.device)))
    else:
        print(json.dumps(measure_ranks(options.count, options.ranks, options.device)))


if __name__ == "__main__":
    main()
