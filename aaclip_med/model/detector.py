"""The anomaly-aware detector: frozen towers, tapped and adapted."""

from __future__ import annotations

from typing import NamedTuple

import open_clip
import torch
from torch.nn import Module, functional

from aaclip_med.errors import InputError
from aaclip_med.model.adapters import ImageAdapter, build_text_adapter, initialise, mix
from aaclip_med.model.attention import count_plain_blocks, run_value_block
from aaclip_med.model.config import DetectorConfig
from aaclip_med.model.similarity import Domain, score_detection, sum_levels
from aaclip_med.model.towers import Tower
from aaclip_med.presets import build_prompts


class ImageFeatures(NamedTuple):
    """What the vision tower says of a batch.

    levels: unit-norm patch features, (B, L, E) each, shallow to deep.
    detection: (B, E), the mean over patches of the unit-norm detection projection of the deepest level; in zero-shot mode
        the tower's own unit-norm image embedding.
    """

    levels: list[torch.Tensor]
    detection: torch.Tensor


class Detector(Module):
    """AA-CLIP (CVPR 2025) around any open_clip ViT.

    Images are (B, 3, H, W), H = W = ``config.image_size``, CLIP-normalised. Anchors are (E, 2): unit columns for normal and
    abnormal. ``adapted`` False is zero-shot CLIP: the towers' own features and projections.
    """

    def __init__(self, config: DetectorConfig, tower: Tower, adapted: bool = True, seed: int = 0) -> None:
        super().__init__()
        vision_depth, text_depth = len(tower.vision_blocks), len(tower.text_blocks)
        self.config = config
        self.tower = tower
        self.adapted = adapted
        self.levels = config.levels or tuple(round(vision_depth * quarter / 4) for quarter in (1, 2, 3, 4))
        self.image_blocks = config.image_adapters if config.image_adapters is not None else vision_depth // 4
        self.text_blocks = config.text_adapters if config.text_adapters is not None else text_depth // 4
        self.tower_hash = ""
        if (
            not self.levels
            or list(self.levels) != sorted(set(self.levels))
            or not 1 <= self.levels[0] <= self.levels[-1] <= vision_depth
        ):
            raise InputError(f"levels {self.levels} do not suit a vision tower of {vision_depth} blocks")
        if not 0 <= self.image_blocks <= vision_depth or not 0 <= self.text_blocks <= text_depth:
            raise InputError(
                f"{self.image_blocks} image and {self.text_blocks} text adapters do not suit towers of {vision_depth} and "
                f"{text_depth} blocks"
            )
        generator = torch.Generator().manual_seed(seed)
        self.image_adapter = ImageAdapter(
            tower.vision_width, tower.embed_dim, self.image_blocks, self.levels, config.projection_relu
        )
        self.text_adapter = build_text_adapter(tower.text_width, tower.embed_dim, self.text_blocks)
        initialise(self.image_adapter, generator)
        initialise(self.text_adapter, generator)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def encode_image(self, images: torch.Tensor) -> ImageFeatures:
        """Patch features of every level and the detection token of (B, 3, H, W)."""
        tokens = self.tower.embed_images(images)
        taps: list[torch.Tensor] = []
        for number, block in enumerate(self.tower.vision_blocks, start=1):
            tokens = block(tokens)
            if self.adapted and number <= self.image_blocks:
                tokens = mix(tokens, self.image_adapter.layer_adapters[number - 1](tokens), self.config.image_mix)
            if number in self.levels:
                taps.append(tokens)
            if self.adapted and number == self.levels[-1]:
                break
        if not self.adapted:
            levels = [functional.normalize(self.tower.project_patches(tap[:, 1:]), dim=-1) for tap in taps]
            return ImageFeatures(levels, functional.normalize(self.tower.project_patches(tokens[:, 0]), dim=-1))
        normed = [self.tower.clip.visual.ln_post(tap[:, 1:]) for tap in taps]
        levels = [
            functional.normalize(project(tap), dim=-1) for project, tap in zip(self.image_adapter.seg_proj, normed, strict=True)
        ]
        detection = functional.normalize(self.image_adapter.det_proj(normed[-1]), dim=-1).mean(dim=1)
        return ImageFeatures(levels, detection)

    def encode_value_image(self, images: torch.Tensor) -> ImageFeatures:
        """Stage 1's view: frozen towers, value-value attention in the deeper blocks, the tower's own projection.

        A level is the unit patch features plus the plain tower's unit image embedding, (B, L, E), not of unit norm;
        ``detection`` is that embedding, (B, E).
        """
        embedded = self.tower.embed_images(images)
        plain_blocks = count_plain_blocks(len(self.tower.vision_blocks))
        plain = values = embedded
        levels: list[torch.Tensor] = []
        for number, block in enumerate(self.tower.vision_blocks, start=1):
            plain = block(plain)
            direction = self.config.fidelity.value_attention
            values = plain if number <= plain_blocks else run_value_block(block, values, direction)
            if number in self.levels:
                levels.append(functional.normalize(self.tower.project_patches(values[:, 1:]), dim=-1))
        embedding = functional.normalize(self.tower.project_patches(plain[:, 0]), dim=-1)
        return ImageFeatures([level + embedding.unsqueeze(1) for level in levels], embedding)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids (N, T) to embeddings (N, E), not normalised."""
        hidden = self.tower.embed_texts(tokens)
        mask = self.tower.clip.attn_mask
        for number, block in enumerate(self.tower.text_blocks, start=1):
            hidden = block(hidden, attn_mask=mask)
            if self.adapted and number <= self.text_blocks:
                hidden = mix(hidden, self.text_adapter[number - 1](hidden), self.config.text_mix)
        pooled = self.tower.pool_texts(hidden, tokens)
        return self.text_adapter[-1](pooled) if self.adapted else pooled @ self.tower.clip.text_projection  # type: ignore[no-any-return]

    def encode_noun(self, noun: str) -> torch.Tensor:
        """The anchors (E, 2) of ``noun``: each the unit mean of its ensemble's unit embeddings; normal, then abnormal."""
        anchors = []
        for prompts in build_prompts(noun, self.config.normal_states, self.config.abnormal_states):
            tokens = open_clip.tokenize(prompts, self.tower.clip.context_length).to(self.device)
            embeddings = functional.normalize(self.encode_text(tokens), dim=-1)
            anchors.append(functional.normalize(embeddings.mean(dim=0), dim=-1))
        return torch.stack(anchors, dim=1)

    def forward(
        self, images: torch.Tensor, anchors: torch.Tensor, domain: Domain = "medical"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Heatmap (B, 1, H, W), the sum over levels, and detection score (B,) of (B, 3, H, W)."""
        features = self.encode_image(images)
        heatmap = sum_levels(features.levels, anchors, self.config.image_size, domain)
        return heatmap, score_detection(features.detection, anchors)

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """Both adapters' tensors on the CPU, by name."""
        parts = {"image_adapter": self.image_adapter, "text_adapter": self.text_adapter}
        return {
            f"{part}.{name}": tensor.detach().cpu().contiguous()
            for part, module in parts.items()
            for name, tensor in module.state_dict().items()
        }
