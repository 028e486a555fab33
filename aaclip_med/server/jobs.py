"""The jobs of one server: waiting, running and finished ones, in memory. Safe to use from several threads."""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import nibabel as nib

from aaclip_med.inference.job import JobRequest
from aaclip_med.server.messages import FINAL_STATES, JobStatus, State

_log = logging.getLogger(__name__)

REMEMBERED = 10_000
"""So many expired jobs are still told from unknown ones."""


class QueueFull(Exception):  # noqa: N818
    """No more jobs may wait; come back after ``retry_seconds``."""

    def __init__(self, retry_seconds: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_seconds} s")
        self.retry_seconds = retry_seconds


class UnknownJob(Exception):  # noqa: N818
    """There is no such job."""


class ExpiredJob(Exception):  # noqa: N818
    """There was such a job; its results are gone."""


@dataclass(eq=False)
class Job:
    """One request with its folder. header: the volume's own where it is NIfTI. Times are ``time.monotonic`` seconds."""

    id: str
    folder: Path
    request: JobRequest
    header: nib.Nifti1Header | None = None
    state: State = "queued"
    progress: float = 0.0
    message: str = "waiting"
    error: str | None = None
    process: BaseProcess | None = None
    submitted: float = field(default_factory=time.monotonic)
    started: float | None = None
    finished: float | None = None


class Jobs:
    """First come, first served; at most ``size`` wait. Results are kept ``keep_seconds`` after the end."""

    def __init__(self, size: int, keep_seconds: float) -> None:
        self.size = size
        self.keep_seconds = keep_seconds
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._expired: deque[str] = deque(maxlen=REMEMBERED)
        self._closed = False
        self._last_seconds = 5.0

    def check_room(self) -> None:
        """Raises:
        QueueFull: a job submitted now would be refused.
        """
        with self._changed:
            if len(self._waiting) >= self.size:
                raise QueueFull(max(1, min(60, math.ceil(self._last_seconds))))

    def submit(self, job: Job) -> JobStatus:
        """Put a job at the end of the queue.

        Raises:
            QueueFull: there is no room for it.
        """
        with self._changed:
            self.check_room()
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._changed.notify()
            _log.info("job %s queued", job.id)
            return self.describe(job)

    def take(self, process: BaseProcess, timeout: float) -> Job | None:
        """The next job, now running in ``process``; None where none came within ``timeout`` seconds."""
        with self._changed:
            if not self._waiting and not self._closed:
                self._changed.wait(timeout)
            if not self._waiting or self._closed:
                return None
            job = self._waiting.popleft()
            job.state, job.message, job.process, job.started = "running", "starting", process, time.monotonic()
            _log.info("job %s running after %.1f s in the queue", job.id, job.started - job.submitted)
            return job

    def report(self, job: Job, progress: float, message: str) -> None:
        """Note how far a running job is."""
        with self._changed:
            if job.state == "running":
                job.progress, job.message = min(max(progress, job.progress), 1.0), message

    def finish(self, job: Job, state: State, error: str | None = None) -> None:
        """Note a running job's end; a cancelled one stays cancelled. Whatever but its results is removed from the disk."""
        with self._changed:
            if job.state == "running":
                self._end(job, state, error)
                if state == "done":
                    self._last_seconds = time.monotonic() - (job.started or job.submitted)
            job.process = None
            kept = job.state == "done" and job.id in self._jobs
        if kept:
            for path in (*job.folder.glob("volume.*"), *job.folder.glob("organ.*")):
                path.unlink(missing_ok=True)
        else:
            shutil.rmtree(job.folder, ignore_errors=True)

    def _end(self, job: Job, state: State, error: str | None = None) -> None:
        job.state, job.error, job.finished = state, error, time.monotonic()
        job.message = state
        if state == "done":
            job.progress = 1.0
        _log.info("job %s %s after %.1f s", job.id, state, job.finished - (job.started or job.submitted))

    def find(self, job_id: str) -> Job:
        """Raises:
        UnknownJob, ExpiredJob: it is not here, or not any more.
        """
        with self._changed:
            job = self._jobs.get(job_id)
            if job is not None and not self._is_over(job):
                return job
            if job is not None or job_id in self._expired:
                raise ExpiredJob(job_id)
            raise UnknownJob(job_id)

    def describe(self, job: Job) -> JobStatus:
        """The job as clients see it."""
        with self._changed:
            position = self._waiting.index(job) + 1 if job.state == "queued" and job in self._waiting else None
            return JobStatus(
                id=job.id,
                state=job.state,
                progress=job.progress,
                message=job.message,
                error=job.error,
                position=position,
            )

    def drop(self, job_id: str) -> None:
        """Cancel a job that waits or runs (its worker process is killed); forget one that has ended.

        Raises:
            UnknownJob, ExpiredJob: as ``find``.
        """
        with self._changed:
            job = self.find(job_id)
            process = job.process
            if job.state in FINAL_STATES:
                del self._jobs[job_id]
            else:
                if job.state == "queued":
                    self._waiting.remove(job)
                self._end(job, "cancelled")
                if process is not None:
                    process.kill()  # under the lock, so it cannot have gone on to another job
        if process is None:
            shutil.rmtree(job.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what has been kept long enough."""
        with self._changed:
            over = [job for job in self._jobs.values() if self._is_over(job)]
            for job in over:
                del self._jobs[job.id]
                self._expired.append(job.id)
        for job in over:
            shutil.rmtree(job.folder, ignore_errors=True)
            _log.info("job %s expired", job.id)

    def _is_over(self, job: Job) -> bool:
        return job.finished is not None and time.monotonic() - job.finished > self.keep_seconds

    def count(self) -> tuple[int, int]:
        """How many wait and how many run."""
        with self._changed:
            return len(self._waiting), sum(job.state == "running" for job in self._jobs.values())

    def close(self) -> None:
        """Hand out no more jobs, and wake whoever waits for one."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether the server is ending."""
        return self._closed
