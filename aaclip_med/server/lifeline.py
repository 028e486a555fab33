"""A worker process ends with its server, from its first moment on: what takes long to import comes after that."""

from __future__ import annotations

import os
import threading
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from typing import Any


def run_worker(pipe: Connection, warm: dict[str, Any]) -> None:
    """Serve jobs as ``worker.serve_jobs`` does; end at once when the server is killed: a job for nobody keeps the device."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from aaclip_med.server.worker import serve_jobs

    serve_jobs(pipe, warm)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
