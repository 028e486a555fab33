"""How long the command line takes to start: ``--help``, and ``score`` of one small volume with ``tiny``. Prints JSON.

python -m benchmarks.startup [--device cpu|cuda]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.machine import time_call

COMMAND = [sys.executable, "-m", "aaclip_med"]


def run(*arguments: str) -> None:
    """One command, silent."""
    subprocess.run([*COMMAND, *arguments], check=True, capture_output=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    with tempfile.TemporaryDirectory() as folder:
        i, j, k = np.indices((64, 64, 12))
        head = np.where((i - 32) ** 2 + (j - 32) ** 2 < 700, 300 + 50 * np.sin(i / 5) * np.cos(j / 4 + k), 0)
        volume = Path(folder) / "scan.nii.gz"
        nib.save(nib.Nifti1Image(head.astype(np.int16), np.eye(4)), volume)
        score = ["score", str(volume), "--adapters", "demo", "--preset", "brain-mri", "--device", device]
        score += ["--overwrite", "--out", f"{folder}/out"]
        figures = {"help_seconds": time_call(lambda: run("--help")), "score_seconds": time_call(lambda: run(*score))}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
