"""Any image file as a volume."""

from __future__ import annotations

import contextlib
from pathlib import Path

from aaclip_med.data.volumes.checks import check_voxels
from aaclip_med.data.volumes.itk import list_data_files, read_itk, read_itk_grid
from aaclip_med.data.volumes.nifti import find_header, read_nifti, read_nifti_grid
from aaclip_med.data.volumes.pictures import read_picture
from aaclip_med.data.volumes.volume import ENDINGS, ITK_ENDINGS, NIFTI_ENDINGS, PICTURE_ENDINGS, Volume
from aaclip_med.errors import InputError


def read_volume(path: str | Path, allow_blank_picture: bool = False, number: int | None = None) -> Volume:
    """Read one scan or picture. ``allow_blank_picture``: a picture (not a scan) may hold one value only.
    ``number``: which volume of a 4-D file, counted from 0; a 3-D file has only number 0.

    Raises:
        InputError: the file is missing, damaged, of another kind (2-D, several volumes, complex, colour NIfTI, several
            pages), without a usable geometry (zero spacing, singular affine), not finite, or constant.
    """
    volume = read_unchecked(Path(path), number)
    check_voxels(volume.path, volume.array, allow_blank=volume.is_picture and allow_blank_picture)
    return volume


def read_unchecked(path: Path, number: int | None = None) -> Volume:
    """As ``read_volume``, but the voxels may be anything, as those of an empty mask.

    Raises:
        InputError: as ``read_volume``, but for voxels that are not finite or constant.
    """
    match _find_kind(path):
        case "NIfTI":
            return read_nifti(path, number)
        case "ITK":
            return read_itk(path, number)
    if number:
        raise InputError(f"{path}: volume {number} was asked for; a picture holds one")
    return read_picture(path)


def read_grid(path: Path) -> Volume:
    """Shape and affine alone, in a volume of zeros that take no memory. Of a scan the header is read, a picture whole.

    Raises:
        InputError: as ``read_volume``, but for what only the voxels tell.
    """
    match _find_kind(path):
        case "NIfTI":
            return read_nifti_grid(path)
        case "ITK":
            return read_itk_grid(path)
    return read_picture(path)


def list_files(path: Path) -> tuple[Path, ...]:
    """The files of a volume: ``path``, and if they are there the header of an ``.img``, or what a header names for its voxels.

    A file that cannot be read stands for itself, and so does one of any other kind, and a pipe, which is not opened.
    """
    if not path.is_file():
        return (path,)
    with contextlib.suppress(OSError):
        return path, *(list_data_files(path) if path.suffix.lower() in ITK_ENDINGS else find_header(path))
    return (path,)


def _find_kind(path: Path) -> str:
    if path.is_dir():
        raise InputError(f"{path}: a folder, not an image file; name a file in it")
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    name = path.name.lower()
    if name.endswith(NIFTI_ENDINGS):
        return "NIfTI"
    if path.suffix.lower() in ITK_ENDINGS:
        return "ITK"
    if not name.endswith(PICTURE_ENDINGS):
        raise InputError(f"{path}: not an image; known endings are {', '.join(ENDINGS)}")
    return "picture"
