"""The process that scores: one a device. It keeps the last model, and ends when the server does.

JSON messages over a pipe. In: ``{"folder", "request"}``. Out: ``{"ready": problem or null}`` once, then for each job
``{"progress", "message"}``..., last ``{"done": true}`` or ``{"error": "..."}``. What is not foreseen ends the process; the
server sees that, fails the job and starts another.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from aaclip_med.errors import AaclipError
from aaclip_med.inference.job import JobRequest, load_job_predictor, run_job
from aaclip_med.inference.predictor import Predictor


def serve_jobs(pipe: Connection, warm: dict[str, Any]) -> None:
    """Do the jobs that come in, until the server ends. ``warm``: a request whose model is loaded before the first one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    models = _Models()
    problem = None
    try:
        models.load(JobRequest.from_json(warm))
    except (AaclipError, MemoryError, OSError) as error:
        problem = str(error) or "out of memory"
    _send(pipe, ready=problem)
    while True:
        try:
            order = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        _do(pipe, Path(order["folder"]), JobRequest.from_json(order["request"]), models)


class _Models:
    """The last model used."""

    def __init__(self) -> None:
        self._key: JobRequest | None = None
        self._predictor: Predictor | None = None

    def load(self, request: JobRequest) -> Predictor:
        key = replace(request, **{name: getattr(_ANY, name) for name in _NOT_OF_THE_MODEL})
        if self._predictor is None or key != self._key:
            self._predictor = None  # its memory is free before the next one takes some, in another process too
            torch.cuda.empty_cache()
            self._predictor, self._key = load_job_predictor(request), key
        return self._predictor


_ANY = JobRequest("")
_NOT_OF_THE_MODEL = ("volume", "plane", "ijk_to_ras", "organ", "threshold", "minimum_ml", "stride")


def _do(pipe: Connection, folder: Path, request: JobRequest, models: _Models) -> None:
    try:
        _send(pipe, progress=0.0, message="loading the model")
        predictor = models.load(request)
        run_job(folder, request, predictor, lambda share, message: _send(pipe, progress=share, message=message))
    except AaclipError as error:
        _send(pipe, error=_hide(error, folder))
    except MemoryError as error:
        _send(pipe, error=str(error) or "out of memory")
    except (OSError, ValueError, TypeError) as error:
        _send(pipe, error=f"the job cannot be run: {_hide(error, folder)}")
    else:
        _send(pipe, done=True)


def _hide(error: BaseException, folder: Path) -> str:
    """The message without the server's folders."""
    return " ".join(str(error).replace(f"{folder}{os.sep}", "").replace(str(folder), "the job").split())


def _send(pipe: Connection, **values: Any) -> None:
    pipe.send_bytes(json.dumps(values).encode())
