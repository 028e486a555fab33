"""One run on several processes: shards by rank, torchrun, Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from aaclip_med.batch.run import Shard
from aaclip_med.cli.main import build_parser, main
from aaclip_med.cli.scoring import choose_shard
from tests.batch.conftest import DEMO, Table

Read = Callable[[Path], dict[str, Table]]


@pytest.fixture
def whole(scans: Path, tmp_path: Path, read_tables: Read) -> dict[str, Table]:
    """The tables of one process."""
    assert main(["score", str(scans), *DEMO, "--out", str(tmp_path / "whole")]) == 3
    return read_tables(tmp_path / "whole")


def test_four_shards_make_the_tables_of_one(scans: Path, tmp_path: Path, whole: dict[str, Table], read_tables: Read) -> None:
    out = tmp_path / "out"
    codes = [main(["score", str(scans), *DEMO, "--shard", f"{rank}/4", "--out", str(out)]) for rank in (2, 0, 3, 1)]
    assert codes == [0, 0, 0, 3]
    assert read_tables(out) == whole


def test_torchrun_divides_the_cases_among_its_ranks(
    scans: Path, tmp_path: Path, whole: dict[str, Table], read_tables: Read
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "aaclip_med"]
    subprocess.run([*command, "score", str(scans), *DEMO, "--out", str(out)], check=False, capture_output=True, timeout=300)
    assert read_tables(out) == whole


@pytest.mark.parametrize(
    ("gpus", "asked", "taken"),
    [
        (2, "auto", "cuda:1"),
        (2, "cuda", "cuda:1"),
        (2, "cuda:0", "cuda:0"),
        (2, "cpu", "cpu"),
        (0, "auto", "auto"),
        (0, "cuda", "cuda"),
    ],
)
def test_each_rank_of_torchrun_takes_a_gpu_of_its_own_unless_one_is_named(
    gpus: int, asked: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "run", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    options = build_parser().parse_args(["score", "SCANS", "--out", "OUT", *DEMO, "--device", asked])
    assert choose_shard(options) == Shard(3, 4)
    assert options.device == taken


def test_training_by_the_command_is_refused_to_the_ranks_of_torchrun(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "aaclip_med", "train", "--index", "train.jsonl", "--preset", "brain-mri"]
    rank = os.environ | {"TORCHELASTIC_RUN_ID": "run", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], env=rank, check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert "multi_gpu_train.yaml" in done.stderr


@pytest.mark.parametrize("shard", ["4/4", "1", "a/b", "-1/2"])
def test_a_shard_that_cannot_be_is_refused(shard: str, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(scans), *DEMO, f"--shard={shard}", "--out", str(tmp_path / "out")]) == 2
    assert "K/N" in capsys.readouterr().err


def find_workers() -> list[int]:
    """The processes that Ray started for actors of this run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::_Worker"):
            found.append(int(folder.name))
    return found


def test_ray_makes_the_same_tables_though_a_worker_is_killed(
    scans: Path, tmp_path: Path, whole: dict[str, Table], read_tables: Read, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'aaclip-med[ray]'")
    out = tmp_path / "out"
    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.time() + 120
        while time.time() < deadline:
            if (out / "heatmaps").is_dir() and any((out / "heatmaps").glob("[!.]*.nii.gz")) and (workers := find_workers()):
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])
                return
            time.sleep(0.01)

    killer = threading.Thread(target=kill_one)
    killer.start()
    code = main(["score", str(scans), *DEMO, "--engine", "ray", "--workers", "2", "--out", str(out)])
    killer.join()
    assert code == 3, capsys.readouterr().err
    assert killed
    assert read_tables(out) == whole
