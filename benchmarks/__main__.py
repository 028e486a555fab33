"""All measurements with one command, each in a process of its own: JSON to a file, tables in Markdown to the screen.

    python -m benchmarks [--out benchmarks.json] [--parts tower training ...] [--quick] [--device cpu|cuda] [--minutes N]

About a quarter of an hour on two quiet cores. ``--quick`` takes smaller towers, to see that all of it runs. The file is written
after each part; a part that fails is named, the others go on, and the command ends with 1. On a GPU parts come by importance,
and ``--minutes`` ends what goes on after that long: what was measured until then is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import TOKENS, describe_machine, is_gpu, measure_rate
from benchmarks.tables import write_tables

VARIANTS = ("plain", "float32", "bf16", "int8", "bf16-drop", "int8-drop")
GPU_VARIANTS = ("bf16", "plain-bf16", "plain", "fp16", "float32", "bf16-drop")
STEPS = (
    ("text", "plain"),
    ("text", "ours"),
    ("text", "cached"),
    ("image", "plain"),
    ("image", "ours"),
    ("image", "checkpointed"),
)


DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
GPU_ROWS, QUICK_ROWS = 16 * TOKENS, 137
"""Tokens that the machine's own rate is measured with: those of a batch, and few."""


class MeasurementError(Exception):
    """A part that could not be measured, and why."""


@dataclass(frozen=True)
class Scene:
    """What is measured: the tower, its image size, that of training, and the smallest one; where, and until when."""

    backbone: str = "ViT-L-14-336"
    size: int = 518
    small: int = 336
    smallest: int = 224
    quick: bool = False
    device: str = "cpu"
    end: float = math.inf

    @property
    def tower(self) -> tuple[str, ...]:
        """The options that choose the tower and its device."""
        return "--backbone", self.backbone, *self.place

    @property
    def place(self) -> tuple[str, ...]:
        """The option that chooses the device."""
        return "--device", self.device

    @property
    def seconds_left(self) -> float | None:
        """Until ``end``, on the clock of ``time.monotonic``."""
        return None if math.isinf(self.end) else max(0.0, self.end - time.monotonic())


QUICK = Scene("ViT-B-16", 224, 112, 80, True)
Part = Callable[[Scene], Any]


