"""Child processes: started in a group of their own, read line by line, and ended with everything they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .work import Cancelled, WorkError

GRACE_SECONDS = 0.7
"""How long a process may tidy up before it is killed."""

_LAST_LINES = 30


def find_slicer_python() -> str:
    """The Python that Slicer brings: its launcher, which sets paths and libraries; else the running interpreter."""
    name = "PythonSlicer.exe" if os.name == "nt" else "PythonSlicer"
    folders = [Path(sys.executable).parent, Path(os.environ.get("SLICER_HOME", "")) / "bin"]
    for folder in folders:
        if (folder / name).is_file():
            return str(folder / name)
    return sys.executable


def clean_environment(environment: dict[str, str]) -> dict[str, str]:
    """An environment for a Python that is not Slicer's: without what Slicer set for its own."""
    ours = ("PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "QT_PLUGIN_PATH")
    return {name: value for name, value in environment.items() if name not in ours}


class Child:
    """A running program. stdout is read line by line; stderr goes to ``log``, its last lines are kept for the error."""

    def __init__(
        self,
        command: Sequence[str],
        log: Callable[[str], None],
        is_cancelled: Callable[[], bool],
        environment: dict[str, str] | None = None,
    ) -> None:
        variables = dict(os.environ if environment is None else environment)
        # The last keeps Python from running a numpy.py that lies in the folder Slicer was started in (3.11 or newer).
        variables |= {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "PYTHONSAFEPATH": "1"}
        options: dict[str, object] = {}
        if os.name == "nt":
            options["creationflags"] = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
        else:
            options["start_new_session"] = True
        try:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=variables,
                encoding="utf-8",
                errors="replace",
                **options,
            )
        except OSError as error:
            raise WorkError(f"{command[0]} cannot be started ({error}); give the path of a Python under Advanced") from None
        self._log = log
        self._is_cancelled = is_cancelled
        self.complaints: list[str] = []
        self._over = threading.Event()
        self._watchers = [threading.Thread(target=self._listen, daemon=True), threading.Thread(target=self._guard, daemon=True)]
        for watcher in self._watchers:
            watcher.start()

    def read_lines(self) -> Iterator[str]:
        """The lines of stdout as they come. On leaving, the program and all that it started are ended.

        Raises:
            Cancelled: the work was cancelled meanwhile.
        """
        assert self.process.stdout is not None
        try:
            for line in self.process.stdout:
                yield line.rstrip("\n")
            self.process.wait()
            if self._is_cancelled():
                raise Cancelled
        finally:
            self._over.set()
            end_tree(self.process)
            self._watchers[0].join(timeout=1.0)
            self.process.stdout.close()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                text = line.rstrip()
                if text:
                    self.complaints = [*self.complaints, text][-_LAST_LINES:]
                    self._log(text)

    def _guard(self) -> None:
        while not self._over.wait(0.05):
            # A killed program's own children may still hold its output open.
            if self._is_cancelled() or self.process.poll() is not None:
                end_tree(self.process)
                return


def end_tree(process: subprocess.Popen[str]) -> None:
    """End a child and everything it started: ask first, kill what is left after ``GRACE_SECONDS``."""
    if os.name == "nt":
        subprocess.run(
            ["taskkill", "/T", "/F", "/PID", str(process.pid)],
            check=False,
            capture_output=True,
            creationflags=subprocess.CREATE_NO_WINDOW,
        )
        process.wait()
        return
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        except PermissionError:  # macOS says so of a group of zombies
            break
        deadline = time.monotonic() + GRACE_SECONDS
        while sign == signal.SIGTERM and time.monotonic() < deadline and _lives(process):
            time.sleep(0.02)
    process.wait()


def _lives(process: subprocess.Popen[str]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def explain_exit(code: int, complaints: Sequence[str]) -> str:
    """Why a program that gave no error of its own ended, in words."""
    last = f" Its last words: {complaints[-1]}" if complaints else ""
    if code in (-signal.SIGTERM, -9, 137, 143):
        return f"the scoring process was killed from outside, often because memory ran out.{last}"
    if code in (-11, 139, 0xC0000005):
        return f"the scoring process crashed (segmentation fault); press Check to see whether torch fits this computer.{last}"
    if any("No module named" in line for line in complaints):
        return f"the chosen Python lacks a package; press Check.{last}"
    return f"the scoring process ended with code {code}.{last}"
