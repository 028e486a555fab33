"""Volumes and pictures: read once, refused with a reason, always with an affine from voxel index to RAS mm.

NIfTI is read with nibabel, NRRD and MetaImage with SimpleITK (whose LPS world is turned to RAS here, and nowhere else),
pictures with Pillow. Array axes are (I, J, K) in the order of the file: I is the axis that varies fastest on disk.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import math
import re
import struct
import textwrap
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
from nibabel import imageglobals
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from PIL import Image

from aaclip_med.errors import InputError

NIFTI_ENDINGS = (".nii.gz", ".nii", ".img.gz", ".img")
ITK_ENDINGS = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
ENDINGS = (*NIFTI_ENDINGS, *ITK_ENDINGS, *PICTURE_ENDINGS)
"""Every file ending that is read, lower case; upper case is read as well. A pair ``.hdr``/``.img`` is named by its ``.img``."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MAX_BYTES = 16 * 1024**3
MAX_DEFLATE_RATIO = 1032
"""No deflate stream (RFC 1951) grows by more than this, so a smaller file cannot hold what its header declares."""
MAX_AFFINE_DIFFERENCE_MM = 1e-3

_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, struct.error, ImageFileError, HeaderDataError)


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
    """Whether the name ends like an image that this package reads; the file is not opened."""
    return Path(path).name.lower().endswith(ENDINGS)


