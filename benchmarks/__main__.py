"""All measurements with one command, each in a process of its own: JSON to a file, tables in Markdown to the screen.

    python -m benchmarks [--out benchmarks.json] [--parts tower training accuracy growth startup] [--quick]

About seven minutes on two quiet cores. ``--quick`` takes a small tower, to see that all of it runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe_machine, measure_rate

PARTS = ("tower", "training", "accuracy", "growth", "startup")
VARIANTS = ("plain", "float32", "bf16", "int8", "bf16-drop", "int8-drop")
STEPS = (
    ("text", "plain"),
    ("text", "ours"),
    ("text", "cached"),
    ("image", "plain"),
    ("image", "ours"),
    ("image", "checkpointed"),
)

Row = dict[str, Any]


def run(module: str, *arguments: str) -> Any:
    """What ``benchmarks.MODULE`` prints."""
    print(f"benchmarks.{module} {' '.join(arguments)}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"benchmarks.{module} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(parts: list[str], quick: bool) -> dict[str, Any]:
    """The figures of the chosen parts."""
    backbone, size, small, smallest = ("ViT-B-16", 224, 112, 80) if quick else ("ViT-L-14-336", 518, 336, 224)
    scene = ["--backbone", backbone]
    rates = {"float32": measure_rate(torch.float32), "bf16": measure_rate(torch.bfloat16)}
    figures: dict[str, Any] = {"machine": describe_machine() | {"matrix_gflops": rates}}
    if "tower" in parts:
        figures["tower"] = [run("tower", name, *scene, "--size", str(size)) for name in VARIANTS]
    if "training" in parts:
        figures["training"] = [run("training", who, stage, *scene, "--size", str(small)) for stage, who in STEPS]
    if "accuracy" in parts:
        figures["accuracy"] = run("accuracy", *(["--phantoms", "2", "--presets", "brain-mri"] if quick else []))
    if "growth" in parts:
        shapes = [(smallest, 1), (small, 1), (size, 1), (size, 2), (size, 4)]
        figures["growth"] = [
            {"size": side, "slices": count}
            | run("tower", "bf16", *scene, "--size", str(side), "--slices", str(count), "--no-profile")
            for side, count in shapes
        ]
    if "startup" in parts:
        figures["startup"] = run("startup")
    return figures


def write_tables(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    machine = figures["machine"]
    rates = machine["matrix_gflops"]
    text = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['capability']}; torch {machine['torch']}; "
        f"{machine['date']}.",
        f"Matrix rate (`torch.matmul`): {rates['float32']:.0f} GFLOP/s float32, {rates['bf16']:.0f} GFLOP/s bf16.",
    ]
    if "tower" in figures:
        plain = figures["tower"][0]["seconds_a_slice"]
        head = ["variant", "s a slice", "times plain", "GFLOP/s", "share of matrix rate", "peak GiB"]
        rows = [
            [
                row["variant"],
                f"{row['seconds_a_slice']:.2f}",
                f"{plain / row['seconds_a_slice']:.1f}",
                f"{row['gflop_a_slice'] / row['seconds_a_slice']:.0f}",
                f"{row['share_of_matrix_rate']:.0%}",
                f"{row['peak_gib']:.2f}",
            ]
            for row in figures["tower"]
        ]
        text += ["", *_draw_table(head, rows), "", "Where the time goes (torch.profiler, shares of self time):", ""]
        text += [f"- {row['variant']}: {_join(row['profile'])}" for row in figures["tower"] if row["profile"]]
    if "training" in figures:
        head = ["stage", "who", "s a step", "times plain", "peak GiB", "of which weights"]
        rows = []
        for row in figures["training"]:
            plain = next(other for other in figures["training"] if other["who"] == "plain" and other["stage"] == row["stage"])
            ratio = plain["seconds_a_step"] / row["seconds_a_step"]
            rows.append(
                [
                    row["stage"],
                    row["who"],
                    f"{row['seconds_a_step']:.2f}",
                    f"{ratio:.1f}",
                    f"{row['peak_gib']:.2f}",
                    f"{row['loaded_gib']:.2f}",
                ]
            )
        scene = figures["training"][0]
        text += ["", f"Optimiser steps, {scene['precision']}, {scene['size']} px, batch {scene['batch']}:", ""]
        text += _draw_table(head, rows)
    if "accuracy" in figures:
        head = ["preset", "option", "tokens dropped", "correlation", "pixel AUROC", "slice AUROC"]
        rows = [
            [
                row["preset"],
                row["option"],
                f"{row['dropped']:.0%}",
                f"{row['correlation']:.5f}",
                f"{row['pixel_auroc']:.4f}",
                f"{row['slice_auroc']:.4f}",
            ]
            for row in figures["accuracy"]
        ]
        text += ["", *_draw_table(head, rows)]
    if "growth" in figures:
        head = ["pixels", "slices at once", "s a slice", "share of matrix rate", "peak GiB"]
        rows = [
            [
                str(row["size"]),
                str(row["slices"]),
                f"{row['seconds_a_slice']:.2f}",
                f"{row['share_of_matrix_rate']:.0%}",
                f"{row['peak_gib']:.2f}",
            ]
            for row in figures["growth"]
        ]
        text += ["", "Growth, bf16:", "", *_draw_table(head, rows)]
    if "startup" in figures:
        start = figures["startup"]
        text += [
            "",
            f"`--help`: {start['help_seconds']:.2f} s. `score` of a small volume, tiny: {start['score_seconds']:.1f} s.",
        ]
    return "\n".join(text)


def _draw_table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _join(shares: dict[str, float]) -> str:
    return ", ".join(f"{name.removeprefix('aten::').removeprefix('mkldnn::')} {share:.0%}" for name, share in shares.items())


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments.parts, arguments.quick)
    arguments.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(write_tables(figures))


if __name__ == "__main__":
    main()
