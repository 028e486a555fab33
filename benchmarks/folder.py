"""A folder of volumes through the scoring of ``aaclip-med score``, the tower included: slices a second. Prints JSON.

    python -m benchmarks.folder [--backbone ...] [--size ...] [--slices ...] [--volumes N] [--batches N ...] [--device cuda|cpu]

For a GPU; on a CPU it takes minutes a volume. Reading, windowing, candidates and writing run beside the tower, as always. One
volume is scored before, and not counted. A row for each count of slices at once.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from aaclip_med.batch.run import score_sources
from aaclip_med.data.sources import find_sources
from aaclip_med.inference.predictor import Predictor
from aaclip_med.presets import get_preset
from benchmarks.around import write_volume
from benchmarks.machine import read_gpu_peak, read_peak, reset_peak
from benchmarks.subjects import build_subject


def measure(backbone: str, size: int, slices: int, volumes: int, batches: list[int], device: str) -> dict[str, Any]:
    """Slices a second of the whole run, from its folder to its tables."""
    predictor = Predictor(build_subject(backbone, size), get_preset("brain-mri"), device=device, precision="bf16")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "scans").mkdir()
        first = folder / "first.nii.gz"
        shape = write_volume(first, slices)
        for number in range(volumes):
            shutil.copy(first, folder / "scans" / f"case_{number:03d}.nii.gz")
        for batch in batches:
            predictor.batch_size = batch
            score_sources(find_sources([first]), predictor, folder / f"warm_{batch}")
            found = find_sources([folder / "scans"])
            reset_peak(device)
            start = time.perf_counter()
            tally = score_sources(found, predictor, folder / f"out_{batch}")
            seconds = time.perf_counter() - start
            if tally.done != volumes:
                raise SystemExit(f"{tally.failed} of {volumes} volumes could not be scored")
            scored = len((folder / f"out_{batch}" / "slices.csv").read_text(encoding="utf-8").splitlines()) - 1
            account = json.loads((folder / f"out_{batch}" / "run.json").read_text(encoding="utf-8"))
            rows.append(
                {
                    "at_once": predictor.batch_size,
                    "scored": scored,
                    "seconds": seconds,
                    "slices_a_second": scored / seconds,
                    "peak_gib": read_peak(),
                    **read_gpu_peak(device),
                    "stages_s": account["stages_s"],
                }
            )
    return {"backbone": backbone, "size": size, "shape": shape, "volumes": volumes, "rows": rows}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="ViT-L-14-336")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--slices", type=int, default=155)
    parser.add_argument("--volumes", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--device", default="cuda")
    print(json.dumps(measure(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
