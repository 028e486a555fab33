"""Where inference runs: Slicer's own Python, another Python, or a server. The panel treats all three alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .check import LocalCheck, ServerCheck
from .jobs import Job, Settings
from .process import find_slicer_python
from .remote import RemoteJob, Server
from .runner import LocalJob
from .work import Work, WorkError

BackendName = Literal["This Slicer", "Another Python", "Server"]
BACKENDS: tuple[BackendName, ...] = ("This Slicer", "Another Python", "Server")


@dataclass(frozen=True)
class Backend:
    """One of the three places. python: used by ``Another Python``. address and token: used by ``Server``."""

    name: BackendName = "This Slicer"
    python: str = ""
    address: str = ""
    token: str = ""

    @property
    def is_remote(self) -> bool:
        """Whether scans leave this computer."""
        return self.name == "Server"

    @property
    def is_own(self) -> bool:
        """Whether Slicer's own Python runs it."""
        return self.name == "This Slicer"

    @property
    def interpreter(self) -> str:
        """The Python of a local backend. Raises WorkError where none is named."""
        if self.is_own:
            return find_slicer_python()
        if not self.python.strip():
            raise WorkError("no Python is named; give its path under Advanced")
        return self.python.strip()

    def describe(self) -> str:
        """Where it runs, in words, without the token."""
        return f"server {self.address}" if self.is_remote else "this computer"

    def score(self, job: Job) -> Work:
        """The work that scores a job; its outcome is a ``Result``. Raises WorkError where the place is not named."""
        if self.is_remote:
            return RemoteJob(job, Server(self.address, self.token))
        return LocalJob(job, self.interpreter, self.is_own)

    def check(self, settings: Settings) -> Work:
        """The work that looks whether scoring would go well; its outcome is a list of ``Finding``. Raises as ``score``."""
        if self.is_remote:
            return ServerCheck(Server(self.address, self.token))
        return LocalCheck(self.interpreter, self.is_own, settings)
