"""From volumes to heat, slice by slice, in the steps that MONAI's engines and MONAI Label run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch.nn import functional

from aaclip_med.data.fusion import cut_names, weigh_planes
from aaclip_med.data.slices import CutCase, cut_volume
from aaclip_med.data.volumes import Volume
from aaclip_med.errors import InputError
from aaclip_med.inference.cutting import check_calibrated_alike
from aaclip_med.inference.memory import explain_full_gpu, halve_until_it_fits
from aaclip_med.inference.predictor import Predictor
from aaclip_med.zoo.reading import to_volumes

Array = np.ndarray[Any, Any]
Network = Callable[[torch.Tensor], torch.Tensor]


class VolumeInferer(Inferer):  # type: ignore[misc]
    """Cuts and windows volumes as the predictor would, and pastes the network's heat into their own grid.

    Empty slices get the volume's lowest heat, as ``Predictor.predict`` has it. ``plane`` None: see ``Predictor.choose_plane``;
    three planes are averaged in log odds, as ``Predictor.fuse`` does.
    """

    def __init__(self, predictor: Predictor, plane: str | None = None, batch_size: int = 16) -> None:
        """Take the predictor's cuts and scale.

        Raises:
            InputError: the adapters were calibrated otherwise; see ``check_calibrated_alike``.
        """
        super().__init__()
        check_calibrated_alike(predictor, plane, within_organ=False)
        self.predictor = predictor
        self.plane = plane
        self.batch_size = batch_size

    @explain_full_gpu("volumes at hand")
    def __call__(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Volumes (B, 1 or 3, I, J, K) in the scan's own values to heat (B, 1, I, J, K) in [0, 1], with their geometry.

        Raises:
            InputError: a volume does not suit the window, no slice is left, or three planes are asked of a network without
                log odds.
            MemoryError: not even one slice fits into the GPU's memory.
        """
        del args, kwargs
        heat: torch.Tensor = torch.stack([self._draw(volume, network, inputs.device) for volume in to_volumes(inputs)])
        if isinstance(inputs, MetaTensor):
            heat = MetaTensor(heat, meta=inputs.meta, applied_operations=inputs.applied_operations)
        return heat

    def _draw(self, volume: Volume, network: Network, device: torch.device) -> torch.Tensor:
        names = cut_names(volume, self.plane or self.predictor.choose_plane(volume))
        cuts = [cut_volume(volume, self.predictor.preset, name) for name in names]
        if len(cuts) == 1:
            return torch.from_numpy(self._paste(cuts[0], network, device))[None].to(device)
        if not hasattr(network, "rescale"):
            raise InputError(
                "three planes are averaged in log odds, which this network does not give; set plane to one of them"
            )

        def draw_log_odds(images: torch.Tensor) -> torch.Tensor:
            log_odds, _ = network.score(images)  # type: ignore[attr-defined]
            return functional.interpolate(log_odds[:, None], size=images.shape[-2:], mode="bilinear", align_corners=False)

        total = np.zeros(volume.array.shape[:3], dtype=np.float32)
        for weight, cut in zip(weigh_planes(volume, [cut.plan for cut in cuts]), cuts, strict=True):
            total += np.float32(weight) * self._paste(cut, draw_log_odds, device)
        heat: torch.Tensor = network.rescale(torch.from_numpy(total)[None].to(device))
        return heat

    def _paste(self, cut: CutCase, draw: Network, device: torch.device) -> Array:
        """What ``draw`` makes of a cut's slices, (I, J, K) float32; elsewhere the lowest of it."""

        def run(count: int) -> list[Array]:
            maps = []
            for start in range(0, len(cut.used), count):
                images = cut.images[cut.used[start : start + count]]
                images = images[:, None] if images.ndim == 3 else np.moveaxis(images, -1, 1)
                batch = torch.from_numpy(np.ascontiguousarray(images)).to(device)
                maps.append(draw(batch)[:, 0].float().cpu().numpy())
            return maps

        maps, self.batch_size = halve_until_it_fits(run, self.batch_size)
        drawn = np.concatenate(maps)
        stack = np.full(cut.plan.stack_shape, drawn.min(), dtype=np.float32)
        cut.crop(stack)[cut.used] = drawn
        return np.ascontiguousarray(cut.plan.paste(stack))
