"""A bank of normal patches, from normal slices, in few (PatchCore, Roth et al., CVPR 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from aaclip_med.data.index import Case
from aaclip_med.data.slices import CutCase
from aaclip_med.errors import InputError
from aaclip_med.inference.cutting import Cutting, cut_planes
from aaclip_med.inference.memory import explain_full_gpu
from aaclip_med.inference.predictor import Predictor
from aaclip_med.model.preprocess import normalise_slices, resize_masks, resize_slices

Array = np.ndarray[Any, Any]
Track = Callable[[Sequence[Case]], Iterable[Case]]

BANK_SIZE = 2000
BANK_WEIGHT = 10.0
CANDIDATES = 5
"""Times as many patches are looked at as are kept."""
PATCHES_A_SLICE = 16
"""At least so many of a slice, where it has them, rather than a few of every slice."""


@explain_full_gpu("one slice at a time")
def collect_bank(
    cases: Sequence[Case],
    predictor: Predictor,
    track: Track = iter,
    cutting: Cutting | None = None,
    size: int = BANK_SIZE,
    seed: int = 0,
) -> tuple[torch.Tensor, ...]:
    """Of each level the unit features (N, E), float16, of up to ``size`` normal patches.

    Patches of the body are drawn from slices without a lesion, from all of ``cases`` alike; of these a coreset is kept.

    Raises:
        InputError: no case has such a slice, one cannot be read, two would share an organ mask, or the size is below 1.
        MemoryError: the GPU's memory is full.
    """
    if size < 1:
        raise InputError(f"a bank of {size} patches: take 1 or more")
    cutting = cutting or Cutting()
    cutting.check_names(cases)
    rng = np.random.default_rng(seed)
    share = math.ceil(CANDIDATES * size / max(1, len(cases)))
    kept: list[list[torch.Tensor]] = [[] for _ in predictor.detector.levels]
    for case in track(cases):
        for cut in cut_planes(case, predictor, cutting):
            for features in _draw_patches(cut, predictor, share, rng):
                for bank, level in zip(kept, features, strict=True):
                    bank.append(level)
    if not kept[0]:
        raise InputError("no slice without a lesion in these cases; a bank of normal patches needs some")
    levels = [torch.cat(bank) for bank in kept]
    return tuple(level[choose_coreset(level, size, seed)].half().cpu() for level in levels)


@torch.inference_mode()
def _draw_patches(
    cut: CutCase, predictor: Predictor, share: int, rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Of each level the features (n, E) of some patches of the body, of one normal slice after the other."""
    if cut.masks is None:
        return
    detector = predictor.detector
    tower, side = detector.config.image_size, predictor.choose_side(*cut.images.shape[1:3])
    normal = [number for number in cut.used if not cut.masks[number].any()]
    count = min(len(normal), max(1, share // PATCHES_A_SLICE))
    for number in sorted(rng.choice(normal, count, replace=False).tolist()) if normal else []:
        picture = torch.from_numpy(np.ascontiguousarray(cut.images[number], dtype=np.float32))
        picture = picture[None, None] if picture.ndim == 2 else picture.movedim(-1, 0)[None]
        picture = resize_slices(picture.to(predictor.device), side)
        top, left = (int(rng.integers(0, side - tower + 1)) for _ in range(2))
        picture = picture[..., top : top + tower, left : left + tower]
        features = detector.encode_image(normalise_slices(picture))
        body = resize_masks((picture.amax(dim=1, keepdim=True) > 0).float(), detector.tower.grid[0]).flatten().cpu().numpy()
        places = rng.permutation(np.flatnonzero(body))[: math.ceil(share / count)]
        if places.size:
            yield tuple(level[0, places].float() for level in features.levels)


@torch.inference_mode()
def choose_coreset(features: torch.Tensor, size: int, seed: int = 0) -> torch.Tensor:
    """The numbers of ``size`` of the unit features (N, E), each the one that lies farthest from those before it.

    From a start drawn by ``seed`` (Gonzalez 1985: no other choice covers the rest more than twice as closely).
    """
    if len(features) <= size:
        return torch.arange(len(features), device=features.device)
    place = int(np.random.default_rng(seed).integers(len(features)))
    chosen = [place]
    nearest = features @ features[place]
    while len(chosen) < size:
        place = int(nearest.argmin())
        chosen.append(place)
        nearest = torch.maximum(nearest, features @ features[place])
    return torch.tensor(chosen, device=features.device)


def add_bank(predictor: Predictor, bank: Sequence[torch.Tensor], weight: float = BANK_WEIGHT) -> None:
    """Let ``predictor`` score with ``bank`` from now on.

    Raises:
        InputError: the weight is not above 0, or the bank is of another detector.
    """
    if not weight > 0:
        raise InputError(f"bank weight {weight:g}: take a number above 0")
    predictor.refine(replace(predictor.refinement, bank_weight=weight), bank)
