"""From volumes to heat, slice by slice, in the steps that MONAI's engines and MONAI Label run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from aaclip_med.data.slices import cut_volume
from aaclip_med.data.volumes import Volume
from aaclip_med.presets import Preset
from aaclip_med.zoo.reading import to_volumes

Network = Callable[[torch.Tensor], torch.Tensor]


class VolumeInferer(Inferer):  # type: ignore[misc]
    """Cuts and windows volumes as the preset says, and pastes the network's heat into their own grid.

    Empty slices get the volume's lowest heat, as ``Predictor.predict`` has it. ``plane`` None: the preset's.
    """

    def __init__(self, preset: Preset, plane: str | None = None, batch_size: int = 16) -> None:
        super().__init__()
        self.preset = preset
        self.plane = plane
        self.batch_size = batch_size

    def __call__(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Volumes (B, 1 or 3, I, J, K) in the scan's own values to heat (B, 1, I, J, K) in [0, 1], with their geometry.

        Raises:
            InputError: a volume does not suit the window, or no slice is left.
        """
        del args, kwargs
        heat: torch.Tensor = torch.stack([self._draw(volume, network, inputs.device) for volume in to_volumes(inputs)])
        if isinstance(inputs, MetaTensor):
            heat = MetaTensor(heat, meta=inputs.meta, applied_operations=inputs.applied_operations)
        return heat

    def _draw(self, volume: Volume, network: Network, device: torch.device) -> torch.Tensor:
        cut = cut_volume(volume, self.preset, self.plane)
        maps = []
        for start in range(0, len(cut.used), self.batch_size):
            images = cut.images[cut.used[start : start + self.batch_size]]
            images = images[:, None] if images.ndim == 3 else np.moveaxis(images, -1, 1)
            batch = torch.from_numpy(np.ascontiguousarray(images)).to(device)
            maps.append(network(batch)[:, 0].float().cpu().numpy())
        drawn = np.concatenate(maps)
        stack = np.full(cut.plan.stack_shape, drawn.min(), dtype=np.float32)
        cut.crop(stack)[cut.used] = drawn
        return torch.from_numpy(np.ascontiguousarray(cut.plan.paste(stack)))[None].to(device)
