"""What the frozen tower says of an image, kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from aaclip_med.data.writing import atomic_path

Features = dict[str, torch.Tensor]
Compute = Callable[[torch.Tensor], Features]


class FeatureCache:
    """Features by the content of an image and of all that made them: one safetensors file an image in ``folder``.

    A cached feature is the computed one, bit for bit. ``settings`` names what else they depend on: weights, precision, options.
    """

    def __init__(self, folder: str | Path, settings: str) -> None:
        self.folder = Path(folder)
        self.settings = settings

    def fetch(self, images: torch.Tensor, compute: Compute) -> Features:
        """Features of images (B, 3, S, S), (B, ...) each; ``compute`` is asked for those that are not there yet, together."""
        paths = [self._find_path(image) for image in images.detach().cpu()]
        missing = [number for number, path in enumerate(paths) if not path.is_file()]
        if missing:
            self.folder.mkdir(parents=True, exist_ok=True)
            computed = compute(images[missing])
            for place, number in enumerate(missing):
                content = save({name: tensor[place].cpu().contiguous() for name, tensor in computed.items()})
                with atomic_path(paths[number]) as temporary:
                    temporary.write_bytes(content)
        stored = [load_file(path) for path in paths]
        return {name: torch.stack([features[name] for features in stored]).to(images.device) for name in stored[0]}

    def _find_path(self, image: torch.Tensor) -> Path:
        digest = hashlib.sha256(self.settings.encode())
        digest.update(image.contiguous().numpy().data)
        return self.folder / f"{digest.hexdigest()}.safetensors"
