"""How long the panel's thread was kept from its event loop."""

from __future__ import annotations

import time
from pathlib import Path

LONGEST_BLOCK = 0.050
"""Seconds."""


class Stopwatch:
    """The longest time that one step took, in seconds.

    Where the system tells it (Linux), time does not count in which this thread, or the one that held the interpreter, could
    have run but found no processor free: that is other programs' work, not the module's. Its own computing always counts, and
    so does waiting for locks and files.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    def __enter__(self) -> Stopwatch:
        self._starved = _read_starved()
        self._began, self._computed = time.perf_counter(), time.thread_time()
        return self

    def __exit__(self, *_error: object) -> None:
        taken, computed = time.perf_counter() - self._began, time.thread_time() - self._computed
        own, *others = (after - self._starved.get(name, after) for name, after in _read_starved().items())
        self.longest = max(self.longest, computed, taken - own - max(others, default=0.0))


def _read_starved() -> dict[str, float]:
    """How long each thread has waited for a processor so far, seconds; this one first."""
    starved = {"": 0.0}
    for name, path in {
        "": Path("/proc/thread-self"),
        **{path.name: path for path in Path("/proc/self/task").glob("*")},
    }.items():
        try:
            starved[name] = int((path / "schedstat").read_text(encoding="ascii").split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            continue
    return starved
