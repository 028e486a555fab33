"""One door to the model: ``build_detector``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from open_clip.pretrained import get_pretrained_cfg

from aaclip_med.errors import CheckpointError, InputError
from aaclip_med.model.checkpoint import (
    ZERO_SHOT,
    Checkpoint,
    find_checkpoint,
    find_named_weights,
    read_checkpoint,
    read_released_pair,
)
from aaclip_med.model.config import (
    DEFAULT_BACKBONE,
    DEFAULT_IMAGE_SIZE,
    DEFAULT_WEIGHTS,
    TINY,
    TINY_ADAPTERS,
    ActivationName,
    DetectorConfig,
    Fidelity,
)
from aaclip_med.model.detector import Detector
from aaclip_med.model.towers import build_tower, find_tower_config
from aaclip_med.model.weights import find_state, load_tower

Backbone = str | dict[str, Any]
Weights = str | Path | Mapping[str, torch.Tensor]


def build_detector(
    backbone: Backbone | None = None,
    weights: Weights | None = None,
    image_size: int | None = None,
    fidelity: str | Fidelity | None = None,
    adapters: str | Path | None = None,
    *,
    preset: str | None = None,
    activation: str | None = None,
    stage_one_levels: str | None = None,
    value_attention: str | None = None,
    levels: tuple[int, ...] | None = None,
    text_adapters: int | None = None,
    image_adapters: int | None = None,
    text_mix: float | None = None,
    image_mix: float | None = None,
    projection_relu: bool | None = None,
    seed: int = 0,
) -> Detector:
    """The detector, on the CPU, towers loaded and frozen.

    Args:
        backbone: an open_clip ViT by name (default ``ViT-L-14-336``), ``tiny``, or an open_clip configuration dictionary.
        weights: an open_clip tag (default ``openai``; downloaded on first use), a file, or a state dict. ``tiny`` has its own.
        image_size: pixels, a multiple of the patch; default 518 for ``ViT-L-14-336``, else the configuration's own.
        fidelity: ``reference`` (default: the released program's numbers) or ``paper``; ``activation``, ``stage_one_levels``
            and ``value_attention`` replace one option of it each.
        adapters: None: fresh ones, drawn from ``seed``; a checkpoint file, which then also says all the rest; a folder with the
            released program's pair; ``demo`` (shipped, by ``preset``); ``none``: zero-shot CLIP.
        levels, text_adapters, image_adapters, text_mix, image_mix, projection_relu: see ``DetectorConfig``; ``tiny`` has its
            own defaults.

    Raises:
        InputError: an option is unknown or does not suit the tower.
        WeightsError: the weights cannot be had or do not fit.
        CheckpointError: the adapters are damaged or belong to another tower.
    """
    checkpoint: Checkpoint | None = None
    path: Path | None = None
    if adapters is not None and str(adapters) != ZERO_SHOT:
        path = find_checkpoint(adapters, preset)
        if path.is_file():
            checkpoint = read_checkpoint(path)
            _refuse_conflicts(path, checkpoint.config, backbone, fidelity)
    if checkpoint is not None and path is not None:
        config = checkpoint.config
        config = replace(config, image_size=config.image_size if image_size is None else image_size)
        if weights is None:
            weights = find_named_weights(config, path)
    else:
        backbone = DEFAULT_BACKBONE if backbone is None else backbone
        if weights is None:
            weights = _default_weights(backbone)
        if not isinstance(fidelity, Fidelity):
            fidelity = Fidelity.named(fidelity or "reference", activation, stage_one_levels, value_attention)
        given = {
            "levels": levels,
            "text_adapters": text_adapters,
            "image_adapters": image_adapters,
            "text_mix": text_mix,
            "image_mix": image_mix,
            "projection_relu": projection_relu,
        }
        config = DetectorConfig(
            backbone=backbone,
            weights=_name_weights(weights),
            image_size=_default_image_size(backbone) if image_size is None else image_size,
            fidelity=fidelity,
            **(TINY_ADAPTERS if backbone == TINY else {}) | {name: value for name, value in given.items() if value is not None},
        )
    tower = build_tower(config.backbone, config.image_size, settle_activation(config))
    state = weights if isinstance(weights, Mapping) else find_state(config.backbone, weights, tower)
    tower_hash = load_tower(tower, state, _name_weights(weights))
    detector = Detector(config, tower, adapted=str(adapters) != ZERO_SHOT, seed=seed)
    detector.tower_hash = tower_hash
    if checkpoint is not None and path is not None:
        if checkpoint.tower_hash != tower_hash:
            raise CheckpointError(
                f"{path} was trained on a tower with other weights (hash {checkpoint.tower_hash[:12]}, given "
                f"{tower_hash[:12]} from {_name_weights(weights)}); name the weights it was trained on with --weights"
            )
        load_adapters(detector, checkpoint.tensors, path)
    elif path is not None:
        load_adapters(detector, read_released_pair(path), path)
    return detector


def settle_activation(config: DetectorConfig) -> ActivationName:
    """``gelu`` or ``quick_gelu``: ``as_trained`` asks the configuration, then the weights' tag, and else means QuickGELU."""
    chosen = config.fidelity.activation
    if chosen != "as_trained":
        return chosen
    settings = find_tower_config(config.backbone)
    tagged = get_pretrained_cfg(config.backbone, config.weights) if isinstance(config.backbone, str) else {}
    if tagged:
        quick = bool(tagged.get("quick_gelu", settings.get("quick_gelu", False)))
    else:
        quick = bool(settings.get("quick_gelu", True))
    return "quick_gelu" if quick else "gelu"


def load_adapters(detector: Detector, tensors: Mapping[str, torch.Tensor], source: Path | str) -> None:
    """Put adapter tensors into ``detector``, strictly.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape.
    """
    expected = detector.adapter_state()
    faults = [f"{name} is missing" for name in sorted(expected.keys() - tensors.keys())]
    faults += [f"{name} is not of this detector" for name in sorted(tensors.keys() - expected.keys())]
    faults += [
        f"{name} is {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if tensors[name].shape != expected[name].shape
    ]
    if faults:
        raise CheckpointError(f"{source} belongs to another tower: {'; '.join(faults[:3])}; name the backbone it was made for")
    detector.load_state_dict({**detector.state_dict(), **tensors}, strict=True)


def _refuse_conflicts(path: Path, config: DetectorConfig, backbone: Backbone | None, fidelity: str | Fidelity | None) -> None:
    if backbone is not None and backbone != config.backbone:
        raise CheckpointError(f"{path} was made for backbone '{config.backbone}', not '{backbone}'; leave the backbone out")
    name = fidelity.name if isinstance(fidelity, Fidelity) else fidelity
    if name is not None and name != config.fidelity.name:
        raise CheckpointError(
            f"{path} was trained with fidelity '{config.fidelity.name}', not '{name}'; leave the fidelity out"
        )


def _default_weights(backbone: Backbone) -> str:
    if backbone == TINY:
        return TINY
    if isinstance(backbone, dict):
        raise InputError("a tower given as a configuration needs weights: a state dict or a file")
    return DEFAULT_WEIGHTS


def _default_image_size(backbone: Backbone) -> int:
    if backbone == DEFAULT_BACKBONE:
        return DEFAULT_IMAGE_SIZE
    return int(find_tower_config(backbone).get("vision_cfg", {}).get("image_size", 224))


def _name_weights(weights: Weights) -> str:
    if isinstance(weights, Mapping):
        return "state dict"
    path = Path(weights)
    return str(path.resolve()) if path.is_file() else str(weights)
