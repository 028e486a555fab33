"""What an ablation compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aaclip_med.data.fusion import ALL_PLANES
from aaclip_med.errors import InputError
from aaclip_med.inference.refinement import BEST, PUBLISHED, Refinement


@dataclass(frozen=True)
class Variant:
    """One row. training: what differs in training, by the names of the bundle's configuration; empty: the first row's adapters.

    refinement: None: the one stored by training. bank: whether normal patches of the training rows go with it. levels: whether
    level weights are learned from the rows of split val. level: the only one that is looked at, counted from the shallowest.
    """

    group: str
    name: str
    training: dict[str, Any] = field(default_factory=dict)
    refinement: Refinement | None = None
    plane: str | None = None
    bank: bool = False
    levels: bool = False
    level: int | None = None


METHOD = (
    Variant("method", "as trained by default"),
    Variant("method", "no image adapters (projections alone)", {"detector::image_adapters": 0}),
    Variant("method", "image adapters not residual", {"detector::image_mix": 1.0}),
    Variant("method", "no text adapters (their projection alone)", {"detector::text_adapters": 0}),
    Variant("method", "stage 1 left out", {"text_learning_rate": 0.0}),
    Variant("method", "no disentangling", {"orthogonality_weight": 0.0}),
    Variant("method", "deepest level alone", {"detector::levels": "deepest"}),
    Variant("method", "no augmentation", {"augment": False}),
    Variant("fidelity", "activation quick_gelu", {"activation": "quick_gelu"}),
    Variant("fidelity", "stage 1 on all levels", {"stage_one_levels": "all"}),
    Variant("fidelity", "stage 1 attends across positions", {"value_attention": "across_positions"}),
    Variant("fidelity", "paper: all three, and its noun", {"fidelity": "paper"}),
)
"""Each needs a training of its own."""

SCORING = (
    Variant("scoring", "published", refinement=PUBLISHED),
    Variant("scoring", "pooled over the top 0.2 %", refinement=Refinement(pool_share=0.002)),
    Variant("scoring", "pooled over the top 1 %", refinement=Refinement(pool_share=0.01)),
    Variant("scoring", "with the detection head", refinement=Refinement(detection_weight=10.0)),
    Variant("scoring", "flips averaged", refinement=Refinement(flips=True)),
    Variant("scoring", "less blur", refinement=Refinement(sigma=0.4)),
    Variant("scoring", "slices smoothed along the volume", refinement=Refinement(reach=BEST.reach)),
    Variant("scoring", "patches laid twice", refinement=Refinement(shifts=2)),
    Variant("scoring", "enlarged, in tiles", refinement=Refinement(zoom=2.5)),
    Variant("scoring", "sharpened", refinement=Refinement(sharpen=5)),
    Variant("scoring", "foreground alone", refinement=Refinement(foreground=True)),
    Variant("scoring", "bank of normal patches", refinement=Refinement(bank_weight=10.0), bank=True),
    Variant("scoring", "level weights learned on validation rows", refinement=PUBLISHED, levels=True),
    Variant("scoring", "coronal plane", refinement=PUBLISHED, plane="coronal"),
    Variant("scoring", "sagittal plane", refinement=PUBLISHED, plane="sagittal"),
    Variant("scoring", "three planes", refinement=PUBLISHED, plane=ALL_PLANES),
    Variant("scoring", "best", refinement=BEST),
    Variant("scoring", "best with the published blur", refinement=replace(BEST, sigma=None)),
    Variant("scoring", "best, not smoothed along the volume", refinement=replace(BEST, reach=0.0)),
    Variant("scoring", "best, not sharpened", refinement=replace(BEST, sharpen=0)),
    Variant("scoring", "best, background kept", refinement=replace(BEST, foreground=False)),
    *(Variant("scoring", f"best, level {number + 1} of 4 alone", refinement=BEST, level=number) for number in range(4)),
    Variant("scoring", "best, flips averaged", refinement=replace(BEST, flips=True)),
    Variant("scoring", "best, patches laid twice", refinement=replace(BEST, shifts=2)),
    Variant("scoring", "best, with a bank", refinement=replace(BEST, bank_weight=10.0), bank=True),
    Variant("scoring", "best, level weights learned on validation rows", refinement=BEST, levels=True),
    Variant("scoring", "best, three planes", refinement=BEST, plane=ALL_PLANES),
)
"""Of the first row's adapters."""


def choose_variants(names: Sequence[str]) -> tuple[Variant, ...]:
    """The variants of these names, in the order of the table.

    Raises:
        InputError: a name is unknown.
    """
    known = {variant.name: variant for variant in (*METHOD, *SCORING)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"no variant '{unknown[0]}'; choose from: " + "; ".join(known))
    return tuple(variant for name, variant in known.items() if name in names)
