"""How near bf16 and int8 (on a GPU fp16) come to float32: heatmaps of a tower with random weights. Prints JSON.

python -m benchmarks.precision [--backbone ...] [--size ...] [--slices ...] [--device cpu|cuda]
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch

from benchmarks.machine import is_gpu
from benchmarks.subjects import build_subject, draw_slices

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
GPU_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def draw_heatmaps(dtype: torch.dtype, backbone: str, size: int, slices: int, device: str) -> np.ndarray[Any, Any]:
    """Heatmaps (B, size * size)."""
    detector = build_subject(backbone, size, device)
    with torch.inference_mode():
        anchors = detector.encode_noun("scan")
        detector.prepare_inference(dtype)
        return detector(draw_slices(slices, size, device), anchors)[0].flatten(1).cpu().numpy()  # type: ignore[no-any-return]


def measure(backbone: str, size: int, slices: int, device: str = "cpu") -> dict[str, Any]:
    """Correlations with float32, over all pixels and of the slice where it is lowest."""
    dtypes = GPU_DTYPES if is_gpu(device) else DTYPES
    maps = {name: draw_heatmaps(dtype, backbone, size, slices, device) for name, dtype in dtypes.items()}
    full = maps.pop("float32")
    rows = [
        {
            "precision": name,
            "correlation": float(np.corrcoef(found.ravel(), full.ravel())[0, 1]),
            "worst_slice": min(float(np.corrcoef(one, other)[0, 1]) for one, other in zip(found, full, strict=True)),
        }
        for name, found in maps.items()
    ]
    return {"backbone": backbone, "size": size, "slices": slices, "rows": rows}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="ViT-L-14-336")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    print(json.dumps(measure(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
