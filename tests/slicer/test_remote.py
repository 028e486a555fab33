"""Jobs on a server, against a small server that speaks the contract and misbehaves where it is told to."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_geometry
from test_work import run_loop

from AAClipMedLib.check import ServerCheck  # isort: skip
from AAClipMedLib.jobs import Job, Settings  # isort: skip
from AAClipMedLib.remote import CHUNK, Body, RemoteJob, Server, find_token  # isort: skip
from AAClipMedLib.work import WorkError  # isort: skip

TOKEN = "token-of-the-test"


class Clerk(ThreadingHTTPServer):
    """Keeps one job. busy: how often it answers 429, and pause: how long to wait then. steps: how many polls a job takes.

    dropped: answers cut off. gate: closed, a poll (asked) is not answered.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.busy = 0
        self.pause = "0.2"
        self.dropped = 0
        self.steps = 3
        self.error = ""
        self.polls = 0
        self.asked, self.gate = threading.Event(), threading.Event()
        self.gate.set()
        self.state = "queued"
        self.parts: dict[str, bytes] = {}
        self.seen: list[tuple[str, str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """The contract."""

    server: Clerk

    def log_message(self, *_arguments: Any) -> None:
        """Silence."""

    def answer(self, code: int, content: bytes | dict[str, Any], **headers: str) -> None:
        body = json.dumps(content).encode() if isinstance(content, dict) else content
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin(self) -> bool:
        server = self.server
        server.seen.append((self.command, self.path, self.headers.get("Authorization")))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "unknown token"})
            return False
        if server.dropped:
            server.dropped -= 1
            self.close_connection = True
            self.connection.close()
            return False
        return True

    def do_POST(self) -> None:
        if not self.begin():
            return
        if self.server.busy:
            self.server.busy -= 1
            self.answer(429, {"error": "queue is full"}, Retry_After=self.server.pause)
            return
        boundary = self.headers["Content-Type"].partition("boundary=")[2].encode()
        for part in self.body.split(b"--" + boundary)[1:-1]:
            head, _, content = part.partition(b"\r\n\r\n")
            name = head.partition(b' name="')[2].partition(b'"')[0].decode()
            self.server.parts[name] = content.removesuffix(b"\r\n")
        self.answer(202, {"id": "job/1", "state": "queued", "progress": 0, "message": "", "error": None, "position": 2})

    def do_GET(self) -> None:
        if not self.begin():
            return
        server = self.server
        if self.path == "/v1/jobs/job%2F1":
            server.asked.set()
            server.gate.wait(60.0)
            server.polls += 1
            if server.error:
                server.state = "failed"
            elif server.polls > server.steps:
                server.state = "done"
            elif server.polls > 1:
                server.state = "running"
            share = min(server.polls / server.steps, 1.0)
            self.answer(
                200,
                {
                    "id": "job/1",
                    "state": server.state,
                    "progress": share if server.state != "queued" else 0,
                    "message": "scoring",
                    "error": server.error or None,
                    "position": 2 if server.state == "queued" else None,
                },
            )
        elif self.path == "/v1/jobs/job%2F1/heatmap":
            volume = np.load(io.BytesIO(server.parts["volume"]))
            content = io.BytesIO()
            np.save(content, (volume > 5).astype(np.float32))
            self.answer(200, content.getvalue())
        elif self.path == "/v1/jobs/job%2F1/result":
            self.answer(200, {"score": 0.5, "p_value": None, "threshold": 0.5, "candidates": [], "run": {}})
        elif self.path in ("/v1/health", "/v1/version", "/v1/models"):
            self.answer(200, {"status": "fine"})
        else:
            self.answer(404, {"error": "no such path"})

    def do_DELETE(self) -> None:
        if self.begin():
            self.server.state = "cancelled"
            self.answer(200, {"id": "job/1", "state": "cancelled"})


@pytest.fixture
def clerk() -> Iterator[Clerk]:
    server = Clerk()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def make_job(shape: tuple[int, int, int] = (5, 6, 7)) -> Job:
    """A job with an organ."""
    voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    settings = Settings(plane="all", threshold=0.7, minimum_ml=0.2)
    return Job(voxels, make_geometry("sheared"), settings, (voxels > 9).astype(np.uint8))


def start(clerk: Clerk, token: str = TOKEN, job: Job | None = None, patience: float = 10.0) -> RemoteJob:
    """A job on its way."""
    work = RemoteJob(job or make_job(), Server(clerk.address + "/", token), pause=0.05, patience=patience)
    work.start()
    return work


def test_a_job_goes_out_and_its_results_come_back(clerk: Clerk) -> None:
    job = make_job()
    events = run_loop(start(clerk, job=job))
    assert events[-1].kind == "done", events[-1].text
    np.testing.assert_array_equal(events[-1].value.heatmap, job.voxels > 5)
    np.testing.assert_array_equal(np.load(io.BytesIO(clerk.parts["volume"])), job.voxels)
    np.testing.assert_array_equal(np.load(io.BytesIO(clerk.parts["organ"])), job.organ)
    request = json.loads(clerk.parts["request"])
    assert set(request) == {"adapters", "preset", "plane", "threshold", "minimum_ml", "stride", "ijk_to_ras"}
    assert (request["plane"], request["threshold"], request["minimum_ml"]) == ("all", 0.7, 0.2)
    np.testing.assert_array_equal(request["ijk_to_ras"], make_geometry("sheared"))
    texts = [event.text for event in events]
    assert "waiting on the server, number 2 in line" in texts
    assert "scoring" in texts


def test_a_large_volume_goes_out_in_pieces(tmp_path: Path) -> None:
    body = Body(tmp_path, make_job((10, 512, 512)))
    sizes = [len(piece) for piece in body]
    assert max(sizes) == CHUNK
    assert sum(sizes) == len(body) > 5 * CHUNK


