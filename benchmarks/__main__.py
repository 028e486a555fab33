"""All measurements with one command, each in a process of its own: JSON to a file, tables in Markdown to the screen.

    python -m benchmarks [--out benchmarks.json] [--parts tower training ...] [--quick]

About a quarter of an hour on two quiet cores. ``--quick`` takes smaller towers, to see that all of it runs. The file is written
after each part; a part that fails is named, the others go on, and the command ends with 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe_machine, measure_rate
from benchmarks.tables import write_tables

VARIANTS = ("plain", "float32", "bf16", "int8", "bf16-drop", "int8-drop")
STEPS = (
    ("text", "plain"),
    ("text", "ours"),
    ("text", "cached"),
    ("image", "plain"),
    ("image", "ours"),
    ("image", "checkpointed"),
)


class MeasurementError(Exception):
    """A part that could not be measured, and why."""


@dataclass(frozen=True)
class Scene:
    """What is measured: the tower, its image size, that of training, and the smallest one."""

    backbone: str = "ViT-L-14-336"
    size: int = 518
    small: int = 336
    smallest: int = 224
    quick: bool = False

    @property
    def tower(self) -> tuple[str, ...]:
        """The options that choose the tower."""
        return "--backbone", self.backbone


QUICK = Scene("ViT-B-16", 224, 112, 80, True)
Part = Callable[[Scene], Any]


def run(module: str, *arguments: str) -> Any:
    """What ``benchmarks.MODULE`` prints.

    Raises:
        MeasurementError: it ended with an error.
    """
    print(f"benchmarks.{module} {' '.join(arguments)}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise MeasurementError(f"benchmarks.{module} {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_tower(scene: Scene) -> Any:
    """Inference, a row a variant."""
    return [run("tower", name, *scene.tower, "--size", str(scene.size)) for name in VARIANTS]


def measure_training(scene: Scene) -> Any:
    """Optimiser steps, a row each."""
    size = scene.small if scene.quick else scene.size
    return [run("training", who, stage, *scene.tower, "--size", str(size)) for stage, who in STEPS]


def measure_accuracy(scene: Scene) -> Any:
    """What options cost on phantoms."""
    return run("accuracy", *(["--phantoms", "2", "--presets", "brain-mri"] if scene.quick else []))


def measure_precision(scene: Scene) -> Any:
    """How near fewer bits come to float32."""
    return run("precision", *scene.tower, "--size", str(scene.size))


def measure_around(scene: Scene) -> Any:
    """A whole volume, the tower and what is around it."""
    return run("around", *scene.tower, "--size", str(scene.size), *(["--slices", "31"] if scene.quick else []))


def measure_growth(scene: Scene) -> Any:
    """Over sizes and slices at once, over cases, over ranks."""
    shapes = [(scene.smallest, 1), (scene.small, 1), (scene.size, 1), (scene.size, 2), (scene.size, 4)]
    sizes = [
        {"size": side, "slices": count}
        | run("tower", "bf16", *scene.tower, "--size", str(side), "--slices", str(count), "--no-profile")
        for side, count in shapes
    ]
    cases = [run("cases", str(count)) for count in ((1, 4) if scene.quick else (1, 4, 16, 64))]
    ranks = [run("cases", "4" if scene.quick else "16", "--ranks", str(count)) for count in (1, 2)]
    return {"sizes": sizes, "cases": cases, "ranks": ranks}


def measure_startup(scene: Scene) -> Any:
    """Until the command line does something."""
    del scene
    return run("startup")


PARTS: dict[str, Part] = {
    "tower": measure_tower,
    "training": measure_training,
    "precision": measure_precision,
    "accuracy": measure_accuracy,
    "around": measure_around,
    "growth": measure_growth,
    "startup": measure_startup,
}


def measure(parts: Mapping[str, Part], scene: Scene, figures: dict[str, Any], keep: Callable[[], None]) -> None:
    """Each part into ``figures`` by its name, failures into ``figures["failed"]``; ``keep`` is called after each."""
    for name, part in parts.items():
        try:
            figures[name] = part(scene)
        except MeasurementError as error:
            print(error, file=sys.stderr, flush=True)
            figures.setdefault("failed", {})[name] = str(error)
        keep()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, print; 1 where a part failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    rates = {"float32": measure_rate(torch.float32), "bf16": measure_rate(torch.bfloat16)}
    figures: dict[str, Any] = {"machine": describe_machine() | {"matrix_gflops": rates}}

    def keep() -> None:
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")

    measure({name: PARTS[name] for name in options.parts}, QUICK if options.quick else Scene(), figures, keep)
    print(write_tables(figures))
    return 1 if "failed" in figures else 0


if __name__ == "__main__":
    sys.exit(main())
