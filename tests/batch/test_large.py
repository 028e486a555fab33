"""Volumes that memory does not hold."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from aaclip_med import arrays
from aaclip_med.batch.reader import Limits, Reader
from aaclip_med.data.sources import find_sources
from aaclip_med.data.volumes import read_volume
from aaclip_med.inference.case import score_case
from aaclip_med.inference.cutting import Cutting
from aaclip_med.inference.predictor import load_predictor
from tests.batch.conftest import draw_scan


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_a_volume_read_slice_by_slice_into_a_file_is_scored_as_one_in_memory(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_scan(tmp_path / f"scan.{ending}", 0, slices=6)
    predictor = load_predictor("demo", "brain-mri")
    volume = read_volume(tmp_path / f"scan.{ending}")
    wanted = score_case(volume, predictor, Cutting(), None, 0.9, 0.0)
    monkeypatch.setattr(arrays, "SHARE", 10**12)
    monkeypatch.setattr(arrays, "SLAB_BYTES", 1000)
    large = read_volume(tmp_path / f"scan.{ending}")
    assert isinstance(large.array.base, np.memmap)
    np.testing.assert_array_equal(large.array, volume.array)
    found = score_case(large, predictor, Cutting(), None, 0.9, 0.0)
    np.testing.assert_array_equal(found.heatmap, wanted.heatmap)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    assert found.candidates == wanted.candidates


def test_reading_takes_less_memory_than_the_volume(tmp_path: Path) -> None:
    array = np.zeros((512, 512, 1200), dtype=np.int16)
    array[5, 6, 7] = 3
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii.gz")
    (source,) = find_sources([tmp_path / "scan.nii.gz"]).sources
    reader = Reader(Limits(megabytes=array.nbytes // 2**20 // 2))
    volume, _ = reader.read(source, None)
    reader.end()
    assert volume.array.shape == array.shape
    assert volume.array[5, 6, 7] == 3
    assert isinstance(volume.array, np.memmap)
    assert not volume.array.flags.writeable
