"""Generated scans in every format and in awkward geometries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import settings
from PIL import Image
from scipy.spatial.transform import Rotation

settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.load_profile("patient")

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SaveScan = Callable[..., Path]


def make_affine(
    codes: str = "RAS",
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    angles: tuple[float, float, float] = (0.0, 0.0, 0.0),
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """Array axes along ``codes``, then turned by ``angles`` (degrees about x, y, z)."""
    axes = np.zeros((3, 3))
    for axis, code in enumerate(codes):
        ras = ["LR", "PA", "IS"].index(next(pair for pair in ("LR", "PA", "IS") if code in pair))
        axes[ras, axis] = 1.0 if code in "RAS" else -1.0
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ axes * spacing
    affine[:3, 3] = origin
    return affine


GEOMETRIES = {
    "ras": make_affine(),
    "lps anisotropic": make_affine("LPS", (0.7, 0.9, 5.0), origin=(90.0, 126.0, -72.0)),
    "left-handed": make_affine("LAS", (1.0, 2.0, 3.0), origin=(-10.0, 4.0, 8.0)),
    "sagittal stack": make_affine("PIR", (0.9, 0.9, 1.5), origin=(-70.0, 120.0, 90.0)),
    "oblique": make_affine("LPI", (0.8, 1.1, 3.3), (11.0, -17.0, 23.0), (123.4, -56.7, 8.9)),
    "oblique left-handed": make_affine("SRA", (1.5, 0.5, 2.5), (-9.0, 14.0, 6.0), (-40.0, 61.0, 500.0)),
}


def make_scan(shape: tuple[int, ...] = (5, 6, 7), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, shape, dtype=np.int16)


def write_scan(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write (I, J, K) as NIfTI, NRRD or MetaImage, or (W, H[, 3]) as a picture, by the ending of ``path``."""
    affine = np.eye(4) if affine is None else affine
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(array, affine), path)
    elif name.endswith((".img", ".img.gz")):
        nib.save(nib.Nifti1Pair(array, affine), path)
    elif name.endswith((".nrrd", ".nhdr", ".mha", ".mhd")):
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
        lps = LPS_TO_RAS @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        lower_case = path.with_name(name)
        sitk.WriteImage(image, str(lower_case))
        lower_case.rename(path)
    else:
        Image.fromarray(np.ascontiguousarray(array.swapaxes(0, 1))).save(path)
    return path


@pytest.fixture
def save(tmp_path: Path) -> SaveScan:
    """Write a scan below the test's folder: ``save("b/a.nii.gz", array, affine)``."""

    def save_scan(name: str, array: np.ndarray | None = None, affine: Any = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_scan(path, make_scan() if array is None else array, affine)

    return save_scan
