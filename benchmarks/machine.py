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


def time_call(call: Callable[[], Any], repeats: int = 3, warm: int = 1) -> float:
    """The median of ``repeats`` timed calls, in seconds, after ``warm`` others."""
    times = []
    for number in range(warm + repeats):
        start = time.perf_counter()
        call()
        if number >= warm:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_rate(dtype: torch.dtype) -> float:
    """GFLOP/s of ``torch.matmul`` on the four products of a ViT-L block, weighted as the block weighs them."""
    shapes = ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))
    work, seconds = 0.0, 0.0
    for inner, columns in shapes:
        left, right = torch.randn(TOKENS, inner).to(dtype), torch.randn(inner, columns).to(dtype)
        seconds += time_call(lambda left=left, right=right: left @ right, repeats=5, warm=2)
        work += 2.0 * TOKENS * inner * columns
    return work / seconds / 1e9


def count_work(tokens: int, width: int, blocks: int) -> float:
    """GFLOP of a vision tower's blocks for one image: linear maps and attention."""
    return blocks * (24.0 * tokens * width**2 + 4.0 * tokens**2 * width) / 1e9


def reset_peak() -> None:
    """Forget this process's peak memory so far (Linux)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def read_peak() -> float:
    """This process's peak memory since ``reset_peak``, in GiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024**2


def describe_machine() -> dict[str, Any]:
    """Processor, cores, torch."""
    names = [line.split(":")[1].strip() for line in _read_cpuinfo() if line.startswith("model name")]
    return {
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
