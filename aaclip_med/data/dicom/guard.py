"""Native decoders in a process of their own, so that a damaged stream costs one file and not the program.

GDCM, for one, ends its process (SIGSEGV, SIGABRT) at about 2 % of randomly damaged JPEG, JPEG-LS and JPEG 2000 streams.
``main`` is the process: pickled data sets come in on its standard input; on its standard output a JSON line goes out for
each, and after it the pixels.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from typing import Any, BinaryIO

import numpy as np
from pydicom.dataset import Dataset

from aaclip_med.children import name_command
from aaclip_med.data.dicom.headers import UNREADABLE, number, quiet
from aaclip_med.errors import InputError

Array = np.ndarray[Any, Any]

SECONDS, SECONDS_A_MEGAPIXEL = 60.0, 1.0
"""How long a file may take."""
MEMORY, MEMORY_A_BYTE = 4 * 1024**3, 8
"""How much memory decoding may take: a size, and a multiple of the pixels as declared. Not kept on Windows."""


class Guard:
    """The decoding process: started at the first file, kept for the next ones, replaced when it died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def decode(self, dataset: Dataset, seconds: float | None = None) -> Array:
        """``dataset.pixel_array``, of a data set that has pixels, within ``seconds`` (default: by its size).

        Raises:
            InputError: it cannot be decoded, the decoder crashed or took too long, or it cannot be started. The message says
                what happened and does not name the file.
        """
        megapixels = _count_pixels(dataset) / 1e6
        with self._lock:
            process = self._start()
            late = threading.Event()
            timer = threading.Timer(seconds or SECONDS + SECONDS_A_MEGAPIXEL * megapixels, _give_up, (process, late))
            timer.start()
            answer = None
            try:
                answer = _ask(process, dataset)
            except (EOFError, OSError):
                pass  # it died; below is said of what
            finally:
                timer.cancel()
                if answer is None:  # also when interrupted: what it still has to say belongs to no question
                    self.end()
        if answer is None:
            if late.is_set():
                raise InputError("decoding took too long and was given up")
            raise InputError(f"the decoder crashed on them ({_name_exit(process.returncode)})")
        if isinstance(answer, str):
            raise InputError(answer)
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():  # a fork's parent has its process for itself
            self._process = None
        if self._process is not None and self._process.poll() is not None:  # died while it had nothing to do
            self.end()
        if self._process is None:
            pipe, null = subprocess.PIPE, subprocess.DEVNULL
            try:
                process = subprocess.Popen(name_command(__name__), stdin=pipe, stdout=pipe, stderr=null)
            except OSError as error:
                raise InputError(f"the decoder, {sys.executable}, cannot be started ({error.strerror})") from None
            self._process, self._owner = process, os.getpid()
        return self._process

    def end(self) -> None:
        """End the process; the next file starts another."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was left in its buffer goes nowhere
                    pipe.close()  # type: ignore[union-attr]


GUARD = Guard()
"""The one of this program."""
atexit.register(GUARD.end)


def _ask(process: subprocess.Popen[bytes], dataset: Dataset) -> Array | str:
    assert process.stdin is not None
    assert process.stdout is not None
    pickle.dump(dataset, process.stdin)
    process.stdin.flush()
    line = process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    answer = json.loads(line)
    if "error" in answer:
        return str(answer["error"])
    pixels = np.empty(answer["shape"], answer["dtype"])
    rest = pixels.reshape(-1).data.cast("B")
    while rest:
        count = process.stdout.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        rest = rest[count:]
    return pixels


def _give_up(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    process.kill()


def _name_exit(code: int | None) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-(code or 0)).name
    return f"exit code {code}"


def _count_pixels(dataset: Dataset) -> float:
    return math.prod(number(dataset, key) or 1.0 for key in ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"))


def decode_here(dataset: Dataset) -> Array:
    """``dataset.pixel_array`` in this process.

    Raises:
        InputError: it cannot be decoded; the message says why and does not name the file.
    """
    try:
        with quiet():
            pixels: Array = dataset.pixel_array
    except UNREADABLE as error:
        if isinstance(error, MemoryError):
            raise InputError("they take more memory than there is, or than their size explains") from None
        reason = textwrap.shorten(str(error).splitlines()[0] if str(error) else type(error).__name__, 100)
        raise InputError(reason) from None
    return pixels


def _serve(questions: BinaryIO, answers: BinaryIO) -> None:
    while True:
        try:
            dataset = pickle.load(questions)
        except EOFError:
            return
        _limit_memory(dataset)
        try:
            pixels = np.ascontiguousarray(decode_here(dataset))
        except InputError as error:
            answers.write(json.dumps({"error": str(error)}).encode() + b"\n")
        else:
            answers.write(json.dumps({"shape": pixels.shape, "dtype": pixels.dtype.str}).encode() + b"\n")
            answers.write(pixels.reshape(-1).data.cast("B"))
        answers.flush()


def _limit_memory(dataset: Dataset) -> None:
    if sys.platform != "win32":
        import resource

        size = _count_pixels(dataset) * (number(dataset, "BitsAllocated") or 16.0) / 8
        limit = int(MEMORY + MEMORY_A_BYTE * size)
        most = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Serve the parent process until it is gone. Ctrl-C is for the parent alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what decoders print does not get among the pixels
    _serve(sys.stdin.buffer, answers)
