"""Weights by ``hf://`` from a hub on this machine: fetched, resumed, checked, and read offline."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
from safetensors.torch import save
from towers import TOY_TOWER, toy_state

from aaclip_med import build_detector
from aaclip_med.errors import WeightsError
from aaclip_med.model.hub import fetch_hub_file

COMMIT = "c" * 40
ADDRESS = "hf://someone/towers@v1/small/tower.safetensors"


class Hub(ThreadingHTTPServer):
    """One file of one repository, as huggingface.co answers for it; it breaks off once where ``breaks_at`` says."""

    content = save({name: tensor.contiguous() for name, tensor in toy_state().items()})
    told = hashlib.sha256(content).hexdigest()
    breaks_at = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.ranges: list[str] = []
        self.requests = 0


class Answers(BaseHTTPRequestHandler):
    """Answers of the hub."""

    server: Hub

    def do_HEAD(self) -> None:
        self.answer(with_content=False)

    def do_GET(self) -> None:
        self.answer(with_content=True)

    def answer(self, with_content: bool) -> None:
        self.server.requests += 1
        content = self.server.content
        if self.path != "/someone/towers/resolve/v1/small/tower.safetensors":
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        wanted = self.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        if wanted and with_content:
            self.server.ranges.append(wanted)
        self.send_response(206 if wanted else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Etag", f'"{self.server.told}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("ETag", f'"{self.server.told}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not with_content:
            return
        end = self.server.breaks_at or len(content)
        self.server.breaks_at = 0
        self.wfile.write(content[start:end])
        if end < len(content):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(huggingface_hub.constants, name, str(tmp_path / "hub"), raising=False)
    yield server
    server.shutdown()
    server.server_close()


def test_weights_of_a_hub_make_the_detector_that_the_file_makes(hub: Hub) -> None:
    detector = build_detector(TOY_TOWER, ADDRESS)
    assert detector.tower_hash == build_detector(TOY_TOWER, toy_state()).tower_hash
    assert detector.config.weights == ADDRESS
    assert hub.ranges == []


def test_a_download_that_broke_off_is_resumed(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1 << 20)
    hub.breaks_at = len(hub.content) // 2
    assert fetch_hub_file(ADDRESS).read_bytes() == hub.content
    assert hub.ranges
    assert all(wanted != "bytes=0-" for wanted in hub.ranges)


def test_offline_the_cache_is_read_and_nobody_is_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch_hub_file(ADDRESS)
    asked = hub.requests
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetch_hub_file(ADDRESS) == path
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        fetch_hub_file("hf://someone/towers@v1/another.safetensors")
    assert hub.requests == asked


def test_a_file_with_another_hash_than_the_hub_told_is_refused(hub: Hub) -> None:
    hub.told = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(WeightsError, match="its hash is another"):
        build_detector(TOY_TOWER, ADDRESS)


@pytest.mark.parametrize("address", ["hf://towers/tower.safetensors", "hf://someone/towers", "hf://a/b@/c"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(WeightsError, match="hf://ORG/NAME"):
        fetch_hub_file(address)


@pytest.mark.usefixtures("hub")
def test_a_file_the_hub_does_not_have_is_named() -> None:
    with pytest.raises(WeightsError, match=r"nothing\.safetensors.*could not be had"):
        fetch_hub_file("hf://someone/towers@v1/nothing.safetensors")
