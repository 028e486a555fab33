"""The ``evaluate`` command."""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

from aaclip_med.cli.options import add_cutting, add_model, add_split


def add_evaluate(commands: Any) -> None:
    """Its options."""
    command = commands.add_parser("evaluate", help="figures, curves and pictures against masks, beside trivial baselines")
    command.add_argument("--index", required=True, metavar="JSONL", help="cases with masks")
    command.add_argument("--out", required=True, metavar="DIR", help="gets metrics.json, .md, .tex, cases.csv and pictures")
    add_split(command)
    command.add_argument(
        "--domain", choices=("medical", "industrial"), default="medical", help="the released program's two protocols"
    )
    command.add_argument(
        "--image-score",
        metavar="HOW",
        help="of a slice: max, or top1%%: the mean of its highest pixels; default: what the refinement says, or max",
    )
    add_cutting(command, reading=False)
    command.add_argument("--stride", type=int, default=1, metavar="N", help="score every N-th slice, interpolate between")
    add_model(command)


def run_evaluate(options: argparse.Namespace) -> int:
    """Figures, tables, pictures."""
    from aaclip_med.cli.commands import judge, load_options, make_cutting, track
    from aaclip_med.evaluation.run import evaluate_index

    evaluation = evaluate_index(
        options.index,
        out=options.out,
        split=options.split,
        track=track,
        cutting=make_cutting(options),
        image_score=options.image_score,
        **load_options(options),
    )
    shown = [name for name in evaluation.figures if "_at_0" not in name and not name.startswith("lesion_sensitivity_at")]
    names = list(evaluation.baselines)
    print(f"{'':22}{'value':>8} {'95 % interval':>17}" + "".join(f"{name:>12}" for name in names))
    for name in shown:
        figure = evaluation.figures[name]
        if math.isnan(figure.value):
            print(f"{name:22}undefined: {figure.reason}")
            continue
        interval = "" if figure.low is None else f"{figure.low:.4f} to {figure.high:.4f}"
        others = [evaluation.baselines[other].get(name) for other in names]
        beside = "".join(f"{'' if one is None or one.reason else f'{one.value:.4f}':>12}" for one in others)
        print(f"{name:22}{figure.value:8.4f} {interval:>17}{beside}".rstrip())
    left_out = [f"No baseline '{name}': {why}." for name, why in evaluation.left_out.items()]
    print("\n".join([*evaluation.doubts, *evaluation.verdict, *left_out]))
    for caution in evaluation.cautions:
        print(f"aaclip-med: note: {caution}", file=sys.stderr)
    for failure in evaluation.failures:
        print(f"aaclip-med: failed: {failure['error']}", file=sys.stderr)
    return judge(len(evaluation.failures), evaluation.counts["cases"])
