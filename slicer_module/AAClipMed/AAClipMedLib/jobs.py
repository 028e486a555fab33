"""A job's two ends: what is asked for, and what comes back, as the package's job folder and its server define them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .candidates import TooHotError, find_candidates
from .mask import Mask, cut

PRESETS = ("brain-mri", "liver-ct", "retinal-oct")
PLANES = ("preset", "axial", "coronal", "sagittal", "native", "all")
DEVICES = ("auto", "cuda", "mps", "cpu")


@dataclass(frozen=True)
class Settings:
    """How to score. plane ``preset``: left to the model. threshold, backbone, weights None: the adapters' own."""

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
    """One volume to score. voxels: (K, J, I). organ: the same shape, above 0 inside; what draws it; or None."""

    voxels: np.ndarray
    ijk_to_ras: np.ndarray
    settings: Settings
    organ: np.ndarray | Callable[[], np.ndarray] | None = None

    @cached_property
    def mask(self) -> np.ndarray | None:
        """The organ, drawn in the thread that first asks."""
        return self.organ() if callable(self.organ) else self.organ

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
    """What came back. heatmap: (K, J, I) float32. account: ``result.json`` as it is. job: what was asked for."""

    heatmap: np.ndarray
    account: dict[str, Any]
    job: Job | None = None

    @property
    def threshold(self) -> float:
        """The heat at which the candidates were found."""
        return float(self.account["threshold"])

    @property
    def is_calibrated(self) -> bool:
        """Whether heat is the fraction of normal voxels below, and a p-value exists."""
        return bool(self.account.get("run", {}).get("calibrated"))

    @cached_property
    def mask(self) -> Mask:
        """The candidates' voxels; where far too much is hot, of all that is. Found once, in the thread that did the job."""
        if self.job is not None and self.job.settings.minimum_ml > 0.0:
            with suppress(TooHotError):
                return find_candidates(self.heatmap, self.threshold, self.job.ijk_to_ras, self.job.settings.minimum_ml)[1]
        return cut(self.heatmap, self.threshold)


class ResultError(ValueError):
    """What came back is not what was asked for."""


def write_job(folder: Path, job: Job) -> None:
    """Write the volume, the organ and ``request.json``."""
    np.save(folder / "volume.npy", job.voxels)
    if job.mask is not None:
        np.save(folder / "organ.npy", job.mask)
    write_request(folder, job.describe())


def write_request(folder: Path, request: dict[str, Any]) -> None:
    """Write ``request.json``."""
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")


def read_result(folder: Path, job: Job) -> Result:
    """Read ``heatmap.npy`` and ``result.json`` of a job, and find the mask.

    Raises:
        ResultError: one is missing or damaged, or the heatmap lies on another grid.
    """
    try:
        heatmap = np.load(folder / "heatmap.npy", allow_pickle=False)
        account = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, EOFError) as error:
        raise ResultError(f"the results cannot be read ({error}); run it again, and look at the log below") from None
    if heatmap.shape != job.voxels.shape:
        raise ResultError(f"the heatmap's shape is {heatmap.shape}, the volume's {job.voxels.shape} (K, J, I)")
    if not isinstance(account, dict) or not {"score", "threshold", "candidates"} <= set(account):
        raise ResultError("result.json lacks the score, the threshold or the candidates; are both sides of one version?")
    result = Result(np.ascontiguousarray(heatmap, dtype=np.float32), account, job)
    _ = result.mask
    return result
