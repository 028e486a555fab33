"""Work that goes on while the panel stays alive: a thread does it, a queue tells of it, a timer asks.

Every kind of work (a local job, a remote job, an installation, a check) is started, asked and cancelled alike.
"""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["progress", "log", "done", "failed", "cancelled"]


class WorkError(ValueError):
    """The work failed; the message says why and what to do."""


class Cancelled(Exception):  # noqa: N818 - no error
    """The work was told to stop."""


@dataclass(frozen=True)
class Event:
    """What happened. share: 0 to 1 with ``progress``. value: the outcome with ``done``."""

    kind: Kind
    text: str = ""
    share: float = 0.0
    value: Any = None


class Work(ABC):
    """One piece of work. Subclasses say what is done in ``do``; it runs in a thread and touches no node and no widget."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.is_over = False
        self.share = 0.0

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def poll(self) -> list[Event]:
        """What happened since the last call. The last event ever is ``done``, ``failed`` or ``cancelled``.

        The short sleep lends the interpreter to the thread: the application holds it while it waits for the mouse.
        """
        if not self.is_over:
            time.sleep(0.005)
        events: list[Event] = []
        while not self._events.empty():
            events.append(self._events.get())
        self.is_over = self.is_over or any(event.kind in ("done", "failed", "cancelled") for event in events)
        return events

    def cancel(self) -> None:
        """Ask to stop; returns at once. ``cancelled`` follows."""
        self._stop.set()

    @abstractmethod
    def do(self) -> Any:
        """Do the work; returns the outcome. Raises WorkError or Cancelled."""

    def tell(self, share: float, text: str) -> None:
        """Say how far it is; ends the work where it was cancelled."""
        self.check()
        self.share = min(max(share, 0.0), 1.0)
        self._events.put(Event("progress", text, self.share))

    def log(self, text: str) -> None:
        """Say something for the log box."""
        self._events.put(Event("log", text))

    def check(self) -> None:
        """End the work where it was cancelled."""
        if self._stop.is_set():
            raise Cancelled

    def wait(self, seconds: float) -> None:
        """Sleep, no longer than until a cancel."""
        if self._stop.wait(seconds):
            raise Cancelled

    def _run(self) -> None:
        try:
            outcome = self.do()
            self.check()
            self._events.put(Event("done", value=outcome))
        except Cancelled:
            self._events.put(Event("cancelled", "cancelled"))
        except (WorkError, ValueError, OSError, MemoryError) as error:
            self._events.put(Event("failed", str(error) or type(error).__name__))
        except BaseException as error:
            self._events.put(Event("failed", f"internal error: {type(error).__name__}: {error}"))
            raise
