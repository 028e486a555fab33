"""Training on several ranks: they end with the same adapters, those of one rank with all their slices in its batches."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aaclip_med.training.dataset import EpochSampler
from aaclip_med.training.ranks import check_agreement, choose_backend, find_rank, name_run
from tests.cli.conftest import study  # noqa: F401
from tests.training.train_on_ranks import main as train_here

PROGRAM = Path(__file__).with_name("train_on_ranks.py")


def read_adapters(folder: Path, rank: int) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / f"rank_{rank}.pt", weights_only=True))


@pytest.fixture(scope="module")
def two_ranks(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A folder with the adapters of two ranks, trained with two slices a batch each; started with what torchrun sets."""
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-W", "ignore", str(PROGRAM), str(study / "train.jsonl"), str(out), "2"]
    command += ["train.yaml", "multi_gpu_train.yaml"]
    common = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=common | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]
    errors = [rank.communicate(timeout=240)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    return out


def test_two_ranks_end_both_stages_with_the_same_adapters(two_ranks: Path) -> None:
    first, second = read_adapters(two_ranks, 0), read_adapters(two_ranks, 1)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_ranks_train_what_one_rank_trains_with_batches_of_twice_the_size(
    two_ranks: Path,
    study: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    train_here(str(study / "train.jsonl"), str(tmp_path), 4, ["train.yaml"])
    alone, together = read_adapters(tmp_path, 0), read_adapters(two_ranks, 0)
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], atol=2e-4, rtol=0.0)


def test_the_parts_of_all_ranks_are_the_draw_of_one() -> None:
    class Slices:
        slices = [type("Slice", (), {"label": number % 3 == 0})() for number in range(11)]  # noqa: RUF012
        epoch = 4

        def __len__(self) -> int:
            return len(self.slices)

    whole = list(EpochSampler(Slices(), seed=1))  # type: ignore[arg-type]
    parts = [list(EpochSampler(Slices(), seed=1, rank=rank, ranks=3)) for rank in range(3)]  # type: ignore[arg-type]
    assert [len(part) for part in parts] == [4, 4, 4]
    woven = [part[step] for step in range(4) for part in parts]
    assert woven == [*whole, whole[0]]


def test_one_process_is_rank_0_of_1_and_agrees_with_itself() -> None:
    assert find_rank() == (0, 1)
    check_agreement({"weight": torch.zeros(2)}, "anything")
    assert Path(name_run("runs")).parent == Path("runs")


def test_a_rank_on_a_gpu_names_it_keeps_objects_on_the_cpu_and_waits_for_a_large_index() -> None:
    gpu, cpu = choose_backend(torch.device("cuda:1")), choose_backend(torch.device("cpu"))
    assert gpu["device_id"] == torch.device("cuda:1")
    assert (gpu["backend"], cpu["backend"]) == ("cpu:gloo,cuda:nccl", "gloo")
    assert "device_id" not in cpu
    assert min(gpu["timeout"], cpu["timeout"]).total_seconds() > 3600
