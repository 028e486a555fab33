"""Windowing: voxel values to [0, 1], once for the whole volume, so that slices stay comparable with each other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from aaclip_med.data.volumes import Volume
from aaclip_med.errors import InputError
from aaclip_med.presets import Window

MAX_EXACT = 50_000_000
"""Voxels; percentiles of larger volumes are taken over a part of them."""


def apply_window(volume: Volume, window: Window, inside: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
    """The volume's values in [0, 1]: float32, same shape as ``volume.array``; a colour picture keeps its channels.

    ``hu``: values from ``low`` to ``high`` (Hounsfield units for CT) are stretched to [0, 1], the rest is clipped.

    ``percentile``: the same between two percentiles of the foreground. The background level is the median of the voxels
    not above the volume's mean (exactly 0 in a skull-stripped scan, the noise of air in others), and the foreground is
    every voxel above the background level. So a background of 0 and the small negative values of resampling become
    exactly 0, while dark fluid inside the head stays above it. Volumes of more than 50 million voxels are thinned out for
    this, alike however their axes are stored. A volume without any background loses its darkest quarter or so.

    ``as_is``: uint8 is divided by 255; other types are left alone up to a maximum of 1, divided by 255 up to a maximum
    of 255 and by 65535 up to 65535.

    ``inside`` (I, J, K) bool, an organ: percentiles are those of its voxels, and everything outside becomes 0.

    Pictures are always taken ``as_is``, whatever the window, and by the stored type alone: uint8 by 255, uint16 by
    65535, bool and float as they are.

    Raises:
        InputError: ``high`` is not above ``low``, a percentile is not in 0-100, the values do not fit the window
            (negative or huge ones under ``as_is``), or every voxel comes out the same.
    """
    if volume.is_picture:
        return _confine(_scale_picture(volume), inside)
    values = scale_values(volume.array, *find_range(volume, window, inside))
    _confine(values, inside)
    if values.min() == values.max():
        raise flat_error(volume, window, float(values.flat[0]))
    return values


def scale_values(values: np.ndarray[Any, Any], low: float, high: float) -> np.ndarray[Any, Any]:
    """``values`` from ``low`` to ``high`` stretched to [0, 1], float32, the rest clipped; a copy."""
    scaled = values.astype(np.float32)
    scaled -= np.float32(low)
    scaled /= np.float32(high - low)
    clipped: np.ndarray[Any, Any] = np.clip(scaled, 0.0, 1.0, out=scaled)
    return clipped


def flat_error(volume: Volume, window: Window, value: float) -> InputError:
    """What is said of a volume that is ``value`` throughout under the window."""
    return InputError(
        f"{volume.path}: every voxel is {value:g} under window {_describe(window)} "
        f"(values {volume.array.min():g} to {volume.array.max():g}); choose another window or preset"
    )


def find_range(volume: Volume, window: Window, inside: np.ndarray[Any, Any] | None = None) -> tuple[float, float]:
    """The values of ``volume`` that ``apply_window`` makes 0 and 1; of a picture those of its stored type.

    Raises:
        InputError: as ``apply_window``.
    """
    if volume.is_picture:
        dtype = volume.array.dtype
        return 0.0, float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.unsignedinteger) else 1.0
    if window.kind == "as_is":
        return 0.0, _full_scale(volume)
    if not (-math.inf < window.low < window.high < math.inf):
        raise InputError(f"{volume.path}: window {_describe(window)} is empty; its high must be above its low")
    return (window.low, window.high) if window.kind == "hu" else _foreground_range(volume, window, inside)


def _confine(values: np.ndarray[Any, Any], inside: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
    if inside is not None:
        values[~inside] = 0.0
    return values


def _foreground_range(volume: Volume, window: Window, inside: np.ndarray[Any, Any] | None) -> tuple[float, float]:
    if window.low < 0 or window.high > 100:
        raise InputError(f"{volume.path}: window {_describe(window)}; percentiles go from 0 to 100")
    sample = _thin_out(volume.array)
    if inside is not None:
        foreground = sample[_thin_out(inside)]
    else:
        background = np.median(sample[sample <= sample.mean(dtype=np.float64)])
        foreground = sample[sample > background]
    if foreground.size == 0:
        raise InputError(f"{volume.path}: no foreground under window {_describe(window)}; choose another window or preset")
    low, high = (float(p) for p in np.percentile(foreground, (window.low, window.high)))
    if not low < high:
        raise InputError(
            f"{volume.path}: the foreground is {low:g} throughout under window {_describe(window)}; "
            "is this a mask? choose another window or preset"
        )
    return low, high


def _thin_out(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """All of a volume (I, J, K), or of a large one every n-th voxel along each axis: the same ones in any order of the axes
    and, as they are counted from both ends to the middle, in either direction.
    """
    step = math.ceil((array.size / MAX_EXACT) ** (1 / 3))
    if step == 1:
        return array
    halves = [np.arange(0, (n + 1) // 2, step) for n in array.shape]
    kept = [np.union1d(half, n - 1 - half) for half, n in zip(halves, array.shape, strict=True)]
    thinned: np.ndarray[Any, Any] = array[np.ix_(*kept)]
    return thinned


def _full_scale(volume: Volume) -> float:
    """The value that becomes 1."""
    lowest, highest = float(volume.array.min()), float(volume.array.max())
    if lowest < 0:
        raise InputError(
            f"{volume.path}: values from {lowest:g} to {highest:g} cannot be taken as_is, some are negative; "
            "choose a preset with another window"
        )
    if volume.array.dtype == np.uint8:
        return 255.0
    for full_scale in (1.0, 255.0, 65535.0):
        if highest <= full_scale:
            return full_scale
    raise InputError(
        f"{volume.path}: values up to {highest:g} cannot be taken as_is, at most 65535 is; choose a preset with another window"
    )


def _scale_picture(volume: Volume) -> np.ndarray[Any, Any]:
    dtype = volume.array.dtype
    values = volume.array.astype(np.float32)
    if np.issubdtype(dtype, np.unsignedinteger):
        values /= np.float32(np.iinfo(dtype).max)
    elif values.min() < 0 or values.max() > 1:
        raise InputError(
            f"{volume.path}: picture of type {dtype} with values {values.min():g} to {values.max():g}; "
            "scale it to 0..1 or save it with 8 or 16 bits"
        )
    return values


def _describe(window: Window) -> str:
    return window.kind if window.kind == "as_is" else f"{window.kind} {window.low:g}..{window.high:g}"
