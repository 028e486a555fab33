"""What a precision or an option costs on the demo's phantoms: correlation with float32, and AUROC. Prints JSON.

    python -m benchmarks.accuracy [--phantoms N] [--device cpu|cuda]

The shipped demonstration adapters score phantoms that they were not trained on, as ``aaclip-med score`` does: with their own
refinement, on the scans' own grid; slices by the highest voxel of their heatmap. Options: float32, bf16, int8, dropped
background, every second slice; on a GPU fp16 in place of int8.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from aaclip_med.data.index import read_index
from aaclip_med.data.phantoms.sets import write_phantom_set
from aaclip_med.data.volumes import Volume, read_mask, read_volume
from aaclip_med.inference.predictor import load_predictor
from aaclip_med.presets import PRESETS
from benchmarks.machine import is_gpu

Array = np.ndarray[Any, Any]

SEED = 7
OPTIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bf16": {"precision": "bf16"},
    "int8": {"precision": "int8"},
    "float32, background dropped": {"drop_background": True},
    "int8, background dropped": {"precision": "int8", "drop_background": True},
    "float32, stride 2": {"stride": 2},
}
GPU_OPTIONS = {
    name.replace("int8", "fp16"): options | ({"precision": "fp16"} if options.get("precision") == "int8" else {})
    for name, options in OPTIONS.items()
}


def draw_phantoms(preset: str, count: int) -> list[tuple[Volume, Array]]:
    """Test phantoms (I, J, K) and their masks, every other one abnormal."""
    with tempfile.TemporaryDirectory() as folder:
        cases = read_index(write_phantom_set(Path(folder), preset, 0, 0, count, SEED).test)
        volumes = [read_volume(case.image_path) for case in cases]
        return [(volume, read_mask(case.mask_path, volume) > 0) for volume, case in zip(volumes, cases, strict=True)]


def score(phantoms: list[tuple[Volume, Array]], preset: str, device: str, stride: int = 1, **options: Any) -> list[Array]:
    """Of each phantom the heatmap's slices (S, H, W) in log odds."""
    predictor = load_predictor("demo", preset, device=device, **options)
    found = [predictor.predict_volume(volume, stride=stride) for volume, _ in phantoms]
    return [np.moveaxis(one.heatmap, one.axis, 0) for one in found]


def measure(preset: str, count: int, device: str) -> list[dict[str, Any]]:
    """A row an option."""
    phantoms = draw_phantoms(preset, count)
    predictor = load_predictor("demo", preset, device=device)
    axes = [predictor.prepare(volume).cuts[0].plan.axis for volume, _ in phantoms]
    masks = [np.moveaxis(mask, axis, 0) for (_, mask), axis in zip(phantoms, axes, strict=True)]
    pixels = np.concatenate([mask.ravel() for mask in masks])
    labels = np.concatenate([mask.any(axis=(1, 2)) for mask in masks])
    first, rows = None, []
    for name, options in (GPU_OPTIONS if is_gpu(device) else OPTIONS).items():
        maps = score(phantoms, preset, device, **options)
        heat = np.concatenate([one.ravel() for one in maps])
        first = heat if first is None else first
        rows.append(
            {
                "preset": preset,
                "option": name,
                "correlation": float(np.corrcoef(heat, first)[0, 1]),
                "pixel_auroc": float(roc_auc_score(pixels, heat)),
                "slice_auroc": float(roc_auc_score(labels, np.concatenate([one.max(axis=(1, 2)) for one in maps]))),
            }
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--phantoms", type=int, default=6)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(json.dumps([row for preset in arguments.presets for row in measure(preset, arguments.phantoms, arguments.device)]))


if __name__ == "__main__":
    main()
