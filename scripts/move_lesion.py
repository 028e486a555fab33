"""Volumes with a lesion in another place, made of a brain with one: python -m scripts.move_lesion IMAGE MASK --out DIR

What one patient's scan teaches a detector may be where that patient's lesion lies. Each volume that this makes has the lesion
taken out (filled from the other side of the head), put elsewhere at another size and strength, the head then warped and its
grey values bent. ``DIR`` gets the volumes, their masks and ``index.jsonl``: the scan itself as split train, the others as split
test. The same command gives the same volumes.

    aaclip-med ablate --index DIR/index.jsonl --preset brain-mri --out OUT
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import affine_transform, binary_dilation, gaussian_filter, map_coordinates, zoom

from aaclip_med.data.index import Case, write_index
from aaclip_med.data.sources import read_source
from aaclip_med.data.volumes import Volume, read_mask
from aaclip_med.data.writing import write_nifti

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Move:
    """shift: mm along the array's axes, of the lesion's centre. size, strength: factors. turned: front to back."""

    shift: tuple[float, float, float]
    size: float
    strength: float
    turned: bool


MOVES = (
    Move((0, -35, -20), 0.75, 0.75, True),
    Move((45, -20, -25), 1.0, 1.0, True),
    Move((-5, 60, -15), 0.9, 0.95, False),
    Move((40, 30, -40), 0.75, 1.0, True),
    Move((38, -5, 5), 1.2, 0.9, False),
)
WARP_MM, WAVE_MM = 3.0, 24.0
"""Standard deviation and width of the elastic part of a warp."""


def main() -> None:
    """Read, move, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("mask", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="Brain", help="the rows' class_name")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    volume = read_source(options.image)
    mask = read_mask(options.mask, volume)
    tissue = np.maximum(volume.array.astype(np.float32), 0)
    healthy, difference = take_out(volume, tissue, mask)
    cases = [Case(options.image.resolve(), 1, options.name, options.mask.resolve(), patient="whole", split="train")]
    rng = np.random.default_rng(options.seed)
    for number, move in enumerate(MOVES):
        image, lesion = warp(volume, *put(volume, healthy, difference, mask, move), rng)
        image = bend(image, rng.uniform(0.8, 1.25))
        paths = [options.out / f"moved_{number}{ending}.nii.gz" for ending in ("", "_mask")]
        write_nifti(paths[0], image, volume)
        write_nifti(paths[1], lesion.astype(np.uint8), volume)
        cases.append(Case(paths[0], 1, options.name, paths[1], patient=f"moved {number}", split="test"))
        print(f"{paths[0]}: lesion of {int(lesion.sum())} voxels around {np.argwhere(lesion).mean(axis=0).round()}")
    write_index(cases, options.out / "index.jsonl")


def take_out(volume: Volume, tissue: Array, mask: Array) -> tuple[Array, Array]:
    """The volume filled from its other side where the lesion was, and what the lesion added."""
    axis = next(number for number, letter in enumerate(volume.orientation) if letter in "LR")
    body = np.argwhere(tissue > 0)[:, axis]
    places = np.clip(body.min() + body.max() - np.arange(tissue.shape[axis]), 0, tissue.shape[axis] - 1)
    mirrored = np.take(tissue, places, axis=axis)
    mirrored = np.where(mirrored > 0, mirrored, tissue)
    blend = gaussian_filter(binary_dilation(mask, iterations=4).astype(np.float32), 1.5)
    healthy = np.where(tissue > 0, tissue * (1 - blend) + mirrored * blend, 0)
    return healthy, (tissue - gaussian_filter(mirrored, 2)) * gaussian_filter(mask.astype(np.float32), 1)


def put(volume: Volume, healthy: Array, difference: Array, mask: Array, move: Move) -> tuple[Array, Array]:
    """The lesion in its new place, within the body: image and mask."""
    centre = np.argwhere(mask).mean(axis=0)
    matrix = np.eye(3) / move.size
    if move.turned:
        matrix[:, next(number for number, letter in enumerate(volume.orientation) if letter in "AP")] *= -1
    target = centre + np.array(move.shift) / volume.spacing
    offset = centre - matrix @ target
    body = healthy > 0
    moved = affine_transform(difference, matrix, offset, order=1)
    lesion = affine_transform(mask.astype(np.float32), matrix, offset, order=1) > 0.5
    return np.maximum(healthy + move.strength * moved, 1) * body, lesion & body


def warp(volume: Volume, image: Array, mask: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Head and lesion scaled, turned about the last axis, bent, and mirrored or not."""
    shape, spacing = np.array(image.shape), np.array(volume.spacing)
    angle = np.deg2rad(rng.uniform(-8, 8))
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    matrix = np.diag(1 / spacing) @ turn @ np.diag(spacing / rng.uniform(0.92, 1.06, 3))
    grid = np.stack(np.meshgrid(*(np.arange(length, dtype=np.float32) for length in shape), indexing="ij"))
    centre = ((shape - 1) / 2)[:, None, None, None]
    at = np.tensordot(matrix, grid - centre, axes=1) + centre
    at += np.stack([draw_wave(shape, spacing, rng) / side for side in spacing])
    if rng.integers(2):
        axis = next(number for number, letter in enumerate(volume.orientation) if letter in "LR")
        at[axis] = shape[axis] - 1 - at[axis]
    bent: Array = map_coordinates(image, at, order=1)
    return bent, map_coordinates(mask.astype(np.float32), at, order=1) > 0.5


def draw_wave(shape: Array, spacing: Array, rng: np.random.Generator) -> Array:
    """A smooth random displacement in mm."""
    coarse = np.maximum(shape // 4, 2)
    wave = gaussian_filter(rng.standard_normal(coarse), WAVE_MM / 4 / spacing)
    return np.asarray(zoom(WARP_MM * wave / wave.std(), shape / coarse, order=1))


def bend(image: Array, exponent: float) -> Array:
    """Grey values to a power, 0 to 1000 at the 99.9th percentile."""
    scaled = image / np.percentile(image[image > 0], 99.9)
    return np.asarray(1000 * scaled**exponent * (image > 0), dtype=np.float32)


if __name__ == "__main__":
    main()
