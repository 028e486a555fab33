"""What a precision or an option costs on the demo's phantoms: correlation with float32, and AUROC. Prints JSON.

    python -m benchmarks.accuracy [--phantoms N] [--device cpu|cuda]

The shipped demonstration adapters score phantoms that they were not trained on; pixels against masks on the model's grid,
slices by their maxima, as ``aaclip-med evaluate`` does. Options: float32, bf16, int8, dropped background, every second slice;
on a GPU fp16 in place of int8.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from aaclip_med import build_detector
from aaclip_med.data.index import read_index
from aaclip_med.data.phantoms.sets import write_phantom_set
from aaclip_med.data.slices import cut_volume
from aaclip_med.data.volumes import read_volume
from aaclip_med.model.config import TINY_TOWER
from aaclip_med.model.preprocess import find_foreground, normalise_slices, resize_masks, resize_slices
from aaclip_med.presets import PRESETS, get_preset
from benchmarks.machine import is_gpu

SEED = 7
PATCH = TINY_TOWER["vision_cfg"]["patch_size"]
OPTIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bf16": {"dtype": torch.bfloat16},
    "int8": {"dtype": torch.int8},
    "float32, background dropped": {"drop_background": True},
    "int8, background dropped": {"dtype": torch.int8, "drop_background": True},
    "float32, stride 2": {"stride": 2},
}
GPU_OPTIONS = {
    name.replace("int8", "fp16"): options | ({"dtype": torch.float16} if options.get("dtype") == torch.int8 else {})
    for name, options in OPTIONS.items()
}


@dataclass(frozen=True)
class Phantoms:
    """images: (S, 1, size, size) in [0, 1] on the model's grid; masks: the same, bool; starts: where volumes start."""

    images: torch.Tensor
    masks: torch.Tensor
    starts: list[int]


def draw_phantoms(preset: str, count: int, size: int) -> Phantoms:
    """Test phantoms, every other one abnormal."""
    images, masks, starts = [], [], [0]
    with tempfile.TemporaryDirectory() as folder:
        index = write_phantom_set(Path(folder), preset, 0, 0, count, SEED).test
        for case in read_index(index):
            cut = cut_volume(read_volume(case.image_path), get_preset(preset))
            truth = cut.plan.cut(np.asanyarray(nib.load(case.mask_path).dataobj) > 0)[cut.used]
            images.append(resize_slices(torch.from_numpy(np.ascontiguousarray(cut.images[cut.used]))[:, None].float(), size))
            masks.append(resize_masks(torch.from_numpy(np.ascontiguousarray(truth))[:, None].float(), size) > 0)
            starts.append(starts[-1] + len(cut.used))
    return Phantoms(torch.cat(images), torch.cat(masks), starts)


def score(
    phantoms: Phantoms,
    preset: str,
    device: str = "cpu",
    stride: int = 1,
    dtype: torch.dtype = torch.float32,
    drop_background: bool = False,
) -> torch.Tensor:
    """Heatmaps (S, 1, size, size), on the CPU."""
    detector = build_detector(adapters="demo", preset=preset).eval().to(device)
    with torch.no_grad():
        anchors = detector.encode_noun(get_preset(preset).noun_for("reference"))
        detector.prepare_inference(dtype, drop_background)
        maps = torch.cat([detector(normalise_slices(part.to(device)), anchors)[0].cpu() for part in phantoms.images.split(16)])
    for first, end in zip(phantoms.starts, phantoms.starts[1:], strict=False):
        for number in range(first + 1, end - 1):
            if stride == 2 and (number - first) % 2:
                maps[number] = (maps[number - 1] + maps[number + 1]) / 2.0
    return maps


def measure(preset: str, count: int, device: str) -> list[dict[str, Any]]:
    """A row an option."""
    phantoms = draw_phantoms(preset, count, build_detector(adapters="demo", preset=preset).config.image_size)
    pixels, labels = phantoms.masks.flatten().numpy(), phantoms.masks.flatten(1).any(dim=1).numpy()
    normalised = normalise_slices(phantoms.images)
    share = 1.0 - find_foreground(normalised, PATCH).float().mean().item()
    first, rows = None, []
    for name, options in (GPU_OPTIONS if is_gpu(device) else OPTIONS).items():
        maps = score(phantoms, preset, device, **options)
        first = maps if first is None else first
        rows.append(
            {
                "preset": preset,
                "option": name,
                "dropped": share if options.get("drop_background") else 0.0,
                "correlation": float(np.corrcoef(maps.flatten().numpy(), first.flatten().numpy())[0, 1]),
                "pixel_auroc": float(roc_auc_score(pixels, maps.flatten().numpy())),
                "slice_auroc": float(roc_auc_score(labels, maps.flatten(1).amax(dim=1).numpy())),
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
