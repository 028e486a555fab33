"""Value-value attention, which stage 1 puts in the place of attention in the deeper vision blocks (CLIP Surgery, 2023)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from aaclip_med.model.config import ValueAttention

PLAIN_BLOCKS_OF_24 = 5
"""Blocks of ViT-L, from the first, that keep their own attention; other depths keep the same share."""


def count_plain_blocks(depth: int) -> int:
    """How many of ``depth`` blocks keep their own attention."""
    return round(depth * PLAIN_BLOCKS_OF_24 / 24)


def attend_values(attention: nn.MultiheadAttention, tokens: torch.Tensor) -> torch.Tensor:
    """Self-attention with the values as queries and keys too: tokens (B, L, D), normed, to (B, L, D)."""
    batch, length, width = tokens.shape
    weight = attention.in_proj_weight[2 * width :]
    bias = attention.in_proj_bias[2 * width :] if attention.in_proj_bias is not None else None
    values = functional.linear(tokens, weight, bias)
    values = values.view(batch, length, attention.num_heads, -1).transpose(1, 2)
    mixed = functional.scaled_dot_product_attention(values, values, values)
    return attention.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]


def run_value_block(block: nn.Module, tokens: torch.Tensor, direction: ValueAttention) -> torch.Tensor:
    """A residual block with value-value attention: tokens (B, L, D) to (B, L, D).

    ``across_batch`` attends over B at each position, as the released program does; ``across_positions`` over L.
    """
    normed = block.ln_1(tokens)  # type: ignore[operator]
    if direction == "across_batch":
        attended = attend_values(block.attn, normed.transpose(0, 1)).transpose(0, 1)  # type: ignore[arg-type]
    else:
        attended = attend_values(block.attn, normed)  # type: ignore[arg-type]
    tokens = tokens + block.ls_1(attended)  # type: ignore[operator]
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))  # type: ignore[operator, no-any-return]
