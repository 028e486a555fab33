"""Several pieces of work, one after another; a failure is noted and the next one begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .work import Event, Work


@dataclass(frozen=True)
class Task:
    """A piece of work with a name.

    make: builds the work when its turn comes. finish: takes the outcome. show: takes what ``finish`` gave.
    """

    name: str
    make: Callable[[], Work]
    finish: Callable[[Any], Any]
    show: Callable[[Any], None] | None = None


@dataclass
class Batch:
    """The tasks and how far they are. Call ``poll`` from a timer until ``is_over``.

    An outcome is taken in one call and shown in the next, so that the application can breathe between the two.
    """

    tasks: Sequence[Task]
    failures: list[str] = field(default_factory=list)
    finished: int = 0
    is_cancelled: bool = False
    _work: Work | None = None
    _number: int = 0
    _showing: Callable[[], None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self._work is None and self._showing is None and (self.is_cancelled or self._number >= len(self.tasks))

    def poll(self) -> list[Event]:
        """What happened since the last call; progress is that of all tasks together.

        ``done``, ``failed`` and ``cancelled`` are each one task's; errors that a user can cause in building a task or in
        taking its outcome (ValueError) count as its failure.
        """
        if self.is_over:
            return []
        if self._showing is not None:
            showing, self._showing = self._showing, None
            showing()
            return []
        task = self.tasks[self._number]
        if self._work is None:
            try:
                self._work = task.make()
            except ValueError as error:
                return [self._leave(task, Event("failed", str(error)))]
            self._work.start()
        events = []
        for event in self._work.poll():
            if event.kind == "progress":
                events.append(Event("progress", self._title(task, event.text), self._share(event.share)))
            elif event.kind == "log":
                events.append(event)
            else:
                events.append(self._leave(task, event))
        return events

    def cancel(self) -> None:
        """Stop the present task and begin no other."""
        self.is_cancelled = True
        if self._work is not None:
            self._work.cancel()

    def _leave(self, task: Task, event: Event) -> Event:
        self._work = None
        self._number += 1
        if event.kind == "done":
            try:
                taken = task.finish(event.value)
            except ValueError as error:
                event = Event("failed", str(error))
            else:
                self.finished += 1
                if task.show is not None:
                    self._showing = partial(task.show, taken)
        if event.kind == "failed":
            self.failures.append(f"{task.name}: {event.text}")
        return Event(event.kind, self._title(task, event.text or event.kind), self._share(0.0), event.value)

    def _share(self, share: float) -> float:
        return (self._number + share) / len(self.tasks)

    def _title(self, task: Task, text: str) -> str:
        return f"{task.name}: {text}" if len(self.tasks) > 1 else text
