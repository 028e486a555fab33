"""Label maps of several values, and the masks of some of them: elsewhere in this package every value above 0 is a lesion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from aaclip_med.data.volumes import NIFTI_ENDINGS, Volume, fit_values, read_mask, read_unchecked
from aaclip_med.data.writing import prepare_output_folder, write_file
from aaclip_med.errors import InputError

_TEXT_FIELDS = ("descrip", "aux_file", "intent_name", "db_name")


def read_labels(path: Path, like: Volume) -> np.ndarray[Any, Any]:
    """The values of a NIfTI label map, turned to the grid of ``like``: (I, J, K), int16 after the file's own scaling.

    Raises:
        InputError: as ``read_mask``; or the file is not NIfTI.
    """
    _check(path, like)
    values: np.ndarray[Any, Any] = np.rint(fit_values(read_unchecked(path), like)).astype(np.int16)
    return values


def write_lesion_mask(labels: Path, like: Volume, lesion_labels: Sequence[int], path: Path) -> bool:
    """Write the voxels of ``labels`` that have one of the ``lesion_labels`` to ``path``, as 1 in a uint8 NIfTI.

    The mask has the label map's shape, voxel sizes, qform and sform, and none of its text. Returns whether any voxel is
    in it.

    Raises:
        InputError: as ``read_labels``.
        OutputError: the mask cannot be written.
    """
    _check(labels, like)
    image = nib.load(labels, mmap=False)
    mask = np.isin(np.rint(image.dataobj), lesion_labels)
    header = image.header.copy()
    header.set_data_dtype(np.uint8)
    for name in _TEXT_FIELDS:
        header[name] = b""
    header["cal_min"], header["cal_max"] = 0, 0
    header.extensions.clear()
    prepare_output_folder(path.parent)
    write_file(path, type(image)(mask.astype(np.uint8), None, header).to_filename)
    return bool(mask.any())


def _check(path: Path, like: Volume) -> None:
    if not path.name.lower().endswith(NIFTI_ENDINGS):
        raise InputError(f"{path}: label maps of several values are read from NIfTI alone; save it as .nii.gz")
    read_mask(path, like)  # refuses what cannot be read, NaN, and another geometry
