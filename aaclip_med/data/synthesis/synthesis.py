"""Synthetic lesions put into normal slices and volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from aaclip_med.data.synthesis.lesions import KINDS
from aaclip_med.data.synthesis.shapes import Array, Mask, draw_shape, find_foreground
from aaclip_med.errors import InputError


class Synthetic(NamedTuple):
    """An image with lesions: values (C, *grid) float32 in [0, 1], mask (*grid) bool, what each lesion is."""

    values: Array
    mask: Mask
    names: tuple[str, ...]


@dataclass(frozen=True)
class Synthesis:
    """Draws lesions into images that have none. The same random generator gives the same lesions.

    kinds: those drawn from, with equal chances, by name: texture, blob, deformation.
    lesions: fewest and most lesions in an image.
    sizes: smallest and largest lesion, as a share of the foreground's area or volume; drawn log-uniformly.
    contrasts: least and most change of intensity, of 1; drawn log-uniformly. Pasted texture and deformation have their own.
    visible: a lesion is drawn again where the mean absolute change under its mask is below this, or half of its pixels change
        by less than half of it. After ``tries`` another kind is drawn, and after all kinds none.
    fewest: pixels or voxels of foreground below which an image is left as it is; so it is below a hundredth of the image.

    Nothing changes outside the mask, not by one bit.
    """

    kinds: tuple[str, ...] = tuple(KINDS)
    lesions: tuple[int, int] = (1, 3)
    sizes: tuple[float, float] = (0.003, 0.08)
    contrasts: tuple[float, float] = (0.1, 0.4)
    visible: float = 0.03
    tries: int = 6
    fewest: int = 100

    def __post_init__(self) -> None:
        """Raises:
        InputError: a kind is not known, or none is named.
        """
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise InputError(f"lesions of kind '{', '.join(unknown)}' cannot be drawn; choose from {', '.join(KINDS)}")

    def apply_slice(self, image: Array, rng: np.random.Generator, organ: Mask | None = None) -> tuple[Array, Array]:
        """Lesions in a slice (C, H, W), float32 in [0, 1]: the new slice, and its mask (1, H, W), float32 of 0 and 1.

        They lie in ``organ`` (H, W), without one in the body. Where there is too little of it, or no lesion could be seen, the
        slice comes back as it was, with an empty mask.
        """
        drawn = self.draw(image, rng, (1.0, 1.0), organ)
        return drawn.values, drawn.mask[None].astype(np.float32)

    def draw(self, values: Array, rng: np.random.Generator, spacing: Sequence[float], organ: Mask | None = None) -> Synthetic:
        """Lesions in ``values`` (C, *grid), a slice or a volume, round in mm; ``spacing`` mm along each axis of the grid.

        Otherwise as ``apply_slice``; ``organ`` (*grid).
        """
        foreground = find_foreground(values, spacing) if organ is None else organ
        area = int(foreground.sum())
        mask = np.zeros(foreground.shape, dtype=bool)
        if area < max(self.fewest, foreground.size / 100):
            return Synthetic(values, mask, ())
        inner = tuple(slice(1, -1) for _ in foreground.shape)  # the image's border is an edge too
        depth = ndimage.distance_transform_edt(np.pad(foreground, 1), spacing)[inner].astype(np.float32)
        chances = np.cumsum(depth.ravel(), dtype=np.float64)
        names = []
        for _ in range(rng.integers(self.lesions[0], self.lesions[1] + 1)):
            for kind in np.repeat(rng.permutation(self.kinds), self.tries):
                size = max(9, round(area * _draw_between(rng, self.sizes)))
                centre = _draw_centre(rng, chances, foreground.shape)
                shape = draw_shape(rng, foreground, centre, size, spacing)
                if not shape.mask.any():
                    continue
                lesion = KINDS[kind](rng, values, depth, shape, _draw_between(rng, self.contrasts))
                old = values[shape.window]
                new = np.where(lesion.mask, np.clip(lesion.values, 0, 1), old).astype(np.float32)
                if self._is_visible(np.abs(new - old).mean(axis=0)[lesion.mask]):
                    values = values.copy()
                    values[shape.window] = new
                    mask[shape.box] |= lesion.mask
                    names.append(lesion.name)
                    break
        return Synthetic(values, mask, tuple(names))

    def _is_visible(self, change: Array) -> bool:
        """By the absolute changes of the pixels of a lesion's mask."""
        return change.size > 0 and bool(change.mean() >= self.visible and np.median(change) >= self.visible / 2)


def _draw_between(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """Log-uniformly."""
    return math.exp(rng.uniform(math.log(limits[0]), math.log(limits[1])))


def _draw_centre(
    rng: np.random.Generator, chances: np.ndarray[tuple[int], np.dtype[np.float64]], shape: tuple[int, ...]
) -> tuple[int, ...]:
    """A pixel of the foreground, the likelier the deeper: ``chances`` is the running sum of the distances to its edge."""
    number = int(np.searchsorted(chances, rng.random() * chances[-1], side="right"))
    return tuple(int(i) for i in np.unravel_index(min(number, chances.size - 1), shape))
