"""Small CLIP towers with weights from a seed, and the released program's golden vectors."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_TOWER: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 70, "layers": 24, "width": 128, "patch_size": 14, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 12},
}
TOY_TOWER: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 20, "layers": 8, "width": 64, "patch_size": 4, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 4},
    "quick_gelu": True,
}


def clip_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of an OpenAI CLIP state dict, by name, for an open_clip configuration."""
    vision, text, embed = config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    width, patch, text_width = vision["width"], vision["patch_size"], text["width"]
    shapes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((vision["image_size"] // patch) ** 2 + 1, width),
        "visual.proj": (width, embed),
        "visual.conv1.weight": (width, 3, patch, patch),
        "positional_embedding": (text["context_length"], text_width),
        "text_projection": (text_width, embed),
        "token_embedding.weight": (text["vocab_size"], text_width),
        "logit_scale": (),
    }
    norms = [("visual.ln_pre", width), ("visual.ln_post", width), ("ln_final", text_width)]
    for tower, depth, size in (("visual.", vision["layers"], width), ("", text["layers"], text_width)):
        for number in range(depth):
            block = f"{tower}transformer.resblocks.{number}"
            norms += [(f"{block}.ln_1", size), (f"{block}.ln_2", size)]
            for name, rows, columns in (
                ("attn.in_proj_", 3 * size, size),
                ("attn.out_proj.", size, size),
                ("mlp.c_fc.", 4 * size, size),
                ("mlp.c_proj.", size, 4 * size),
            ):
                shapes |= {f"{block}.{name}weight": (rows, columns), f"{block}.{name}bias": (rows,)}
    return shapes | {f"{norm}.{part}": (size,) for norm, size in norms for part in ("weight", "bias")}


def seeded_state_dict(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Float32 tensors of unit gain from numpy's frozen ``RandomState`` stream, drawn in the order of their names."""
    stream, state = np.random.RandomState(seed), {}
    for name in sorted(shapes):
        shape = shapes[name]
        if name == "logit_scale":
            state[name] = torch.tensor(float(np.log(100.0)))
            continue
        values = stream.standard_normal(int(np.prod(shape))).reshape(shape)
        if ".ln_" in name or name.startswith("ln_"):
            values = 1.0 + 0.1 * values if name.endswith("weight") else 0.1 * values
        elif name.endswith("bias"):
            values = 0.02 * values
        elif name.endswith(("embedding", "embedding.weight")):
            values = 0.5 * values
        elif name == "visual.conv1.weight":
            values = values / np.sqrt(np.prod(shape[1:]))
        else:
            values = values / np.sqrt(shape[0] if name in ("visual.proj", "text_projection") else shape[-1])
        state[name] = torch.from_numpy(values.astype(np.float32))
    return state


@functools.cache
def toy_state() -> dict[str, torch.Tensor]:
    """The toy tower's weights; not to be written to."""
    return seeded_state_dict(clip_shapes(TOY_TOWER), 3)


@functools.cache
def golden_state() -> dict[str, torch.Tensor]:
    """The golden tower's weights; not to be written to."""
    return seeded_state_dict(clip_shapes(GOLDEN_TOWER), 7)


@functools.cache
def golden_vectors() -> dict[str, torch.Tensor]:
    """What the released program computed, by key; not to be written to."""
    with np.load(GOLDEN / "golden_small.npz") as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


@functools.cache
def golden_facts() -> dict[str, Any]:
    """The golden JSON: names, prompts, losses; not to be written to."""
    return dict(json.loads((GOLDEN / "golden_small.json").read_text()))


def golden_adapters(relu: bool = False) -> dict[str, torch.Tensor]:
    """The golden adapters in the checkpoint's names; ``relu``: as a projection with a LeakyReLU names its weights."""
    stream, tensors = np.random.RandomState(13), {}
    for part in ("image_adapter", "text_adapter"):
        shapes = golden_facts()[f"{part}_keys"]
        for name in sorted(shapes):
            values = stream.standard_normal(shapes[name]) / np.sqrt(shapes[name][1])
            ours = name.replace(".fc.weight", ".fc.0.weight") if relu else name
            tensors[f"{part}.{ours}"] = torch.from_numpy(values.astype(np.float32))
    return tensors
