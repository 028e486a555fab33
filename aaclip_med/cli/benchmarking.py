"""``aaclip-med index import`` and ``aaclip-med convert``. Imports nothing heavy before one of them runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aaclip_med.data.benchmarks.names import FORMAT_NAMES, RECIPES, SOURCES

MAX_NAMED = 3


def add_index_import(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``import`` to the actions of ``aaclip-med index``."""
    action = actions.add_parser("import", help="from a published benchmark, a Decathlon task or a BIDS folder")
    action.add_argument("folder")
    action.add_argument("--format", required=True, choices=FORMAT_NAMES, metavar="NAME", help=", ".join(FORMAT_NAMES))
    action.add_argument("--out", required=True, metavar="JSONL")
    action.add_argument("--class-name", metavar="NAME", help="default: as the format says")
    action.add_argument(
        "--lesion-labels",
        type=int,
        nargs="+",
        metavar="VALUE",
        help="label values that are lesions (msd, bids); their masks are written to a folder beside JSONL",
    )
    action.add_argument("--suffix", help="the kind of scan, as FLAIR (bids)")
    action.add_argument("--group-column", metavar="COLUMN", help="of participants.tsv (bids); with --normal-groups")
    action.add_argument("--normal-groups", nargs="+", metavar="VALUE", help="values of that column that mean normal")
    action.add_argument("--allow-leaks", action="store_true", help="take a set though patients or files are in two splits")


def run_index_import(options: argparse.Namespace) -> int:
    """Write the index of a data set and say how many cases it has."""
    from aaclip_med.data.benchmarks.layouts import count_cases
    from aaclip_med.data.benchmarks.registry import list_benchmark
    from aaclip_med.data.index import write_index
    from aaclip_med.data.writing import prepare_output_folder

    out = Path(options.out).absolute()
    listing = list_benchmark(
        options.format,
        options.folder,
        options.allow_leaks,
        class_name=options.class_name,
        lesion_labels=options.lesion_labels,
        masks_folder=out.parent / f"{out.stem}_masks" if options.lesion_labels else None,
        suffix=options.suffix,
        group_column=options.group_column,
        normal_groups=options.normal_groups,
    )
    prepare_output_folder(out.parent)
    write_index(listing.cases, out)
    _print_counts(count_cases(listing.cases))
    if listing.passed_over:
        named = ", ".join(path.name for path in listing.passed_over[:MAX_NAMED])
        more = ", ..." if len(listing.passed_over) > MAX_NAMED else ""
        print(f"passed over, no published labels: {len(listing.passed_over)} ({named}{more})")
    return 0


def add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``convert`` to the commands of ``aaclip-med``."""
    command = commands.add_parser("convert", help="slices in BMAD's layout from the published volumes")
    command.add_argument("source", choices=SOURCES, metavar="SOURCE", help=", ".join(SOURCES))
    command.add_argument("folder", metavar="FOLDER")
    command.add_argument("--out", required=True, metavar="DIR", help="must not exist, or be empty")
    command.add_argument(
        "--recipe", choices=RECIPES, default="corrected", help="bmad: as the benchmark describes it (default corrected)"
    )


def run_convert(options: argparse.Namespace) -> int:
    """Convert a data set and say what came out."""
    from aaclip_med.data.conversion import convert

    summary = convert(options.source, options.folder, options.out, options.recipe, track=_track)
    print(f"{summary.scans} scans of {summary.patients} patients, recipe {summary.recipe}")
    _print_counts(summary.counts)
    print(f"see {summary.index}")
    return 0


def _print_counts(counts: Any) -> None:
    for split, row in counts.items():
        bare = f", {row['abnormal_without_mask']} of them without a mask" if row["abnormal_without_mask"] else ""
        named = "no split" if split == "none" else split
        print(f"{named}: {row['normal']} normal, {row['abnormal']} abnormal{bare}")


def _track(scans: Sequence[Any]) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(scans, unit="scan", file=sys.stderr)
