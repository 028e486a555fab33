"""What is measured: a tower with random weights, and slices to show it."""

from __future__ import annotations

import torch

from aaclip_med.model.config import DetectorConfig
from aaclip_med.model.detector import Detector
from aaclip_med.model.precision import choose_device
from aaclip_med.model.preprocess import normalise_slices
from aaclip_med.model.towers import build_tower
from benchmarks.plain import PlainAAClip


def build_subject(backbone: str, size: int, device: str = "cpu") -> Detector:
    """A detector on ``device`` with open_clip's random initial weights, the same each time."""
    torch.manual_seed(0)
    return (
        Detector(DetectorConfig(backbone, "random", size), build_tower(backbone, size, "gelu")).eval().to(choose_device(device))
    )


def build_plain(detector: Detector, dtype: torch.dtype) -> PlainAAClip:
    """The yardstick with the detector's weights."""
    state = {name: tensor.detach() for name, tensor in detector.tower.clip.state_dict().items()}
    return PlainAAClip(state, detector.adapter_state(), detector.levels, dtype)


def draw_slices(count: int, size: int, device: str = "cpu") -> torch.Tensor:
    """Slices (B, 3, S, S), normalised: a head-sized ellipse with texture, two fifths of the picture, on black."""
    generator = torch.Generator().manual_seed(1)
    axis = torch.linspace(-1.0, 1.0, size)
    inside = (axis[:, None] / 0.82) ** 2 + (axis[None, :] / 0.62) ** 2 < 1.0
    texture = torch.rand(count, 1, size // 7, size // 7, generator=generator)
    texture = torch.nn.functional.interpolate(texture, size=(size, size), mode="bilinear")
    return normalise_slices(inside * (0.2 + 0.7 * texture)).to(device)