def case_name(path: str | Path) -> str:
    """The file name without its ending: ``a.b.nii.gz`` -> ``a.b``. An unknown ending is cut at the last dot."""
    name = Path(path).name
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), Path(name).suffix)
    return name[: len(name) - len(ending)]


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """All images among files and folders (searched to the bottom), sorted, each once. Hidden ones are passed over.

    Raises:
        InputError: a path does not exist, a named file has no known ending, a folder holds no image.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = [p for p in path.rglob("*") if _is_visible(p.relative_to(path)) and is_image_file(p)]
            images = [p for p in inside if not p.is_dir()]
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


def read_volume(path: str | Path, allow_blank_picture: bool = False, number: int | None = None) -> Volume:
    """Read one scan or picture. ``allow_blank_picture``: a picture (not a scan) may hold one value only.
    ``number``: which volume of a 4-D NIfTI file, counted from 0; other files have only number 0.

    Raises:
        InputError: the file is missing, damaged, of another kind (2-D, several volumes, complex, colour NIfTI, several
            pages), without a usable geometry (zero spacing, singular affine), not finite, or constant.
    """
    volume = _read(Path(path), number)
    check_voxels(volume.path, volume.array, allow_blank=volume.is_picture and allow_blank_picture)
    return volume


def check_voxels(path: str | Path, array: np.ndarray[Any, Any], allow_blank: bool = False) -> None:
    """Refuse voxels that no slice can be cut from.

    Raises:
        InputError: some are NaN or infinite, or all are the same and that is not allowed.
    """
    if np.issubdtype(array.dtype, np.floating):
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise InputError(f"{path}: {bad} of {array.size} voxels are NaN or infinite; replace them before scoring")
    if not allow_blank and array.min() == array.max():
        raise InputError(f"{path}: every voxel is {array.flat[0]}; nothing to score, check how it was exported")


def read_mask(path: str | Path, like: Volume) -> np.ndarray[Any, Any]:
    """Read the mask of ``like``: (I, J, K) bool, True where the stored value is above 0 (in any channel of a picture).

    A mask on the same grid whose axes run another way, as converters from DICOM leave them, is turned; nothing is resampled.

    Raises:
        InputError: the mask cannot be read, or its shape differs, or one of its corner voxels lies more than
            0.001 mm from the scan's.
    """
    mask = _read(Path(path))
    values = mask.array.max(axis=3) if mask.array.ndim == 4 else mask.array
    above = np.asarray(values > 0, dtype=bool)
    shape = like.array.shape[:3]
    affine = mask.affine
    if not (mask.is_picture or like.is_picture):
        turn = ornt_transform(io_orientation(affine), io_orientation(like.affine))
        affine = affine @ inv_ornt_aff(turn, above.shape)
        above = np.ascontiguousarray(apply_orientation(above, turn))
    if above.shape != shape:
        raise InputError(f"{path}: the mask's shape is {above.shape}, its scan's ({like.path}) {shape}; resample the mask")
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in shape))], dtype=float)
    distance = float(np.linalg.norm(corners @ (affine - like.affine).T, axis=1).max())
    if distance > MAX_AFFINE_DIFFERENCE_MM:
        raise InputError(
            f"{path}: the mask (shape {above.shape}) lies up to {distance:.3g} mm from its scan {like.path} "
            f"(shape {shape}); resample the mask to the scan"
        )
    return above


def _is_visible(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts)


def _read(path: Path, number: int | None = None) -> Volume:
    if path.is_dir():
        raise InputError(f"{path}: a folder, not an image file; name a file in it")
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    name = path.name.lower()
    if name.endswith(NIFTI_ENDINGS):
        return _read_nifti(path, number)
    if number:
        raise InputError(f"{path}: volume {number} was asked for; only 4-D NIfTI files hold several")
    if path.suffix.lower() in ITK_ENDINGS:
        volume = _read_itk(path)
    elif name.endswith(PICTURE_ENDINGS):
        return _read_picture(path)
    else:
        raise InputError(f"{path}: not an image; known endings are {', '.join(ENDINGS)}")
    return replace(volume, array=_to_native(volume.array))


def _read_nifti(path: Path, number: int | None) -> Volume:
    compressed = path.name.lower().endswith(".gz")
    try:
        with _silence_nibabel():
            image = nib.load(path, mmap=False)
        header = image.header
        if not isinstance(header, nib.Nifti1Header):
            raise InputError(f"{path}: an Analyze 7.5 file, which does not say how it lies; convert it to NIfTI")
        described = Path(image.file_map.get("header", image.file_map["image"]).filename or path)
        _check_shape(path, tuple(header.get_data_shape()), header.get_data_dtype(), number)
        _check_file_size(path, image, compressed)
        _check_pixdim(described, type(header))
        _check_affine(path, image.affine)
        if compressed:
            with gzip.open(path) as stream, _silence_nibabel():
                # Reading to the very end makes gzip compare its checksum, which nibabel alone does not.
                files = {"image": stream} | ({"header": str(described)} if described != path else {})
                array = np.asanyarray(type(image).from_file_map(image.make_file_map(files)).dataobj)
                while stream.read(1 << 20):
                    pass
        else:
            array = np.asanyarray(image.dataobj)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(path, "NIfTI", error) from None
    shape = tuple(int(n) for n in array.shape)
    affine = np.asarray(image.affine, dtype=np.float64)
    if math.prod(shape[3:]) > 1:
        array, shape = array.reshape(*shape[:3], -1)[..., number or 0], shape[:3]
    return Volume(_to_native(array.reshape(shape[:3])), affine, path, header, shape, is_picture=False)


def _read_itk(path: Path) -> Volume:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(ITK_ENDINGS[path.suffix.lower()])
    try:
        reader.ReadImageInformation()
        shape = tuple(int(n) for n in reader.GetSize())
        pixel = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        if reader.GetNumberOfComponents() > 1:
            raise InputError(f"{path}: {pixel} voxels; only one number per voxel is read, save a scalar image")
        _check_shape(path, shape, np.dtype(np.float64) if "64" in pixel else np.dtype(np.float32))
        spacing = np.array(reader.GetSpacing()[:3])
        if not (spacing > 0).all():
            raise InputError(f"{path}: voxel spacing {tuple(spacing.tolist())} mm; correct the header")
        dimension = reader.GetDimension()
        affine = np.eye(4)
        affine[:3, :3] = np.array(reader.GetDirection()).reshape(dimension, dimension)[:3, :3] * spacing
        affine[:3, 3] = reader.GetOrigin()[:3]
        affine = LPS_TO_RAS @ affine
        _check_affine(path, affine)
        if path.suffix.lower() in (".mha", ".mhd"):
            _check_meta_stream(path)
        array = sitk.GetArrayFromImage(reader.Execute()).T
    except InputError:
        raise
    except (*_UNREADABLE, RuntimeError) as error:
        raise _unreadable(path, "NRRD or MetaImage", error) from None
    return Volume(array.reshape(shape[:3]), affine, path, None, shape, is_picture=False)


def _read_picture(path: Path) -> Volume:
    try:
        with Image.open(path) as image:
            pages = getattr(image, "n_frames", 1)
            if pages > 1:
                raise InputError(f"{path}: {pages} pages in one picture; save each page as a file of its own")
            array = _picture_array(path, image)
    except InputError:
        raise
    except (*_UNREADABLE, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(path, "picture", error) from None
    array = array.swapaxes(0, 1)[:, :, None]
    return Volume(array, LPS_TO_RAS.copy(), path, None, tuple(array.shape[:3]), is_picture=True)


def _picture_array(path: Path, image: Image.Image) -> np.ndarray[Any, Any]:
    """(H, W) or (H, W, 3). Transparency is dropped and a picture's EXIF rotation is not applied."""
    if image.mode in ("1", "L", "F"):
        return np.array(image)
    if image.mode == "LA":
        return np.array(image.convert("L"))
    if image.mode.startswith("I"):
        array = np.array(image)
        if array.min() < 0 or array.max() > np.iinfo(np.uint16).max:
            raise InputError(f"{path}: grey values {array.min()} to {array.max()}; save it with 8 or 16 bits")
        return array.astype(np.uint16)
    return np.array(image.convert("RGB"))


