"""What the frozen tower says of an image, kept on disk."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from aaclip_med.data.writing import atomic_path
from aaclip_med.errors import OutputError

Features = dict[str, torch.Tensor]
Compute = Callable[[torch.Tensor], Features]

LAYOUT = 1
"""Of a file, and of what is in it; features of another layout are not found."""


class FeatureCache:
    """Features by the content of an image and of all that made them: one safetensors file an image in ``folder``.

    A cached feature is the computed one, bit for bit. ``settings`` names what else they depend on: weights, precision, options;
    the kind of device and torch's version are looked at here. A file that is damaged is made anew. Where none can be written
    the user is told once, and features are computed each time.
    """

    def __init__(self, folder: str | Path, settings: str) -> None:
        self.folder = Path(folder)
        self.settings = settings
        self._writes = True

    def fetch(self, images: torch.Tensor, compute: Compute) -> Features:
        """Features of images (B, 3, S, S), (B, ...) each; ``compute`` is asked for those that are not there yet, together."""
        made_by = "|".join((str(LAYOUT), torch.__version__, images.device.type, self.settings))
        paths = [self._find_path(image, made_by) for image in images.detach().cpu()]
        found = {number: features for number, path in enumerate(paths) if (features := _read(path)) is not None}
        missing = [number for number in range(len(paths)) if number not in found]
        if missing:
            computed = compute(images[missing])
            for place, number in enumerate(missing):
                found[number] = {name: tensor[place].cpu().contiguous() for name, tensor in computed.items()}
                self._write(paths[number], found[number])
        return {name: torch.stack([found[number][name] for number in range(len(paths))]).to(images.device) for name in found[0]}

    def _write(self, path: Path, features: Features) -> None:
        if not self._writes:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_bytes(save(features))
        except (OSError, OutputError) as error:
            self._writes = False
            cause = error if isinstance(error, OSError) else error.__cause__
            reason = getattr(cause, "strerror", None) or error
            note = f"cannot write the feature cache {self.folder}: {reason}; training goes on, and keeps no more features"
            print(f"aaclip-med: note: {note}", file=sys.stderr, flush=True)

    def _find_path(self, image: torch.Tensor, made_by: str) -> Path:
        digest = hashlib.sha256(made_by.encode())
        digest.update(image.contiguous().numpy().data)
        return self.folder / f"{digest.hexdigest()}.safetensors"


def _read(path: Path) -> Features | None:
    """What a file holds; None where there is none, or none that can be read."""
    try:
        return load_file(path)
    except (SafetensorError, OSError):
        return None
