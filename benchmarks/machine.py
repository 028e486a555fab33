"""What the machine can do: the rates at which it multiplies matrices, and its peak memory."""

from __future__ import annotations

import gc
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

TOKENS, WIDTH = 1370, 1024
"""Of ViT-L/14 at 518 pixels."""

CALLS_ON_GPU = 10
"""Timed together: one call may take less time than to start it."""


def time_call(call: Callable[[], Any], repeats: int = 3, warm: int = 1, device: str = "cpu") -> float:
    """The median of ``repeats`` timed calls, in seconds, after ``warm`` others.

    A GPU is given ``CALLS_ON_GPU`` calls one behind the other and waited for, so that it, and not their start, is timed.
    """
    calls = CALLS_ON_GPU if is_gpu(device) else 1
    times = []
    for number in range(warm + repeats):
        wait_for(device)
        start = time.perf_counter()
        for _ in range(calls):
            call()
        wait_for(device)
        if number >= warm:
            times.append((time.perf_counter() - start) / calls)
    return statistics.median(times)


def is_gpu(device: str) -> bool:
    """Whether ``device`` is a GPU by CUDA."""
    return torch.device(device).type == "cuda"


def wait_for(device: str) -> None:
    """Go on when ``device`` has done all that it was given."""
    if is_gpu(device):
        torch.cuda.synchronize(device)


def measure_rate(dtype: torch.dtype, device: str = "cpu", rows: int = TOKENS) -> float:
    """GFLOP/s of ``torch.matmul`` on a ViT-L block's four products of ``rows`` tokens, weighted as the block weighs them."""
    shapes = ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))
    work, seconds = 0.0, 0.0
    for inner, columns in shapes:
        left, right = torch.randn(rows, inner).to(device, dtype), torch.randn(inner, columns).to(device, dtype)
        seconds += time_call(lambda left=left, right=right: left @ right, repeats=5, warm=2, device=device)
        work += 2.0 * rows * inner * columns
    return work / seconds / 1e9


def count_work(tokens: int, width: int, blocks: int) -> float:
    """GFLOP of a vision tower's blocks for one image: linear maps and attention."""
    return blocks * (24.0 * tokens * width**2 + 4.0 * tokens**2 * width) / 1e9


def reset_peak(device: str = "cpu") -> None:
    """Forget this process's peak memory so far (Linux), and on ``device`` that of a GPU."""
    gc.collect()
    if is_gpu(device):
        wait_for(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def read_peak() -> float:
    """This process's peak memory since ``reset_peak``, in GiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024**2


def read_gpu_peak(device: str) -> dict[str, float]:
    """``gpu_peak_gib``: what was allocated on a GPU at most since ``reset_peak``; nothing for a CPU."""
    return {"gpu_peak_gib": torch.cuda.max_memory_allocated(device) / 1024**3} if is_gpu(device) else {}


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, torch; ``device`` by name, and of a GPU its memory and the CUDA that torch was built for."""
    gpu = torch.cuda.get_device_properties(device) if is_gpu(device) else None
    names = [line.split(":")[1].strip() for line in _read_cpuinfo() if line.startswith("model name")]
    return {
        "device": device if gpu is None else gpu.name,
        "gpu": gpu and {"name": gpu.name, "memory_gib": gpu.total_memory / 1024**3, "cuda": torch.version.cuda},
        "processor": names[0] if names else platform.processor(),
        "cores": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _read_cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
