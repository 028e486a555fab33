"""A job in a child process on this computer: Slicer's own Python, or another one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from .jobs import Job, Result, read_result, write_job, write_request
from .memory import find_smaller_attempt
from .process import Child, clean_environment, explain_exit
from .work import Cancelled, Work, WorkError

MODULE = "aaclip_med.inference.job"


class LocalWork(Work):
    """Work that starts programs of one Python. ``is_own``: it is Slicer's, and shares Slicer's environment."""

    def __init__(self, python: str, is_own: bool) -> None:
        super().__init__()
        self.python = python
        self.environment = dict(os.environ) if is_own else clean_environment(dict(os.environ))

    def run_python(self, arguments: list[str], hear: Callable[[str], None]) -> Child:
        """Run the Python to its end; ``hear`` is called with each line of its output."""
        child = Child([self.python, *arguments], self.log, self._stop.is_set, self.environment)
        with closing(child.read_lines()) as lines:
            for line in lines:
                hear(line)
        return child


class LocalJob(LocalWork):
    """A job of the package in a child process. Out of memory, it tries again smaller and says so."""

    def __init__(self, job: Job, python: str, is_own: bool = True, folder: Path | None = None) -> None:
        super().__init__(python, is_own)
        self.job = job
        self._folder = folder

    def do(self) -> Result:
        """Write the job, run it, read its results."""
        with tempfile.TemporaryDirectory(prefix="aaclip_med_", ignore_cleanup_errors=True, dir=self._folder) as name:
            folder = Path(name)
            self.tell(0.0, "writing the volume")
            write_job(folder, self.job)
            request = self.job.describe()
            while (error := self._attempt(folder)) is not None:
                smaller = find_smaller_attempt(request, error)
                if smaller is None:
                    raise WorkError(error)
                request, note = smaller
                self.log(error)
                self.tell(0.0, note)
                self.log(note)
                write_request(folder, request)
            return read_result(folder, self.job)

    def _attempt(self, folder: Path) -> str | None:
        outcome: dict[str, Any] = {}
        child = self.run_python(["-m", MODULE, str(folder)], lambda line: self._hear(line, outcome))
        if outcome.get("done"):
            return None
        if self._stop.is_set():
            raise Cancelled
        return outcome.get("error") or explain_exit(child.process.returncode, child.complaints)

    def _hear(self, line: str, outcome: dict[str, Any]) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            self.log(line)
        elif "progress" in said:
            self.tell(float(said["progress"]), str(said.get("message", "")))
        else:
            outcome.update(said)
