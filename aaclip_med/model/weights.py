"""The towers' weights: tags, files and state dicts, all read without running code from them, all matched strictly."""

from __future__ import annotations

import hashlib
import pickle
import struct
import urllib.error
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.constants import HF_WEIGHTS_NAME
from open_clip.model import resize_pos_embed
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from safetensors import SafetensorError
from safetensors.torch import load_file

from aaclip_med.errors import WeightsError
from aaclip_med.model.config import TINY, TINY_TOWER
from aaclip_med.model.hub import SCHEME, fetch_hub_file
from aaclip_med.model.towers import Tower

State = dict[str, torch.Tensor]

OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's archives store beside the weights."""

UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    AttributeError,
    struct.error,
    zipfile.BadZipFile,
    SafetensorError,
)
"""What the readers raise on a damaged file, apart from ``pickle.UnpicklingError``."""

TINY_SEED = 2025


def find_state(backbone: str | dict[str, Any], weights: str | Path, tower: Tower) -> State:
    """The weights named ``weights``: an existing file, a file of a hub (``hf://``, see ``model.hub``), a tag of open_clip for
    ``backbone``, or ``tiny``'s own.

    Raises:
        WeightsError: there is no such file or tag, the file is damaged, or the tag's file cannot be downloaded.
    """
    if str(weights) == TINY and backbone == TINY:
        shapes = {name: tuple(tensor.shape) for name, tensor in tower.clip.state_dict().items()}
        side = TINY_TOWER["vision_cfg"]["image_size"] // TINY_TOWER["vision_cfg"]["patch_size"]
        shapes["visual.positional_embedding"] = (side**2 + 1, tower.vision_width)
        return seed_state(shapes, TINY_SEED)
    if str(weights).startswith(SCHEME):
        return read_state(fetch_hub_file(str(weights)))
    path = Path(weights)
    if path.is_file():
        return read_state(path)
    known = open_clip.list_pretrained_tags_by_model(backbone) if isinstance(backbone, str) else []
    if str(weights) not in known:
        tags = f"; its tags are {', '.join(known)}" if known else ""
        raise WeightsError(f"weights '{weights}': no such file, and no tag of backbone '{_label(backbone)}'{tags}")
    return read_state(_download(str(backbone), str(weights)))


def _label(backbone: str | dict[str, Any]) -> str:
    return backbone if isinstance(backbone, str) else "(configuration)"


def _download(backbone: str, tag: str) -> Path:
    settings = get_pretrained_cfg(backbone, tag)
    repository, _, file = str(settings.get("hf_hub", "")).rpartition("/")
    source = settings.get("url") or f"https://huggingface.co/{repository}/resolve/main/{file or HF_WEIGHTS_NAME}"
    try:
        return Path(download_pretrained(settings))
    except (OSError, RuntimeError, urllib.error.URLError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"weights '{tag}' of {backbone} could not be downloaded ({reason}); fetch {source} on another machine and "
            "pass the file with --weights FILE (in Python: weights=FILE)"
        ) from error


def read_state(path: Path) -> State:
    """The state dict in a file: safetensors, a torch file (open_clip's or OpenAI's), or OpenAI's TorchScript archive.

    Raises:
        WeightsError: the file is missing, damaged, or holds something else than tensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        elif _is_torchscript(path):
            with warnings.catch_warnings():
                # torch calls TorchScript deprecated; OpenAI's archives stay as they are.
                warnings.filterwarnings("ignore", message=".*torch.jit.load.*")
                loaded = torch.jit.load(str(path), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: this file holds more than tensors or is damaged, so it is not loaded; save its state dict alone"
        ) from error
    except UNREADABLE as error:
        raise WeightsError(f"{path}: not a readable weights file ({first_line(error)}); fetch it again") from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise WeightsError(f"{path}: no state dict of tensors in this file")
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


def first_line(error: BaseException) -> str:
    """An error's message, cut to one line."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def load_tower(tower: Tower, state: Mapping[str, torch.Tensor], source: str) -> str:
    """Put ``state`` into ``tower``, position embeddings resized to its image size; returns the weights' SHA-256.

    The hash is of the float32 tensors as given, so it does not depend on the image size or the stored precision.

    Raises:
        WeightsError: a tensor is missing, unexpected or of another shape.
    """
    given = {name: tensor.detach().float() for name, tensor in state.items() if name not in OPENAI_EXTRAS}
    expected = tower.clip.state_dict()
    digest = hash_state(given)
    resized = dict(given)
    position = resized.get("visual.positional_embedding")
    if position is not None and round((position.shape[0] - 1) ** 0.5) ** 2 == position.shape[0] - 1:
        resize_pos_embed(resized, tower.clip)
    faults = [f"{name} is missing" for name in sorted(expected.keys() - resized.keys())]
    faults += [f"{name} is not of this tower" for name in sorted(resized.keys() - expected.keys())]
    faults += [
        f"{name} is {tuple(resized[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & resized.keys())
        if resized[name].shape != expected[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise WeightsError(
            f"{source} does not fit the backbone: {'; '.join(faults[:3])}{more}; name the backbone it was made for"
        )
    tower.clip.load_state_dict(resized, strict=True)
    return digest


def hash_state(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names and float32 bytes, by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


def seed_state(shapes: Mapping[str, tuple[int, ...]], seed: int) -> State:
    """Random weights for a CLIP model, the same on every machine: numpy's frozen ``RandomState`` stream, by name.

    The scales are those open_clip's own initialisation has: they leave the towers near the identity, so that what an
    image shows at one place is still to be found in the last block's token there.
    """
    stream = np.random.RandomState(seed)
    width = shapes["positional_embedding"][1]
    depth = len({name.split(".")[2] for name in shapes if name.startswith("transformer.resblocks.")})
    state = {}
    for name in sorted(shapes):
        shape = shapes[name]
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 0
        if name == "logit_scale":
            values = np.full(shape, np.log(1 / 0.07))
        elif "ln_" in name:
            values = np.full(shape, 1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("bias"):
            values = np.zeros(shape)
        elif name.startswith("visual."):
            if name.endswith(("embedding", "proj")):
                values = stream.standard_normal(shape) * shapes["visual.class_embedding"][0] ** -0.5
            elif name.endswith("in_proj_weight"):
                values = stream.uniform(-1, 1, shape) * (6 / (shape[0] + shape[1])) ** 0.5
            else:
                values = stream.uniform(-1, 1, shape) * fan_in**-0.5
        elif name == "token_embedding.weight":
            values = stream.standard_normal(shape) * 0.02
        elif name == "positional_embedding":
            values = stream.standard_normal(shape) * 0.01
        else:
            scale = width**-0.5
            if name.endswith(("out_proj.weight", "c_proj.weight")):
                scale *= (2 * depth) ** -0.5
            elif name.endswith("c_fc.weight"):
                scale = (2 * width) ** -0.5
            values = stream.standard_normal(shape) * scale
        state[name] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return state
