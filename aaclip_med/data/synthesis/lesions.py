"""The kinds of synthetic lesions: each takes the image and a shape, and gives the shape's box with the lesion in it.

``depth`` (*grid) is the distance in mm to the foreground's edge, 0 outside.

Own drawings after published ideas: pieces of the image pasted elsewhere in it (CutPaste, Li et al., CVPR 2021), blended
rather than cut (Foreign Patch Interpolation, Tan et al., MELBA 2022; Poisson Image Interpolation, Tan et al., MICCAI
2021); foreign texture under an irregular mask (DRAEM, Zavrtanik et al., ICCV 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from aaclip_med.data.synthesis.shapes import Array, Mask, Shape, draw_rotation, sample, smooth_noise

NOTICEABLE = 0.2
"""A deformation's mask begins at this share of its largest displacement."""


class Lesion(NamedTuple):
    """What a kind draws: values (C, *box), to be clipped to [0, 1] and used under ``mask`` (*box); ``name`` says what it is."""

    values: Array
    mask: Mask
    name: str


def draw_texture(rng: np.random.Generator, values: Array, depth: Array, shape: Shape, contrast: float) -> Lesion:
    """Texture from elsewhere in the image, turned, or made of noise (clumps, ridges or stripes); blended in softly.

    ``contrast``: the made texture's standard deviation, of 1. What is pasted has its own.
    """
    old = values[shape.window]
    weight = shape.weight(rng.uniform(0.1, 0.6))
    if rng.random() < 0.5:
        new, name = _take_elsewhere(rng, values, depth, shape), "texture (pasted)"
    else:
        pattern, name = _draw_pattern(rng, shape)
        base = _local_mean(old, shape.mask) + rng.uniform(-0.5, 0.5) * contrast
        new = base + contrast * pattern
    return Lesion(old + rng.uniform(0.7, 1.0) * weight * (new - old), shape.mask, name)


def _take_elsewhere(rng: np.random.Generator, values: Array, depth: Array, shape: Shape) -> Array:
    """The box as it looks around another point, deep in the foreground and a radius away, as far as there are such points."""
    deep = depth >= 0.7 * shape.radius
    points = np.argwhere(deep if deep.any() else depth > 0)
    spacing = np.array(shape.spacing)
    far = np.linalg.norm((points - np.array(shape.centre)) * spacing, axis=1) > shape.radius
    points = points[far] if far.any() else points
    source = points[rng.integers(len(points))]
    turned = np.tensordot(rng.uniform(0.7, 1.3) * draw_rotation(rng, len(spacing)), shape.offsets, 1)
    column = (-1, *[1] * len(spacing))
    return sample(values, source.reshape(column) + turned / spacing.reshape(column))


def _draw_pattern(rng: np.random.Generator, shape: Shape) -> tuple[Array, str]:
    """Noise of mean 0 and standard deviation about 1 on the shape's box, coarse against a pixel and fine against the radius."""
    finest = 2.5 * min(shape.spacing)
    scale = max(finest, rng.uniform(0.2, 0.6) * shape.radius)
    field = smooth_noise(rng, shape.mask.shape, shape.spacing, scale)
    turn = rng.integers(3)
    if turn == 0:
        return 0.8 * field + 0.6 * smooth_noise(rng, shape.mask.shape, shape.spacing, finest), "texture (clumps)"
    if turn == 1:
        return (0.8 - np.abs(field)) * np.float32(1 / 0.6), "texture (ridges)"
    direction = draw_rotation(rng, len(shape.spacing))[0]
    along = np.tensordot(direction, shape.offsets, 1)
    waves = np.sin(2 * np.pi * along / (1.6 * scale) + 0.8 * field)
    return (1.4 * waves).astype(np.float32), "texture (stripes)"


def draw_intensity(rng: np.random.Generator, values: Array, depth: Array, shape: Shape, contrast: float) -> Lesion:
    """Brighter or darker by about ``contrast``, unevenly, or a bright rim round a dark core; part of the grain stays."""
    del depth
    old = values[shape.window]
    mean = _local_mean(old, shape.mask)
    weight = shape.weight(rng.uniform(0.15, 1.0))
    uneven = 1 + rng.uniform(0.05, 0.25) * smooth_noise(rng, shape.mask.shape, shape.spacing, 0.5 * shape.radius)
    flat = old + rng.uniform(0.2, 0.8) * (mean - old)
    turn = rng.integers(3)
    if turn == 2:
        core = shape.weight(0.25, depth=rng.uniform(0.15, 0.4))
        rim = np.float32(contrast) * (1 - core) - np.float32(rng.uniform(0.4, 1.0) * contrast) * core
        return Lesion(old + shape.weight(0.2) * (flat + uneven * rim - old), shape.mask, "blob (ring)")
    sign, name = ((1, "blob (bright)"), (-1, "blob (dark)"))[turn]
    return Lesion(old + weight * (flat + np.float32(sign * contrast) * uneven - old), shape.mask, name)


def draw_deformation(rng: np.random.Generator, values: Array, depth: Array, shape: Shape, contrast: float) -> Lesion:
    """The tissue swollen, shrunken or warped inside the shape; intensities stay. The mask begins where it is noticeable.

    Swelling and shrinking move every point along the line to the centre, warping moves all of them about the same way.
    """
    del depth, contrast
    peak = float(shape.height[shape.mask].max(initial=1e-3))
    weight = np.where(shape.mask, shape.weight(peak), 0)
    turn = rng.integers(3)
    if turn == 0:
        moves, name = -rng.uniform(0.45, 0.75) * weight * shape.offsets, "deformation (swollen)"
    elif turn == 1:
        moves, name = rng.uniform(0.5, 0.9) * weight * shape.offsets, "deformation (shrunken)"
    else:
        fields = [smooth_noise(rng, shape.mask.shape, shape.spacing, 1.5 * shape.radius) for _ in shape.spacing]
        direction = draw_rotation(rng, len(fields))[0].reshape(-1, *[1] * len(fields))
        moves = rng.uniform(0.25, 0.4) * shape.radius * weight * (direction + 0.4 * np.stack(fields))
        name = "deformation (warped)"
    column = (-1, *[1] * len(shape.spacing))
    start = np.array([part.start for part in shape.box])
    grid = np.indices(shape.mask.shape) + start.reshape(column)
    new = sample(values, grid + moves / np.array(shape.spacing).reshape(column))
    length = np.sqrt((moves**2).sum(axis=0))
    mask = shape.mask & ndimage.binary_fill_holes(length >= NOTICEABLE * max(float(length.max()), 1e-6))
    return Lesion(new, mask, name)


def _local_mean(old: Array, mask: Mask) -> Array:
    """(C, 1, ...): each channel's mean under the mask."""
    means: Array = old[:, mask].mean(axis=1)
    return means.reshape(-1, *[1] * mask.ndim)


Draw = Callable[[np.random.Generator, Array, Array, Shape, float], Lesion]

KINDS: dict[str, Draw] = {"texture": draw_texture, "blob": draw_intensity, "deformation": draw_deformation}
"""Every kind by name."""
