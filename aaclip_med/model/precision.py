"""In which arithmetic the towers run, and on what."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch

from aaclip_med.errors import InputError
from aaclip_med.model.linear import has_instructions, has_onednn

PrecisionName = Literal["auto", "float32", "bf16", "fp16", "int8"]

PRECISIONS: tuple[PrecisionName, ...] = ("auto", "float32", "bf16", "fp16", "int8")
_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}


def choose_device(name: str) -> torch.device:
    """``auto`` is the first GPU, else the CPU.

    With a GPU, convolutions of the process are float32 throughout from here on: cuDNN's default takes 10 bits of a factor.

    Raises:
        InputError: the device is unknown, of a kind that is not used here, or not on this machine.
    """
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    known = f"take auto, or what this machine has: {', '.join(['cpu', *gpus])}"
    try:
        device = torch.device(name if name != "auto" else "cuda" if gpus else "cpu")
    except RuntimeError as error:
        raise InputError(f"unknown device '{name}'; {known}") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device '{name}': aaclip-med runs on CPUs and CUDA devices; {known}")
    if device.type == "cuda":
        if f"cuda:{device.index or 0}" not in gpus:
            raise InputError(f"device '{name}' is not there; {known}")
        torch.backends.cudnn.allow_tf32 = False
    return device


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What the tower is run in; ``auto`` is bf16 where the processor multiplies it natively, else float32; on a GPU see
    ``choose_gpu_dtype``.

    Raises:
        InputError: the precision is unknown, fp16 on a CPU, or int8 elsewhere than on an x86 processor.
    """
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision '{precision}'; take one of {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise InputError("precision 'fp16' needs a GPU; take bf16 or float32 on a CPU")
    if precision == "int8" and (device.type != "cpu" or not has_onednn()):
        raise InputError("precision 'int8' is for x86 processors; take bf16 or fp16 on a GPU, float32 elsewhere")
    if precision != "auto":
        return _DTYPES[precision]
    if device.type == "cuda":
        return choose_gpu_dtype(torch.cuda.get_device_capability(device))
    return torch.bfloat16 if has_instructions("avx512_bf16", "amx_bf16") else torch.float32


def choose_gpu_dtype(capability: tuple[int, int]) -> torch.dtype:
    """The fastest type that a GPU of this compute capability does by itself: bf16 from 8 on, fp16 for 7 (V100, T4), which would
    only emulate bf16; float32 before, where most do a 64th of its rate in fp16.
    """
    generation, _ = capability
    if generation >= 8:
        return torch.bfloat16
    return torch.float16 if generation == 7 else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Autocast to ``dtype`` on ``device``; nothing for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype in (torch.bfloat16, torch.float16))
