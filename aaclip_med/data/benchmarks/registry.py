"""Every layout by name, and the one way in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aaclip_med.data.benchmarks import bids, bmad, industrial, msd, polyps
from aaclip_med.data.benchmarks.layouts import Layout, Listing
from aaclip_med.data.index import Case
from aaclip_med.data.sampling import check_copies, check_leaks
from aaclip_med.errors import InputError

FORMATS: dict[str, Layout] = bmad.LAYOUTS | industrial.LAYOUTS | polyps.LAYOUTS | msd.LAYOUTS | bids.LAYOUTS
"""Every layout by the name of its format."""


def build_benchmark_index(format_name: str, folder: str | Path, allow_leaks: bool = False, **options: Any) -> list[Case]:
    """The cases of a data set in one of ``FORMATS``, ready for ``write_index``. See ``list_benchmark``."""
    return list_benchmark(format_name, folder, allow_leaks, **options).cases


def list_benchmark(format_name: str, folder: str | Path, allow_leaks: bool = False, **options: Any) -> Listing:
    """The cases of a data set in one of ``FORMATS``, and the files that were passed over.

    options: what the format's builder takes (``FORMATS[name].options``), for example ``class_name``; None is as not
    given. allow_leaks: take a set as it is published though a patient or a file of it is in two splits.

    Raises:
        InputError: an unknown format or option, another layout, images without masks, or a leak between splits.
        OutputError: a derived mask cannot be written.
    """
    if format_name not in FORMATS:
        raise InputError(f"unknown format '{format_name}'; choose one of {', '.join(FORMATS)}")
    layout = FORMATS[format_name]
    given = {name: value for name, value in options.items() if value is not None}
    unknown = [name for name in given if name not in layout.options]
    if unknown:
        takes = f"it takes {', '.join(layout.options)}" if layout.options else "it takes none"
        raise InputError(f"format {format_name} has no option {', '.join(unknown)}; {takes}")
    listing = layout.build(Path(folder), **given)
    if not allow_leaks:
        check_benchmark_leaks(listing.cases)
    return listing


def check_benchmark_leaks(cases: Sequence[Case]) -> None:
    """``check_leaks`` and ``check_copies``, with advice on sets that leak as they are published.

    Raises:
        InputError: one is; the first ten are named.
    """
    advice = "allow leaks to take the set as it is published"
    try:
        check_leaks(cases)
        check_copies(cases)
    except InputError as error:
        raise InputError(f"{error}, or {advice}") from None
