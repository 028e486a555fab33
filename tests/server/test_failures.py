"""Workers that die, jobs that take too long, results that expire, servers that are killed."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from aaclip_med.server.scratch import PREFIX, open_scratch, remove_stale
from server.conftest import TOKEN, Client, as_npy, await_it, draw_volume

SMALL = as_npy(draw_volume())


def test_a_running_job_is_cancelled_whatever_its_worker_does_and_the_next_one_works(client: Client) -> None:
    running = client.submit_slow()
    after = client.submit(SMALL).json()["id"]
    await_it(lambda: client.status(running)["progress"] > 0.05)
    os.kill(client.service.supervisors[0].process.pid, signal.SIGSTOP)  # it can neither answer nor end by itself
    assert client.delete(f"/v1/jobs/{running}").status_code == 204
    assert client.status(running)["state"] == "cancelled"
    await_it(lambda: not (client.service.scratch / running).exists())
    assert client.wait(after)["state"] == "done"
    assert client.status(running)["state"] == "cancelled"
    assert client.delete(f"/v1/jobs/{running}").status_code == 204
    assert client.get(f"/v1/jobs/{running}").status_code == 404


def test_a_killed_worker_fails_its_job_in_words_and_loses_nothing_else(client: Client) -> None:
    done = client.submit(SMALL).json()["id"]
    client.wait(done)
    running = client.submit_slow()
    waiting = client.submit(SMALL).json()["id"]
    await_it(lambda: client.status(running)["progress"] > 0.05)
    process = client.service.supervisors[0].process
    assert process is not None
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    status = client.wait(running, seconds=10)
    assert status["state"] == "failed"
    assert "worker process ended" in status["error"]
    assert client.wait(waiting)["state"] == "done"
    assert client.get(f"/v1/jobs/{done}/heatmap").status_code == 200


def test_a_job_that_takes_too_long_is_stopped_and_results_expire(strict: Client) -> None:
    strict.await_ready()
    short = strict.submit(SMALL).json()["id"]
    assert strict.wait(short)["state"] == "done"
    late = strict.submit_slow(600)
    status = strict.wait(late)
    assert status["state"] == "failed"
    assert "longer than 8 s" in status["error"]
    folder = strict.service.scratch / short
    await_it(lambda: strict.get(f"/v1/jobs/{short}").status_code == 410, 10)
    for path in ("/heatmap", "/result", "/events"):
        assert strict.get(f"/v1/jobs/{short}{path}").status_code == 410
    assert strict.delete(f"/v1/jobs/{short}").status_code == 410
    await_it(lambda: not folder.exists(), 10)
    strict.await_ready()
    assert strict.wait(strict.submit(SMALL).json()["id"])["state"] == "done"


def _launch(folder: Path, *options: str) -> tuple[subprocess.Popen[bytes], Path]:
    log = folder / f"log-{time.monotonic_ns()}"
    command = [sys.executable, "-m", "aaclip_med", "serve", "--device", "cpu", *options]
    with log.open("wb") as stream:
        return subprocess.Popen(command, env={**os.environ, "TMPDIR": str(folder)}, stderr=stream, stdout=stream), log


def _await_health(port: int) -> None:
    def ask() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/v1/health").status_code == 200
        except httpx.ConnectError:
            return False

    await_it(ask)


def _is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _children(process: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == process:
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_servers_folder_and_workers_go_and_the_next_server_cleans_up_after_itself(
    tmp_path: Path, free_port: int
) -> None:
    first, _ = _launch(tmp_path, "--port", str(free_port))
    _await_health(free_port)
    (root,) = tmp_path.glob(f"{PREFIX}{first.pid}-*")
    assert (root.stat().st_mode & 0o777) == 0o700
    answer = httpx.post(f"http://127.0.0.1:{free_port}/v1/jobs", files={"volume": ("Doe^Jane.nii.gz", b"x")})
    assert answer.status_code == 422
    workers = _children(first.pid)
    assert workers
    first.kill()
    first.wait()
    assert root.exists()
    await_it(lambda: not any(map(_is_alive, workers)), 20)

    second, log = _launch(tmp_path, "--port", str(free_port))
    _await_health(free_port)
    assert not root.exists()
    assert len(list(tmp_path.glob(f"{PREFIX}*"))) == 1
    second.send_signal(signal.SIGTERM)
    assert second.wait(30) in (0, -signal.SIGTERM)
    assert not list(tmp_path.glob(f"{PREFIX}*"))
    assert "Traceback" not in log.read_text()


def test_a_server_on_every_address_starts_with_a_token_alone(tmp_path: Path, free_port: int) -> None:
    refused, log = _launch(tmp_path, "--host", "0.0.0.0", "--port", str(free_port))
    assert refused.wait(60) == 2
    assert "give a token" in log.read_text()
    assert "Traceback" not in log.read_text()
    (tmp_path / "token").write_text(TOKEN)
    options = ("--host", "0.0.0.0", "--port", str(free_port), "--token-file", str(tmp_path / "token"))
    process, log = _launch(tmp_path, *options)
    try:
        _await_health(free_port)
        address = f"http://{_find_own_address()}:{free_port}/v1"
        assert httpx.get(f"{address}/health").status_code == 200
        assert httpx.get(f"{address}/models").status_code == 401
        assert httpx.get(f"{address}/models", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
    said = log.read_text()
    assert "put TLS in front" in said
    assert TOKEN not in said


def _find_own_address() -> str:
    """An address of this machine that is not loopback, where it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; chooses the way out
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def test_a_living_servers_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}1-dead" / "job").mkdir(parents=True)
    (tmp_path / "something-else").mkdir()
    with open_scratch(tmp_path) as living:
        assert not (tmp_path / f"{PREFIX}1-dead").exists()
        assert f"{PREFIX}{os.getpid()}-" in living.name
        assert remove_stale(tmp_path) == []
        with open_scratch(tmp_path) as other:
            assert living.exists()
            assert other != living
    assert [path.name for path in tmp_path.iterdir()] == ["something-else"]


def test_the_log_names_jobs_and_no_files_of_clients(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    name = "Doe^Jane^1970-01-01"
    with caplog.at_level(logging.DEBUG):
        job = client.submit(SMALL, f"{name}.npy").json()["id"]
        client.wait(job)
        client.get(f"/v1/jobs/{job}/heatmap?format=nrrd")
        assert client.submit(b"nothing", f"{name}.nii.gz").status_code == 422
        assert client.submit(SMALL, name).status_code == 422
        assert client.post("/v1/jobs", files={name: (name, b"")}).status_code == 422
        assert client.submit(SMALL, f"{name}.npy", adapters=name).status_code == 422
    lines = [f"{record.name}: {record.getMessage()}" for record in caplog.records]
    ours = [line for line in lines if not line.startswith(("httpx", "httpcore"))]
    assert any(job in line and "done" in line for line in ours)
    assert not [line for line in ours if "Doe" in line]
