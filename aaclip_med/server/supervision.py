"""A thread for each worker process: hands it jobs, listens, and replaces it when it dies, is cancelled or takes too long."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import threading
import time
from dataclasses import asdict, replace
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from aaclip_med.inference.job import JobRequest
from aaclip_med.server.jobs import Job, Jobs
from aaclip_med.server.lifeline import run_worker

_log = logging.getLogger(__name__)

LOST = "the worker process ended before the job did (out of memory, or a fault); the job is not tried again, submit it anew"
START_SECONDS = 900.0
"""A process may take so long to load its first model."""
LONGEST_PAUSE = 30.0
"""Seconds between two starts of a process that does not come up."""
LONGEST_WAIT = 3600.0
"""Seconds of one wait for a message: the system counts its milliseconds in a C int."""


class Supervisor:
    """Keeps one worker process alive on ``device`` and gives it jobs."""

    def __init__(self, jobs: Jobs, device: str, warm: JobRequest, job_seconds: float) -> None:
        self.device = device
        self.state: Literal["starting", "idle", "busy", "stopped"] = "starting"
        self.process: BaseProcess | None = None
        self._jobs = jobs
        self._warm = replace(warm, device=device)
        self._job_seconds = job_seconds
        self._thread = threading.Thread(target=self._run, name=f"supervisor of {device}", daemon=True)

    def start(self) -> None:
        """Start the thread, which starts the process."""
        self._thread.start()

    def stop(self) -> None:
        """Kill the process and wait for the thread; close the jobs first."""
        while self._thread.is_alive():
            if self.process is not None:
                self.process.kill()
            self._thread.join(0.2)

    def _run(self) -> None:
        pause = 0.5
        try:
            while not self._jobs.closed:
                self.state = "starting"
                if self._run_process():
                    pause = 0.5
                elif not self._jobs.closed:
                    _log.error("the worker on %s does not start; again in %.0f s", self.device, pause)
                    self._wait(pause)
                    pause = min(2.0 * pause, LONGEST_PAUSE)
        finally:
            self.state = "stopped"  # by what nobody foresaw, too: the server's health tells of it

    def _run_process(self) -> bool:
        """One process from its start to its end; whether it came up."""
        try:
            process, pipe = self._start_process()
        except OSError as error:
            _log.error("no process can be started for %s (%s)", self.device, error)
            return False
        try:
            ready = self._await_ready(process, pipe)
            if ready:
                self._feed(process, pipe)
            return ready
        finally:
            process.kill()
            process.join()
            pipe.close()

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._jobs.closed and time.monotonic() < end:
            time.sleep(0.1)

    def _start_process(self) -> tuple[BaseProcess, Connection]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=run_worker, args=(theirs, asdict(self._warm)), daemon=True)
        process.start()
        theirs.close()
        self.process = process
        return process, ours

    def _await_ready(self, process: BaseProcess, pipe: Connection) -> bool:
        message = self._receive(process, pipe, time.monotonic() + START_SECONDS)
        if message is not None and message.get("ready"):
            _log.warning("the worker on %s could not load the default model: %s", self.device, message["ready"])
        return message is not None

    def _feed(self, process: BaseProcess, pipe: Connection) -> None:
        """Give the process jobs as long as it lives."""
        while process.is_alive() and not self._jobs.closed:
            self.state = "idle"
            job = self._jobs.take(process, timeout=0.5)
            if job is not None:
                self.state = "busy"
                try:
                    self._attend(job, process, pipe)
                finally:
                    self._jobs.finish(job, "failed", LOST)
                if job.state == "cancelled":
                    process.join()  # a killed process seems alive for a moment, in which it would get the next job

    def _attend(self, job: Job, process: BaseProcess, pipe: Connection) -> None:
        """Have one job done. When this returns it has ended, or the process has."""
        deadline = time.monotonic() + self._job_seconds
        request = asdict(replace(job.request, device=self.device))
        with contextlib.suppress(OSError):  # the process has ended; nothing comes back from it
            pipe.send_bytes(json.dumps({"folder": str(job.folder), "request": request}).encode())
        while (message := self._receive(process, pipe, deadline)) is not None:
            if "progress" in message:
                self._jobs.report(job, message["progress"], message["message"])
                continue
            if "error" in message:
                self._jobs.finish(job, "failed", message["error"])
            else:
                self._jobs.finish(job, "done")
            return
        late = process.is_alive() and time.monotonic() >= deadline
        process.kill()
        process.join()
        if late:
            self._jobs.finish(job, "failed", f"the job took longer than {self._job_seconds:g} s and was stopped")

    @staticmethod
    def _receive(process: BaseProcess, pipe: Connection, deadline: float) -> dict[str, Any] | None:
        """The next message; None where the process ends or the time is over."""
        ready: list[Any] = []
        while not ready and (left := deadline - time.monotonic()) > 0:
            ready = connection.wait([pipe, process.sentinel], min(left, LONGEST_WAIT))
        try:
            if pipe in ready:
                message: dict[str, Any] = json.loads(pipe.recv_bytes())
                return message
        except (EOFError, OSError):
            pass
        return None