def run(module: str, *arguments: str, seconds: float | None = None) -> Any:
    """What ``benchmarks.MODULE`` prints.

    Raises:
        MeasurementError: it ended with an error, or did not end within ``seconds``.
    """
    print(f"benchmarks.{module} {' '.join(arguments)}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"benchmarks.{module} {' '.join(arguments)} did not end in the time that was left") from None
    if done.returncode:
        raise MeasurementError(f"benchmarks.{module} {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_tower(scene: Scene) -> Iterator[Any]:
    """Inference, a row a variant, on a GPU also for several slices at once."""
    gpu = is_gpu(scene.device)
    counts = ("1", "16", "32") if gpu else ("1",)
    for name in GPU_VARIANTS if gpu else VARIANTS:
        yield from run("tower", name, *scene.tower, "--size", str(scene.size), "--slices", *counts, seconds=scene.seconds_left)


def measure_folder(scene: Scene) -> Iterator[Any]:
    """Volumes from end to end."""
    shape = ["--slices", "31", "--volumes", "2"] if scene.quick else []
    yield run("folder", *scene.tower, "--size", str(scene.size), *shape, seconds=scene.seconds_left)


def measure_training(scene: Scene) -> Iterator[Any]:
    """Optimiser steps, a row each; on a GPU of the published batches, and in both precisions."""
    size = scene.small if scene.quick else scene.size
    for stage, who in STEPS:
        on_gpu = ("--precision", "float32", "bf16", "--batch", "16" if stage == "text" else "2") if is_gpu(scene.device) else ()
        yield from run("training", who, stage, *scene.tower, "--size", str(size), *on_gpu, seconds=scene.seconds_left)


def measure_accuracy(scene: Scene) -> Iterator[Any]:
    """What options cost on phantoms."""
    few = ["--phantoms", "2", "--presets", "brain-mri"] if scene.quick else []
    yield from run("accuracy", *scene.place, *few, seconds=scene.seconds_left)


def measure_precision(scene: Scene) -> Any:
    """How near fewer bits come to float32."""
    return run("precision", *scene.tower, "--size", str(scene.size), seconds=scene.seconds_left)


def measure_around(scene: Scene) -> Any:
    """A whole volume, the tower and what is around it."""
    few = ["--slices", "31"] if scene.quick else []
    timed = ["--timed", "16"] if is_gpu(scene.device) else []
    return run("around", *scene.tower, "--size", str(scene.size), *few, *timed, seconds=scene.seconds_left)


def measure_growth(scene: Scene) -> Any:
    """Over sizes and slices at once, over cases, over ranks."""
    shapes = [(scene.smallest, 1), (scene.small, 1), (scene.size, 1), (scene.size, 2), (scene.size, 4)]
    sizes = []
    for side, count in shapes:
        options = ("--size", str(side), "--slices", str(count), "--no-profile")
        (row,) = run("tower", "bf16", *scene.tower, *options, seconds=scene.seconds_left)
        sizes.append({"size": side} | row)
    counts = (1, 4) if scene.quick else (1, 4, 16, 64)
    cases = [run("cases", str(count), *scene.place, seconds=scene.seconds_left) for count in counts]
    volumes = "4" if scene.quick else "16"
    most = torch.cuda.device_count() if is_gpu(scene.device) else 2
    ranks = [
        run("cases", volumes, "--ranks", str(count), *scene.place, seconds=scene.seconds_left) for count in sorted({1, most})
    ]
    return {"sizes": sizes, "cases": cases, "ranks": ranks}


def measure_startup(scene: Scene) -> Any:
    """Until the command line does something."""
    return run("startup", *scene.place, seconds=scene.seconds_left)


PARTS: dict[str, Part] = {
    "tower": measure_tower,
    "training": measure_training,
    "precision": measure_precision,
    "accuracy": measure_accuracy,
    "around": measure_around,
    "growth": measure_growth,
    "startup": measure_startup,
}
GPU_PARTS: dict[str, Part] = {"tower": measure_tower, "folder": measure_folder, **PARTS}
"""The folder, which takes a CPU hours, comes before what has no bar of its own."""


def measure(parts: Mapping[str, Part], scene: Scene, figures: dict[str, Any], keep: Callable[[], None]) -> None:
    """Each part into ``figures`` by its name, failures into ``figures["failed"]``.

    ``keep`` is called after each part, and after each row of those that give rows.
    """
    for name, part in parts.items():
        try:
            found = part(scene)
            if isinstance(found, Iterator):
                for row in found:
                    figures.setdefault(name, []).append(row)
                    keep()
            else:
                figures[name] = found
        except MeasurementError as error:
            print(error, file=sys.stderr, flush=True)
            figures.setdefault("failed", {})[name] = str(error)
        keep()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, print; 1 where a part failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"))
    parser.add_argument("--parts", nargs="+", choices=GPU_PARTS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or cuda:N")
    parser.add_argument("--minutes", type=float, default=math.inf)
    options = parser.parse_args(arguments)
    scene = replace(QUICK if options.quick else Scene(), device=options.device, end=time.monotonic() + 60.0 * options.minutes)
    rows = QUICK_ROWS if options.quick else GPU_ROWS if is_gpu(scene.device) else TOKENS
    rates = {name: measure_rate(dtype, scene.device, rows) for name, dtype in DTYPES.items()}
    figures: dict[str, Any] = {"machine": describe_machine(scene.device) | {"matrix_gflops": rates}}

    def keep() -> None:
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")

    usual = GPU_PARTS if is_gpu(scene.device) else PARTS
    measure({name: GPU_PARTS[name] for name in options.parts or usual}, scene, figures, keep)
    print(write_tables(figures))
    return 1 if "failed" in figures else 0


if __name__ == "__main__":
    sys.exit(main())
