"""``aaclip-med synthesise``. Imports nothing heavy before it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from aaclip_med.cli.options import read_count
from aaclip_med.presets import PRESETS


def add_synthesise(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``synthesise`` to the commands of ``aaclip-med``."""
    command = commands.add_parser("synthesise", help="copies of normal scans with synthetic lesions, their masks and an index")
    command.add_argument("--index", required=True, metavar="JSONL", help="its normal rows are used")
    command.add_argument("--preset", choices=PRESETS, required=True, help="lesions are drawn under its window")
    command.add_argument("--out", required=True, metavar="DIR", help="must not exist, or be empty")
    command.add_argument("--seed", type=read_count, default=0)


def run_synthesise(options: argparse.Namespace) -> int:
    """Write the study and say what is in it."""
    from aaclip_med.data.index import read_index
    from aaclip_med.data.synthesis.study import synthesise_study
    from aaclip_med.presets import get_preset

    preset = get_preset(options.preset)
    study = synthesise_study(read_index(options.index), preset, options.out, options.seed, track=_track)
    for path in study.bare:
        print(f"aaclip-med: {path}: took no lesion, it shows too little of the body or the organ", file=sys.stderr)
    print(f"normal scans with a twin that has synthetic lesions: {study.scans}; see {study.index}")
    return 0


def _track(cases: Sequence[Any]) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(cases, unit="case", file=sys.stderr, leave=False)
