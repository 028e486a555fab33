"""The trainable part: residual adapters and projections (AA-CLIP, section 3; parameter names as in the released files)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Adapter(nn.Module):
    """One linear map with a LeakyReLU, token to token: (..., C) to (..., C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(width, width, bias=False), nn.LeakyReLU())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The adapter's own output, not yet mixed."""
        return self.fc(tokens)  # type: ignore[no-any-return]


class Projection(nn.Module):
    """From a tower's tokens to the shared space: (..., C) to (..., E)."""

    def __init__(self, width: int, embed_dim: int, relu: bool) -> None:
        super().__init__()
        linear = nn.Linear(width, embed_dim, bias=False)
        self.fc: nn.Module = nn.Sequential(linear, nn.LeakyReLU()) if relu else linear

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Projected tokens, not normalised."""
        return self.fc(tokens)  # type: ignore[no-any-return]


class ImageAdapter(nn.Module):
    """Adapters of the first vision blocks, a projection a level, and the detection projection."""

    def __init__(self, width: int, embed_dim: int, blocks: int, levels: Sequence[int], relu: bool) -> None:
        super().__init__()
        self.layer_adapters = nn.ModuleList([Adapter(width) for _ in range(blocks)])
        self.seg_proj = nn.ModuleList([Projection(width, embed_dim, relu) for _ in levels])
        self.det_proj = Projection(width, embed_dim, relu)


def build_text_adapter(width: int, embed_dim: int, blocks: int) -> nn.ModuleList:
    """Adapters of the first text blocks, then the projection, which always ends in a LeakyReLU."""
    return nn.ModuleList([*[Adapter(width) for _ in range(blocks)], Projection(width, embed_dim, relu=True)])


def mix(tokens: torch.Tensor, adapted: torch.Tensor, share: float) -> torch.Tensor:
    """``share`` of an adapter's output, rescaled to each token's own norm, and the rest of the token: (..., C)."""
    norm = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
    adapted_norm = torch.linalg.vector_norm(adapted, dim=-1, keepdim=True)
    in_range = tokens.dtype != torch.float16  # whose range the first product may leave
    adapted = adapted * norm / adapted_norm if in_range else adapted * (norm / adapted_norm)
    return share * adapted + (1.0 - share) * tokens


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Xavier-uniform weights drawn from ``generator``, in the order of the parameters' names."""
    for _, parameter in sorted(module.named_parameters()):
        nn.init.xavier_uniform_(parameter, generator=generator)
