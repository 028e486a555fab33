"""A bank of normal patches, from few normal cases (PatchCore, Roth et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from aaclip_med.data.index import Case
from aaclip_med.data.slices import cut_case
from aaclip_med.errors import InputError
from aaclip_med.inference.predictor import Predictor
from aaclip_med.model.preprocess import choose_side, normalise_slices, resize_masks, resize_slices

BANK_SIZE = 2000


@torch.inference_mode()
def collect_bank(cases: Sequence[Case], predictor: Predictor, size: int = BANK_SIZE, seed: int = 0) -> list[torch.Tensor]:
    """Of each level the unit features (N, E) of up to ``size`` patches without lesion, drawn from all of ``cases``.

    Patches of the body are taken, from slices without a lesion.

    Raises:
        InputError: no case has such a slice.
    """
    detector = predictor.detector
    rng = np.random.default_rng(seed)
    kept: list[list[torch.Tensor]] = [[] for _ in detector.levels]
    tower = detector.config.image_size
    for case in cases:
        cut = cut_case(case, predictor.preset)
        if cut.masks is None:
            continue
        side = choose_side(cut.images.shape[1], cut.images.shape[2], tower, predictor.refinement.zoom)
        normal = [number for number in cut.used if not cut.masks[number].any()]
        share = max(1, size // max(1, len(cases) * len(normal)))
        for number in normal:
            picture = torch.from_numpy(np.ascontiguousarray(cut.images[number], dtype=np.float32))
            picture = picture[None, None] if picture.ndim == 2 else picture.movedim(-1, 0)[None]
            picture = resize_slices(picture.to(predictor.device), side)
            top, left = (int(rng.integers(0, side - tower + 1)) for _ in range(2))
            picture = picture[..., top : top + tower, left : left + tower]
            features = detector.encode_image(normalise_slices(picture))
            body = resize_masks((picture.amax(dim=1, keepdim=True) > 0).float(), detector.tower.grid[0]).flatten().cpu().numpy()
            places = rng.permutation(np.flatnonzero(body))[:share]
            for level, bank in zip(features.levels, kept, strict=True):
                bank.append(level[0, places].float())
    if not kept[0]:
        raise InputError("no slice without a lesion in these cases; a bank of normal patches needs some")
    return [torch.cat(bank) for bank in kept]
