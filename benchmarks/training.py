"""One optimiser step of a stage, ours or the yardstick's: seconds and peak memory.

    python -m benchmarks.training WHO STAGE [--precision float32 bf16] [--backbone ...] [--size ...] [--batch ...] [--once]
        [--device cpu|cuda]

WHO: plain, ours, cached (stage text: the tower's view of the images is on disk), checkpointed (stage image). The second step is
timed, on a GPU ten that follow ten others; with ``--once`` the first, for batches so large that one is enough. Prints JSON, a
row for each precision: peak_gib is the process's, loaded_gib its size before the step, with both towers, libraries_gib its size
before these were there, and gpu_peak_gib what was allocated on a GPU, towers included.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any

import torch

from aaclip_med.model.detector import Detector
from aaclip_med.training.assembly import build_optimizer
from aaclip_med.training.stages import ImageLoss, ImageStage, TextLoss, TextStage
from benchmarks.machine import read_gpu_peak, read_peak, reset_peak, time_call
from benchmarks.subjects import build_plain, build_subject, draw_slices


def measure(
    who: str, stage: str, precision: list[str], backbone: str, size: int, batch: int, once: bool, device: str = "cpu"
) -> list[dict[str, Any]]:
    """The figures of one stage, a row for each precision."""
    libraries = read_peak()
    detector = build_subject(backbone, size, device)
    return [
        _measure(detector, who, stage, name, size, batch, once, device) | {"libraries_gib": libraries} for name in precision
    ]


def _measure(
    detector: Detector, who: str, stage: str, precision: str, size: int, batch: int, once: bool, device: str
) -> dict[str, Any]:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    images, nouns = draw_slices(batch, size, device), ["scan"] * batch
    mask = torch.zeros(batch, 1, size, size, device=device)
    mask[: (batch + 1) // 2, 0, size // 3 : size // 2, size // 3 : size // 2] = 1.0
    target = {"mask": mask, "label": mask.flatten(1).amax(dim=1).long()}
    reset_peak(device)
    loaded = read_peak()
    folder = tempfile.TemporaryDirectory()
    if who == "plain":
        plain = build_plain(detector, dtype)
        trained = [tensor.requires_grad_() for name, tensor in plain.adapters.items() if name.startswith(stage)]
        anchors = plain.anchors("scan").detach().expand(batch, -1, -1)

        def compute() -> torch.Tensor:
            if stage == "text":
                return plain.text_loss(images, mask, nouns)
            return plain.image_loss(images, mask, target["label"], anchors)
    else:
        network: Any
        if stage == "text":
            network = TextStage(detector, dtype, folder.name if who == "cached" else None, repeats=True)
        else:
            network = ImageStage(detector, dtype, checkpointing=who == "checkpointed")
        network.train()
        loss = TextLoss(detector) if stage == "text" else ImageLoss()
        trained = list((detector.text_adapter if stage == "text" else detector.image_adapter).parameters())

        def compute() -> torch.Tensor:
            return loss(network(images, nouns), target)

    optimizer = build_optimizer(trained, 1e-5)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        value = compute()
        value.backward()
        optimizer.step()
        return value.detach()

    losses: list[torch.Tensor] = []
    first = time_call(lambda: losses.append(step()), repeats=1, warm=0, device=device)
    seconds = first if once else time_call(step, repeats=1, warm=0, device=device)
    folder.cleanup()
    return {
        "who": who,
        "stage": stage,
        "precision": precision,
        "size": size,
        "batch": batch,
        "seconds_a_step": seconds,
        "first_loss": losses[0].item(),
        "peak_gib": read_peak(),
        "loaded_gib": loaded,
        **read_gpu_peak(device),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("who", choices=["plain", "ours", "cached", "checkpointed"])
    parser.add_argument("stage", choices=["text", "image"])
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=["float32", "bf16"])
    parser.add_argument("--backbone", default="ViT-L-14-336")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(json.dumps(measure(**vars(arguments))))


if __name__ == "__main__":
    main()
