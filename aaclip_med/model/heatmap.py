"""The detector of one task as a network from picture to heatmap, for TorchScript, ONNX, ``torch.export`` and the bundle."""

# No "from __future__ import annotations" here: TorchScript reads the classes' annotations.

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from aaclip_med.errors import InputError
from aaclip_med.model.adapters import mix
from aaclip_med.model.config import CLIP_MEAN, CLIP_STD
from aaclip_med.model.detector import Detector
from aaclip_med.model.partial_state import leave_out
from aaclip_med.model.sharpening import leave_background, sharpen
from aaclip_med.model.similarity import BLUR, blur, compare_patches, score_detection

LOG_ODDS_LIMIT = 40.0
"""Log odds are kept within this distance of 0; trained detectors stay within 20."""
CUBIC = -0.5
"""The cubic's free parameter when pictures are resized with antialiasing (Keys 1981; Pillow and torch take the same)."""


class Scale(NamedTuple):
    """A table from log odds, ascending, to heat in [0, 1]; straight lines between its points. (N,) each."""

    log_odds: Sequence[float]
    heat: Sequence[float]


class Finish(NamedTuple):
    """What is done to the patches' log odds: blur (kernel size, sigma in patches; 0: none), sharpening (radius in pixels; 0:
    none), whether the background is left out, what levels weigh (none: all the same), and what is added for a patch that has
    nothing in common with a bank of normal ones.
    """

    kernel_size: int
    sigma: float
    sharpen: int
    foreground: bool
    level_weights: Sequence[float] = ()
    bank_weight: float = 0.0


PUBLISHED_FINISH = Finish(*BLUR["medical"], 0, False)


