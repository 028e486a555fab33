"""A small study on disk, and adapters for a toy detector, made once a session."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from aaclip_med.cli.main import main

OBLIQUE = np.array([[-1.9, 0.2, 0.3, 40.0], [0.2, 1.9, 0.5, -50.0], [0.1, -0.4, 4.0, 10.0], [0.0, 0.0, 0.0, 1.0]])


def draw_head(seed: int, lesion: bool) -> tuple[np.ndarray, np.ndarray]:
    """A round head (28, 30, 8) with smooth texture, and a bright lesion in its middle slices."""
    rng = np.random.default_rng(seed)
    i, j, _ = np.indices((28, 30, 8))
    head = ((i - 14) ** 2 + (j - 15) ** 2) < 144
    array = np.where(head, 300 + 40 * rng.standard_normal(head.shape), 0)
    mask = np.zeros(head.shape, dtype=np.uint8)
    if lesion:
        mask[9:16, 11:18, 2:5] = 1
        array = array + 400.0 * mask
    return array.astype(np.int16), mask


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four oblique volumes with masks, two of them with a lesion; ``train.jsonl`` and ``normal.jsonl``."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    rows = []
    for number in range(4):
        array, mask = draw_head(number, lesion=number % 2 == 1)
        for name, data in (("images", array), ("masks", mask)):
            nib.save(nib.Nifti1Image(data, OBLIQUE), folder / name / f"head_{number}.nii.gz")
        rows.append(
            {
                "image_path": f"images/head_{number}.nii.gz",
                "label": number % 2,
                "class_name": "Brain",
                "mask_path": f"masks/head_{number}.nii.gz",
            }
        )
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "normal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if not row["label"]))
    return folder


@pytest.fixture(scope="session")
def adapters(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters that the bundle trained on the study for one epoch a stage, at a small image size."""
    out = tmp_path_factory.mktemp("run")
    arguments = ["--preset", "brain-mri", "--backbone", "tiny", "--image-size", "40", "--text-epochs", "1"]
    arguments += ["--image-epochs", "2", "--index", str(study / "train.jsonl"), "--out", str(out)]
    assert main(["train", *arguments]) == 0
    return out / "adapters.safetensors"
