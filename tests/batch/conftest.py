"""A folder of small scans, one of them torn, and what a run makes of it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", (12, -7, 20), degrees=True).as_matrix() @ np.diag([-1.9, 1.9, 4.0])
OBLIQUE[:3, 3] = 40.0, -50.0, 10.0
DEMO = ["--adapters", "demo", "--preset", "brain-mri", "--progress", "none"]
"""A small tower that knows what a drawn lesion is."""

Table = list[dict[str, str]]


def draw_scan(path: Path, seed: int, slices: int = 4) -> None:
    """A round head with smooth texture on an oblique grid; every third has a bright lesion."""
    rng = np.random.default_rng(seed)
    i, j, _ = np.indices((28, 30, slices))
    head = ((i - 14) ** 2 + (j - 15) ** 2) < 144
    array = np.where(head, 300 + 40 * rng.standard_normal(head.shape), 0)
    if seed % 3 == 0:
        array[9:16, 11:18, 1:3] += 400.0
    nib.save(nib.Nifti1Image(array.astype(np.int16), OBLIQUE), path)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Twelve scans of 3 to 5 slices; the sixth is torn."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(12):
        draw_scan(folder / f"case_{number:02d}.nii.gz", number, slices=3 + number % 3)
    whole = (folder / "case_05.nii.gz").read_bytes()
    (folder / "case_05.nii.gz").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture
def read_tables() -> Callable[[Path], dict[str, Table]]:
    """The three tables of a run."""

    def read(out: Path) -> dict[str, Table]:
        tables = {}
        for name in ("volumes", "slices", "lesions"):
            with (out / f"{name}.csv").open() as file:
                tables[name] = list(csv.DictReader(file))
        return tables

    return read
