"""The yardstick: AA-CLIP's published program as its description has it, in plain torch.

Written from the paper and this project's own notes (docs/adr/0002-fidelity.md), without the released code: tokens are
(length, batch, width), attention computes its whole matrix, all blocks run, prompts have 77 tokens, each level has two
full-size maps scaled by 100. Under autocast where ``dtype`` is not float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import open_clip
import torch
from torch.nn import functional

from aaclip_med.presets import build_prompts

PLAIN_BLOCKS = 5
"""Blocks with attention of their own in stage 1; those after them attend from values to values."""

State = Mapping[str, torch.Tensor]


class PlainAAClip:
    """Frozen towers and adapters as tensors by their open_clip names; exact GELU; heads of 64."""

    def __init__(self, tower: State, adapters: State, levels: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        self.tower = dict(tower)
        self.adapters = {name: tensor.to(self.device, copy=True) for name, tensor in adapters.items()}
        self.levels = tuple(levels)
        self.dtype = dtype
        self.depth = 1 + max(int(name.split(".")[3]) for name in self.tower if name.startswith("visual.transformer."))
        self.text_depth = 1 + max(int(name.split(".")[2]) for name in self.tower if name.startswith("transformer."))

    @property
    def device(self) -> torch.device:
        """Where the towers are."""
        return self.tower["visual.proj"].device

    def autocast(self) -> torch.autocast:
        """Autocast to ``dtype``; off for float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def attend(self, x: torch.Tensor, name: str, causal: bool = False, values_only: bool = False) -> torch.Tensor:
        """Attention over the first axis of (L, B, D), with its matrix (B * heads, L, L)."""
        length, batch, width = x.shape
        weight, bias = self.tower[f"{name}.in_proj_weight"], self.tower[f"{name}.in_proj_bias"]
        q, k, v = functional.linear(x, weight, bias).chunk(3, dim=-1)
        if values_only:
            q = k = v
        q, k, v = (part.reshape(length, batch * width // 64, 64).transpose(0, 1) for part in (q, k, v))
        scores = (q * 64**-0.5) @ k.transpose(1, 2)
        if causal:
            scores = scores + torch.full((length, length), -torch.inf, device=x.device).triu(1)
        mixed = (scores.softmax(dim=-1) @ v).transpose(0, 1).reshape(length, batch, width)
        return functional.linear(mixed, self.tower[f"{name}.out_proj.weight"], self.tower[f"{name}.out_proj.bias"])

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """Layer norm."""
        return functional.layer_norm(x, x.shape[-1:], self.tower[f"{name}.weight"], self.tower[f"{name}.bias"])

    def block(self, x: torch.Tensor, name: str, causal: bool = False, values: str = "") -> torch.Tensor:
        """A residual block on (L, B, D); ``values``: value-value attention ``across_positions`` or ``across_batch``."""
        normed = self.norm(x, f"{name}.ln_1")
        if values == "across_batch":
            attended = self.attend(normed.transpose(0, 1), f"{name}.attn", values_only=True).transpose(0, 1)
        else:
            attended = self.attend(normed, f"{name}.attn", causal, values_only=bool(values))
        x = x + attended
        hidden = functional.linear(
            self.norm(x, f"{name}.ln_2"), self.tower[f"{name}.mlp.c_fc.weight"], self.tower[f"{name}.mlp.c_fc.bias"]
        )
        down = self.tower[f"{name}.mlp.c_proj.weight"], self.tower[f"{name}.mlp.c_proj.bias"]
        return x + functional.linear(functional.gelu(hidden), *down)

    def adapt(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """A residual adapter, mixed 1 : 9."""
        adapted = functional.leaky_relu(functional.linear(x, self.adapters[f"{name}.fc.0.weight"]))
        adapted = adapted * x.norm(dim=-1, keepdim=True) / adapted.norm(dim=-1, keepdim=True)
        return 0.1 * adapted + 0.9 * x

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, S, S) to the first block's tokens (L, B, D)."""
        weight = self.tower["visual.conv1.weight"]
        patches = functional.conv2d(images, weight, stride=weight.shape[-1]).flatten(2).permute(0, 2, 1)
        start = self.tower["visual.class_embedding"].expand(len(images), 1, -1)
        tokens = torch.cat([start.to(patches.dtype), patches], dim=1) + self.tower["visual.positional_embedding"]
        return self.norm(tokens, "visual.ln_pre").permute(1, 0, 2)

    def adapted_features(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Unit patch features (B, L, E) of each level, and the detection token (B, E)."""
        x, taps = self.embed(images), []
        for number in range(1, self.depth + 1):
            x = self.block(x, f"visual.transformer.resblocks.{number - 1}")
            if f"image_adapter.layer_adapters.{number - 1}.fc.0.weight" in self.adapters:
                x = self.adapt(x, f"image_adapter.layer_adapters.{number - 1}")
            if number in self.levels:
                taps.append(x.permute(1, 0, 2)[:, 1:])
        normed = [self.norm(tap, "visual.ln_post") for tap in taps]
        projections = [self.adapters[f"image_adapter.seg_proj.{number}.fc.weight"] for number in range(len(taps))]
        levels = [unit(functional.linear(tap, weight)) for tap, weight in zip(normed, projections, strict=True)]
        token = unit(functional.linear(normed[-1], self.adapters["image_adapter.det_proj.fc.weight"]))
        return levels, token.mean(dim=1)

    def value_features(self, images: torch.Tensor, direction: str = "across_batch") -> list[torch.Tensor]:
        """Stage 1's view: unit patch features plus the plain tower's unit image embedding, (B, L, E) of each level."""
        plain = values = self.embed(images)
        levels = []
        for number in range(1, self.depth + 1):
            name = f"visual.transformer.resblocks.{number - 1}"
            plain = self.block(plain, name)
            values = plain if number <= PLAIN_BLOCKS else self.block(values, name, values=direction)
            if number in self.levels:
                tokens = self.norm(values.permute(1, 0, 2)[:, 1:], "visual.ln_post")
                levels.append(unit(tokens @ self.tower["visual.proj"]))
        embedding = unit(self.norm(plain[0], "visual.ln_post") @ self.tower["visual.proj"])
        return [level + embedding.unsqueeze(1) for level in levels]

    def anchors(self, noun: str) -> torch.Tensor:
        """(E, 2): each the unit mean of its prompts' unit embeddings; normal, abnormal."""
        columns = []
        for prompts in build_prompts(noun):
            ids = open_clip.tokenize(prompts, 77).to(self.device)
            x = (self.tower["token_embedding.weight"][ids] + self.tower["positional_embedding"]).permute(1, 0, 2)
            for number in range(self.text_depth):
                x = self.block(x, f"transformer.resblocks.{number}", causal=True)
                if f"text_adapter.{number}.fc.0.weight" in self.adapters and number < 3:
                    x = self.adapt(x, f"text_adapter.{number}")
            end = self.norm(x.permute(1, 0, 2), "ln_final")[torch.arange(len(ids), device=self.device), ids.argmax(dim=-1)]
            embedded = functional.leaky_relu(functional.linear(end, self.adapters["text_adapter.3.fc.0.weight"]))
            columns.append(unit(unit(embedded).mean(dim=0)))
        return torch.stack(columns, dim=1)

    @torch.no_grad()
    def heatmap(self, images: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """The test-time map (B, 1, S, S), the sum over levels."""
        with self.autocast():
            levels, _ = self.adapted_features(images)
        size = images.shape[-1]
        total = images.new_zeros(len(images), 1, size, size)
        offsets = torch.arange(9.0, device=images.device) - 4.0
        kernel = torch.exp(-(offsets**2) / (2.0 * 1.5**2))
        kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
        for level in levels:
            logits = square(100.0 * level.float() @ anchors)
            scores = functional.pad((logits[:, 1:] + 1.0 - logits[:, :1]) / 2.0, (4, 4, 4, 4), mode="reflect")
            blurred = functional.conv2d(scores, kernel[None, None])
            total += functional.interpolate(blurred, size=(size, size), mode="bilinear", align_corners=True)
        return total

    def text_loss(self, images: torch.Tensor, mask: torch.Tensor, nouns: Sequence[str]) -> torch.Tensor:
        """Stage 1's loss: the deepest level's segmentation loss and the anchors' orthogonality."""
        with self.autocast():
            named = {noun: self.anchors(noun) for noun in set(nouns)}
            with torch.no_grad():
                levels = self.value_features(images)
        anchors = torch.stack([named[noun] for noun in nouns]).float()
        for level in levels:
            loss = segment(level.float(), anchors, mask)
        return loss + 0.1 * (anchors[..., 0] * anchors[..., 1]).sum(dim=-1).mean() ** 2

    def image_loss(self, images: torch.Tensor, mask: torch.Tensor, label: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """Stage 2's loss: every level's segmentation loss and the detection token's cross entropy. Anchors (B, E, 2)."""
        with self.autocast():
            levels, token = self.adapted_features(images)
        loss = functional.cross_entropy((token.float().unsqueeze(1) @ anchors)[:, 0], label)
        for level in levels:
            loss = loss + segment(level.float(), anchors, mask)
        return loss


def unit(x: torch.Tensor) -> torch.Tensor:
    """Unit norm along the last axis."""
    return x / x.norm(dim=-1, keepdim=True)


def square(logits: torch.Tensor) -> torch.Tensor:
    """(B, L, 2) to (B, 2, h, w)."""
    side = round(logits.shape[1] ** 0.5)
    return logits.permute(0, 2, 1).reshape(len(logits), 2, side, side)


def segment(level: torch.Tensor, anchors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Focal loss and both Dice losses of one level's full-size maps."""
    logits = functional.interpolate(square(100.0 * level @ anchors), mask.shape[-2:], mode="bilinear", align_corners=True)
    maps = logits.softmax(dim=1)
    target = torch.cat([1.0 - mask, mask], dim=1).clamp(1e-5, 1.0 - 1e-5)
    likelihood = (target * maps).sum(dim=1) + 1e-5
    loss = (-((1.0 - likelihood) ** 2) * likelihood.log()).mean()
    for channel, truth in ((maps[:, 0], 1.0 - mask[:, 0]), (maps[:, 1], mask[:, 0])):
        overlap, sizes = (channel * truth).sum(dim=(1, 2)), channel.sum(dim=(1, 2)) + truth.sum(dim=(1, 2))
        loss = loss + (1.0 - (2.0 * overlap + 1.0) / (sizes + 1.0)).mean()
    return loss
