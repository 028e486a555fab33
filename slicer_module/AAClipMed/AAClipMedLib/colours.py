"""The heatmap's colours: a table of the module's own, even in lightness, from dark violet to pale yellow."""

from __future__ import annotations

import numpy as np
import slicer

NAME = "AA-CLIP heat"
COLOURS = 256


def make_ramp(count: int = COLOURS) -> np.ndarray:
    """(count, 3) sRGB in [0, 1]. CIELAB lightness rises in equal steps from 28 to 93, so that equal steps of heat look equal.

    The hue runs from violet over red to yellow at a chroma that the screen can show (CIE 1976 L*a*b*, D65; IEC 61966-2-1).
    """
    share = np.linspace(0.0, 1.0, count)
    lightness = 28.0 + 65.0 * share
    hue = np.deg2rad(-48.0 + 143.0 * share)
    chroma = 52.0 + 22.0 * np.sin(np.pi * share)
    # Less chroma where a channel would leave [0, 1]: lightness stays exact.
    for _ in range(60):
        linear = _lab_to_linear(lightness, chroma * np.cos(hue), chroma * np.sin(hue))
        outside = ((linear < 0.0) | (linear > 1.0)).any(axis=1)
        if not outside.any():
            break
        chroma = np.where(outside, chroma * 0.96, chroma)
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _lab_to_linear(lightness: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    height = (lightness + 16.0) / 116.0
    steps = np.stack([height + a / 500.0, height, height - b / 200.0], axis=1)
    xyz = np.where(steps > 6 / 29, steps**3, 3 * (6 / 29) ** 2 * (steps - 4 / 29)) * (0.95047, 1.0, 1.08883)
    to_rgb = np.array(
        [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]]
    )
    return xyz @ to_rgb.T


def find_colours(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLColorTableNode:
    """The scene's table of heat colours, made where there is none."""
    node = scene.GetFirstNodeByName(NAME)
    if node is not None and node.IsA("vtkMRMLColorTableNode"):
        return node
    node = scene.AddNewNodeByClass("vtkMRMLColorTableNode", NAME)
    node.SetTypeToUser()
    node.SetNumberOfColors(COLOURS)
    for number, colour in enumerate(make_ramp()):
        node.SetColor(number, f"{number / (COLOURS - 1):.3f}", *map(float, colour), 1.0)
    node.GetLookupTable().SetTableRange(0, COLOURS - 1)
    return node
