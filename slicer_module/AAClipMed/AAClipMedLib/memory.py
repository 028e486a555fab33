"""Out of memory: what to try next."""

from __future__ import annotations

from typing import Any


def find_smaller_attempt(request: dict[str, Any], error: str) -> tuple[dict[str, Any], str] | None:
    """The request to try after ``error`` and a sentence about it; None where the error is another one, or nothing is left.

    First fewer slices at once, then the CPU. A process killed from outside on the CPU gets smaller batches too.
    """
    if "out of memory" not in error.lower() and "memory ran out" not in error.lower():
        return None
    batch_size = int(request["batch_size"])
    if batch_size > 1 and "one slice at a time" not in error:
        smaller = max(1, batch_size // 4)
        return request | {"batch_size": smaller}, f"out of memory; trying again with {smaller} slices at once"
    if request["device"] != "cpu":
        return request | {
            "device": "cpu",
            "batch_size": 1,
        }, "out of memory on the GPU; trying again on the CPU, which is slower"
    return None
