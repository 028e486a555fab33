"""What an optimiser step allocates on a GPU, counted where there is none: tensors that are not there, on torch's meta device.

    python -m benchmarks.memory WHO STAGE [--backbone ...] [--size ...] [--batch ...]

WHO: plain, ours, checkpointed (stage image). In float32; every block taken runs as it would on a GPU, with torch's
memory-efficient attention. Counted are the tensors, towers included: a GPU adds its context, cuBLAS' workspaces and what its
allocator rounds up. Prints JSON: peak_gib of the second step, loaded_gib before the first.
"""

from __future__ import annotations

import argparse
import json
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aaclip_med.model.detector import Detector
from aaclip_med.training.assembly import build_optimizer
from aaclip_med.training.stages import ImageLoss, ImageStage, TextLoss, TextStage
from benchmarks.plain import PlainAAClip
from benchmarks.subjects import build_subject

META = "meta"
ROUNDED = 512
"""Bytes; an allocation of CUDA's is a multiple of it."""


class Ledger(TorchDispatchMode):
    """Counts the bytes of the meta device's storages that are alive, and the most that ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func`` and note what it allocates."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.note(leaf)
        return result

    def note(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage, if it is new and on the meta device, until it is given back."""
        storage = tensor.untyped_storage()
        if tensor.device.type != META or storage in self._known:
            return
        size = -(-storage.nbytes() // ROUNDED) * ROUNDED
        self._known.add(storage)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._give_back, size)

    def _give_back(self, size: int) -> None:
        self.live -= size


def count(who: str, stage: str, backbone: str, size: int, batch: int) -> dict[str, Any]:
    """Peaks in GiB of an optimiser step of ``batch`` images of ``size`` pixels."""
    detector = build_subject(backbone, size)
    _leave_values(detector)
    with _as_on_a_gpu(), Ledger() as ledger:
        for tensor in (*detector.parameters(), *detector.buffers()):
            ledger.note(tensor.data)
        loaded = ledger.live
        compute, trained = _prepare(detector, who, stage, size, batch)
        optimizer = build_optimizer(trained, 1e-5)
        for _ in range(2):
            ledger.peak = ledger.live
            optimizer.zero_grad()
            compute().backward()
            optimizer.step()
    row = {"stage": stage, "who": who, "batch": batch, "size": size}
    return row | {"loaded_gib": loaded / 1024**3, "peak_gib": ledger.peak / 1024**3}


def _prepare(
    detector: Detector, who: str, stage: str, size: int, batch: int
) -> tuple[Callable[[], torch.Tensor], list[torch.Tensor]]:
    """A step's loss, and what is trained."""
    with torch.device(META):
        images, mask = torch.zeros(batch, 3, size, size), torch.zeros(batch, 1, size, size)
        label, anchors = torch.zeros(batch, dtype=torch.long), torch.zeros(batch, detector.tower.embed_dim, 2)
    nouns, target = ["scan"] * batch, {"mask": mask, "label": label}
    if who == "plain":
        parts = {"image_adapter": detector.image_adapter, "text_adapter": detector.text_adapter}
        adapters = {f"{part}.{name}": one for part, module in parts.items() for name, one in module.state_dict().items()}
        plain = PlainAAClip(detector.tower.clip.state_dict(), adapters, detector.levels)
        trained = [tensor.requires_grad_() for name, tensor in plain.adapters.items() if name.startswith(stage)]
        if stage == "text":
            return lambda: plain.text_loss(images, mask, nouns), trained
        return lambda: plain.image_loss(images, mask, label, anchors), trained
    if stage == "text":
        text, text_loss = TextStage(detector).train(), TextLoss(detector)
        return lambda: text_loss(text(images, nouns), target), list(detector.text_adapter.parameters())
    image, image_loss = ImageStage(detector, checkpointing=who == "checkpointed").train(), ImageLoss()
    return lambda: image_loss(image(images, nouns), target), list(detector.image_adapter.parameters())


def _leave_values(detector: Detector) -> None:
    """Put the detector on the meta device; the tower's blocks hold on to their weights, so each is replaced in its place."""
    for module in detector.modules():
        for name, tensor in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(torch.empty_like(tensor, device=META), tensor.requires_grad))
        for name, tensor in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty_like(tensor, device=META))


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """On the meta device attention would keep its matrix, and autocast refuses, also to be off."""

    def attend(query: Any, key: Any, value: Any, is_causal: bool = False, scale: float | None = None) -> torch.Tensor:
        train = query.requires_grad or key.requires_grad or value.requires_grad
        efficient = torch.ops.aten._scaled_dot_product_efficient_attention
        return efficient(query, key, value, None, train, 0.0, is_causal, scale=scale)[0]  # type: ignore[no-any-return]

    functional = torch.nn.functional
    with (
        patch.object(functional, "scaled_dot_product_attention", attend),
        patch.object(torch, "autocast", lambda *_args, **_options: nullcontext()),
    ):
        yield


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", choices=("plain", "ours", "checkpointed"))
    parser.add_argument("stage", choices=("text", "image"))
    parser.add_argument("--backbone", default="ViT-L-14-336")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--batch", type=int, default=2)
    options = parser.parse_args()
    print(json.dumps(count(options.who, options.stage, options.backbone, options.size, options.batch)))


if __name__ == "__main__":
    main()
