"""Inference of one variant: seconds a slice, peak memory, and where the time goes.

    python -m benchmarks.tower VARIANT [--backbone ...] [--size ...] [--slices N ...] [--no-profile] [--device cpu|cuda]

Variants: plain (the yardstick), plain-bf16 (the same under autocast), float32, bf16, int8, bf16-drop, int8-drop, on a GPU fp16.
Prints JSON: a row for each count of slices at once.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.machine import (
    TOKENS,
    count_work,
    is_gpu,
    measure_rate,
    read_gpu_peak,
    read_peak,
    reset_peak,
    time_call,
    wait_for,
)
from benchmarks.subjects import build_plain, build_subject, draw_slices

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
RATES = {"plain": torch.float32, "plain-bf16": torch.bfloat16, "float32": torch.float32, "fp16": torch.float16}
"""What a variant's rate is compared with; the others' is bf16."""


def measure(
    variant: str, backbone: str, size: int, slices: list[int], no_profile: bool, device: str = "cpu"
) -> list[dict[str, Any]]:
    """The figures of one variant, a row for each of ``slices``."""
    detector = build_subject(backbone, size, device)
    patch = detector.tower.clip.visual.patch_size[0]
    tokens, blocks = (size // patch) ** 2 + 1, len(detector.tower.vision_blocks)
    work = count_work(tokens, detector.tower.vision_width, blocks)
    warm = 0 if variant == "plain" and not is_gpu(device) else 1
    with torch.inference_mode():
        wait_for(device)
        start = time.perf_counter()
        anchors = detector.encode_noun("scan")
        wait_for(device)
        text_seconds = time.perf_counter() - start
        reset_peak(device)
        if variant.startswith("plain"):
            infer: Callable[..., Any] = build_plain(
                detector, torch.bfloat16 if variant == "plain-bf16" else torch.float32
            ).heatmap
        else:
            name, _, drop = variant.partition("-")
            infer = detector.prepare_inference(DTYPES[name], drop_background=bool(drop))
        rows = []
        for count in slices:
            images = draw_slices(count, size, device)
            rate = RATES.get(variant, torch.bfloat16)
            at_once = count * TOKENS if is_gpu(device) else TOKENS
            before = measure_rate(rate, device, at_once)
            reset_peak(device)
            seconds = time_call(lambda images=images: infer(images, anchors), warm=warm, device=device)
            peaks = {"peak_gib": read_peak(), **read_gpu_peak(device)}
            shares = {} if no_profile or variant == "plain" else profile(lambda images=images: infer(images, anchors), device)
            fastest = max(before, measure_rate(rate, device, at_once))
            row = {
                "variant": variant,
                "slices": count,
                "seconds_a_slice": seconds / count,
                "slices_a_second": count / seconds,
                "gflop_a_slice": work,
                "matrix_gflops": fastest,
                "share_of_matrix_rate": work * count / seconds / fastest,
                **peaks,
                "text_seconds": text_seconds,
                "profile": shares,
            }
            rows.append(row)
    return rows


def profile(call: Callable[[], Any], device: str = "cpu") -> dict[str, float]:
    """Shares of the time of one call by operation, on a GPU by kernel, the eight largest; torch.profiler."""
    kind = torch.profiler.ProfilerActivity.CUDA if is_gpu(device) else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[kind]) as recorded:
        call()
        wait_for(device)
    field = "self_device_time_total" if is_gpu(device) else "self_cpu_time_total"
    times = {row.key: getattr(row, field) for row in recorded.key_averages()}
    total = sum(times.values())
    return {name: round(times[name] / total, 4) for name in sorted(times, key=times.__getitem__, reverse=True)[:8] if total}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("variant")
    parser.add_argument("--backbone", default="ViT-L-14-336")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--slices", type=int, nargs="+", default=[1])
    parser.add_argument("--no-profile", action="store_true")
    parser.add_argument("--device", default="cpu")
    print(json.dumps(measure(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
