"""Inference of one variant: seconds a slice, peak memory, and where the time goes.

    python -m benchmarks.tower VARIANT [--backbone ...] [--size ...] [--slices ...] [--no-profile]

Variants: plain (the yardstick), float32, bf16, int8, bf16-drop, int8-drop. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch

from benchmarks.machine import count_work, measure_rate, read_peak, reset_peak, time_call
from benchmarks.subjects import build_plain, build_subject, draw_slices

DTYPES = {"plain": torch.float32, "float32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


def measure(variant: str, backbone: str, size: int, slices: int, no_profile: bool) -> dict[str, Any]:
    """The figures of one variant."""
    name, _, drop = variant.partition("-")
    detector = build_subject(backbone, size)
    images = draw_slices(slices, size)
    patch = detector.tower.clip.visual.patch_size[0]
    tokens, blocks = (size // patch) ** 2 + 1, len(detector.tower.vision_blocks)
    work = count_work(tokens, detector.tower.vision_width, blocks)
    before = measure_rate(torch.bfloat16 if name in ("bf16", "int8") else torch.float32)
    shares: dict[str, float] = {}
    with torch.inference_mode():
        start = time.perf_counter()
        anchors = detector.encode_noun("scan")
        text_seconds = time.perf_counter() - start
        reset_peak()
        if variant == "plain":
            plain = build_plain(detector, torch.float32)
            seconds = time_call(lambda: plain.heatmap(images, anchors), warm=0)
            peak = read_peak()
        else:
            detector.prepare_inference(DTYPES[name], drop_background=bool(drop))
            reset_peak()
            seconds = time_call(lambda: detector(images, anchors))
            peak = read_peak()
            if not no_profile:
                shares = profile(lambda: detector(images, anchors))
    after = measure_rate(torch.bfloat16 if name in ("bf16", "int8") else torch.float32)
    rate = max(before, after)
    return {
        "variant": variant,
        "seconds_a_slice": seconds / slices,
        "slices_a_second": slices / seconds,
        "gflop_a_slice": work,
        "matrix_gflops": rate,
        "share_of_matrix_rate": work * slices / seconds / rate,
        "peak_gib": peak,
        "text_seconds": text_seconds,
        "profile": shares,
    }


def profile(call: Any) -> dict[str, float]:
    """Shares of the time of one call by operation, the eight largest; torch.profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        call()
    rows = sorted(recorded.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    return {row.key: round(row.self_cpu_time_total / total, 4) for row in rows[:8]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("variant")
    parser.add_argument("--backbone", default="ViT-L-14-336")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--no-profile", action="store_true")
    print(json.dumps(measure(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
