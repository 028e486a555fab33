"""Residual attention blocks of the frozen towers, run on open_clip's weights without ever keeping an attention matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from aaclip_med.model.config import ValueAttention
from aaclip_med.model.heads import attend_by_heads
from aaclip_med.model.linear import Activation, Int8Linear, Linear, PackedLinear, PlainLinear, has_instructions, has_onednn

PLAIN_BLOCKS_OF_24 = 5
"""Blocks of ViT-L, from the first, that keep their own attention; other depths keep the same share."""

ROWS_AT_ONCE = 2048
"""Tokens that a CPU takes through a block together: what they become in between stays in its cache."""

LONG = 512
"""From this many tokens on, a CPU without AMX attends head by head: torch's fused kernel multiplies slowly there."""

Form = Literal["shared", "cast", "packed", "int8"]
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def count_plain_blocks(depth: int) -> int:
    """How many of ``depth`` blocks keep their own attention."""
    return round(depth * PLAIN_BLOCKS_OF_24 / 24)


class Block:
    """A residual block of open_clip: layer norm, attention, layer norm, MLP, each added to the tokens.

    ``shared`` uses the block's own weights, ``cast`` a copy of type ``dtype``; both let gradients through to the tokens.
    ``packed`` (float32 or bf16) and ``int8`` (tokens of type ``dtype``) are for inference on an x86 processor. Layer norms and
    softmax sum up in float32 whatever the type of the tokens.
    """

    def __init__(self, block: Any, form: Form = "shared", dtype: torch.dtype = torch.float32, rows: int = 1) -> None:
        attention: nn.MultiheadAttention = block.attn
        self.heads = attention.num_heads
        up, down = block.mlp.c_fc, block.mlp.c_proj
        fused: Activation = "gelu" if form in ("packed", "int8") and isinstance(block.mlp.gelu, nn.GELU) else "none"
        make = _find_maker(form, dtype, rows)
        weight, bias, width = attention.in_proj_weight, attention.in_proj_bias, attention.embed_dim
        self.scaled = form in ("packed", "int8")
        self.project_in = make(*_scale_queries(weight, bias, self.heads), "none") if self.scaled else make(weight, bias, "none")
        self.project_values: Linear | None = None
        if form in ("shared", "cast"):
            self.project_values = make(weight[2 * width :], bias[2 * width :] if bias is not None else None, "none")
        self.project_out = make(attention.out_proj.weight, attention.out_proj.bias, "none")
        self.expand = make(up.weight, up.bias, fused)
        self.contract = make(down.weight, down.bias, "none")
        self.activate: Linear = nn.Identity() if fused == "gelu" else block.mlp.gelu
        self.norm_1, self.norm_2 = (_copy_norm(norm, form, dtype) for norm in (block.ln_1, block.ln_2))
        self.scale_1, self.scale_2 = (_copy_scale(scale, form, dtype) for scale in (block.ls_1, block.ls_2))
        self.rows_at_once = 1 if form == "int8" else ROWS_AT_ONCE  # 8-bit scales are of what is multiplied together

    def __call__(self, tokens: torch.Tensor, lengths: Sequence[int] | None = None, causal: bool = False) -> torch.Tensor:
        """Tokens (B, L, D) to (B, L, D); with ``lengths``, (1, sum of lengths, D), sequences one behind the other."""
        if tokens.device.type == "cpu" and not torch.is_grad_enabled():
            at_once = max(1, self.rows_at_once // tokens.shape[1])
            parts = torch.split(tokens, list(lengths), dim=1) if lengths else torch.split(tokens, at_once)
            if len(parts) > 1:
                return _collect((self._run(part, None, causal) for part in parts), tokens, 1 if lengths else 0)
        return self._run(tokens, lengths, causal)

    def attend_values(self, tokens: torch.Tensor, direction: ValueAttention) -> torch.Tensor:
        """The block with the values as queries and keys too: tokens (B, L, D) to (B, L, D).

        ``across_batch`` attends over B at each position, as the released program does; ``across_positions`` over L.
        """
        if direction == "across_positions":
            attended = self._mix_values(self.norm_1(tokens))
        else:
            # torch copies the weights for each row of tokens that are not contiguous
            normed = self.norm_1(tokens).transpose(0, 1).contiguous()
            attended = self._mix_values(normed).transpose(0, 1)
        return self._feed(tokens + self.scale_1(attended))

    def _run(self, tokens: torch.Tensor, lengths: Sequence[int] | None, causal: bool) -> torch.Tensor:
        query, key, value = self._split_heads(self.project_in(self.norm_1(tokens)), 3)
        if lengths is None:
            attended = attend(query, key, value, causal, self.scaled)
        else:
            parts = zip(*(torch.split(part, list(lengths), dim=2) for part in (query, key, value)), strict=True)
            attended = torch.cat([attend(q, k, v, causal, self.scaled) for q, k, v in parts], dim=1)
        return self._feed(tokens + self.scale_1(self.project_out(attended)))

    def _feed(self, tokens: torch.Tensor) -> torch.Tensor:
        """The MLP's half of the block."""
        if tokens.device.type == "cpu" and not torch.is_grad_enabled() and tokens.numel() > ROWS_AT_ONCE * tokens.shape[-1]:
            at_once = max(1, ROWS_AT_ONCE // tokens.shape[1])
            return _collect((self._feed_part(part) for part in torch.split(tokens, at_once)), tokens, 0)
        return self._feed_part(tokens)

    def _feed_part(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.activate(self.expand(self.norm_2(tokens)))
        return tokens + self.scale_2(self.contract(hidden))

    def _mix_values(self, normed: torch.Tensor) -> torch.Tensor:
        """Value-value attention over the second axis of (B, L, D)."""
        if self.project_values is None:
            raise TypeError("value-value attention is for training: it needs a block that is shared or cast")
        values = self.project_values(normed)
        if normed.shape[1] == 1:
            return self.project_out(values)
        (heads,) = self._split_heads(values, 1)
        return self.project_out(attend(heads, heads, heads))

    def _split_heads(self, projected: torch.Tensor, parts: int) -> tuple[torch.Tensor, ...]:
        """(B, L, parts * D) to ``parts`` of (B, heads, L, D / heads)."""
        batch, length, _ = projected.shape
        return projected.view(batch, length, parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def _collect(parts: Iterable[torch.Tensor], like: torch.Tensor, axis: int) -> torch.Tensor:
    """Parts one behind the other along ``axis``, in a tensor of the shape of ``like``; only one is kept at a time."""
    whole, start = torch.empty_like(like), 0
    for part in parts:
        whole.narrow(axis, start, part.shape[axis]).copy_(part)
        start += part.shape[axis]
    return whole


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool = False, scaled: bool = False
) -> torch.Tensor:
    """Scaled dot-product attention of (B, H, L, D / H) each, to (B, L, D); ``scaled``: the queries are so already."""
    long = query.device.type == "cpu" and query.shape[2] >= LONG and not causal
    if long and query.dtype in (torch.float32, torch.bfloat16) and has_onednn(query.dtype) and not has_instructions("amx_bf16"):
        return attend_by_heads(query if scaled else query * query.shape[-1] ** -0.5, key, value)
    scale = 1.0 if scaled else None
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale)
    return mixed.transpose(1, 2).flatten(2)


def _scale_queries(weight: torch.Tensor, bias: torch.Tensor | None, heads: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The joint projection (3 D, D) to queries, keys and values, such that the queries come out scaled."""
    width = len(weight) // 3
    scale = weight.new_ones(len(weight))
    scale[:width] = (width // heads) ** -0.5
    return weight.detach() * scale[:, None], bias.detach() * scale if bias is not None else None


def _find_maker(form: Form, dtype: torch.dtype, rows: int) -> Callable[[torch.Tensor, torch.Tensor | None, Activation], Linear]:
    def make(weight: torch.Tensor, bias: torch.Tensor | None, activation: Activation) -> Linear:
        if form == "shared":
            return PlainLinear(weight, bias)
        if form == "int8":
            return Int8Linear(weight, bias, rows, activation, dtype)
        cast, cast_bias = weight.detach().to(dtype), bias.detach().to(dtype) if bias is not None else None
        return PlainLinear(cast, cast_bias) if form == "cast" else PackedLinear(cast, cast_bias, rows, activation)

    return make


def _copy_norm(norm: nn.LayerNorm, form: Form, dtype: torch.dtype) -> Linear:
    """A layer norm on tokens of type ``dtype``; its sums are float32 within."""
    if form == "shared":
        return norm
    weight, bias = norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)
    return lambda tokens: functional.layer_norm(tokens, tokens.shape[-1:], weight, bias, norm.eps)


def _copy_scale(scale: nn.Module, form: Form, dtype: torch.dtype) -> Linear:
    """What a block's output is multiplied with, for tokens of type ``dtype``."""
    if form == "shared" or isinstance(scale, nn.Identity):
        return scale
    (gamma,) = (parameter.detach().to(dtype) for parameter in scale.parameters())
    return lambda tokens: tokens * gamma
