"""A small study of oblique volumes, one patient with two scans, and predictors with the shipped adapters."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from aaclip_med.inference.predictor import Predictor, load_predictor
from tests.cli.conftest import OBLIQUE, draw_head


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five volumes, two with a bright lesion; ``index.jsonl``, and ``broken.jsonl`` with a sixth that cannot be read."""
    folder = tmp_path_factory.mktemp("heads")
    rows = []
    for number in range(5):
        array, mask = draw_head(number, lesion=number % 2 == 1)
        nib.save(nib.Nifti1Image(array, OBLIQUE), folder / f"head_{number}.nii.gz")
        nib.save(nib.Nifti1Image(mask, OBLIQUE), folder / f"mask_{number}.nii.gz")
        rows.append(
            {
                "image_path": f"head_{number}.nii.gz",
                "label": number % 2,
                "class_name": "Brain",
                "mask_path": f"mask_{number}.nii.gz",
                "patient": f"p{number // 2}",
                "preset": "brain-mri",
            }
        )
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    nib.save(nib.Nifti1Image(np.zeros((28, 30, 8), np.int16), OBLIQUE), folder / "empty.nii.gz")
    rows.append(rows[1] | {"image_path": "empty.nii.gz", "patient": "p9"})
    (folder / "broken.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def demo_predictor() -> Predictor:
    return load_predictor("demo", "brain-mri", image_size=80)


@pytest.fixture(scope="session")
def untrained_predictor() -> Predictor:
    return load_predictor("none", "brain-mri", backbone="tiny", image_size=80, refinement="best")
