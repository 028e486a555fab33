"""Two worker processes on one queue: both work, a lost one costs its own job alone."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path

import numpy as np

from aaclip_med.inference.job import JobRequest, load_job_predictor, run_job
from server.conftest import Client, as_npy, await_it, draw_volume, encode

SMALL = as_npy(draw_volume())


def _count_busy(client: Client) -> int:
    return sum(worker["state"] == "busy" for worker in client.get("/v1/health").json()["workers"])


def test_an_organ_plane_and_stride_are_taken(pair: Client, bare_adapters: Path, tmp_path: Path) -> None:
    organ = np.zeros((20, 24, 12), np.uint8)
    organ[5:15, 5:18, 2:10] = 1
    scan, mask = encode(draw_volume(), ".nii.gz", tmp_path), encode(organ, ".nrrd", tmp_path)
    answer = pair.submit(scan, "x.nii.gz", plane="coronal", stride=2, threshold=0.5, organ=("organ.nrrd", mask))
    job = answer.json()["id"]
    assert pair.wait(job)["state"] == "done", pair.status(job)
    heatmap = np.load(io.BytesIO(pair.get(f"/v1/jobs/{job}/heatmap").content))
    outside = heatmap.T[organ == 0]
    assert (outside == heatmap.min()).all()
    assert heatmap.max() > outside[0]
    (tmp_path / "volume.nii.gz").write_bytes(scan)
    (tmp_path / "organ.nrrd").write_bytes(mask)
    request = JobRequest(
        "volume.nii.gz", str(bare_adapters), plane="coronal", stride=2, threshold=0.5, organ="organ.nrrd", device="cpu"
    )
    run_job(tmp_path, request, load_job_predictor(request), lambda _share, _message: None)
    np.testing.assert_array_equal(heatmap, np.load(tmp_path / "heatmap.npy"))
    result = pair.get(f"/v1/jobs/{job}/result").json()
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert not result["run"]["calibrated"]
    assert sorted(path.name for path in (pair.service.scratch / job).iterdir()) == ["heatmap.npy", "result.json"]


def test_both_work_at_once_and_a_killed_one_loses_its_own_job_alone(pair: Client) -> None:
    await_it(lambda: all(worker["state"] == "idle" for worker in pair.get("/v1/health").json()["workers"]))
    slow = [pair.submit_slow() for _ in range(2)]
    waiting = [pair.submit(SMALL).json()["id"] for _ in range(4)]
    await_it(lambda: _count_busy(pair) == 2 and all(pair.status(job)["progress"] > 0.02 for job in slow))
    first, second = (pair.service.jobs.find(job).process for job in slow)
    assert first is not None
    assert second is not None
    assert first.pid != second.pid
    os.kill(first.pid, signal.SIGKILL)
    lost = pair.wait(slow[0], seconds=10)
    assert (lost["state"], "worker process ended" in lost["error"]) == ("failed", True)
    assert pair.status(slow[1])["state"] == "running"
    assert [pair.wait(job)["state"] for job in waiting] == ["done"] * 4
    assert pair.wait(slow[1])["state"] == "done"
    for job in (*waiting, slow[1]):
        assert pair.get(f"/v1/jobs/{job}/heatmap").status_code == 200
    await_it(lambda: all(worker["state"] == "idle" for worker in pair.get("/v1/health").json()["workers"]))
    health = pair.get("/v1/health").json()
    assert (health["queued"], health["running"]) == (0, 0)
    for job in (*waiting, *slow):
        assert pair.delete(f"/v1/jobs/{job}").status_code == 204
    assert not [path for path in pair.service.scratch.iterdir() if path.name != "lock" and path.name in (*waiting, *slow)]
