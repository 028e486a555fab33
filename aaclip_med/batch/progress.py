"""How far a run is: a bar on a terminal, lines in a log, JSON lines for another program."""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from aaclip_med.batch.records import Row

Style = Literal["auto", "bar", "plain", "json", "none"]
STYLES: tuple[Style, ...] = ("auto", "bar", "plain", "json", "none")


class Progress(ABC):
    """Hears of each case once. Cases go by their names in the tables, never by their paths."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.total = self.done = self.failed = self.candidates = self.kept = 0

    @contextmanager
    def of(self, total: int) -> Iterator[None]:
        """The time in which ``total`` cases are scored."""
        self.total = total
        self.started = time.monotonic()
        yield

    def advance(self, row: Row, kept: bool = False) -> None:
        """A case is done: its row of the volumes table, and whether an earlier run had done it."""
        self.done += 1
        self.kept += kept
        if row["status"] == "ok":
            self.candidates += row["candidates"]
        else:
            self.failed += 1
        self.show(row, kept)

    @abstractmethod
    def show(self, row: Row, kept: bool) -> None:
        """Say so."""

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self.started

    def _print(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


class Quiet(Progress):
    """Says nothing."""

    def show(self, row: Row, kept: bool) -> None:
        """Nothing."""


class Lines(Progress):
    """A line for each case."""

    def show(self, row: Row, kept: bool) -> None:
        """One line; what an earlier run had done is counted and not repeated."""
        if kept:
            return
        if row["status"] == "ok":
            text = f"score {row['score']:.4g}, {row['candidates']} candidates"
        else:
            text = f"failed: {' '.join(str(row['error']).split())}"
        self._print(f"{self.done}/{self.total}  {' '.join(row['case'].split())}  {text}  ({self.seconds:.0f} s)")


class JsonLines(Progress):
    """One JSON object a line: ``{"event": "case", ...}`` for each case, ``begin`` and ``end`` around them."""

    @contextmanager
    def of(self, total: int) -> Iterator[None]:
        """See ``Progress``."""
        with super().of(total):
            self._say(event="begin", total=total)
            yield
            self._say(
                event="end",
                done=self.done,
                failed=self.failed,
                kept=self.kept,
                candidates=self.candidates,
                seconds=round(self.seconds, 3),
            )

    def show(self, row: Row, kept: bool) -> None:
        """The case's row, in short."""
        names = ("case", "status", "score", "p_value", "candidates", "error")
        case = {name: row[name] for name in names if row.get(name) is not None}
        self._say(event="case", done=self.done, total=self.total, kept=kept, seconds=round(self.seconds, 3), **case)

    def _say(self, **content: object) -> None:
        self._print(json.dumps(content))


class Bar(Progress):
    """A bar, with a line for each case that failed."""

    _bar: RichProgress
    _task: TaskID

    @contextmanager
    def of(self, total: int) -> Iterator[None]:
        """See ``Progress``."""
        columns = (
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with super().of(total), RichProgress(*columns, console=Console(file=self.stream)) as self._bar:
            self._task = self._bar.add_task("", total=total, note="")
            yield

    def show(self, row: Row, kept: bool) -> None:  # noqa: ARG002
        """Move the bar."""
        if row["status"] != "ok":
            self._bar.console.print(f"failed: {' '.join(str(row['error']).split())}", markup=False, highlight=False)
        note = f"{self.candidates} candidates" + (f", {self.failed} failed" if self.failed else "")
        self._bar.update(self._task, advance=1, note=note)


def choose_progress(style: Style, stream: TextIO | None = None) -> Progress:
    """The one asked for; ``auto``: a bar on a terminal, else lines. On the error stream, but JSON lines on standard output."""
    stream = stream or (sys.stdout if style == "json" else sys.stderr)
    if style == "auto":
        style = "bar" if stream.isatty() else "plain"
    kinds: dict[str, type[Progress]] = {"bar": Bar, "plain": Lines, "json": JsonLines, "none": Quiet}
    return kinds[style](stream)