def _check_shape(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], number: int | None = None) -> None:
    """Refuse by the header alone, before any memory is taken."""
    if dtype.fields is not None:
        raise InputError(f"{path}: colour (RGB) voxels; only one number per voxel is read, save a scalar image")
    if np.issubdtype(dtype, np.complexfloating):
        raise InputError(f"{path}: complex voxels; save the magnitude as real numbers")
    if len(shape) < 3:
        raise InputError(f"{path}: {len(shape)}-D image of shape {shape}; a volume (3-D) or a picture file is needed")
    if any(n < 1 for n in shape):
        raise InputError(f"{path}: shape {shape} has an axis without voxels; export it again")
    volumes = math.prod(shape[3:])
    if number is None and volumes > 1:
        raise InputError(f"{path}: {volumes} volumes (shape {shape}); choose one (--volume N, from 0) or save it as a 3-D file")
    if number is not None and not 0 <= number < volumes:
        raise InputError(f"{path}: volume {number} was asked for; it holds {volumes}, counted from 0")
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_BYTES:
        raise InputError(f"{path}: shape {shape} would take {size / 1024**3:.0f} GiB; at most 16 GiB are read, crop it")


def _check_file_size(path: Path, image: nib.Nifti1Image, compressed: bool) -> None:
    needs = math.prod(image.shape) * image.get_data_dtype().itemsize
    size = path.stat().st_size
    if needs > (size * MAX_DEFLATE_RATIO if compressed else size - image.dataobj.offset):
        raise InputError(f"{path}: damaged, too small for the {needs} bytes of voxels it declares; copy it again")


def _check_pixdim(path: Path, header_class: type[nib.Nifti1Header]) -> None:
    """Zero and negative voxel sizes as stored, which nibabel would silently replace."""
    with ImageOpener(path) as stream:
        stored = header_class.from_fileobj(stream, check=False)
    spacing = stored["pixdim"][1:4]
    if stored["sform_code"] == 0 and not (spacing > 0).all():
        raise InputError(f"{path}: voxel spacing {tuple(spacing.tolist())} mm; correct the header")


def _check_affine(path: Path, affine: np.ndarray[Any, Any]) -> None:
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: the affine holds NaN or infinite numbers; correct the header")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not (spacing > 0).all():
        raise InputError(f"{path}: voxel spacing {tuple(spacing.tolist())} mm; correct the header")
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-6:
        raise InputError(f"{path}: the affine is singular (its axes lie in one plane); correct the header")


def _to_native(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Native byte order; float16, float64 and wider become float32."""
    if np.issubdtype(array.dtype, np.floating):
        with np.errstate(over="ignore"):
            return array.astype(np.float32, copy=False)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _check_meta_stream(path: Path) -> None:
    """Try the compressed voxels of a MetaImage: ITK would go on with what it has where the stream is damaged."""
    with path.open("rb") as stream:
        header = stream.read(1 << 16)
        data_file = re.search(rb"^ElementDataFile *= *([^\r\n]+?) *\r?\n", header, re.MULTILINE)
        if data_file is None or not re.search(rb"^CompressedData *= *True", header, re.MULTILINE):
            return
        stream.seek(data_file.end())
        voxels = path.parent / data_file[1].decode(errors="replace")
        with contextlib.nullcontext(stream) if data_file[1].upper() == b"LOCAL" else voxels.open("rb") as data:
            inflate = zlib.decompressobj()
            while chunk := data.read(1 << 20):
                inflate.decompress(chunk)
    if not inflate.eof:
        raise EOFError("its compressed voxels end too early")


@contextlib.contextmanager
def _silence_nibabel() -> Iterator[None]:
    """Keep nibabel from writing to the terminal what it finds odd in a header: the message of a refusal is one line."""
    imageglobals.logger.disabled = True
    try:
        yield
    finally:
        imageglobals.logger.disabled = False


def _unreadable(path: Path, kind: str, error: BaseException) -> InputError:
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    reason = textwrap.shorten(lines[-1] if lines else type(error).__name__, 120)
    if reason.startswith("Reason:"):
        reason = "header or data file missing or damaged"
    return InputError(f"{path}: cannot be read as {kind} ({reason}); copy or export it again")