class Block(nn.Module):
    """A tower's block and what follows it: the adapter's share, and a level's projection. Identity where there is none.

    weight: the level's, of weights whose mean is 1. bank: unit features (N, E) of normal patches; none: (0, 1).
    """

    bank: torch.Tensor

    def __init__(
        self,
        block: nn.Module,
        adapter: nn.Module | None,
        share: float,
        projection: nn.Module | None,
        weight: float = 1.0,
        bank: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("bank", torch.zeros(0, 1) if bank is None else bank.detach().clone().float(), persistent=False)
        self.block = block
        self.adapter = adapter if adapter is not None else nn.Identity()
        self.adapted = adapter is not None
        self.share = share
        self.projection = projection if projection is not None else nn.Identity()
        self.tapped = projection is not None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, 1 + L, D), the same after the block."""
        tokens = self.block(tokens)
        if self.adapted:
            tokens = mix(tokens, self.adapter(tokens), self.share)
        return tokens


class HeatmapNetwork(nn.Module):
    """Pictures (B, 1 or 3, H, W), windowed to [0, 1], of any size, to heat (B, 1, H, W) in [0, 1].

    Resizing, CLIP's normalisation, the anchors of the noun and the scale are inside. It computes what ``Detector`` does, layer
    by layer, in a form that ``torch.jit.script`` takes. Its parameters are the detector's own: training one trains the other.

    A state dict holds the adapters, the anchors and the scale, and no tower: towers are frozen, have their own licence and
    their own file.
    """

    anchors: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    scale_log_odds: torch.Tensor
    scale_heat: torch.Tensor

    def __init__(
        self,
        detector: Detector,
        anchors: torch.Tensor,
        scale: Scale,
        finish: Finish = PUBLISHED_FINISH,
        bank: Sequence[torch.Tensor] | None = None,
    ) -> None:
        """``bank``: of each level the unit features (N, E) of normal patches, where the finish weighs it."""
        super().__init__()
        if not detector.adapted:
            raise InputError("a zero-shot detector (adapters 'none') has no adapters to export")
        if len(detector.tower.vision_blocks) < detector.levels[-1]:
            raise ValueError("this detector was prepared for inference, which took its tower apart; load it anew")
        visual = detector.tower.clip.visual
        adapters, levels = detector.image_adapter, detector.levels
        self.limit = LOG_ODDS_LIMIT
        self.size: int = detector.config.image_size
        self.kernel_size, self.sigma, self.sharpen, self.foreground = finish[:4]
        self.bank_weight = finish.bank_weight
        weights = finish.level_weights or (1.0,) * len(levels)
        if len(weights) != len(levels):
            raise InputError(f"{len(weights)} level_weights do not suit {len(levels)} levels")
        self.conv1, self.ln_pre, self.ln_post = visual.conv1, visual.ln_pre, visual.ln_post
        self.class_embedding, self.positional_embedding = visual.class_embedding, visual.positional_embedding
        self.det_proj = adapters.det_proj
        self.blocks = nn.ModuleList(
            Block(
                block,
                adapters.layer_adapters[number - 1] if number <= detector.image_blocks else None,
                detector.config.image_mix,
                *(
                    (
                        adapters.seg_proj[levels.index(number)],
                        weights[levels.index(number)] * len(levels) / sum(weights),
                        bank[levels.index(number)] if bank is not None and finish.bank_weight else None,
                    )
                    if number in levels
                    else (None,)
                ),
            )
            for number, block in enumerate(detector.tower.vision_blocks[: levels[-1]], start=1)
        )
        self.register_buffer("anchors", anchors.detach().clone().float())
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale_log_odds", torch.tensor(scale.log_odds, dtype=torch.float32))
        self.register_buffer("scale_heat", torch.tensor(scale.heat, dtype=torch.float32))
        leave_out(self, _is_tower)
        self.register_load_state_dict_pre_hook(_fit_scale)  # type: ignore[no-untyped-call]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Heat (B, 1, H, W)."""
        log_odds, _ = self.score(images)
        return self.enlarge(log_odds, images)

    @torch.jit.export
    def score(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log odds (B, S, S) on the detector's own grid, within ``LOG_ODDS_LIMIT``, and detection scores (B,)."""
        shown = resample(images.float(), self.size)
        pictures = shown.expand(-1, 3, -1, -1)
        patches = self.conv1((pictures - self.mean) / self.std).flatten(2).transpose(1, 2)
        start = self.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        tokens = self.ln_pre(torch.cat([start, patches], dim=1) + self.positional_embedding.to(patches.dtype))
        detection = start[:, 0]
        scores: list[torch.Tensor] = []
        for step in self.blocks:
            tokens = step(tokens)
            if step.tapped:
                normed = self.ln_post(tokens[:, 1:])
                projected = step.projection(normed)  # type: ignore[operator]
                features = functional.normalize(projected, dim=-1).float()
                logits = compare_patches(features, self.anchors)
                odds = logits[:, 1:] - logits[:, :1]
                if self.bank_weight != 0.0:
                    nearest = torch.matmul(features, step.bank.transpose(0, 1)).amax(dim=-1)  # type: ignore[operator]
                    odds = odds + self.bank_weight * (1.0 - nearest).view_as(odds)
                scores.append(step.weight * odds)  # type: ignore[operator]
                detection = functional.normalize(self.det_proj(normed), dim=-1).mean(dim=1)
        patch_odds = torch.stack(scores).mean(dim=0)
        if self.sigma > 0.0:
            patch_odds = blur(patch_odds, self.kernel_size, self.sigma)
        log_odds = functional.interpolate(patch_odds, size=(self.size, self.size), mode="bilinear", align_corners=True)
        if self.sharpen > 0:
            log_odds = sharpen(log_odds, shown, self.sharpen)
        if self.foreground:
            log_odds = leave_background(log_odds, shown)
        return log_odds[:, 0].clamp(-self.limit, self.limit), score_detection(detection.float(), self.anchors)

    @torch.jit.export
    def enlarge(self, log_odds: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Log odds (B, S, S) as heat of the pictures' own size (B, 1, H, W)."""
        whole = functional.interpolate(
            log_odds.unsqueeze(1), size=(images.shape[-2], images.shape[-1]), mode="bilinear", align_corners=False
        )
        return self.rescale(whole)

    @torch.jit.export
    def rescale(self, log_odds: torch.Tensor) -> torch.Tensor:
        """Log odds as heat, of any shape."""
        after = torch.bucketize(log_odds, self.scale_log_odds).clamp(1, self.scale_log_odds.shape[0] - 1)
        low, high = self.scale_log_odds[after - 1], self.scale_log_odds[after]
        share = ((log_odds - low) / (high - low)).clamp(0.0, 1.0)
        return self.scale_heat[after - 1] * (1.0 - share) + self.scale_heat[after] * share


def resample(images: torch.Tensor, size: int) -> torch.Tensor:
    """``preprocess.resize_slices`` as two products of matrices, which every exporter can write: (B, C, size, size)."""
    rows, columns = cubic_weights(images, images.shape[-2], size), cubic_weights(images, images.shape[-1], size)
    return (rows @ images @ columns.transpose(0, 1)).clamp(0.0, 1.0)


def cubic_weights(like: torch.Tensor, length: int, size: int, cubic: float = CUBIC) -> torch.Tensor:
    """How ``length`` pixels are weighted in each of ``size``, (size, length): bicubic, widened where there are fewer."""
    centres = torch.arange(size, dtype=torch.float32, device=like.device).unsqueeze(1) + 0.5
    pixels = torch.arange(length, dtype=torch.float32, device=like.device).unsqueeze(0) + 0.5
    ratio = (pixels[:, -1:] + 0.5) / size
    distance = (pixels - centres * ratio).abs() / ratio.clamp(min=1.0)
    near = ((cubic + 2.0) * distance - (cubic + 3.0)) * distance * distance + 1.0
    far = cubic * (((distance - 5.0) * distance + 8.0) * distance - 4.0)
    weights = torch.where(distance < 1.0, near, torch.where(distance < 2.0, far, torch.zeros_like(distance)))
    return weights / weights.sum(dim=1, keepdim=True)


def _is_tower(name: str) -> bool:
    """Whether a tensor of the network belongs to the frozen tower."""
    return ".block." in name or name.startswith(("conv1.", "ln_", "class_embedding", "positional_embedding"))


def _fit_scale(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Take a table of another length as it comes."""
    del rest
    for name in ("scale_log_odds", "scale_heat"):
        if prefix + name in state:
            setattr(module, name, torch.empty_like(state[prefix + name], device=getattr(module, name).device))
