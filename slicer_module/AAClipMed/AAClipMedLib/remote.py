"""A job on a server, over HTTP with the standard library alone."""

from __future__ import annotations

import json
import os
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from .jobs import Job, Result, read_result
from .work import Cancelled, Work, WorkError

CHUNK = 1 << 20
PATIENCE_SECONDS = 120.0
"""How long a server may be silent or full before the job is given up."""
_ANSWER_SECONDS = 30.0


class Server:
    """A server's address and token. The token is never sent on to another host."""

    def __init__(self, address: str, token: str = "") -> None:
        self.address = address.strip().rstrip("/")
        self.token = token.strip()
        if urllib.parse.urlsplit(self.address).scheme not in ("http", "https"):
            raise WorkError(f"'{address}' is no server address; give one as https://host:port")

    def open(self, method: str, path: str, body: Body | None = None) -> Any:
        """Ask the server; returns the open answer.

        Raises:
            urllib.error.HTTPError, OSError, HTTPException: as urllib's.
        """
        request = urllib.request.Request(self.address + path, method=method)
        if self.token:
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        if body is not None:
            request.data = iter(body)  # type: ignore[assignment]
            request.add_unredirected_header("Content-Type", body.content_type)
            request.add_unredirected_header("Content-Length", str(len(body)))
        return urllib.request.urlopen(request, timeout=_ANSWER_SECONDS)

    def read_json(self, path: str, method: str = "GET") -> Any:
        """The JSON that the server answers with. Raises as ``open``; ValueError where it is none."""
        with self.open(method, path) as answer:
            return json.loads(answer.read() or b"null")


class Body:
    """A multipart form of a JSON field and arrays, sent from a file so that a large volume is not held twice."""

    def __init__(self, folder: Path, job: Job) -> None:
        boundary = uuid.uuid4().hex
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._path = folder / "upload"
        arrays = {"volume": job.voxels} | ({"organ": job.mask} if job.mask is not None else {})
        with self._path.open("wb") as file:
            file.write(_head(boundary, 'name="request"', "application/json"))
            file.write(json.dumps(job.describe(remote=True)).encode() + b"\r\n")
            for name, array in arrays.items():
                file.write(_head(boundary, f'name="{name}"; filename="{name}.npy"', "application/octet-stream"))
                np.save(file, array)
                file.write(b"\r\n")
            file.write(f"--{boundary}--\r\n".encode())

    def __len__(self) -> int:
        return self._path.stat().st_size

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while block := file.read(CHUNK):
                yield block


def _head(boundary: str, name: str, kind: str) -> bytes:
    return f"--{boundary}\r\nContent-Disposition: form-data; {name}\r\nContent-Type: {kind}\r\n\r\n".encode()


class RemoteJob(Work):
    """A job on a server: sent, waited for through full queues and lost connections, fetched; a cancel reaches the server."""

    def __init__(self, job: Job, server: Server, pause: float = 0.5, patience: float = PATIENCE_SECONDS) -> None:
        super().__init__()
        self.job = job
        self.server = server
        self._pause = pause
        self._patience = patience

    def do(self) -> Result:
        """Send the job, wait for it, fetch its results."""
        with tempfile.TemporaryDirectory(prefix="aaclip_med_", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            self.tell(0.0, f"sending to {self.server.address}")
            answer = self._ask("POST", "/v1/jobs", Body(folder, self.job))
            path = f"/v1/jobs/{urllib.parse.quote(str(json.loads(answer)['id']), safe='')}"
            try:
                self._await(path)
                for end, file in (("heatmap", "heatmap.npy"), ("result", "result.json")):
                    self.tell(1.0, "fetching the results")
                    self._ask("GET", f"{path}/{end}", into=folder / file)
                return read_result(folder, self.job)
            except Cancelled:
                self._withdraw(path)
                raise

    def _await(self, path: str) -> None:
        while True:
            status = json.loads(self._ask("GET", path))
            state = status["state"]
            if state == "done":
                return
            if state == "failed":
                raise WorkError(str(status.get("error") or "the job failed on the server; its log says why"))
            if state == "cancelled":
                raise WorkError("the job was cancelled on the server")
            place = status.get("position")
            waiting = "waiting on the server" + (f", number {place} in line" if place is not None else "")
            self.tell(
                float(status.get("progress") or 0.0), waiting if state == "queued" else str(status.get("message") or state)
            )
            self.wait(self._pause)

    def _ask(self, method: str, path: str, body: Body | None = None, into: Path | None = None) -> bytes:
        """What the server answers, asked again while it is full or silent. ``into``: a file that takes the answer instead."""
        given_up = time.monotonic() + self._patience
        while True:
            self.check()
            try:
                with self.server.open(method, path, body) as answer:
                    if into is None:
                        return bytes(answer.read())
                    with into.open("wb") as file:
                        while block := answer.read(CHUNK):
                            self.check()
                            file.write(block)
                    return b""
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in (429, 502, 503, 504):
                        raise WorkError(explain_status(error)) from None
                    pause = _read_pause(error.headers.get("Retry-After"))
                reason = "the server is busy" if error.code == 429 else f"the server is not ready (code {error.code})"
            except (OSError, HTTPException) as error:
                pause, reason = 2.0, f"the server does not answer ({getattr(error, 'reason', error)})"
            if time.monotonic() + pause > given_up:
                raise WorkError(f"{reason}; given up. Press Check, or try again later")
            self.log(f"{reason}; trying again in {pause:g} s")
            self.tell(self.share, f"{reason}; waiting")
            self.wait(pause)

    def _withdraw(self, path: str) -> None:
        try:
            self.server.open("DELETE", path).close()
        except (OSError, HTTPException) as error:
            self.log(f"the server was not told of the cancel ({error})")


def explain_status(error: urllib.error.HTTPError) -> str:
    """A refusal in words, with what to do."""
    try:
        detail = json.loads(error.read(10_000))
        said = str(detail.get("error") or detail.get("detail") or "") if isinstance(detail, dict) else ""
    except (ValueError, OSError):
        said = ""
    known = {
        401: "the server refuses the token; set it under Advanced",
        403: "the server refuses the token; set it under Advanced",
        404: "the server knows no such job or address; is it an aaclip-med server, and was it restarted?",
        413: "the volume is too large for the server; crop it, or ask its keeper to raise the limit",
    }
    return ": ".join(part for part in (known.get(error.code, f"the server refuses the job (code {error.code})"), said) if part)


def _read_pause(header: str | None) -> float:
    try:
        return min(max(float(header or 2.0), 0.1), 60.0)
    except ValueError:
        return 2.0


def find_token() -> str:
    """The token in the environment, where a site sets one for its users."""
    return os.environ.get("AACLIP_MED_TOKEN", "")
