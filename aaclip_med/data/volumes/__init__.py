"""Volumes and pictures: read once, refused with a reason, always with an affine from voxel index to RAS mm.

Array axes are (I, J, K) in the order of the file: I is the axis that varies fastest on disk.
"""

from __future__ import annotations

from aaclip_med.data.volumes.checks import check_voxels, to_native
from aaclip_med.data.volumes.masks import fit_mask, fit_values, read_mask
from aaclip_med.data.volumes.reading import list_files, read_grid, read_unchecked, read_volume
from aaclip_med.data.volumes.volume import (
    ENDINGS,
    ITK_ENDINGS,
    LPS_TO_RAS,
    NIFTI_ENDINGS,
    PICTURE_ENDINGS,
    Volume,
    case_name,
    find_images,
    is_image_file,
    is_visible,
    printable,
    walk_files,
)

__all__ = [
    "ENDINGS",
    "ITK_ENDINGS",
    "LPS_TO_RAS",
    "NIFTI_ENDINGS",
    "PICTURE_ENDINGS",
    "Volume",
    "case_name",
    "check_voxels",
    "find_images",
    "fit_mask",
    "fit_values",
    "is_image_file",
    "is_visible",
    "list_files",
    "printable",
    "read_grid",
    "read_mask",
    "read_unchecked",
    "read_volume",
    "to_native",
    "walk_files",
]
