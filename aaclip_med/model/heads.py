"""Attention on an x86 processor, one head at a time: its weights (L, L) stay in the cache, and go when the head is done.

Far below 0 a sigmoid is an exponential, and oneDNN applies it on the way out of a product. So the products of queries and keys
are moved down and softmax becomes that sigmoid, divided by its sums, which tell whether it was far below 0; if not, the head is
done again with softmax itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from aaclip_med.model.linear import multiply_transposed

ALIGNED = 32
"""Rows of a multiple of this are quick to write."""

SHIFT = 48.0
"""Taken from the products of queries and keys, so that the sigmoid of what is left is their exponential."""

SUMS = (1e-30, 1e-7)
"""Between these sums of a query's weights, each weight is right to 1e-7 of itself, and those that became 0 were 1e-5 of all."""

MORE_COLUMNS = 8
"""Columns beside those of a head, for sums: oneDNN multiplies eight at a time."""


def attend_by_heads(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of (B, H, L, D / H) each, queries scaled, to (B, L, D); float32 or bf16, with gradients."""
    return _Attention.apply(query, key, value)  # type: ignore[no-any-return]


class _Attention(torch.autograd.Function):
    """Keeps what comes in and what goes out; the weights are made again for the gradient."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        batch, heads, length, width = query.shape
        mixed = query.new_empty(batch, length, heads, width)
        padded = _align(length)
        keys, values = query.new_zeros(padded, width), query.new_zeros(padded, width + MORE_COLUMNS)
        values[:length, width] = 1.0  # what is filled up has no value and no part in the sum
        shift = query.new_full((padded,), -SHIFT)
        for image in range(batch):
            for head in range(heads):
                keys[:length], values[:length, :width] = key[image, head], value[image, head]
                weights = multiply_transposed(query[image, head], keys, shift, "sigmoid")
                weighted = multiply_transposed(weights, values.t())
                sums = weighted[:, width : width + 1]
                if _are_exponentials(sums):
                    torch.div(weighted[:, :width], sums, out=mixed[image, :, head])
                else:
                    scores = query[image, head] @ key[image, head].t()
                    mixed[image, :, head] = scores.softmax(dim=-1) @ value[image, head]
        ctx.save_for_backward(query, key, value, mixed)
        return mixed.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, mixed = ctx.saved_tensors
        batch, heads, length, width = query.shape
        given = gradient.view(batch, length, heads, width)
        found = tuple(torch.empty_like(part, memory_format=torch.contiguous_format) for part in (query, key, value))
        padded = _align(length)
        queries, keys = query.new_zeros(padded, width), query.new_zeros(padded, width)
        gradients, values = query.new_zeros(padded, width + MORE_COLUMNS), query.new_zeros(padded, width + MORE_COLUMNS)
        values[:length, width : width + 2] = 1.0
        shift = query.new_full((padded,), -SHIFT)
        for image in range(batch):
            for head in range(heads):
                queries[:length], keys[:length], values[:length, :width] = (part[image, head] for part in (query, key, value))
                weights = multiply_transposed(queries, keys, shift, "sigmoid")
                sums = weights[:length, :length].sum(dim=1, keepdim=True, dtype=torch.float32)
                if not _are_exponentials(sums):
                    scores = queries[:length] @ keys[:length].t()
                    weights.zero_()[:length, :length] = scores.softmax(dim=-1)
                    sums = torch.ones_like(sums)
                outer = given[image, :, head].float() / sums
                inner = -(outer * mixed[image, :, head].float()).sum(dim=1, keepdim=True)
                gradients[:length, :width], gradients[:length, width : width + 1] = outer, inner
                gradients[:length, width + 1 : width + 2] = inner - inner.to(query.dtype).float()  # what rounding took off
                slopes = multiply_transposed(gradients, values).mul_(weights)
                factors = ((slopes, keys), (slopes.t(), queries), (weights.t(), gradients[:, :width]))
                for whole, (left, right) in zip(found, factors, strict=True):
                    whole[image, head] = (left @ right)[:length]
        return found


def _align(length: int) -> int:
    return -(-length // ALIGNED) * ALIGNED


def _are_exponentials(sums: torch.Tensor) -> bool:
    lowest, highest = sums.aminmax()
    return bool(SUMS[0] < lowest and highest < SUMS[1])
