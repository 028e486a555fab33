"""A job's two ends: what is asked for, and what comes back, as the package's job folder and its server define them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PRESETS = ("brain-mri", "liver-ct", "retinal-oct")
PLANES = ("preset", "axial", "coronal", "sagittal", "native", "all")
DEVICES = ("auto", "cuda", "mps", "cpu")


@dataclass(frozen=True)
class Settings:
    """How to score. plane ``preset``: the preset's own. threshold, backbone, weights None: the adapters' own."""

    preset: str = "brain-mri"
    adapters: str = "demo"
    plane: str = "preset"
    threshold: float | None = None
    minimum_ml: float = 0.0
    stride: int = 1
    device: str = "auto"
    precision: str = "float32"
    batch_size: int = 16
    backbone: str | None = None
    weights: str | None = None


@dataclass(frozen=True)
class Job:
    """One volume to score. voxels: (K, J, I). organ: the same shape, above 0 inside, or None."""

    voxels: np.ndarray
    ijk_to_ras: np.ndarray
    settings: Settings
    organ: np.ndarray | None = None

    def describe(self, remote: bool = False) -> dict[str, Any]:
        """The request. A server chooses its own device and names its own adapters and weights."""
        settings = self.settings
        request: dict[str, Any] = {
            "adapters": settings.adapters,
            "preset": settings.preset,
            "plane": None if settings.plane == "preset" else settings.plane,
            "threshold": settings.threshold,
            "minimum_ml": settings.minimum_ml,
            "stride": settings.stride,
            "ijk_to_ras": np.asarray(self.ijk_to_ras, dtype=float).tolist(),
        }
        if remote:
            return request
        request["volume"] = "volume.npy"
        request["organ"] = None if self.organ is None else "organ.npy"
        for name in ("device", "precision", "batch_size", "backbone", "weights"):
            request[name] = getattr(settings, name)
        return request


@dataclass(frozen=True)
class Result:
    """What came back. heatmap: (K, J, I) float32. account: ``result.json`` as it is."""

    heatmap: np.ndarray
    account: dict[str, Any]

    @property
    def threshold(self) -> float:
        """The heat at which the candidates were found."""
        return float(self.account["threshold"])

    @property
    def is_calibrated(self) -> bool:
        """Whether heat is the fraction of normal voxels below, and a p-value exists."""
        return bool(self.account.get("run", {}).get("calibrated"))


class ResultError(ValueError):
    """What came back is not what was asked for."""


def write_job(folder: Path, job: Job) -> None:
    """Write the volume, the organ and ``request.json``."""
    np.save(folder / "volume.npy", job.voxels)
    if job.organ is not None:
        np.save(folder / "organ.npy", job.organ)
    write_request(folder, job.describe())


def write_request(folder: Path, request: dict[str, Any]) -> None:
    """Write ``request.json``."""
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")


def read_result(folder: Path, shape: tuple[int, ...]) -> Result:
    """Read ``heatmap.npy`` and ``result.json``; ``shape`` is the volume's (K, J, I).

    Raises:
        ResultError: one is missing or damaged, or the heatmap lies on another grid.
    """
    try:
        heatmap = np.load(folder / "heatmap.npy", allow_pickle=False)
        account = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, EOFError) as error:
        raise ResultError(f"the results cannot be read ({error}); run it again, and look at the log below") from None
    if heatmap.shape != tuple(shape):
        raise ResultError(f"the heatmap's shape is {heatmap.shape}, the volume's {tuple(shape)} (K, J, I)")
    if not isinstance(account, dict) or not {"score", "threshold", "candidates"} <= set(account):
        raise ResultError("result.json lacks the score, the threshold or the candidates; are both sides of one version?")
    return Result(np.ascontiguousarray(heatmap, dtype=np.float32), account)
