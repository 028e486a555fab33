"""Scans as another scanner might show them: python -m scripts.alter_greys INDEX --out DIR

Each test row's scan is written with its grey values bent, shaded, noisy, or its lesion fainter; ``DIR`` gets an index for each,
``brighter.jsonl`` and so on, with those rows alone. What is black stays black. The same command gives the same scans.

    aaclip-med evaluate --index DIR/brighter.jsonl --split test --adapters ADAPTERS --out OUT
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from aaclip_med.data.index import read_index, write_index
from aaclip_med.data.sources import read_source
from aaclip_med.data.volumes import read_mask
from aaclip_med.data.writing import write_nifti
from aaclip_med.errors import InputError

Array = np.ndarray[Any, Any]

SHADE, SHADE_VOXELS = 0.35, 40
"""Most that a shading adds or takes away, and its width."""
NOISE = 0.06
"""Standard deviation, as a share of the 99.8th percentile."""
FAINTER = 0.4
"""Share by which a lesion's excess over the median falls."""


def shade(image: Array, _mask: Array, rng: np.random.Generator) -> Array:
    """A smooth factor over the head, as of coils."""
    field = gaussian_filter(rng.normal(size=image.shape), SHADE_VOXELS)
    return np.asarray(image * (1 + SHADE * field / np.abs(field[image > 0]).max()))


def blur_with_noise(image: Array, _mask: Array, rng: np.random.Generator) -> Array:
    """Rician noise, as of a short scan."""
    one, other = (rng.normal(size=image.shape) * NOISE for _ in range(2))
    return np.hypot(image + one, other)


def fade(image: Array, mask: Array, _rng: np.random.Generator) -> Array:
    """The lesion less bright."""
    excess = np.clip(image - np.median(image[image > 0]), 0, None)
    return np.asarray(image - FAINTER * gaussian_filter(mask.astype(float), 1.0) * excess)


ALTERATIONS: dict[str, Callable[[Array, Array, np.random.Generator], Array]] = {
    "brighter": lambda image, _mask, _rng: image**0.6,
    "darker": lambda image, _mask, _rng: image**1.6,
    "shaded": shade,
    "noisy": blur_with_noise,
    "fainter": fade,
}
"""Of an image that is 1 at its 99.8th percentile."""


def main() -> None:
    """Read, alter, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cases = [case for case in read_index(options.index) if case.split == "test" and case.mask_path]
    if not cases:
        raise InputError(f"{options.index}: no row of split test with a mask; nothing to alter")
    for name, alter in ALTERATIONS.items():
        altered = []
        for number, case in enumerate(cases):
            volume = read_source(case.image_path)
            tissue = np.maximum(volume.array.astype(float), 0)
            top = np.percentile(tissue[tissue > 0], 99.8)
            mask = read_mask(case.mask_path, volume)
            image = alter(tissue / top, mask, np.random.default_rng(number))
            path = options.out / f"{name}_{number}.nii.gz"
            write_nifti(path, np.where(tissue > 0, np.clip(image, 0, None) * top, 0).astype(np.float32), volume)
            altered.append(replace(case, image_path=path))
        write_index(altered, options.out / f"{name}.jsonl")


if __name__ == "__main__":
    main()
