"""The anomaly-aware detector: frozen towers, tapped and adapted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import open_clip
import torch
from torch.nn import Module, functional
from torch.utils.checkpoint import checkpoint

from aaclip_med.errors import InputError
from aaclip_med.model.adapters import ImageAdapter, build_text_adapter, initialise, mix
from aaclip_med.model.attention import count_plain_blocks
from aaclip_med.model.config import DetectorConfig
from aaclip_med.model.linear import has_onednn
from aaclip_med.model.precision import autocast, choose_dtype
from aaclip_med.model.preprocess import find_foreground
from aaclip_med.model.similarity import Domain, score_detection, sum_levels
from aaclip_med.model.towers import Tower
from aaclip_med.presets import build_prompts

ROWS_OF_STAGE_ONE = 4096
"""Tokens that stage 1 takes through the vision tower together: what they become in between is small beside its weights."""


class ImageFeatures(NamedTuple):
    """What the vision tower says of a batch.

    levels: unit-norm patch features, (B, L, E) each, shallow to deep.
    detection: (B, E), the mean over patches of the unit-norm detection projection of the deepest level; in zero-shot mode
        the tower's own unit-norm image embedding.
    foreground: (B, L) bool, the patches that entered the tower; the others' features are 0. None: all of them did.
    """

    levels: list[torch.Tensor]
    detection: torch.Tensor
    foreground: torch.Tensor | None = None


class Detector(Module):
    """AA-CLIP (CVPR 2025) around any open_clip ViT.

    Images are (B, 3, H, W), H = W = ``config.image_size``, CLIP-normalised. Anchors are (E, 2): unit columns for normal and
    abnormal. ``adapted`` False is zero-shot CLIP: the towers' own features and projections.
    """

    def __init__(self, config: DetectorConfig, tower: Tower, adapted: bool = True, seed: int = 0) -> None:
        super().__init__()
        vision_depth, text_depth = tower.vision_depth, len(tower.text_blocks)
        self.config = config
        self.tower = tower
        self.adapted = adapted
        quarters = {max(1, round(vision_depth * quarter / 4)) for quarter in (1, 2, 3, 4)}
        self.levels = config.levels or tuple(sorted(quarters))
        self.image_blocks = config.image_adapters if config.image_adapters is not None else vision_depth // 4
        self.text_blocks = config.text_adapters if config.text_adapters is not None else text_depth // 4
        self.tower_hash = ""
        self.drop_background = False
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

    def prepare_inference(self, dtype: torch.dtype, drop_background: bool = False) -> Detector:
        """Run the vision tower in ``dtype`` from here on, without gradients: float32, bf16, fp16, or ``torch.int8``.

        To be called once, on the device that it will run on, after the anchors are made. The frozen weights are stored in that
        type; text, layer norms, softmax, similarity and maps stay in float32. int8 is for CPUs: weights and activations of the
        blocks' linear maps have 8 bits, all else is bf16 where the processor has it, else float32.

        drop_background: patches that are black throughout do not enter the tower, and get the lowest score of their image.
            Faster by the share of such patches, and approximate, since the others do not attend to them any more.

        Raises:
            InputError: int8 elsewhere than on an x86 processor.
            ValueError: it was prepared in another type.
        """
        self.drop_background = drop_background
        if dtype == torch.int8:
            choose_dtype("int8", self.device)  # refuses a device without it
            self.tower.lower_vision("int8", choose_dtype("auto", self.device))
        else:
            packed = self.device.type == "cpu" and dtype != torch.float16 and has_onednn(dtype)
            self.tower.lower_vision("packed" if packed else "cast", dtype)
        self.tower.give_back()
        return self

    def prepare_training(self, dtype: torch.dtype) -> Detector:
        """Run the frozen vision tower in ``dtype`` from here on, with gradients for what lies before it. Text stays float32."""
        if dtype != torch.float32:
            self.tower.lower_vision("cast", dtype)
        return self

    def encode_image(self, images: torch.Tensor, checkpointing: bool = False) -> ImageFeatures:
        """Patch features of every level and the detection token of (B, 3, H, W).

        checkpointing: forget what a block computed and compute it again for the gradient.
        """
        tokens = self.tower.embed_images(images).to(self.tower.token_dtype)
        foreground = find_foreground(images, self.tower.clip.visual.patch_size[0]) if self.drop_background else None
        places, lengths, shape = None, None, tokens.shape
        if foreground is not None:
            places, lengths = _find_present(foreground)
            tokens = tokens.flatten(0, 1).index_select(0, places).unsqueeze(0)
        taps: list[torch.Tensor] = []
        last = self.levels[-1] if self.adapted else None
        for number, block in enumerate(self.tower.vision_steps[:last], start=1):
            if checkpointing and tokens.requires_grad:
                tokens = checkpoint(block, tokens, lengths, use_reentrant=False)
            else:
                tokens = block(tokens, lengths)
            if self.adapted and number <= self.image_blocks:
                with autocast(self.device, tokens.dtype):
                    adapted = self.image_adapter.layer_adapters[number - 1](tokens)
                tokens = mix(tokens, adapted, self.config.image_mix)
            if number in self.levels:
                taps.append(tokens)
        if places is not None:
            taps = [_spread(tap[0], places, shape) for tap in taps]
            tokens = _spread(tokens[0], places, shape) if not self.adapted else tokens
        if not self.adapted:
            levels = [functional.normalize(self.tower.project_patches(tap[:, 1:]), dim=-1) for tap in taps]
            detection = functional.normalize(self.tower.project_patches(tokens[:, 0]), dim=-1)
        else:
            visual = self.tower.clip.visual
            normed = [visual.ln_post(tap[:, 1:].to(visual.ln_post.weight.dtype)) for tap in taps]
            with autocast(self.device, tokens.dtype):
                projected = [project(tap) for project, tap in zip(self.image_adapter.seg_proj, normed, strict=True)]
                token = self.image_adapter.det_proj(normed[-1])
            levels = [functional.normalize(_full(level), dim=-1) for level in projected]
            detections = functional.normalize(_full(token), dim=-1)
            detection = detections.mean(dim=1)
            if foreground is not None:
                detection = (detections * foreground.unsqueeze(2)).sum(dim=1) / foreground.sum(dim=1, keepdim=True)
        if foreground is not None:
            levels = [level * foreground.unsqueeze(2) for level in levels]
        return ImageFeatures(levels, detection, foreground)

    def encode_value_image(self, images: torch.Tensor, levels: Sequence[int] | None = None) -> ImageFeatures:
        """Stage 1's view: frozen towers, value-value attention in the deeper blocks, the tower's own projection.

        A level is the unit patch features plus the plain tower's unit image embedding, (B, L, E), not of unit norm;
        ``detection`` is that embedding, (B, E). levels: those that are wanted (default: all).
        """
        return self.encode_values(*self.encode_trunk(images), levels)

    def encode_trunk(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What stage 1 sees of an image whatever its batch: the tokens where value-value attention starts, (B, 1 + L, D), and
        the plain tower's unit image embedding (B, E).
        """
        rows, columns = self.tower.grid
        parts = torch.split(images, max(1, ROWS_OF_STAGE_ONE // (1 + rows * columns)))
        trunks, embeddings = zip(*map(self._encode_trunk, parts), strict=True)
        return torch.cat(trunks), torch.cat(embeddings)

    def _encode_trunk(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        plain = trunk = self.tower.embed_images(images).to(self.tower.token_dtype)
        plain_blocks = count_plain_blocks(self.tower.vision_depth)
        for number, block in enumerate(self.tower.vision_steps, start=1):
            plain = block(plain)
            trunk = plain if number <= plain_blocks else trunk
        return trunk, functional.normalize(self.tower.project_patches(plain[:, 0]), dim=-1)

    def encode_values(self, trunk: torch.Tensor, embedding: torch.Tensor, levels: Sequence[int] | None = None) -> ImageFeatures:
        """The rest of stage 1's view (see ``encode_value_image``) of what ``encode_trunk`` gave."""
        return ImageFeatures([level + embedding.unsqueeze(1) for level in self.tap_values(trunk, levels)], embedding)

    def tap_values(self, trunk: torch.Tensor, wanted: Sequence[int] | None = None) -> list[torch.Tensor]:
        """The unit patch features (B, L, E) of each level, or of those ``wanted``, after value-value attention from
        ``encode_trunk``'s tokens on.
        """
        wanted = self.levels if wanted is None else wanted
        apart = 1 if self.config.fidelity.value_attention == "across_batch" else 0  # the axis along which none sees another
        parts = torch.split(trunk, max(1, ROWS_OF_STAGE_ONE // trunk.shape[1 - apart]), dim=apart)
        levels = zip(*(self._tap_values(part, wanted) for part in parts), strict=True)
        return [torch.cat(level, dim=apart)[:, 1:] for level in levels]

    def _tap_values(self, values: torch.Tensor, wanted: Sequence[int]) -> list[torch.Tensor]:
        plain_blocks = count_plain_blocks(self.tower.vision_depth)
        levels: list[torch.Tensor] = []
        for number, block in enumerate(self.tower.vision_steps[: max(wanted)], start=1):
            if number > plain_blocks:
                values = block.attend_values(values, self.config.fidelity.value_attention)
            if number in wanted:
                levels.append(functional.normalize(self.tower.project_patches(values), dim=-1))
        return levels

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids (N, T), best from the CPU, to embeddings (N, E), not normalised.

        What follows the end of all texts is not run: none sees it.
        """
        tokens = tokens[:, : int(tokens.argmax(dim=-1).max()) + 1].to(self.device)
        hidden = self.tower.embed_texts(tokens)
        for number, block in enumerate(self.tower.text_steps, start=1):
            hidden = block(hidden, causal=True)
            if self.adapted and number <= self.text_blocks:
                hidden = mix(hidden, self.text_adapter[number - 1](hidden), self.config.text_mix)
        pooled = self.tower.pool_texts(hidden, tokens)
        return self.text_adapter[-1](pooled) if self.adapted else pooled @ self.tower.clip.text_projection  # type: ignore[no-any-return]

    def encode_noun(self, noun: str) -> torch.Tensor:
        """The anchors (E, 2) of ``noun``: each the unit mean of its ensemble's unit embeddings; normal, then abnormal."""
        anchors = []
        for prompts in build_prompts(noun, self.config.normal_states, self.config.abnormal_states):
            tokens = open_clip.tokenize(prompts, self.tower.clip.context_length)
            embeddings = functional.normalize(self.encode_text(tokens), dim=-1)
            anchors.append(functional.normalize(embeddings.mean(dim=0), dim=-1))
        return torch.stack(anchors, dim=1)

    def forward(
        self, images: torch.Tensor, anchors: torch.Tensor, domain: Domain = "medical"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Heatmap (B, 1, H, W), the sum over levels, and detection score (B,) of (B, 3, H, W)."""
        features = self.encode_image(images)
        heatmap = sum_levels(features.levels, anchors, self.config.image_size, domain, features.foreground)
        return heatmap, score_detection(features.detection, anchors)

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """Both adapters' tensors on the CPU, by name."""
        parts = {"image_adapter": self.image_adapter, "text_adapter": self.text_adapter}
        return {
            f"{part}.{name}": tensor.detach().cpu().contiguous()
            for part, module in parts.items()
            for name, tensor in module.state_dict().items()
        }


def _find_present(foreground: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """Where class tokens and the patches of ``foreground`` (B, L) bool lie in (B * (1 + L),), and how many of each image.

    Found on the CPU, so that a GPU is waited for once.
    """
    present = functional.pad(foreground.cpu(), (1, 0), value=True)
    places = present.flatten().nonzero()[:, 0]
    return places.to(foreground.device, non_blocking=True), present.sum(dim=1).tolist()


def _spread(tokens: torch.Tensor, places: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Tokens (N, D) to their ``places`` (N,) in ``shape`` (B, L, D), 0 elsewhere."""
    return tokens.new_zeros(shape).flatten(0, 1).index_copy_(0, places, tokens).view(shape)


def _full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
