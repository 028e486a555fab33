"""What there is to score among files and folders: image files and DICOM series alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from aaclip_med.data.dicom import Series, list_series, looks_like_dicom, read_series
from aaclip_med.data.scans import find_scans, number_names, unique_names
from aaclip_med.data.volumes import ENDINGS, Volume, is_image_file, list_files, read_volume, walk_files
from aaclip_med.errors import InputError

Spacing = tuple[float, float, float]

RUN_MARK = ".run/settings.json"
"""In the output folder of a run over many cases."""
_RESULT = "a result of an earlier run"
_WRITTEN = re.compile(
    r"heatmaps/.*_heatmap\..*|masks/.*_mask\..*|labels/.*_labels\..*|dicom/.*_(seg|pm|sr)\.dcm"
    r"|sub-.*_(label-lesion_probseg|desc-lesions_dseg|desc-lesions_mask)\.nii\.gz"
)
"""What a run calls its images, below its output folder."""


@dataclass(frozen=True)
class Source:
    """One volume to score: its case name, where it lies, its files, and how it is read. Can be pickled.

    ``read`` raises InputError where the volume cannot be used. series: the DICOM series it is of, with this volume's frames
    alone as its ``parts``; None for other files.
    """

    name: str
    path: Path
    files: tuple[Path, ...]
    read: Callable[[], Volume]
    series: Series | None = None

    @property
    def is_sound(self) -> bool:
        """Whether there is something to read: False for a DICOM series that is damaged, or in a form that is not read."""
        return self.series is None or bool(self.series.parts)


class PassedOver(NamedTuple):
    """What lies among the inputs and is no scan."""

    path: Path
    reason: str


class Found(NamedTuple):
    """What lies among the inputs."""

    sources: list[Source]
    passed_over: list[PassedOver]


def find_sources(paths: Sequence[str | Path], number: int | None = None, spacing_mm: Spacing | None = None) -> Found:
    """Every volume among files and folders, and what was passed over: masks, earlier heatmaps, DICOM objects that are no scan.

    A DICOM series of several volumes (echoes, time points) is a source for each, ``<series>_1`` the first; one that is
    damaged, or in a form that is not read, is a source whose ``read`` says so. ``number``: which volume of 4-D files.
    ``spacing_mm``: see ``data.dicom.read_series``.

    Raises:
        InputError: a path does not exist, or nothing in it is an image.
    """
    images, dicom = [], []
    for path in map(Path, paths):
        has_images = is_image_file(path) or (path.is_dir() and _holds(path, is_image_file))
        has_dicom = (
            looks_like_dicom(path) or path.name.upper() == "DICOMDIR" or (path.is_dir() and _holds(path, looks_like_dicom))
        )
        if path.exists() and not has_images and not has_dicom:
            raise InputError(f"{path}: no image{' in this folder' if path.is_dir() else ''}; DICOM, or {', '.join(ENDINGS)}")
        if has_images or not has_dicom:
            images.append(path)
        if has_dicom:
            dicom.append(path)
    sources: list[Source] = []
    passed_over: list[PassedOver] = []
    if images:
        scans, others = find_scans(images)
        passed_over += [PassedOver(path, "a mask or a heatmap") for path in others]
        results = {path for path in scans if is_result(path, images)}
        passed_over += [PassedOver(path, _RESULT) for path in scans if path in results]
        scans = [path for path in scans if path not in results]
        sources += [
            Source(name, path, list_files(path), partial(read_volume, path, number=number))
            for name, path in zip(unique_names(scans), scans, strict=True)
        ]
    for series in list_series(dicom) if dicom else []:
        if all(is_result(path, dicom) for path in series.files):
            passed_over.append(PassedOver(series.files[0], _RESULT))
            continue
        if not series.is_scan:
            passed_over.append(PassedOver(series.files[0], f"{series.name}: {series.refused}"))
            continue
        for n in range(max(1, series.volumes)):
            name = series.name if series.volumes <= 1 else f"{series.name}_{n + 1}"
            part = replace(series, parts=series.parts[n : n + 1])  # only the one is decoded: a series may hold hundreds
            sources.append(Source(name, series.path, series.files, partial(_read_part, part, spacing_mm), part))
    if not sources:
        raise InputError(f"{passed_over[0].path}: no scan among the inputs ({passed_over[0].reason})")
    names = number_names([source.name for source in sources])
    return Found([replace(source, name=name) for source, name in zip(sources, names, strict=True)], passed_over)


def read_source(path: Path, allow_blank_picture: bool = False) -> Volume:
    """The volume of an index row: an image file, a DICOM file of one volume, or a folder with one DICOM series of one volume.

    Raises:
        InputError: the file cannot be used, or the folder or DICOM file holds no or several volumes.
    """
    if not path.is_dir() and (is_image_file(path) or not looks_like_dicom(path)):
        return read_volume(path, allow_blank_picture)
    found = find_sources([path]).sources
    sources = [source for source in found if source.is_sound] or found
    if len(sources) != 1:
        raise InputError(f"{path}: {len(sources)} volumes in it; name a folder with one series of one volume")
    return sources[0].read()


def _holds(folder: Path, is_one: Callable[[Path], bool]) -> bool:
    return any(is_one(file) for file in walk_files(folder))


def is_result(path: Path, named: Sequence[Path]) -> bool:
    """Whether a file found in a folder lies in the output of a run; a folder or file that is named itself is taken as it is.

    Where the named folder is itself the output of a run, scans may lie there too: only what a run writes is a result.
    """
    for folder in path.parents:
        is_output = (folder / RUN_MARK).is_file()
        if path in named or folder in named:
            return is_output and _WRITTEN.fullmatch(path.relative_to(folder).as_posix()) is not None
        if is_output:
            return True
    return False


def _read_part(part: Series, spacing_mm: Spacing | None) -> Volume:
    return read_series(part, spacing_mm)[0]
