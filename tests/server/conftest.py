"""Servers as they are: uvicorn on loopback, worker processes of their own, the demonstration adapters."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import uvicorn

from aaclip_med.model.checkpoint import find_checkpoint, read_checkpoint
from aaclip_med.server.app import Service, create_app
from aaclip_med.server.settings import Settings

OBLIQUE = np.array([[-1.9, 0.2, 0.3, 40.0], [0.2, 1.9, 0.5, -50.0], [0.1, -0.4, 4.0, 10.0], [0.0, 0.0, 0.0, 1.0]])
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MIB = 1024**2
TOKEN = "a-token-of-the-tests"


def draw_volume(shape: tuple[int, int, int] = (20, 24, 12), seed: int = 0) -> np.ndarray:
    """A textured ball, (I, J, K) int16."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape)
    middle = (np.array(shape)[:, None, None, None] - 1) / 2
    inside = (((grid - middle) / (middle + 1)) ** 2).sum(axis=0) < 0.9
    return np.where(inside, 300 + 40 * rng.standard_normal(shape), 0).astype(np.int16)


def encode(array: np.ndarray, ending: str, folder: Path, affine: np.ndarray = OBLIQUE) -> bytes:
    """The volume (I, J, K) as a file's bytes."""
    path = folder / f"volume{ending}"
    if ending == ".npy":
        np.save(path, array.T)
    elif ending == ".nrrd":
        image = sitk.GetImageFromArray(array.T)
        lps = LPS_TO_RAS @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        sitk.WriteImage(image, str(path), useCompression=True)
    else:
        nib.save(nib.Nifti1Image(array, affine), path)
    return path.read_bytes()


class Client(httpx.Client):
    """A client of one server, with the few steps that most tests take."""

    def __init__(self, address: str, service: Service, **options: Any) -> None:
        super().__init__(base_url=address, timeout=60.0, **options)
        self.service = service

    def submit(self, content: bytes, name: str = "volume.npy", **options: Any) -> httpx.Response:
        """POST a volume; ``organ``, a pair of name and bytes, goes beside it."""
        files: dict[str, Any] = {"volume": (name, content)}
        if "organ" in options:
            files["organ"] = options.pop("organ")
        if name.endswith(".npy"):
            options.setdefault("ijk_to_ras", OBLIQUE.tolist())
        return self.post("/v1/jobs", files=files, data={"request": json.dumps(options)})

    def submit_slow(self, slices: int = 200) -> str:
        """A job of some seconds; its id."""
        answer = self.submit(as_npy(draw_volume((112, 112, slices))))
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def status(self, job: str) -> dict[str, Any]:
        answer = self.get(f"/v1/jobs/{job}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait(self, job: str, *states: str, seconds: float = 90.0) -> dict[str, Any]:
        """Poll until the job is in one of ``states`` (default: a final one)."""
        return await_it(
            lambda: (now := self.status(job))["state"] in (states or ("done", "failed", "cancelled")) and now, seconds
        )

    def await_ready(self) -> None:
        """Wait until a worker can take a job."""
        await_it(lambda: any(worker["state"] == "idle" for worker in self.get("/v1/health").json()["workers"]))


def await_it(ask: Callable[[], Any], seconds: float = 90.0) -> Any:
    """What ``ask`` returns, once it is true."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return answer


def as_npy(array: np.ndarray) -> bytes:
    """(I, J, K) as the bytes of a .npy in the order (K, J, I)."""
    stream = io.BytesIO()
    np.save(stream, array.T)
    return stream.getvalue()


def serve(settings: Settings, scratch: Path) -> Iterator[Client]:
    """A server in a thread, with a client, until the test is over."""
    app = create_app(settings, scratch)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run)
    thread.start()
    await_it(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    headers = {"Authorization": f"Bearer {settings.token}"} if settings.token else {}
    with Client(f"http://127.0.0.1:{port}", app.state.service, headers=headers) as client:
        yield client
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()
    assert not list(scratch.iterdir()), "the scratch folder is gone when the server ends"


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server of small limits: 4 waiting jobs, 8 MiB of upload, 16 MiB of voxels."""
    settings = Settings(devices=("cpu",), queue=4, max_upload_bytes=8 * MIB, max_volume_bytes=16 * MIB, uploads=64)
    yield from serve(settings, tmp_path_factory.mktemp("shared"))


@pytest.fixture
def client(shared: Client) -> Client:
    """The shared server, idle."""
    shared.await_ready()
    return shared


@pytest.fixture(scope="package")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server with a token, 8 s for a job, which a loaded machine does in 2, and 2 s for its result."""
    settings = Settings(devices=("cpu",), token=TOKEN, job_seconds=8.0, keep_seconds=2.0)
    yield from serve(settings, tmp_path_factory.mktemp("strict"))


@pytest.fixture(scope="package")
def bare_adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration without its calibration, which would bind it to whole axial slices."""
    demo = read_checkpoint(find_checkpoint("demo", "brain-mri"))
    path = tmp_path_factory.mktemp("adapters") / "bare.safetensors"
    path.write_bytes(replace(demo, calibration=None, provenance={**demo.provenance, "calibration": None}).to_bytes())
    return path


@pytest.fixture(scope="module")
def pair(bare_adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server of two workers, with adapters that take any cut."""
    settings = Settings(devices=("cpu", "cpu"), adapters=(("bare", str(bare_adapters)),))
    yield from serve(settings, tmp_path_factory.mktemp("pair"))


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
