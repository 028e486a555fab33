"""Results as DICOM objects that lie beside the source series: segmentation, parametric map, measurement report.

highdicom makes them; it comes with the extra ``dicom-out`` and is imported when the first object is written. Every object
carries the patient's and the study's identity of its source, and no other output does.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from aaclip_med.data.dicom.headers import quiet
from aaclip_med.data.writing import write_file
from aaclip_med.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom.dataset import Dataset

    from aaclip_med.batch.account import Account
    from aaclip_med.data.sources import Source
    from aaclip_med.data.volumes import Volume
    from aaclip_med.inference.case import ScoredCase


def require_highdicom() -> None:
    """Make sure that DICOM objects can be made.

    Raises:
        InputError: highdicom is not installed.
    """
    if find_spec("highdicom") is None:
        raise InputError("DICOM outputs need highdicom; install aaclip-med[dicom-out]")


def write_segmentation(path: Path, source: Source, volume: Volume, case: ScoredCase, account: Account) -> None:
    """Write the candidates as a segmentation, one segment each; where there are none, one empty segment that says so.

    Raises:
        InputError: see ``source.describe_source`` and ``making.making``; highdicom is not installed.
        OutputError: the file cannot be written.
    """
    require_highdicom()
    from aaclip_med.batch.dicom_objects.segmentation import make_segmentation

    _write(path, lambda: make_segmentation(source, volume, case, account))


def write_parametric_map(path: Path, source: Source, volume: Volume, case: ScoredCase, account: Account) -> None:
    """Write the heatmap as a parametric map, 4 bytes a voxel: the standard has no compression for float pixels.

    Raises:
        InputError: see ``source.describe_source`` and ``making.making``; highdicom is not installed.
        OutputError: the file cannot be written.
    """
    require_highdicom()
    from aaclip_med.batch.dicom_objects.parametric_map import make_parametric_map

    _write(path, lambda: make_parametric_map(source, volume, case, account))


def write_measurements(path: Path, source: Source, volume: Volume, case: ScoredCase, account: Account) -> None:
    """Write the candidates' measurements as a structured report, which points to the segments of the segmentation.

    Raises:
        InputError: see ``source.describe_source`` and ``making.making``; highdicom is not installed.
        OutputError: the file cannot be written.
    """
    require_highdicom()
    from aaclip_med.batch.dicom_objects.measurements import make_measurements

    _write(path, lambda: make_measurements(source, volume, case, account))


def _write(path: Path, make: Callable[[], Dataset]) -> None:
    """Make and write an object with pydicom kept quiet, which would quote odd values of its source."""
    with quiet():
        dataset = make()
        write_file(path, lambda temporary: dataset.save_as(temporary, enforce_file_format=True))
