"""A volume scored: its job goes out, its result comes into the scene."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer

from .backends import Backend
from .batch import Task
from .geometry import find_ijk_to_ras
from .inputs import describe_item, find_organ, read_voxels
from .jobs import Job, Result, Settings
from .results import Findings, add_findings
from .work import Work


def make_task(
    volume: slicer.vtkMRMLScalarVolumeNode,
    settings: Settings,
    backend: Backend,
    organ: slicer.vtkMRMLNode | None = None,
    show: Callable[[Findings], None] | None = None,
) -> Task:
    """The task that scores a volume and puts the result into the scene; ``show`` hears of it afterwards."""
    asked: dict[str, Any] = {}

    def make() -> Work:
        job = Job(read_voxels(volume), find_ijk_to_ras(volume), settings, find_organ(organ, volume))
        asked.update(request=job.describe(), item=describe_item(volume))
        return backend.score(job)

    def finish(result: Result) -> Findings:
        if volume.GetScene() is None:
            raise ValueError("the scan was removed meanwhile; its result is dropped")
        return add_findings(volume, result, asked["request"], backend.describe(), asked["item"])

    return Task(volume.GetName(), make, finish, show)