def test_a_job_is_scored_by_the_projects_own_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="the server's packages are not installed (pip install aaclip-med[server])")
    pytest.importorskip("uvicorn", reason="the server's packages are not installed (pip install aaclip-med[server])")
    from aaclip_med.data.phantoms import make_phantom

    phantom = make_phantom("brain-mri", 3, True)
    job = Job(np.ascontiguousarray(phantom.array.T[::6]), phantom.affine @ np.diag([1, 1, 6, 1]), Settings(threshold=0.5))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AACLIP_MED_TOKEN", TOKEN)
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "aaclip_med", "serve", "--port", str(port), "--device", "cpu"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    server = Server(f"http://127.0.0.1:{port}", TOKEN)
    try:
        work = RemoteJob(job, server, patience=90.0)
        work.start()
        events = run_loop(work, limit=200.0)
        check = ServerCheck(server)
        check.start()
        findings = run_loop(check)[-1].value
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert events[-1].kind == "done", events[-1].text + (tmp_path / "log").read_text()
    result = events[-1].value
    assert result.heatmap.shape == job.voxels.shape
    assert result.threshold == pytest.approx(0.5)
    assert {finding.state for finding in findings} == {"good"}


def test_a_busy_server_is_waited_for(clerk: Clerk) -> None:
    clerk.busy = 2
    events = run_loop(start(clerk))
    assert events[-1].kind == "done"
    assert sum("the server is busy; trying again in 0.2 s" in event.text for event in events if event.kind == "log") == 2


def test_a_server_that_stays_busy_is_given_up(clerk: Clerk) -> None:
    clerk.busy = 1000
    events = run_loop(start(clerk, patience=0.7))
    assert events[-1].kind == "failed"
    assert "the server is busy; given up" in events[-1].text


def test_a_lost_connection_is_taken_up_again(clerk: Clerk) -> None:
    work = start(clerk)
    run_loop(work, until=lambda events: any(event.text == "scoring" for event in events) or clerk.polls > 0)
    clerk.dropped = 1
    events = run_loop(work)
    assert events[-1].kind == "done"
    assert any("does not answer" in event.text for event in events)


def test_a_wrong_token_is_refused_at_once(clerk: Clerk) -> None:
    events = run_loop(start(clerk, token="wrong"))
    assert events[-1].kind == "failed"
    assert events[-1].text == "the server refuses the token; set it under Advanced: unknown token"
    assert len(clerk.seen) == 1


def test_the_servers_reason_is_passed_on(clerk: Clerk) -> None:
    clerk.error = "the organ mask is empty; nothing is left to score"
    events = run_loop(start(clerk))
    assert events[-1].text == "the organ mask is empty; nothing is left to score"


def test_a_cancel_reaches_the_server(clerk: Clerk) -> None:
    clerk.steps = 10_000
    clerk.gate.clear()
    work = start(clerk)
    assert clerk.asked.wait(60.0)
    work.cancel()
    clerk.gate.set()
    assert run_loop(work)[-1].kind == "cancelled"
    assert clerk.state == "cancelled"
    path = "/v1/jobs/job%2F1"
    assert [one[:2] for one in clerk.seen] == [("POST", "/v1/jobs"), ("GET", path), ("DELETE", path)]


def test_a_cancel_ends_the_waiting_for_a_busy_server(clerk: Clerk) -> None:
    clerk.busy, clerk.pause = 1000, "60"
    work = start(clerk, patience=3600.0)
    run_loop(work, until=lambda events: any("busy" in event.text for event in events))
    work.cancel()
    assert run_loop(work, limit=30.0)[-1].kind == "cancelled"  # it would wait for 60 s
    assert len(clerk.seen) == 1


def test_a_server_that_is_not_there_is_told() -> None:
    work = RemoteJob(make_job(), Server("http://127.0.0.1:9", TOKEN), patience=0.5)
    work.start()
    events = run_loop(work)
    assert events[-1].kind == "failed"
    assert "the server does not answer" in events[-1].text


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(WorkError, match="give one as https://host:port"):
        Server("my-server:8000")


def test_the_token_is_not_sent_on_to_another_host() -> None:
    import urllib.request

    seen: list[dict[str, str]] = []

    class Redirected(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            if len(seen) == 1:
                self.send_response(302)
                self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/elsewhere")
                self.end_headers()
            else:
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

        def log_message(self, *_arguments: Any) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Redirected)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert Server(f"http://127.0.0.1:{server.server_address[1]}", TOKEN).read_json("/v1/health") == {}
    finally:
        server.shutdown()
        server.server_close()
    assert seen[0]["Authorization"] == f"Bearer {TOKEN}"
    assert "Authorization" not in seen[1]
    assert urllib.request


def test_the_check_of_a_server_finds_it_well(clerk: Clerk) -> None:
    work = ServerCheck(Server(clerk.address, TOKEN))
    work.start()
    findings = run_loop(work)[-1].value
    assert [finding.name for finding in findings] == ["Server", "Version", "Models"]
    assert {finding.state for finding in findings} == {"good"}


def test_the_check_tells_an_unencrypted_connection_and_a_silent_server() -> None:
    work = ServerCheck(Server("http://server.invalid:8000", TOKEN))
    work.start()
    findings = run_loop(work)[-1].value
    assert findings[0].state == "note"
    assert "unencrypted" in findings[0].found
    assert "aaclip-med serve" in findings[1].advice


def test_a_site_sets_its_token_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert tmp_path
    monkeypatch.setenv("AACLIP_MED_TOKEN", "of-the-site")
    assert find_token() == "of-the-site"
