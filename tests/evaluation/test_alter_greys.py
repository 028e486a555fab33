"""The script that shows scans as another scanner might."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from aaclip_med.data.index import Case, read_index, write_index
from aaclip_med.data.sources import read_source
from scripts.alter_greys import ALTERATIONS, main

AFFINE = np.array([[0.0, -3.0, 0.0, 60.0], [-3.0, 0.0, 0.0, 50.0], [0.0, 0.0, 4.0, -40.0], [0.0, 0.0, 0.0, 1.0]])


def test_each_test_scan_is_altered_in_its_own_grid_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    i, j, k = np.indices((32, 28, 20))
    head = ((i - 16) / 14) ** 2 + ((j - 14) / 12) ** 2 + ((k - 10) / 8) ** 2 < 1
    lesion = (i - 12) ** 2 + (j - 9) ** 2 + (k - 12) ** 2 < 9
    scan = np.where(head, 300 + 20 * np.sin(i) + 300 * lesion, 0).astype(np.float32)
    nib.save(nib.Nifti1Image(scan, AFFINE), tmp_path / "scan.nii.gz")
    nib.save(nib.Nifti1Image(lesion.astype(np.uint8), AFFINE), tmp_path / "mask.nii.gz")
    case = Case(tmp_path / "scan.nii.gz", 1, "Brain", tmp_path / "mask.nii.gz", patient="a", split="test")
    nib.save(nib.Nifti1Image(scan, AFFINE), tmp_path / "other.nii.gz")
    other = Case(tmp_path / "other.nii.gz", 1, "Brain", case.mask_path, patient="b", split="train")
    write_index([case, other], tmp_path / "index.jsonl")
    for name in ("one", "same"):
        monkeypatch.setattr("sys.argv", ["alter_greys", str(tmp_path / "index.jsonl"), "--out", str(tmp_path / name)])
        main()
    tissue = head & ~lesion
    contrast, grain = {}, {}
    for name in ALTERATIONS:
        (row,) = read_index(tmp_path / "one" / f"{name}.jsonl")
        assert (row.patient, row.split, row.mask_path) == ("a", "test", case.mask_path)
        volume = read_source(row.image_path)
        np.testing.assert_array_equal(volume.affine, AFFINE)
        np.testing.assert_array_equal(volume.array == 0, ~head)
        np.testing.assert_array_equal(volume.array, read_source(tmp_path / "same" / row.image_path.name).array)
        contrast[name] = volume.array[lesion].mean() / volume.array[tissue].mean()
        grain[name] = np.diff(volume.array, axis=2)[tissue[..., 1:] & tissue[..., :-1]].std()
    before = scan[lesion].mean() / scan[tissue].mean()
    assert contrast["brighter"] < 0.9 * before < 1.1 * before < contrast["darker"]
    assert contrast["fainter"] < 0.9 * before
    assert grain["noisy"] > 10 * grain["shaded"]
