"""The work in hand as the panel shows it: progress bar, status, log, and Apply that is Cancel meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import slicer
from slicer.i18n import tr as _

from .batch import Batch, Task
from .work import Event


class Desk:
    """Asks the work in hand whenever the timer ticks; nothing here waits for it.

    One batch at a time is shown by the bar. Beside it one search may run, so that results can be looked through meanwhile.
    """

    def __init__(self, ui: Any, timer: Any, freed: Callable[[], None]) -> None:
        """``ui``: the panel's widgets. ``timer``: a Qt timer with its interval. ``freed``: called when a batch is over."""
        self._ui = ui
        self._timer = timer
        self._freed = freed
        self._batch: Batch | None = None
        self._search: Batch | None = None
        self._afterwards: Callable[[], None] | None = None
        timer.connect("timeout()", self._tick)

    @property
    def is_busy(self) -> bool:
        """Whether a batch is under way."""
        return self._batch is not None

    @property
    def is_searching(self) -> bool:
        """Whether a search is under way."""
        return self._search is not None

    def start(self, tasks: Sequence[Task], afterwards: Callable[[], None] | None = None) -> None:
        """Begin tasks; Apply becomes Cancel. ``afterwards`` is called where all went well."""
        self._batch = Batch(tasks)
        self._afterwards = afterwards
        ui = self._ui
        ui.applyButton.text = _("Cancel")
        ui.applyButton.enabled = True
        ui.applyButton.toolTip = _("Stop. What is done already is kept.")
        ui.progressBar.visible = True
        ui.progressBar.value = 0
        self._enable(False)
        self._timer.start()

    def search(self, task: Task) -> None:
        """Begin a search."""
        self._search = Batch([task])
        self._ui.redrawButton.enabled = False
        self._timer.start()

    def cancel(self) -> None:
        """Ask the batch to stop."""
        if self._batch is not None:
            self._batch.cancel()
            self._ui.applyButton.enabled = False
            self._ui.statusLabel.text = _("Cancelling")

    def clear(self) -> None:
        """Drop everything at once."""
        for batch in (self._batch, self._search):
            if batch is not None:
                batch.cancel()
        self._search = None
        if self._batch is not None:
            self._reset()
        self._timer.stop()

    def log(self, text: str) -> None:
        """Write into the log box."""
        if text:
            self._ui.logText.appendPlainText(f"{time.strftime('%H:%M:%S')}  {text}")

    def _tick(self) -> None:
        search, batch = self._search, self._batch
        if search is not None:
            search.poll()
            if search.is_over and self._search is search:
                self._search = None
                self._ui.redrawButton.enabled = True
                self._complain(search)
        if batch is not None:
            for event in batch.poll():
                self._hear(event)
            if batch.is_over and self._batch is batch:
                self._end(batch)
        if self._batch is None and self._search is None:
            self._timer.stop()

    def _hear(self, event: Event) -> None:
        if event.kind == "progress":
            self._ui.progressBar.value = round(100 * event.share)
            self._ui.statusLabel.text = event.text
        else:
            self.log(event.text)

    def _end(self, batch: Batch) -> None:
        self._reset()
        afterwards, self._afterwards = self._afterwards, None
        if batch.failures:
            self._ui.statusLabel.text = _("Failed: {reason}").format(reason=batch.failures[0])
            self._ui.logSection.collapsed = False
            self._complain(batch)
        elif batch.is_cancelled:
            self._ui.statusLabel.text = _("Cancelled")
        else:
            self._ui.statusLabel.text = _("Done")
            if afterwards is not None:
                afterwards()

    def _complain(self, batch: Batch) -> None:
        if batch.failures:
            slicer.util.errorDisplay("\n".join(batch.failures[:10]), detailedText=self._ui.logText.toPlainText())

    def _reset(self) -> None:
        self._batch = None
        self._ui.applyButton.text = _("Apply")
        self._ui.progressBar.visible = False
        self._enable(True)
        self._freed()

    def _enable(self, enabled: bool) -> None:
        for button in (self._ui.phantomButton, self._ui.checkButton, self._ui.installButton):
            button.enabled = enabled
