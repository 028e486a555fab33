"""What DICOM series lie in files and folders, as a table or JSON, by their headers alone."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

from aaclip_med.data.dicom.series import Series, list_series

_COLUMNS = ("series", "description", "shape", "spacing mm", "plane", "volumes", "files", "status")


def print_series(paths: Sequence[str | Path], as_json: bool) -> int:
    """Print every series with its problems; returns the exit code, 0 also where some are refused.

    Raises:
        InputError: a path does not exist or holds no DICOM file.
    """
    found = list_series(paths)
    if as_json:
        print(json.dumps([_as_record(series) for series in found], indent=2))
        return 0
    rows = [_COLUMNS, *map(_as_row, found)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(_COLUMNS))]
    for number, row in enumerate(rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number:
            series = found[number - 1]
            for note in (*((f"refused: {series.refused}",) if series.refused else ()), *series.problems):
                print(textwrap.fill(note, 116, initial_indent="    ", subsequent_indent="      "))
    return 0


def _as_row(series: Series) -> tuple[str, ...]:
    return (
        series.name,
        series.description or "-",
        " x ".join(map(str, series.shape)) if any(series.shape) else "-",
        " x ".join(f"{mm:.3g}" for mm in series.spacing) if any(series.spacing) else "-",
        series.plane,
        str(series.volumes),
        str(len(series.files)),
        "refused" if series.refused else "ok",
    )


def _as_record(series: Series) -> dict[str, object]:
    return {
        "name": series.name,
        "modality": series.modality,
        "description": series.description,
        "shape": series.shape,
        "spacing_mm": series.spacing,
        "plane": series.plane,
        "volumes": series.volumes,
        "problems": series.problems,
        "refused": series.refused,
        "files": [str(path) for path in series.files],
    }


def run_inspect(options: argparse.Namespace) -> int:
    """The ``inspect`` command."""
    return print_series(options.inputs, options.json)
