"""Results on disk: whole or not at all, each heatmap in the grid of its scan."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import secrets
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813

from aaclip_med.data.volumes import ITK_ENDINGS, LPS_TO_RAS, Volume, printable
from aaclip_med.errors import InputError, OutputError

_GEOMETRY_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
_TEMPORARY = re.compile(r"\.[0-9a-f]{8}\..")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``, with the same ending, that becomes ``path`` when the block ends well.

    An existing file is replaced only then; after any failure it is as it was and the temporary file is gone. Do nothing
    but write in the block: every ``OSError`` in it is taken for a failure to write.

    Raises:
        OutputError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise _output_error(path, error) from error
    finally:
        _remove(temporary)


def is_temporary(path: Path) -> bool:
    """Whether a file is one that ``atomic_path`` made, left behind by a process that was killed."""
    return _TEMPORARY.match(path.name) is not None


def write_file(path: str | Path, writer: Callable[[Path], object]) -> None:
    """Call ``writer`` with a temporary path of the same ending, then move what it wrote to ``path``.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        writer(temporary)


def write_heatmap(path: str | Path, heatmap: np.ndarray[Any, Any], like: Volume, note: str = "") -> None:
    """Write ``heatmap`` (I, J, K) as float32 NIfTI; see ``write_nifti``.

    Raises:
        OutputError: the file cannot be written.
    """
    write_nifti(path, np.asarray(heatmap, dtype=np.float32), like, note)


def write_nifti(path: str | Path, array: np.ndarray[Any, Any], like: Volume, note: str = "") -> None:
    """Write ``array`` (I, J, K), of its own dtype, as NIfTI (``.nii.gz``) in the grid of ``like``.

    A NIfTI scan gives its own geometry: stored shape, voxel sizes, units, qform and sform with their codes.
    Other scans and pictures give an sform with code 1 (scanner) from their affine, in RAS mm. Nothing else of the
    scan's header is taken over, so no name or note of the patient is. ``note`` (79 characters) becomes the description.

    Raises:
        OutputError: the file cannot be written.
    """
    if array.shape != like.array.shape[:3]:
        raise ValueError(f"an array of shape {array.shape} for a scan of shape {like.array.shape}")
    if like.header is not None:
        data = array.reshape(like.stored_shape)
        header = nib.Nifti2Header() if isinstance(like.header, nib.Nifti2Header) else nib.Nifti1Header()
        for name in _GEOMETRY_FIELDS:
            header[name] = like.header[name]
        header.set_data_dtype(data.dtype)
        image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        image = image_class(data, None, header)
    else:
        image = nib.Nifti1Image(array, like.affine)  # a straightened series has another shape than its files
        image.set_sform(like.affine, code=1)
        image.header.set_xyzt_units("mm")
    image.header["descrip"] = note[:79].encode("ascii", "replace")
    write_file(path, image.to_filename)


def write_image(path: str | Path, array: np.ndarray[Any, Any], like: Volume, note: str = "") -> None:
    """Write ``array`` (I, J, K) in the grid of ``like``, in the format of the ending: ``.nii.gz``, ``.nrrd`` or ``.mha``.

    NRRD and MetaImage are in LPS mm, compressed, and hold no oblique-sheared grids.

    Raises:
        InputError: the grid of ``like`` is sheared and the format cannot say so.
        OutputError: the file cannot be written.
    """
    if Path(path).suffix not in ITK_ENDINGS:
        write_nifti(path, array, like, note)
        return
    directions = like.affine[:3, :3] / np.linalg.norm(like.affine[:3, :3], axis=0)
    if not np.allclose(directions.T @ directions, np.eye(3), atol=1e-4):
        raise InputError(f"{like.path}: its grid is sheared, which {Path(path).suffix} cannot hold; choose nii.gz")
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(like.spacing)
    image.SetOrigin((LPS_TO_RAS @ like.affine)[:3, 3].tolist())
    image.SetDirection((LPS_TO_RAS[:3, :3] @ directions).ravel().tolist())
    if note:
        image.SetMetaData("note", note)
    write_file(path, partial(_write_itk, image))


def _write_itk(image: sitk.Image, path: Path) -> None:
    if str(path) != printable(str(path)):  # on which SimpleITK ends the process
        raise OSError(errno.EILSEQ, "NRRD and MetaImage need a path in UTF-8")
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:  # SimpleITK's only error, and its text names no cause
        raise OSError(errno.EIO, textwrap.shorten(str(error).splitlines()[-1], 100)) from None


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write a table as UTF-8 CSV: one header line, then a line a row with its value of each column.

    Floats have at most 6 significant digits; NaN, None and missing values are empty.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(columns)
        table.writerows([_csv_cell(row.get(column)) for column in columns] for row in rows)


def write_json(path: str | Path, content: object) -> None:
    """Write ``content`` as indented UTF-8 JSON. NaN and infinite numbers become null; numpy values and paths are taken, and
    names that are no UTF-8 escaped.

    Raises:
        OutputError: the file cannot be written.
    """
    text = json.dumps(_json_value(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def prepare_output_folder(path: str | Path) -> Path:
    """Create the folder ``path`` if need be and make sure that files can be written into it.

    Raises:
        OutputError: it cannot be created or written to, or a file has its name.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (FileExistsError, NotADirectoryError):
        raise OutputError(f"cannot make the folder {path}: a file is in its place; choose another --out") from None
    except OSError as error:
        raise _output_error(path, error) from error
    return path


def _output_error(path: Path, error: OSError) -> OutputError:
    advice = "free space or choose another --out" if error.errno in _FULL else "choose another --out"
    return OutputError(f"cannot write {path}: {error.strerror or error}; {advice}")


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _csv_cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, (float, np.floating)):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def _json_value(value: object) -> object:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    elif isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {printable(str(key)): _json_value(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    return printable(value) if isinstance(value, str) else value
