"""What there is to score among files and folders: image files and DICOM series alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aaclip_med.data.index import find_scans, unique_names
from aaclip_med.data.volumes import Volume, read_volume


@dataclass(frozen=True)
class Source:
    """One volume to score: its case name, where it lies, and how it is read.

    ``read`` raises InputError where the volume cannot be used.
    """

    name: str
    path: Path
    read: Callable[[], Volume]


def find_sources(paths: Sequence[str | Path], number: int | None = None) -> tuple[list[Source], list[Path]]:
    """Every volume among files and folders, sorted, and the files passed over (masks, earlier heatmaps).

    ``number``: which volume of 4-D files.

    Raises:
        InputError: a path does not exist, or nothing in it is an image.
    """
    scans, passed_over = find_scans(paths)
    names = unique_names(scans)
    sources = [Source(name, path, _reader(path, number)) for name, path in zip(names, scans, strict=True)]
    return sources, passed_over


def _reader(path: Path, number: int | None) -> Callable[[], Volume]:
    return lambda: read_volume(path, number=number)
