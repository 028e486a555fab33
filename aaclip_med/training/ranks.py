"""Several processes that train one model (``torchrun``): who is who, and that they agree. One process is rank 0 of 1."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from aaclip_med.model.weights import hash_state

PATIENCE = timedelta(hours=24)
"""How long ranks wait for each other: the first may cut a large index meanwhile."""


def find_rank() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def wait_for_all() -> None:
    """Go on when every rank has come here. They meet on the CPU: a barrier would be NCCL's where there are GPUs."""
    if find_rank()[1] > 1:
        distributed.all_reduce(torch.zeros(1))


@contextmanager
def first_alone() -> Iterator[None]:
    """Rank 0 runs the block first, the others when it is done: they find its files."""
    rank, _ = find_rank()
    if rank:
        wait_for_all()
    yield
    if not rank:
        wait_for_all()


def name_run(folder: str | Path) -> str:
    """A new folder's path in ``folder``, named by the time; the same on every rank."""
    names = [str(Path(folder) / time.strftime("%Y%m%d-%H%M%S"))]
    if find_rank()[1] > 1:
        distributed.broadcast_object_list(names)
    return names[0]


def check_agreement(tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Compare ``tensors`` over the ranks.

    Raises:
        RuntimeError: they are not the same on every rank.
    """
    world = find_rank()[1]
    if world == 1:
        return
    digests: list[str] = [""] * world
    distributed.all_gather_object(digests, hash_state(tensors))
    if len(set(digests)) > 1:
        raise RuntimeError(f"the ranks disagree on {what} ({', '.join(digest[:8] for digest in digests)})")


def choose_backend(device: torch.device) -> dict[str, Any]:
    """What ``init_process_group`` is told for ranks on ``device``: gloo for what lies on CPUs, NCCL for what lies on GPUs."""
    if device.type == "cuda":
        return {"backend": "cpu:gloo,cuda:nccl", "device_id": device, "timeout": PATIENCE}
    return {"backend": "gloo", "timeout": PATIENCE}


def start_ranks(device: str) -> None:
    """Join the other processes that ``torchrun`` started; a GPU becomes this process's own, so that no other is used."""
    if distributed.is_initialized():
        return
    own = torch.device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    distributed.init_process_group(**choose_backend(own))


def stop_ranks() -> None:
    """Leave them."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
