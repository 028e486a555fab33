"""A scan or picture in memory, and the names of files that can become one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from aaclip_med.errors import InputError

NIFTI_ENDINGS = (".nii.gz", ".nii", ".img.gz", ".img")
ITK_ENDINGS = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
ENDINGS = (*NIFTI_ENDINGS, *ITK_ENDINGS, *PICTURE_ENDINGS)
"""Every file ending that is read, lower case; upper case is read as well. A pair ``.hdr``/``.img`` is named by its ``.img``."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Volume:
    """One scan, or one picture as a scan of one slice.

    array: (I, J, K) values after the file's own scaling (NIfTI ``scl_slope``), integers as stored or float32. A grey
        picture is (W, H, 1), a colour picture (W, H, 1, 3) in RGB: axis 0 is x (columns), axis 1 y (rows, downwards).
    affine: (4, 4) float64, from voxel index (centre of the voxel) to RAS mm. A picture has 1 mm pixels, x to the left
        and y to the posterior, as ITK gives it.
    header: the input's own header for NIfTI, None otherwise.
    stored_shape: the shape in the file, which may have trailing axes of length 1; (W, H, 1) for a picture.
    """

    array: np.ndarray[Any, Any]
    affine: np.ndarray[Any, Any]
    path: Path
    header: nib.Nifti1Header | None
    stored_shape: tuple[int, ...]
    is_picture: bool

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along the array's axes (I, J, K), in mm."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def orientation(self) -> str:
        """Where the axes (I, J, K) point to, nearest anatomical direction each: ``RAS``, ``LPS``, ``AIR``..."""
        return "".join(nib.aff2axcodes(self.affine))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0


def is_image_file(path: str | Path) -> bool:
    """Whether the name ends like an image that this package reads, and no DICOM file has it (PS3.10 7.1)."""
    return Path(path).name.lower().endswith(ENDINGS) and not _has_dicom_mark(Path(path))


def _has_dicom_mark(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            stream.seek(128)
            return stream.read(4) == b"DICM"
    except OSError:
        return False


def case_name(path: str | Path) -> str:
    """The file name without its ending: ``a.b.nii.gz`` -> ``a.b``. An unknown ending is cut if it is letters (``.dcm``)."""
    name = printable(Path(path).name)
    suffix = Path(name).suffix if Path(name).suffix[1:].isalpha() else ""
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), suffix)
    return name[: len(name) - len(ending)]


def printable(text: str) -> str:
    r"""The text with the bytes of a file name that are no UTF-8 as ``\xe9``, so that it can be written anywhere."""
    return text.encode(errors="backslashreplace").decode().replace(r"\udc", r"\x")


def walk_files(folder: Path) -> Iterator[Path]:
    """Everything in a folder, to the bottom, that is no folder and not hidden, nor in one that is.

    Links to folders are followed after all else, each folder once, so that a loop ends.
    """
    visited = set()
    waiting = [folder]
    while waiting:
        linked = []
        for top in waiting:
            for place, folders, files in os.walk(top):
                state = Path(place).stat()
                if (state.st_dev, state.st_ino) in visited:
                    folders.clear()
                    continue
                visited.add((state.st_dev, state.st_ino))
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                linked += [path for name in folders if (path := Path(place, name)).is_symlink()]
                yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))
        waiting = linked


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """All images among files and folders (searched to the bottom), sorted, each once. Hidden ones are passed over.

    Raises:
        InputError: a path does not exist, a named file has no known ending, a folder holds no image.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            images = [file for file in walk_files(path) if is_image_file(file)]
            if not images:
                raise InputError(f"{path}: no image in this folder; known endings are {', '.join(ENDINGS)}")
        elif not path.exists():
            raise InputError(f"{path}: no such file or folder; check the path")
        elif not is_image_file(path):
            raise InputError(f"{path}: not an image; known endings are {', '.join(ENDINGS)}")
        else:
            images = [path]
        for image in images:
            found.setdefault(image.resolve(), image)
    return sorted(found.values())


def is_visible(path: Path) -> bool:
    """Whether neither the file nor a folder on its (relative) path is hidden."""
    return not any(part.startswith(".") for part in path.parts)
