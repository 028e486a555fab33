"""How long and how fast each stage learns. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from aaclip_med.presets import FidelityName


@dataclass(frozen=True)
class StageRecipe:
    """One stage. ``epochs`` passes over the slices; or, where 0, as many as come nearest to ``steps`` optimiser steps.

    ``milestones``: the steps at which the learning rate is halved. ``warmup``: steps of linear warm-up. ``lesion_share``: the
    share of slices with lesions among those drawn; None: as they come. ``largest_gradient``: longer gradients are shortened to
    this norm, since Adam answers one that is much longer than those before with a step that leads out of all learning; 0: they
    are left. ``averaged_from``: the adapters after each epoch past this share of them are averaged, and none is chosen: on a
    small validation set one wins by luck; 0: the best epoch is chosen. ``robust``: augmentation for few patients, which shifts
    tones and moves lesions to other slices, in place of the published.
    """

    learning_rate: float
    batch_size: int
    epochs: int = 0
    steps: int = 0
    milestones: tuple[int, ...] = ()
    warmup: int = 0
    lesion_share: float | None = None
    largest_gradient: float = 0.0
    averaged_from: float = 0.0
    robust: bool = False

    def count_epochs(self, slices: int, batch_size: int) -> int:
        """Epochs for ``slices`` training slices, ``batch_size`` a step."""
        return self.epochs or max(1, round(self.steps / math.ceil(self.count_slices(slices, batch_size) / batch_size)))

    def count_slices(self, slices: int, batch_size: int) -> int:
        """Slices drawn in an epoch: all of them, or no more than ``steps`` of ``batch_size`` have room for."""
        return slices if self.epochs else min(slices, self.steps * batch_size)

    def scale_rate(self, step: int) -> float:
        """The factor on the learning rate at optimiser step ``step``, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return float(warm * 0.5 ** sum(step >= milestone for milestone in self.milestones))


@dataclass(frozen=True)
class Recipe:
    """Both stages; the arithmetic they are run in, and the refinement that scoring takes, where the caller names none."""

    text: StageRecipe
    image: StageRecipe
    precision: str = "float32"
    refinement: str = "published"


PUBLISHED = Recipe(
    text=StageRecipe(learning_rate=1e-5, batch_size=16, epochs=5),
    image=StageRecipe(learning_rate=5e-4, batch_size=2, epochs=20, milestones=(16_000, 32_000)),
)
"""AA-CLIP's own (CVPR 2025, section 4.1), for pretrained towers, in the released program's arithmetic."""

PAPER = replace(PUBLISHED, precision="auto")
"""The same in what the machine multiplies fastest: the paper does not say."""

TINY = Recipe(
    text=StageRecipe(learning_rate=1e-3, batch_size=8, steps=10, lesion_share=0.75, robust=True),
    image=StageRecipe(
        learning_rate=1e-3,
        batch_size=8,
        steps=900,
        milestones=(600, 780),
        warmup=20,
        lesion_share=0.75,
        largest_gradient=1.0,
        averaged_from=0.86,
        robust=True,
    ),
    precision="float32",
    refinement="best",
)
"""For the embedded tower, whose weights are random and whose adapters must learn more in a few hundred steps: lesions are drawn
more often than they come, and bf16 costs it accuracy."""

TINY_UNCHANGED = replace(TINY, image=replace(TINY.image, steps=450, milestones=(300, 390)))
"""Without augmentation, which takes twice the steps to be learned from."""


def find_recipe(backbone: object, augment: bool = True, fidelity: FidelityName = "reference") -> Recipe:
    """The recipe that suits a backbone; ``augment``: whether slices are changed before they are shown."""
    if backbone != "tiny":
        return PUBLISHED if fidelity == "reference" else PAPER
    return TINY if augment else TINY_UNCHANGED
