"""Frozen CLIP towers, built by open_clip from a model name or a configuration dictionary."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP
from open_clip.transformer import VisionTransformer
from torch import nn

from aaclip_med.errors import InputError
from aaclip_med.model.attention import Block, Form
from aaclip_med.model.config import TINY, TINY_TOWER, ActivationName


class Tower(nn.Module):
    """open_clip's own CLIP model, frozen, with its blocks within reach.

    Its parameters need no gradient and it stays in evaluation mode, whatever the module around it is told.
    """

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.clip = clip
        self.requires_grad_(False)
        self.eval()
        self.vision_depth = len(self.vision_blocks)
        self._lowered: list[Block] | None = None
        self._lowered_to: tuple[Form, torch.dtype] = ("shared", torch.float32)

    def train(self, mode: bool = True) -> Tower:
        """Stay in evaluation mode."""
        del mode
        return super().train(False)

    @property
    def vision_blocks(self) -> nn.ModuleList:
        """The residual attention blocks of the vision tower, in order."""
        return self.clip.visual.transformer.resblocks  # type: ignore[no-any-return]

    @property
    def text_blocks(self) -> nn.ModuleList:
        """The residual attention blocks of the text tower, in order."""
        return self.clip.transformer.resblocks  # type: ignore[no-any-return]

    @property
    def vision_steps(self) -> list[Block]:
        """The vision tower's blocks as they are run: on open_clip's own weights, or on those of ``lower_vision``."""
        return self._lowered if self._lowered is not None else [Block(block) for block in self.vision_blocks]

    @property
    def token_dtype(self) -> torch.dtype:
        """The type of the vision tower's tokens."""
        return self._lowered_to[1] if self._lowered is not None else self.clip.visual.positional_embedding.dtype

    @property
    def text_steps(self) -> list[Block]:
        """The text tower's blocks as they are run."""
        return [Block(block) for block in self.text_blocks]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Tower:
        """Refuse to move blocks in another form: they lie as the device wants them, out of torch's sight."""
        here = self.clip.visual.proj.device
        if self._lowered is not None and fn(torch.empty(0, device=here)).device != here:
            raise ValueError(f"this tower was prepared on {here} and stays there; move it before it is prepared")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def lower_vision(self, form: Form, dtype: torch.dtype) -> None:
        """Run the vision tower's blocks in another form (see ``Block``) from here on.

        Raises:
            ValueError: it runs in another form, and gave open_clip's blocks back.
        """
        if self._lowered_to == (form, dtype):
            return
        if not self.vision_blocks:
            raise ValueError(f"this tower runs as {self._lowered_to[1]} and gave its first weights back; load it anew")
        rows = self.grid[0] * self.grid[1] + 1
        lowered = [Block(block, form, dtype, rows) for block in self.vision_blocks]
        self._lowered, self._lowered_to = lowered, (form, dtype)

    def give_back(self) -> None:
        """Take open_clip's blocks out of the vision tower, which runs in another form; what nobody else holds is free."""
        self.clip.visual.transformer.resblocks = nn.ModuleList()

    @property
    def vision_width(self) -> int:
        """Width of a vision token."""
        return int(self.clip.visual.transformer.width)

    @property
    def text_width(self) -> int:
        """Width of a text token."""
        return int(self.clip.transformer.width)

    @property
    def embed_dim(self) -> int:
        """Width of the space shared by text and image."""
        return int(self.clip.visual.output_dim)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along an image's rows and columns."""
        rows, columns = self.clip.visual.grid_size
        return int(rows), int(columns)

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W), CLIP-normalised, to the first block's tokens (B, 1 + L, D), class token first."""
        visual = self.clip.visual
        patches = visual.conv1(images).flatten(2).transpose(1, 2)
        class_token = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        tokens = torch.cat([class_token, patches], dim=1) + visual.positional_embedding.to(patches.dtype)
        return visual.ln_pre(tokens)  # type: ignore[no-any-return]

    def project_patches(self, tokens: torch.Tensor) -> torch.Tensor:
        """Patch tokens (B, L, D) through the tower's own final norm and projection: (B, L, E)."""
        visual = self.clip.visual
        return visual.ln_post(tokens.to(visual.proj.dtype)) @ visual.proj  # type: ignore[no-any-return]

    def embed_texts(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids (N, T), T up to the context length, to the first block's tokens (N, T, D)."""
        return self.clip.token_embedding(tokens) + self.clip.positional_embedding[: tokens.shape[1]]  # type: ignore[no-any-return]

    def pool_texts(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The last block's tokens (N, T, D), normed, at the end-of-text position: (N, D)."""
        hidden = self.clip.ln_final(hidden)
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), tokens.argmax(dim=-1)]


def find_tower_config(backbone: str | dict[str, Any]) -> dict[str, Any]:
    """open_clip's configuration dictionary of ``backbone``, a copy.

    Raises:
        InputError: open_clip knows no such model.
    """
    if isinstance(backbone, dict):
        return copy.deepcopy(backbone)
    if backbone == TINY:
        return copy.deepcopy(TINY_TOWER)
    config = open_clip.get_model_config(backbone)
    if config is None:
        raise InputError(
            f"unknown backbone '{backbone}'; take '{TINY}', a configuration dictionary, or a ViT of open_clip such as "
            "ViT-B-16, ViT-L-14-336 (open_clip.list_models() has them all)"
        )
    return dict(config)


def build_tower(backbone: str | dict[str, Any], image_size: int, activation: ActivationName) -> Tower:
    """An uninitialised tower for square images of ``image_size`` pixels.

    ``as_trained`` must have been settled before (see ``model.build.settle_activation``).

    Raises:
        InputError: the backbone is unknown, is no plain CLIP ViT, or its patches do not fit the image size.
    """
    config = find_tower_config(backbone)
    name = backbone if isinstance(backbone, str) else "the given configuration"
    vision, text = config.get("vision_cfg"), config.get("text_cfg")
    if not isinstance(vision, dict) or not isinstance(text, dict) or "embed_dim" not in config:
        raise InputError(f"{name}: a tower's configuration needs embed_dim, vision_cfg and text_cfg")
    foreign = [key for key in ("timm_model_name", "hf_model_name", "hf_tokenizer_name") if vision.get(key) or text.get(key)]
    if foreign or config.get("custom_text") or "multimodal_cfg" in config or isinstance(vision.get("layers"), list):
        raise InputError(
            f"{name} is not a plain CLIP ViT (open_clip builds it from other parts); take a ViT such as ViT-L-14-336"
        )
    vision["image_size"] = image_size
    try:
        clip = CLIP(config["embed_dim"], vision, text, quick_gelu=activation == "quick_gelu")
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"{name}: open_clip cannot build this configuration: {error}") from error
    visual = clip.visual
    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None:
        raise InputError(f"{name} has no ViT with a class token; take a ViT such as ViT-L-14-336")
    if visual.pool_type != "tok" or clip.text_pool_type != "argmax" or not isinstance(clip.text_projection, nn.Parameter):
        raise InputError(
            f"{name} pools its tokens or projects its texts in another way than CLIP (class token, end-of-text token, "
            "a matrix alone); take a ViT such as ViT-L-14-336"
        )
    if not isinstance(visual.transformer.resblocks[0].attn, nn.MultiheadAttention):
        raise InputError(f"{name} has attention blocks of another kind; take a ViT such as ViT-L-14-336")
    patch = visual.patch_size[0]
    if image_size % patch or image_size // patch < 5:
        raise InputError(
            f"image size {image_size} does not suit patches of {patch} pixels; take a multiple of {patch} of at least "
            f"{5 * patch}"
        )
    return Tower(clip)
