"""Scans are read in a process of their own, so that a crash, a hang or a blow-up of memory costs one case and not the run.

``main`` is that process: pickled sources come in on its standard input, pickled volumes or errors go out on its standard
output. It ends when its input does, or when its parent is gone.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from aaclip_med.arrays import count_memory, is_large, limit_memory
from aaclip_med.children import name_command
from aaclip_med.data.slices import read_organ
from aaclip_med.data.sources import Source
from aaclip_med.data.volumes import Volume
from aaclip_med.errors import AaclipError, InputError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Limits:
    """What reading one scan may take: ``seconds``, and ``megabytes`` of memory (0: no limit; not kept on Windows)."""

    seconds: float = 600.0
    megabytes: int = 0


def choose_megabytes() -> int:
    """Three quarters of the machine's memory."""
    return count_memory() * 3 // 4 // 2**20


class StoppedError(AaclipError):
    """The run was stopped while a scan was read."""


class Reader:
    """A child process that reads one scan after another; one that died is replaced at the next."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False

    def read(self, source: Source, organ: Path | None) -> tuple[Volume, Array | None]:
        """The volume of ``source``, and its organ (I, J, K) bool where there is one.

        Raises:
            InputError: the scan cannot be used, or reading it crashed, took too long or too much memory.
        """
        if self._ended:
            raise StoppedError(f"{source.path}: not read, the run was stopped")
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self.limits.seconds, give_up)
        timer.start()
        try:
            pickle.dump((source, organ), process.stdin)
            process.stdin.flush()
            answer = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            self._drop()
            if self._ended:
                raise StoppedError(f"{source.path}: not read, the run was stopped") from None
            raise InputError(f"{source.path}: {self._explain(process, late.is_set())}") from None
        finally:
            timer.cancel()
        if isinstance(answer, str):
            raise InputError(answer)
        volume, inside, lent = answer
        return (replace(volume, array=_take_over(lent)) if lent else volume), inside

    def _explain(self, process: subprocess.Popen[bytes], late: bool) -> str:
        if late:
            return (
                f"reading took longer than {self.limits.seconds:g} s and was given up; check the file, or raise --case-seconds"
            )
        code = process.returncode
        reason = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return f"the reader died on it ({reason}): the file is damaged, or memory ran out; check it, or copy it again"

    def _start(self) -> subprocess.Popen[bytes]:
        command = name_command(__name__, self.limits.megabytes, os.getpid())
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def end(self) -> None:
        """End the child process; a read that is under way in another thread raises StoppedError."""
        self._ended = True
        process = self._process
        if process is not None:
            process.kill()

    def _drop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)  # how it died is only known when it is dead
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                _close(pipe)


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except OSError:
        return  # what was left in its buffer went nowhere: the child is gone


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    while True:
        try:
            source, organ = pickle.load(requests)
        except EOFError:
            return
        pickle.dump(_answer(source, organ), answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _answer(source: Source, organ: Path | None) -> str | tuple[Volume, Array | None, str | None]:
    try:
        volume = source.read()
        inside = read_organ(organ, volume) if organ else None
        if not is_large(volume.array.nbytes):
            return volume, inside, None
        return replace(volume, array=volume.array[:0]), inside, _lend(volume.array)
    except MemoryError:
        return f"{source.path}: out of memory while reading; raise --case-megabytes, or score it on a larger machine"
    except (AaclipError, OSError) as error:
        return str(error)


def _lend(array: Array) -> str:
    """A large array goes over in a file, and never whole through memory."""
    handle, path = tempfile.mkstemp(prefix="aaclip-med-", suffix=".npy")
    with os.fdopen(handle, "wb") as file:
        np.save(file, array)
    return path


def _take_over(path: str) -> Array:
    """The array in the file, which is gone when the array is."""
    array: Array = np.load(path, mmap_mode="r")
    with contextlib.suppress(PermissionError):  # Windows removes no file that is open
        Path(path).unlink()
    return array


def _watch(parent: int, end: Callable[[int], Any] = os._exit) -> None:
    """End with the parent, whatever this process is busy with."""
    while os.getppid() == parent:
        time.sleep(1.0)
    end(1)


def main(megabytes: int, parent: int) -> None:
    """Serve process ``parent``, within ``megabytes`` of memory (0: no limit). Ctrl-C is for the parent alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if megabytes and sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (megabytes * 2**20, megabytes * 2**20))
        limit_memory(megabytes * 2**20)  # volumes above a part of it go into files
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print does not get among the answers
    _serve(sys.stdin.buffer, answers)
