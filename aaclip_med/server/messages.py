"""What travels over HTTP, as the OpenAPI document shows it."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from aaclip_med.presets import PRESETS

State = Literal["queued", "running", "done", "failed", "cancelled"]
FINAL_STATES: tuple[State, ...] = ("done", "failed", "cancelled")

Coordinate = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Row = Annotated[list[Coordinate], Field(min_length=4, max_length=4)]


class JobOptions(BaseModel):
    """The form field ``request``. Every key may be left out; others are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    adapters: str | None = Field(None, description="a name of /v1/models (default: the first)", max_length=200)
    preset: str | None = Field(None, description="default: the adapters' own", json_schema_extra={"enum": [*PRESETS, None]})
    plane: Literal["axial", "coronal", "sagittal", "native", "all"] | None = Field(
        None, description="default: the calibration's, else by preset, refinement and voxels"
    )
    threshold: float | None = Field(None, ge=0.0, le=1.0, description="heat at which a candidate begins")
    minimum_ml: float = Field(0.0, ge=0.0, le=1e6, description="smallest candidate in ml")
    stride: int = Field(1, ge=1, le=1000, description="score every n-th slice, interpolate between")
    ijk_to_ras: Annotated[list[Row], Field(min_length=4, max_length=4)] | None = Field(
        None, description="voxel index (I, J, K) to RAS mm, row by row; needed for .npy, other files carry their own"
    )

    @field_validator("preset")
    @classmethod
    def _is_known(cls, preset: str | None) -> str | None:
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"take one of {', '.join(PRESETS)}")
        return preset

    @field_validator("ijk_to_ras")
    @classmethod
    def _is_regular(cls, rows: list[list[float]] | None) -> list[list[float]] | None:
        if rows is not None and (rows[3] != [0.0, 0.0, 0.0, 1.0] or abs(np.linalg.det(np.array(rows)[:3, :3])) < 1e-9):
            raise ValueError("a regular matrix with the last row 0 0 0 1 is needed")
        return rows


class JobStatus(BaseModel):
    """Where a job is. position: its place in the queue, 1 is next; null unless it waits. error: null unless it failed."""

    id: str
    state: State
    progress: float = Field(ge=0.0, le=1.0)
    message: str
    error: str | None
    position: int | None


class Model(BaseModel):
    """Adapters offered. A name together with a preset chooses; preset null: any, and it has to be said."""

    name: str
    preset: str | None
    hash: str = Field(description="SHA-256 of the adapters' tensors")
    calibrated: bool
    demonstration: bool


class Models(BaseModel):
    """All that are offered; ``default`` is taken where a request names none."""

    default: str
    models: list[Model]


class WorkerHealth(BaseModel):
    """One worker process. ``stopped``: it will not come up again."""

    device: str
    state: Literal["starting", "idle", "busy", "stopped"]


class Health(BaseModel):
    """How the server is. listeners: open event streams.

    ``status`` is ``starting`` until a worker can take a job, and ``stopped`` where none will any more: start the server anew.
    """

    status: Literal["ok", "starting", "stopped"]
    queued: int
    running: int
    listeners: int
    workers: list[WorkerHealth]


class Limits(BaseModel):
    """What the server takes: bytes of an upload and of a decompressed file, waiting jobs, seconds a job and its result last."""

    upload_bytes: int
    volume_bytes: int
    queue: int
    job_seconds: float
    keep_seconds: float


class Version(BaseModel):
    """Which server this is."""

    aaclip_med: str
    api: str
    limits: Limits


class Problem(BaseModel):
    """Why a request was refused, in words."""

    detail: str
