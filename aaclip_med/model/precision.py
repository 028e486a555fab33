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

    Raises:
        InputError: the device is unknown or not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device '{name}'; take auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"device '{name}': this machine has {torch.cuda.device_count()} CUDA devices; take auto or cpu")
    return device


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What the tower is run in; ``auto`` is bf16 where the processor multiplies it natively, else float32.

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
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else has_instructions("avx512_bf16", "amx_bf16")
    return torch.bfloat16 if native else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Autocast to ``dtype`` on ``device``; nothing for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype in (torch.bfloat16, torch.float16))
