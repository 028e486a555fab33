"""``train --feature-cache``, ``--text-draws`` and ``--checkpointing``: only fewer draws change adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from safetensors.numpy import load_file

from aaclip_med.cli.main import main

ARGUMENTS = [
    *("train", "--preset", "brain-mri", "--backbone", "tiny", "--image-size", "40"),
    *("--text-epochs", "2", "--image-epochs", "1", "--image-batch-size", "4"),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six heads (28, 30, 4) for training and two for validation, every other one with a lesion."""
    folder = tmp_path_factory.mktemp("heads")
    rows = []
    i, j, k = np.indices((28, 30, 4))
    head, lesion = (i - 14) ** 2 + (j - 15) ** 2 < 144, (i - 12) ** 2 + (j - 13) ** 2 < 16
    for number in range(8):
        array = np.where(head, 300 + 60 * np.sin(i / 3 + number) * np.cos(j / 4 + k), 0) + 500 * lesion * (number % 2)
        nib.save(nib.Nifti1Image(array.astype(np.int16), np.eye(4)), folder / f"{number}.nii.gz")
        row = {"image_path": f"{number}.nii.gz", "label": number % 2, "class_name": "Brain"}
        if number % 2:
            nib.save(nib.Nifti1Image(lesion.astype(np.uint8), np.eye(4)), folder / f"{number}_mask.nii.gz")
            row["mask_path"] = f"{number}_mask.nii.gz"
        rows.append(row | {"split": "val" if number > 5 else "train"})
    path = folder / "index.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(index: Path, out: Path, *options: str) -> dict[str, Any]:
    """The adapters that the command makes."""
    assert main([*ARGUMENTS, *options, "--index", str(index), "--out", str(out)]) == 0
    return dict(load_file(out / "adapters.safetensors"))


@pytest.mark.parametrize(
    "augmentation", [["--no-augmentation"], [], ["--text-draws", "1"], ["--text-draws", "1", "--normal-only"]]
)
def test_features_are_kept_of_images_that_come_again_and_the_adapters_are_the_same(
    index: Path, tmp_path: Path, augmentation: list[str]
) -> None:
    adapters = []
    for number, options in enumerate(([], ["--feature-cache", str(tmp_path / "features"), "--checkpointing"])):
        adapters.append(train(index, tmp_path / str(number), *augmentation, *options))
    kept, validation, training = len(list((tmp_path / "features").iterdir())), 2 * 4, 6 * 4
    assert validation < kept <= validation + training if augmentation else kept == validation
    assert adapters[0].keys() == adapters[1].keys()
    for name, tensor in adapters[0].items():
        np.testing.assert_allclose(adapters[1][name], tensor, rtol=0, atol=1e-4, err_msg=name)


def test_a_draw_for_each_epoch_is_the_default_fewer_are_not_and_a_run_is_not_taken_up_with_another_number(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    default, two, one = (
        train(index, tmp_path / name, *options)
        for name, options in (("default", []), ("two", ["--text-draws", "2"]), ("one", ["--text-draws", "1"]))
    )
    assert all(np.array_equal(two[name], tensor) for name, tensor in default.items())
    assert not all(np.array_equal(one[name], tensor) for name, tensor in default.items())
    assert main([*ARGUMENTS, "--text-draws", "2", "--index", str(index), "--out", str(tmp_path / "one")]) == 2
    assert "other settings (text_draws)" in capsys.readouterr().err
