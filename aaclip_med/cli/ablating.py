"""``aaclip-med ablate``. Imports nothing heavy before it runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from aaclip_med.cli.options import read_count
from aaclip_med.presets import PRESETS


def add_ablate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``ablate`` to the commands of ``aaclip-med``."""
    command = commands.add_parser(
        "ablate", help="one table of what each part of method and scoring is worth; run it again to go on after a crash"
    )
    command.add_argument("--index", required=True, metavar="JSONL", help="test rows are scored, all others trained on")
    command.add_argument("--preset", choices=PRESETS, required=True)
    command.add_argument("--out", required=True, metavar="DIR", help="gets ablation.csv, ablation.md and the training runs")
    command.add_argument("--backbone", default="tiny", help="an open_clip ViT (default tiny)")
    command.add_argument("--weights", help="an open_clip tag or a file (default: the backbone's own)")
    command.add_argument("--image-size", type=int, metavar="PIXELS", help="default: the tower's own")
    chosen = command.add_mutually_exclusive_group()
    chosen.add_argument("--only", choices=("method", "scoring"), help="the trained variants alone, or the scored ones")
    chosen.add_argument("--variants", nargs="+", metavar="NAME", help="these rows alone, by their names in the table")
    command.add_argument("--no-augmentation", action="store_true")
    command.add_argument("--image-epochs", type=int, metavar="N", help="of stage 2 (default: the recipe's)")
    command.add_argument("--quick", action="store_true", help="an epoch a stage: to see that it runs")
    command.add_argument(
        "--seeds", type=read_count, nargs="+", default=[0], metavar="N", help="a training each; the table has their mean"
    )


def run_ablate(options: argparse.Namespace) -> int:
    """Train, score, write and print the table."""
    from aaclip_med.evaluation.ablation import ablate
    from aaclip_med.evaluation.variants import METHOD, SCORING, choose_variants
    from aaclip_med.training.bundle import train

    out = Path(options.out)
    shared: dict[str, Any] = {"augment": not options.no_augmentation}
    names = ("weights", "image_size", "image_epochs")
    shared |= {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.quick:
        shared |= {"text_epochs": 1, "image_epochs": 1}
    parts = {"method": METHOD, "scoring": (METHOD[0], *SCORING), None: (*METHOD, *SCORING)}
    variants = choose_variants(options.variants) if options.variants else parts[options.only]
    ablate(options.index, options.preset, out, train, options.backbone, shared, variants, options.seeds, _say)
    print((out / "ablation.md").read_text(encoding="utf-8"), end="")
    return 0


def _say(text: str) -> None:
    print(f"aaclip-med: {text}", file=sys.stderr, flush=True)
