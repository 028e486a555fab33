"""A GPU whose memory is full, wherever that shows: one line that says what to do."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from aaclip_med.cli.main import main
from aaclip_med.inference import job
from aaclip_med.inference.job import JobRequest
from aaclip_med.inference.memory import explain_full_gpu
from aaclip_med.inference.network import load_network
from aaclip_med.inference.predictor import load_predictor
from aaclip_med.model.adapters import Projection
from aaclip_med.server.worker import serve_jobs
from aaclip_med.zoo.inferer import VolumeInferer

FULL = "out of memory on the GPU"
LOADING, SCORING = Projection, torch.nn.Conv2d
"""What the first texts go through, and what slices do."""
VOLUME = np.random.default_rng(0).uniform(50, 400, (3, 20, 20)).astype(np.float32)
REQUEST = JobRequest("volume.npy", preset="brain-mri", device="cpu", ijk_to_ras=np.eye(4).tolist())


@pytest.fixture
def fill() -> Iterator[Callable[[type], None]]:
    """From the call on, modules of a kind find the GPU's memory full."""
    handles = []

    def refuse(kind: type) -> None:
        def hook(module: torch.nn.Module, _arguments: tuple[Any, ...]) -> None:
            if isinstance(module, kind):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        handles.append(register_module_forward_pre_hook(hook))

    yield refuse
    for handle in handles:
        handle.remove()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job's folder."""
    np.save(tmp_path / "volume.npy", VOLUME)
    (tmp_path / "request.json").write_text(json.dumps(asdict(REQUEST)))
    return tmp_path


@pytest.mark.parametrize("where", [LOADING, SCORING])
def test_the_command_line_says_so_in_one_line(
    where: type, fill: Callable[[type], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nib.save(nib.Nifti1Image(VOLUME.T, np.eye(4)), tmp_path / "head.nii.gz")
    fill(where)
    options = ["--adapters", "demo", "--preset", "brain-mri", "--out", str(tmp_path / "out")]
    code = main(["score", str(tmp_path / "head.nii.gz"), *options])
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2
    assert said.startswith(f"aaclip-med: {FULL}")
    assert "--device cpu" in said


@pytest.mark.parametrize("where", [LOADING, SCORING])
def test_a_job_says_so(where: type, fill: Callable[[type], None], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(where)
    assert job.main([str(folder)]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"].startswith(FULL)


@pytest.mark.parametrize("where", [LOADING, SCORING])
def test_a_servers_worker_says_so_and_lives_on(where: type, fill: Callable[[type], None], folder: Path) -> None:
    fill(where)
    ours, theirs = Pipe()
    heard: list[dict[str, Any]] = []

    def order() -> None:
        heard.append(json.loads(ours.recv_bytes()))
        for _ in range(2):
            ours.send_bytes(json.dumps({"folder": str(folder), "request": asdict(REQUEST)}).encode())
            while "progress" in (message := json.loads(ours.recv_bytes())):
                pass
            heard.append(message)
        ours.close()

    server = threading.Thread(target=order)
    server.start()
    before = signal.getsignal(signal.SIGINT)
    try:
        serve_jobs(theirs, asdict(REQUEST))
    finally:
        signal.signal(signal.SIGINT, before)
    server.join()
    assert (heard[0]["ready"] or "").startswith(FULL if where is LOADING else "")
    assert [message.get("error", "").startswith(FULL) for message in heard[1:]] == [True, True]


def test_a_bundle_takes_fewer_slices_at_once_until_they_fit() -> None:
    network, predictor = load_network("demo", "brain-mri"), load_predictor("demo", "brain-mri", device="cpu")
    scan = torch.from_numpy(np.ascontiguousarray(VOLUME.T))[None, None]
    batches: list[int] = []

    def draw_at_most(largest: int) -> torch.Tensor:
        def draw(images: torch.Tensor) -> torch.Tensor:
            batches.append(len(images))
            if len(images) > largest:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return network(images)

        with torch.no_grad():
            return VolumeInferer(predictor, "axial")(scan, draw)

    torch.testing.assert_close(draw_at_most(1), draw_at_most(16), rtol=0, atol=1e-5)
    assert batches == [3, 3, 3, 2, 1, 1, 1, 3]
    with pytest.raises(MemoryError, match="with one slice at a time"):
        draw_at_most(0)


def test_a_gpu_that_is_too_full_to_start_counts_as_full_and_other_faults_do_not() -> None:
    with pytest.raises(MemoryError, match=f"{FULL} with the model"), explain_full_gpu("the model"):
        raise RuntimeError("CUDA error: out of memory")
    with pytest.raises(RuntimeError, match="an illegal memory access"), explain_full_gpu("the model"):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
