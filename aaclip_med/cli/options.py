"""Options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from aaclip_med.presets import PLANES, PRESETS

FIDELITIES = ("reference", "paper")
REFINEMENTS = ("published", "best")
TRAINED_PRECISIONS = ("auto", "float32", "bf16", "fp16")
PRECISIONS = (*TRAINED_PRECISIONS, "int8")


def read_count(text: str) -> int:
    """A whole number that is not negative, as argparse's ``type``: a seed, or how many of something.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 0")
    return int(text)


def add_model(command: argparse.ArgumentParser) -> None:
    """Which detector, on what."""
    group = command.add_argument_group("model")
    group.add_argument(
        "--adapters",
        required=True,
        help="an adapters.safetensors, a folder with the released pair, 'demo' (brain-mri, or as --preset), 'none' (zero-shot)",
    )
    group.add_argument("--preset", choices=PRESETS, help="the task (default: the one the adapters were trained for)")
    group.add_argument("--backbone", help="an open_clip ViT or 'tiny'; only without an adapters file")
    group.add_argument("--weights", help="the tower's weights, a tag or a file (default: those the adapters name)")
    group.add_argument("--image-size", type=int, metavar="PIXELS", help="side of the square the slices are resized to")
    group.add_argument("--fidelity", choices=FIDELITIES, help="only without an adapters file")
    group.add_argument("--refinement", choices=REFINEMENTS, help="what is done to maps and scores (default: as trained)")
    add_hardware(group, "float32", "float32")
    group.add_argument(
        "--drop-background", action="store_true", help="patches that are black throughout do not enter the tower (approximate)"
    )
    group.add_argument("--batch-size", type=int, metavar="N", help="slices at once (default by the device, 32 at most)")


def add_cutting(command: argparse.ArgumentParser, reading: bool = True) -> None:
    """How volumes are cut and windowed; ``reading``: how some of them are read as well."""
    group = command.add_argument_group("slices")
    group.add_argument(
        "--plane",
        choices=(*PLANES, "all"),
        help="'all' fuses the three anatomical ones (default: as calibrated; else the preset's, and under refinement 'best' "
        "all of whole volumes whose voxels are about as deep as wide)",
    )
    window = group.add_mutually_exclusive_group()
    window.add_argument("--window", type=float, nargs=2, metavar=("LOW", "HIGH"), help="voxel values (HU) shown from 0 to 1")
    window.add_argument("--percentiles", type=float, nargs=2, metavar=("LOW", "HIGH"), help="the same, in percentiles")
    group.add_argument(
        "--crop", action=argparse.BooleanOptionalAction, help="cut slices down to the foreground (default: as trained)"
    )
    group.add_argument("--mask", metavar="PATH", help="an organ mask, or a folder of them named as the cases: look only there")
    if not reading:
        return
    group.add_argument(
        "--spacing", type=float, nargs=3, metavar="MM", help="along columns, rows, slices: DICOM series without a geometry"
    )
    group.add_argument("--volume", type=int, metavar="N", help="which volume of 4-D files, from 0")


def add_split(command: argparse.ArgumentParser) -> None:
    """Which rows of an index."""
    command.add_argument("--split", choices=("train", "val", "test"), help="only the rows of this split")


def add_hardware(
    group: argparse._ArgumentGroup, precision: str | None, default: str, precisions: Sequence[str] = PRECISIONS
) -> None:
    """Device and arithmetic."""
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (default auto)")
    group.add_argument("--precision", choices=precisions, default=precision, help=f"default {default}")
