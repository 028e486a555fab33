"""Departures from the published scoring, each off by itself: what is done to a map and to a slice's score.

Sources: top-k pooling of image scores (multiple-instance learning; Zaheer et al., CVPR 2020, and others since); mirrored and
shifted copies averaged at test time (Simonyan and Zisserman, ICLR 2015); the guided filter (He, Sun and Tang, ECCV 2010); a
bank of normal patches (PatchCore, Roth et al., CVPR 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from aaclip_med.errors import InputError
from aaclip_med.model.detector import Detector, ImageFeatures
from aaclip_med.model.preprocess import normalise_slices
from aaclip_med.model.sharpening import leave_background, sharpen
from aaclip_med.model.similarity import BLUR, Domain, blur, compare_patches, score_detection
from aaclip_med.scoring.pooling import pool_maps, smooth_scores

Array = np.ndarray[Any, Any]

OVERLAP = 0.25
"""The share of a tile's side, or more, that the next tile shows as well."""


@dataclass(frozen=True)
class Refinement:
    """The defaults are the published scoring.

    pool_share: a slice's score is the mean of this share of its map's highest pixels; 0: the maximum.
    reach: sigma, in patches, of a Gaussian along a volume's slices that smooths their scores: a lesion goes through several,
        and noise does not; 0: each slice by itself.
    detection_weight: log odds added to a slice's score for a detection token that is wholly "abnormal" (cosine 1).
    fuse: volumes whose voxels are at most so many times as long as wide are scored in three planes, which are
        averaged: three times the work; 0: in one plane. See ``fusion.choose_plane``.
    flips: the maps of a slice and of its mirror image are averaged.
    shifts: the patches are laid n times along each axis, each time a part of a patch further, and the maps interleaved: n times
        as fine, n * n times the time.
    zoom: a slice is resized to up to so many times the tower's side, as far as it has the pixels, and scored in overlapping
        tiles, for small lesions and large pictures; the map is as much larger.
    sigma: of the map's blur, in patches; None: the published one.
    sharpen: radius, in pixels of the map, of a guided filter that lets the map follow the edges of the slice; 0: none.
    foreground: pixels that are 0 under the window get the lowest score of their slice.
    level_weights: of the levels, shallow to deep; None: all the same.
    bank_weight: log odds added for a patch that has nothing in common (cosine 0) with the normal patches of a bank.
    """

    pool_share: float = 0.0
    reach: float = 0.0
    detection_weight: float = 0.0
    fuse: float = 0.0
    flips: bool = False
    shifts: int = 1
    zoom: float = 1.0
    sigma: float | None = None
    sharpen: int = 0
    foreground: bool = False
    level_weights: tuple[float, ...] | None = None
    bank_weight: float = 0.0

    def __post_init__(self) -> None:
        """Raises:
        InputError: a value is out of range.
        """
        faults = [
            (not 0.0 <= self.pool_share <= 1.0, f"pool_share {self.pool_share:g}: take 0 (the maximum) to 1 (the mean)"),
            (not 0.0 <= self.reach <= 10.0, f"reach {self.reach:g}: take 0 to 10 patches"),
            (not (self.fuse == 0.0 or 1.0 <= self.fuse <= 10.0), f"fuse {self.fuse:g}: take 0, or 1 to 10"),
            (not 1 <= self.shifts <= 8, f"shifts {self.shifts}: take 1 to 8"),
            (not 1.0 <= self.zoom <= 8.0, f"zoom {self.zoom:g}: take 1 to 8"),
            (self.sigma is not None and not 0.0 <= self.sigma <= 10.0, f"sigma {self.sigma}: take 0 to 10 patches"),
            (not 0 <= self.sharpen <= 64, f"sharpen {self.sharpen}: take 0 to 64 pixels"),
            (not math.isfinite(self.detection_weight), f"detection_weight {self.detection_weight}: take a number"),
            (not math.isfinite(self.bank_weight), f"bank_weight {self.bank_weight}: take a number"),
        ]
        weights = self.level_weights
        if weights is not None:
            faults.append((min(weights, default=-1) < 0 or sum(weights) <= 0, f"level_weights {weights}: 0 or more, not all 0"))
        for faulty, message in faults:
            if faulty:
                raise InputError(f"refinement: {message}")

    def choose_blur(self, domain: Domain) -> tuple[int, float]:
        """Kernel size and sigma, in patches; a sigma of 0 is no blur."""
        return BLUR[domain] if self.sigma is None else (2 * math.ceil(3 * self.sigma) + 1, self.sigma)

    def describe_pooling(self) -> str:
        """What a slice's score is, in words."""
        pooled = f"the mean of its map's highest {100 * self.pool_share:g} %" if self.pool_share else "its map's maximum"
        if self.detection_weight:
            pooled += f", with {self.detection_weight:g} log odds for the detection head"
        if self.reach:
            pooled += f", smoothed along a volume (Gaussian, {self.reach:g} patches)"
        return pooled

    def to_json(self) -> dict[str, Any]:
        """What differs from the published scoring, as plain data."""
        return {
            field.name: list(value) if isinstance(value := getattr(self, field.name), tuple) else value
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }

    def to_scale(self) -> dict[str, Any]:
        """What of it a calibration depends on: all but ``fuse``, which only chooses a plane."""
        return replace(self, fuse=0.0).to_json()

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Refinement:
        """The inverse of ``to_json``.

        Raises:
            InputError: a name is unknown or a value out of range.
        """
        unknown = sorted(values.keys() - asdict(cls()).keys())
        if unknown:
            raise InputError(f"unknown refinement {', '.join(unknown)}; choose from {', '.join(asdict(cls()))}")
        weights = values.get("level_weights")
        return cls(**{**values, "level_weights": tuple(weights) if weights is not None else None})


