"""A heatmap network run by ONNX Runtime in torch's place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from aaclip_med.errors import InputError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


def choose_providers(device: torch.device, available: Sequence[str]) -> list[str | tuple[str, dict[str, str]]]:
    """What ONNX Runtime computes with, first choice first: the GPU that is named, in float32 throughout, then the CPU."""
    if device.type != "cuda" or CUDA not in available:
        return [CPU]
    return [(CUDA, {"device_id": str(device.index or 0), "use_tf32": "0"}), CPU]


class OnnxEngine:
    """An exported ONNX file, with the calls of ``HeatmapNetwork``; on a CPU unless ``device`` is CUDA and ONNX Runtime has it.

    Raises:
        InputError: ONNX Runtime is not installed, or the file is none of ours.
    """

    def __init__(self, path: str | Path, device: str = "cpu") -> None:
        try:
            import onnxruntime
            from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf, NoSuchFile
        except ModuleNotFoundError as error:
            raise InputError(f"engine 'onnx' needs {error.name}; install aaclip-med[onnx]") from None
        providers = choose_providers(torch.device(device), onnxruntime.get_available_providers())
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=providers)
        except (Fail, InvalidGraph, InvalidProtobuf, NoSuchFile) as error:
            raise InputError(f"{path}: not a readable ONNX file; export it again") from error
        names = {output.name for output in self.session.get_outputs()}
        if not {"log_odds", "detection"} <= names:
            raise InputError(f"{path}: an ONNX file, but not of aaclip-med; make it with 'aaclip-med export --format onnx'")

    def score(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures (B, 1 or 3, H, W) in [0, 1] to log odds (B, S, S) and detection scores (B,), on the CPU."""
        log_odds, detection = self._run(images, "log_odds", "detection")
        return log_odds, detection

    def draw(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 1 or 3, H, W) in [0, 1] to heat (B, 1, H, W) in [0, 1], on the CPU."""
        return self._run(images, "heatmap")[0]

    def _run(self, images: torch.Tensor, *names: str) -> list[torch.Tensor]:
        batch = images.expand(-1, 3, -1, -1).float().cpu().numpy()
        outputs = self.session.run(list(names), {"image": np.ascontiguousarray(batch)})
        return [torch.from_numpy(output) for output in outputs]
