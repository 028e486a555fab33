"""What a volume costs around the tower: reading, windowing, resizing, blur, enlarging, candidates, writing. Prints JSON.

    python -m benchmarks.around [--backbone ...] [--size ...] [--slices ...] [--timed ...] [--device cpu|cuda]

The volume goes through the scoring of ``aaclip-med score``. The tower runs on ``--timed`` slices; for the volume its features
are those of these slices in turn, so that all else is done for every slice while the tower itself takes no time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from aaclip_med.batch.run import score_sources
from aaclip_med.data.sources import find_sources
from aaclip_med.inference.predictor import Predictor
from aaclip_med.model.detector import Detector, ImageFeatures
from aaclip_med.presets import get_preset
from benchmarks.machine import is_gpu, wait_for
from benchmarks.subjects import build_subject, draw_slices

SIDE = 240
EMPTY = 0.06
"""The share of slices without anything in them, at either end; a head scan's own."""


class TowerTimer:
    """The tower of a detector, run and timed once; from then on its features cost nothing."""

    def __init__(self, detector: Detector, images: torch.Tensor, device: str = "cpu") -> None:
        """Time the tower on ``images`` (B, 3, S, S), one at a time, on a GPU all at once."""
        with torch.inference_mode():
            parts = images.split(len(images) if is_gpu(device) else 1)
            detector.encode_image(parts[0])
            wait_for(device)
            start = time.perf_counter()
            features = [detector.encode_image(part) for part in parts]
            wait_for(device)
            self.seconds_a_slice = (time.perf_counter() - start) / len(images)
        self.features = cycle(one for part in features for one in _split(part))

    def encode_image(self, images: torch.Tensor, *rest: Any) -> ImageFeatures:
        """Features for (B, 3, S, S), of slices seen before."""
        del rest
        seen = [next(self.features) for _ in images]
        levels = [torch.cat(parts) for parts in zip(*(one.levels for one in seen), strict=True)]
        return ImageFeatures(levels, torch.cat([one.detection for one in seen]))


def _split(features: ImageFeatures) -> list[ImageFeatures]:
    """A batch's features by slice."""
    numbers = range(len(features.detection))
    return [ImageFeatures([level[n : n + 1] for level in features.levels], features.detection[n : n + 1]) for n in numbers]


def write_volume(path: Path, slices: int) -> tuple[int, ...]:
    """A head with texture on black, int16, as NIfTI; its shape."""
    shape = (SIDE, SIDE, slices)
    i, j, k = np.indices(shape, dtype=np.float32)
    middle, radius = (slices - 1) / 2, (0.5 - EMPTY) * slices
    inside = ((i - 120) / 75) ** 2 + ((j - 120) / 92) ** 2 + ((k - middle) / radius) ** 2 < 1.0
    noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    array = np.where(inside, 400 + 120 * np.sin(i / 9) * np.cos(j / 7 + k / 5) + 30 * noise, 0)
    nib.save(nib.Nifti1Image(array.astype(np.int16), np.diag([1.0, 1.0, 1.0, 1.0])), path)
    return shape


def measure(backbone: str, size: int, slices: int, timed: int, device: str = "cpu") -> dict[str, Any]:
    """Seconds of the tower, and of everything else."""
    predictor = Predictor(build_subject(backbone, size), get_preset("brain-mri"), device=device, precision="bf16")
    detector = predictor.detector.prepare_inference(predictor.dtype)
    timer = TowerTimer(detector, draw_slices(timed, size, device), device)
    detector.encode_image = timer.encode_image  # type: ignore[method-assign, assignment]
    with tempfile.TemporaryDirectory() as folder:
        shape = write_volume(Path(folder) / "scan.nii.gz", slices)
        found = find_sources([Path(folder) / "scan.nii.gz"])
        start = time.perf_counter()
        tally = score_sources(found, predictor, Path(folder) / "out")
        around = time.perf_counter() - start
        account = json.loads((Path(folder) / "out" / "run.json").read_text(encoding="utf-8"))
        scored = len((Path(folder) / "out" / "slices.csv").read_text(encoding="utf-8").splitlines()) - 1
    if tally.done != 1:
        raise SystemExit("the volume could not be scored")
    tower = timer.seconds_a_slice * scored
    return {
        "backbone": backbone,
        "size": size,
        "shape": shape,
        "scored": scored,
        "timed": timed,
        "tower_seconds_a_slice": timer.seconds_a_slice,
        "tower_seconds": tower,
        "around_seconds": around,
        "share": around / (around + tower),
        "stages_s": account["stages_s"],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="ViT-L-14-336")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--slices", type=int, default=155)
    parser.add_argument("--timed", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    print(json.dumps(measure(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