PUBLISHED = Refinement()
BEST = Refinement(reach=0.4, fuse=1.5, sigma=0.4, sharpen=5, foreground=True)
REFINEMENTS = {"published": PUBLISHED, "best": BEST}
"""By name. ``best`` holds what helped where it was measured (docs/ablation.md)."""


def find_refinement(asked: str | Refinement | None, stored: dict[str, Any] | None = None) -> Refinement:
    """The refinement that was asked for, by name or whole; else the one stored with the adapters; else the published scoring.

    Raises:
        InputError: the name is unknown, or what is stored cannot be used.
    """
    if isinstance(asked, Refinement):
        return asked
    if asked is None:
        return Refinement.from_json(stored or {})
    if asked not in REFINEMENTS:
        raise InputError(f"unknown refinement '{asked}'; choose one of {', '.join(REFINEMENTS)}")
    return REFINEMENTS[asked]


def score_pictures(
    detector: Detector,
    pictures: torch.Tensor,
    anchors: torch.Tensor,
    domain: Domain,
    refinement: Refinement = PUBLISHED,
    bank: Sequence[torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log odds (B, S, S) and detection scores (B,) of pictures (B, 1 or 3, S, S) in [0, 1]; see ``preprocess.choose_side``.

    Log odds are the levels' mean of the abnormal minus the normal logit. ``bank``: of each level the unit features (N, E) of
    normal patches.
    """
    if replace(refinement, pool_share=0.0, reach=0.0, detection_weight=0.0, fuse=0.0) == PUBLISHED:
        heatmap, detection = detector(normalise_slices(pictures), anchors, domain)
        return 2.0 * heatmap[:, 0].float() / len(detector.levels) - 1.0, detection
    if pictures.shape[-1] == detector.config.image_size:
        log_odds, detection = _score_whole(detector, pictures, anchors, domain, refinement, bank)
    else:
        log_odds, detection = _score_tiles(detector, pictures, anchors, domain, refinement, bank)
    if refinement.sharpen:
        log_odds = sharpen(log_odds[:, None], pictures, refinement.sharpen)[:, 0]
    if refinement.foreground:
        log_odds = leave_background(log_odds[:, None], pictures)[:, 0]
    return log_odds, detection


def _score_whole(
    detector: Detector,
    pictures: torch.Tensor,
    anchors: torch.Tensor,
    domain: Domain,
    refinement: Refinement,
    bank: Sequence[torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``score_pictures``, of pictures of the tower's own size, without sharpening."""
    views = [pictures, pictures.flip(-1)] if refinement.flips else [pictures]
    maps, detections = [], []
    for view in views:
        grids, detection = _lay_patches(detector, view, anchors, refinement, bank)
        kernel_size, sigma = refinement.choose_blur(domain)
        if sigma > 0:
            sigma, kernel_size = sigma * refinement.shifts, (kernel_size - 1) * refinement.shifts + 1
            grids = blur(grids, min(kernel_size, 2 * grids.shape[-1] - 1), sigma)
        log_odds = _enlarge(grids, pictures.shape[-1], refinement.shifts)[:, 0]
        maps.append(log_odds.flip(-1) if view is not pictures else log_odds)
        detections.append(detection)
    return torch.stack(maps).mean(dim=0), torch.stack(detections).mean(dim=0)


def _lay_patches(
    detector: Detector,
    pictures: torch.Tensor,
    anchors: torch.Tensor,
    refinement: Refinement,
    bank: Sequence[torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log odds of patches (B, 1, n * h, n * w), laid n times along each axis, and detection scores (B,)."""
    count, patch = refinement.shifts, detector.config.image_size // detector.tower.grid[0]
    rows = []
    detections = []
    # The lattices lie evenly around the patches' own: shifted by less than half a patch either way.
    offsets = [round((number - (count - 1) / 2) * patch / count) for number in range(count)]
    margin = patch
    padded = functional.pad(pictures, (margin,) * 4, mode="replicate") if count > 1 else pictures
    side = pictures.shape[-1]
    for down in offsets:
        row = []
        for right in offsets:
            view = pictures
            if count > 1:
                view = padded[..., margin + down : margin + down + side, margin + right : margin + right + side]
            features = detector.encode_image(normalise_slices(view))
            row.append(_compare(features, anchors, refinement, bank))
            detections.append(score_detection(features.detection.float(), anchors))
        rows.append(torch.stack(row, dim=-1).flatten(-2))
    return torch.stack(rows, dim=-2).flatten(-3, -2), torch.stack(detections).mean(dim=0)


def _compare(
    features: ImageFeatures, anchors: torch.Tensor, refinement: Refinement, bank: Sequence[torch.Tensor] | None
) -> torch.Tensor:
    """Log odds (B, 1, h, w) of one lattice of patches."""
    weights = refinement.level_weights or (1.0,) * len(features.levels)
    if len(weights) != len(features.levels):
        raise InputError(f"{len(weights)} level_weights do not suit {len(features.levels)} levels")
    total = anchors.new_zeros(())
    for number, (weight, level) in enumerate(zip(weights, features.levels, strict=True)):
        logits = compare_patches(level.float(), anchors)
        log_odds = logits[:, 1:] - logits[:, :1]
        if bank is not None and refinement.bank_weight:
            nearest = torch.matmul(level.float(), bank[number].T).amax(dim=-1)
            log_odds = log_odds + refinement.bank_weight * (1.0 - nearest).view_as(log_odds)
        total = total + weight * log_odds
    if features.foreground is not None:
        foreground = features.foreground.view_as(total)
        lowest = total.masked_fill(~foreground, torch.inf).amin(dim=(2, 3), keepdim=True)
        total = torch.where(foreground, total, lowest)
    return total / sum(weights)


def _enlarge(grids: torch.Tensor, side: int, shifts: int) -> torch.Tensor:
    """(B, 1, h, w) to (B, 1, side, side): corners aligned, as published; centres where patches are laid several times."""
    return functional.interpolate(grids, size=(side, side), mode="bilinear", align_corners=shifts == 1)


def _score_tiles(
    detector: Detector,
    pictures: torch.Tensor,
    anchors: torch.Tensor,
    domain: Domain,
    refinement: Refinement,
    bank: Sequence[torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``score_pictures``, in tiles of the tower's size, blended where they overlap.

    The detection score is that of the tile that has the highest.
    """
    side, size = pictures.shape[-1], detector.config.image_size
    count = math.ceil((side / size - 1.0) / (1.0 - OVERLAP) - 1e-9) + 1
    starts = [round(start) for start in np.linspace(0, side - size, count)]
    ramp = 1.0 - torch.linspace(-1.0, 1.0, size + 2, device=pictures.device)[1:-1].abs()
    weight = ramp[:, None] * ramp[None, :]
    total = pictures.new_zeros(len(pictures), side, side, dtype=torch.float32)
    weights = pictures.new_zeros(side, side, dtype=torch.float32)
    detections = []
    for top in starts:
        for left in starts:
            tile = pictures[..., top : top + size, left : left + size]
            log_odds, detection = _score_whole(detector, tile, anchors, domain, refinement, bank)
            total[:, top : top + size, left : left + size] += weight * log_odds
            weights[top : top + size, left : left + size] += weight
            detections.append(detection)
    return total / weights, torch.stack(detections).amax(dim=0)


def pool_scores(log_odds: Array, detection: Array | None, places: Array, refinement: Refinement = PUBLISHED) -> Array:
    """The scores (S,) of a case's slices by their maps (S, H, W), detection scores (S,), where there are such, and places (S,)
    along their normal, in patches.
    """
    scores = pool_maps(log_odds, refinement.pool_share)
    if refinement.detection_weight and detection is not None:
        scores = scores + np.float32(refinement.detection_weight) * (2.0 * detection - 1.0)
    return smooth_scores(scores, places, refinement.reach)
