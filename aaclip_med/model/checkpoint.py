"""Adapters on disk: one safetensors file that says all there is to know, and the released program's pairs."""

from __future__ import annotations

import json
import os
import pickle
import re
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from aaclip_med import __version__
from aaclip_med.errors import CheckpointError, InputError
from aaclip_med.model.config import DetectorConfig
from aaclip_med.model.weights import UNREADABLE, first_line, hash_state
from aaclip_med.presets import PRESETS

FORMAT = "aaclip-med/1"
DEMO = "demo"
ZERO_SHOT = "none"
BANK = "bank."


@dataclass(frozen=True)
class Checkpoint:
    """Both adapters and all that is needed to use them.

    tensors: ``image_adapter.*`` and ``text_adapter.*``.
    tower_hash: SHA-256 of the tower's weights the adapters were trained on; empty where unknown (the released files).
    calibration: what ``aaclip-med calibrate`` stored, plain data; None before.
    provenance: how the adapters came to be (command, figures); ``demo`` True marks a demonstration.
    bank: of each level the unit features (N, E) of normal patches, float16; None: there is none.
    """

    config: DetectorConfig
    tensors: dict[str, torch.Tensor]
    tower_hash: str
    preset: str | None = None
    calibration: dict[str, Any] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    version: str = __version__
    bank: tuple[torch.Tensor, ...] | None = None

    @property
    def is_demo(self) -> bool:
        """Whether every output made with it must be marked as a demonstration."""
        return bool(self.provenance.get("demo"))

    @property
    def digest(self) -> str:
        """SHA-256 of the adapters' tensors."""
        return hash_state(self.tensors)

    def to_bytes(self) -> bytes:
        """The file's content, safetensors with JSON under ``aaclip_med`` in its metadata."""
        about = {
            "format": FORMAT,
            "version": self.version,
            "config": self.config.to_json(),
            "tower_hash": self.tower_hash,
            "preset": self.preset,
            "calibration": self.calibration,
            "provenance": self.provenance,
        }
        bank = {f"{BANK}{number}": level.cpu().half().contiguous() for number, level in enumerate(self.bank or ())}
        return save(self.tensors | bank, metadata={"aaclip_med": json.dumps(about)})


def find_checkpoint(adapters: str | Path, preset: str | None) -> Path:
    """The file or folder that ``adapters`` names; ``demo`` is the one shipped for ``preset``.

    Raises:
        CheckpointError: there is none.
    """
    if str(adapters) == DEMO:
        name = preset or next(iter(PRESETS))
        path = Path(str(files("aaclip_med"))) / "demo_adapters" / f"{name}.safetensors"
        if not path.is_file():
            raise CheckpointError(f"no demo adapters are shipped for preset '{name}'")
        return path
    path = Path(adapters)
    if not path.exists():
        raise CheckpointError(f"{path}: no such adapters; name a .safetensors file, '{DEMO}' or '{ZERO_SHOT}'")
    return path


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a safetensors file of ours.

    Raises:
        CheckpointError: the file is damaged or none of ours.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        about = json.loads(metadata["aaclip_med"])
        if about["format"] != FORMAT:
            raise CheckpointError(f"{path}: format '{about['format']}' is not '{FORMAT}'; update aaclip-med")
        forms: dict[str, tuple[type, ...]] = {
            "tower_hash": (str,),
            "preset": (str, type(None)),
            "calibration": (dict, type(None)),
            "provenance": (dict,),
            "version": (str,),
        }
        wrong = [name for name, form in forms.items() if not isinstance(about[name], form)]
        if wrong:
            raise CheckpointError(f"{path}: damaged, its {wrong[0]} has a wrong form; make or copy it again")
        levels = sorted((name for name in tensors if name.startswith(BANK)), key=lambda name: int(name.removeprefix(BANK)))
        bank = tuple(tensors.pop(name) for name in levels)
        return Checkpoint(
            config=DetectorConfig.from_json(about["config"]),
            tensors=tensors,
            bank=bank or None,
            tower_hash=about["tower_hash"],
            preset=about["preset"],
            calibration=about["calibration"],
            provenance=about["provenance"],
            version=about["version"],
        )
    except KeyError as error:
        raise CheckpointError(f"{path}: a safetensors file, but not aaclip-med adapters ({error} is missing)") from error
    except (SafetensorError, OSError, ValueError, TypeError, InputError) as error:
        reason = first_line(error)
        raise CheckpointError(f"{path}: damaged or no adapters file ({reason}); make or copy it again") from error


def find_named_weights(config: DetectorConfig, adapters: str | Path) -> str:
    """The weights that adapters with ``config`` name: a relative file name is looked up where the adapters lie."""
    beside = Path(adapters).resolve().parent / config.weights
    return str(beside) if Path(adapters).is_file() and beside.is_file() else config.weights


def rename_weights(config: DetectorConfig, source: str | Path | None, target: str | Path) -> DetectorConfig:
    """``config`` as adapters at ``target`` must have it that come from those at ``source``: a relative file name is seen
    from there.
    """
    found = config.weights if source is None else find_named_weights(config, source)
    if found == config.weights:
        return config
    return replace(config, weights=Path(os.path.relpath(found, Path(target).resolve().parent)).as_posix())


def read_released_pair(folder: Path) -> dict[str, torch.Tensor]:
    """The released program's ``text_adapter.pth`` and its last ``image_adapter_N.pth`` in ``folder``, in our names.

    Raises:
        CheckpointError: one of the two is missing or unreadable.
    """
    numbered = {
        int(match.group(1)): path
        for path in folder.glob("image_adapter_*.pth")
        if (match := re.fullmatch(r"image_adapter_(\d+)\.pth", path.name))
    }
    text = folder / "text_adapter.pth"
    if not text.is_file() or not numbered:
        raise CheckpointError(f"{folder}: needs text_adapter.pth and image_adapter_N.pth, the released program's files")
    tensors: dict[str, torch.Tensor] = {}
    for part, path in (("text_adapter", text), ("image_adapter", numbered[max(numbered)])):
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{path}: holds more than tensors or is damaged, so it is not loaded; copy it again"
            ) from error
        except UNREADABLE as error:
            raise CheckpointError(f"{path}: cannot be read ({first_line(error)}); copy it again") from error
        state = stored.get(part, stored) if isinstance(stored, dict) else None
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise CheckpointError(f"{path}: holds no '{part}' state dict")
        tensors |= {f"{part}.{name}": tensor for name, tensor in state.items()}
    return tensors
