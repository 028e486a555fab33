"""Supervisors with worker processes of their own, at moments that no client can bring about at will."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aaclip_med.inference.job import JobRequest
from aaclip_med.server.jobs import Job, Jobs
from aaclip_med.server.messages import State
from aaclip_med.server.settings import Settings
from aaclip_med.server.supervision import Supervisor
from server.conftest import OBLIQUE, as_npy, await_it, draw_volume, serve

WARM = JobRequest("", preset="liver-ct")


@pytest.fixture
def supervise() -> Iterator[Callable[..., Supervisor]]:
    """Starts a supervisor of jobs; all are stopped when the test is over."""
    started: list[tuple[Jobs, Supervisor]] = []

    def start(jobs: Jobs, job_seconds: float = 60.0) -> Supervisor:
        started.append((jobs, Supervisor(jobs, "cpu", WARM, job_seconds)))
        started[-1][1].start()
        return started[-1][1]

    yield start
    for jobs, supervisor in started:
        jobs.close()
        supervisor.stop()


def _submit(jobs: Jobs, parent: Path, name: str) -> Job:
    folder = parent / name
    folder.mkdir()
    (folder / "volume.npy").write_bytes(as_npy(draw_volume()))
    job = Job(name, folder, JobRequest("volume.npy", preset="liver-ct", ijk_to_ras=OBLIQUE.tolist()))
    jobs.submit(job)
    return job


def _await_end(job: Job) -> str:
    await_it(lambda: job.finished)
    return job.state


@pytest.mark.parametrize("seconds", [3e6, math.inf])
def test_a_job_may_have_more_time_than_the_system_can_wait_at_once(
    seconds: float, supervise: Callable[..., Supervisor], tmp_path: Path
) -> None:
    jobs = Jobs(size=4, keep_seconds=60.0)
    supervise(jobs, seconds)
    assert _await_end(_submit(jobs, tmp_path, "first")) == "done"


class _CancelledLast(Jobs):
    """Jobs of which ``first`` is cancelled between its worker's last word and its end."""

    def finish(self, job: Job, state: State, error: str | None = None) -> None:
        if job.id == "first" and state == "done":
            self.drop(job.id)
        super().finish(job, state, error)


def test_a_job_cancelled_just_as_it_ends_costs_the_next_one_nothing(
    supervise: Callable[..., Supervisor], tmp_path: Path
) -> None:
    jobs = _CancelledLast(size=4, keep_seconds=60.0)
    first, second = (_submit(jobs, tmp_path, name) for name in ("first", "second"))
    supervise(jobs)
    assert [_await_end(job) for job in (first, second)] == ["cancelled", "done"], second.error


def test_a_worker_is_started_later_where_the_system_has_no_room_for_it_now(
    supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        supervisor = supervise(Jobs(size=4, keep_seconds=60.0))
        await_it(lambda: "no process can be started for cpu" in caplog.text, 10)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await_it(lambda: supervisor.state == "idle")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_health_tells_of_a_supervisor_that_a_fault_has_ended(tmp_path: Path) -> None:
    servers = serve(Settings(devices=("cpu",)), tmp_path)
    client = next(servers)
    jobs = client.service.jobs
    unsendable = replace(WARM, volume="volume.npy", ijk_to_ras=OBLIQUE)  # no JSON
    (client.service.scratch / "bad").mkdir()
    job = Job("bad", client.service.scratch / "bad", unsendable)
    jobs.submit(job)
    assert _await_end(job) == "failed"
    await_it(lambda: client.get("/v1/health").json()["status"] == "stopped", 10)
    assert client.get("/v1/health").json()["workers"] == [{"device": "cpu", "state": "stopped"}]
    assert client.submit(as_npy(draw_volume())).status_code == 503
    process = client.service.supervisors[0].process
    assert process is not None
    assert not process.is_alive()
    assert list(servers) == []
