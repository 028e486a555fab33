"""The frozen towers' linear maps, each in the form that the hardware does well.

On x86 processors torch's float32 product goes to MKL, which is slow on some of them; oneDNN's own kernels, which torch carries
for compiled models, run at full speed on all, take weights packed once, and apply GELU on the way out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.nn import functional

Linear = Callable[[torch.Tensor], torch.Tensor]
"""Tokens (..., C) to (..., C')."""

Activation = Literal["none", "gelu"]


def has_onednn(dtype: torch.dtype = torch.float32) -> bool:
    """Whether oneDNN's kernels for linear maps of ``dtype`` are there: an x86 processor, and a torch that was built with them;
    for bf16 one with AVX-512.
    """
    there = torch._C._has_mkldnn and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    return there and (dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported())


def has_instructions(*names: str) -> bool:
    """Whether the processor has any of these sets of instructions, as far as this torch can say."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in names)


def apply_linear(tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A frozen linear map of tokens (..., C) that lets gradients through to the tokens, and none to the weight."""
    if tokens.device.type == "cpu" and tokens.dtype == weight.dtype == torch.float32 and has_onednn():
        return _FrozenLinear.apply(tokens, weight, bias)  # type: ignore[no-any-return]
    return functional.linear(tokens, weight, bias)


def multiply_transposed(
    left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None, activation: Literal["none", "sigmoid"] = "none"
) -> torch.Tensor:
    """``left @ right.T + bias`` of (M, K), (N, K) and (N,) by oneDNN's kernel, without gradients."""
    return _call_onednn(left, right, bias, activation)


class PlainLinear:
    """A frozen linear map in any precision, on any device."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., C) to (..., C')."""
        return apply_linear(tokens, self.weight, self.bias)


class PackedLinear:
    """float32 or bf16 on an x86 processor, without gradients; the weight is laid out once as oneDNN wants it."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, rows: int, activation: Activation = "none") -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
        self.bias = bias.detach() if bias is not None else None
        self.activation = activation

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., C) to (..., C')."""
        return _call_onednn(tokens, self.weight, self.bias, self.activation)


class Int8Linear:
    """8-bit weights, a scale for each output; 8-bit activations, a scale and a zero for each call, which is a slice.

    (..., C) to (..., C'). For x86 processors; those with VNNI multiply 8-bit numbers at twice the rate of bf16. Others sum
    pairs of products in 16 bits, so there activations have 7 bits. ``dtype``: the result's.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        rows: int,
        activation: Activation = "none",
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        full = weight.detach().float()
        self.scales = full.abs().amax(dim=1).clamp(min=1e-12) / 127.0
        rounded = (full / self.scales[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(rounded, [rows, full.shape[1]])
        self.zeros = torch.zeros(len(full), dtype=torch.int32)
        self.bias = bias.detach().float() if bias is not None else None
        self.activation = activation
        self.dtype = dtype
        wide = has_instructions("avx512_vnni", "avx_vnni", "amx_int8")
        self.steps = 254 if wide else 126  # one step of room for the rounding of the zero

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., C) to (..., C')."""
        low, high = (float(value) for value in tokens.aminmax())
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(high - low, 1e-12) / self.steps
        zero = round(-low / scale)
        full = tokens.float()
        half_up = torch.tensor(zero + 0.5)
        rounded = torch.add(half_up, full, alpha=1.0 / scale, out=full if full is not tokens else None).to(torch.uint8)
        arguments: tuple[Any, ...] = (self.scales, self.zeros, self.bias, 1.0, 0, self.dtype, self.activation, [], "none")
        flat = rounded.flatten(0, -2)
        mapped: torch.Tensor = torch.ops.onednn.qlinear_pointwise(flat, scale, zero, self.weight, *arguments)
        return mapped.view(*tokens.shape[:-1], mapped.shape[-1])


class _FrozenLinear(torch.autograd.Function):
    """oneDNN's float32 kernel both ways; the weight gets no gradient."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return _call_onednn(tokens, weight, bias, "none")

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _call_onednn(gradients[0].contiguous(), weight.t(), None, "none"), None, None


def _call_onednn(tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str) -> torch.Tensor:
    mapped: torch.Tensor = torch.ops.mkldnn._linear_pointwise(tokens, weight, bias, activation, [], "none")
    return mapped
