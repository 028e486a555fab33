"""How near bf16 and int8 come to float32: heatmaps of a tower with random weights. Prints JSON.

python -m benchmarks.precision [--backbone ...] [--size ...] [--slices ...]
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch

from benchmarks.subjects import build_subject, draw_slices

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


def draw_heatmaps(dtype: torch.dtype, backbone: str, size: int, slices: int) -> np.ndarray[Any, Any]:
    """Heatmaps (B, size * size)."""
    detector = build_subject(backbone, size)
    with torch.inference_mode():
        anchors = detector.encode_noun("scan")
        detector.prepare_inference(dtype)
        return detector(draw_slices(slices, size), anchors)[0].flatten(1).numpy()  # type: ignore[no-any-return]


def measure(backbone: str, size: int, slices: int) -> dict[str, Any]:
    """Correlations with float32, over all pixels and of the slice where it is lowest."""
    maps = {name: draw_heatmaps(dtype, backbone, size, slices) for name, dtype in DTYPES.items()}
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
    print(json.dumps(measure(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
