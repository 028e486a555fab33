"""The script that makes volumes with a lesion in another place."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from aaclip_med.data.index import read_index
from aaclip_med.data.sources import read_source
from aaclip_med.data.volumes import read_mask
from scripts.move_lesion import Move, main, put, take_out

AFFINE = np.array([[0.0, -3.0, 0.0, 60.0], [-3.0, 0.0, 0.0, 50.0], [0.0, 0.0, 4.0, -40.0], [0.0, 0.0, 0.0, 1.0]])
"""The first axis goes to posterior, the second to the left."""


@pytest.fixture
def scan(tmp_path: Path) -> tuple[Path, Path]:
    """A head of 300 with a ball of 600 at one side of it."""
    i, j, k = np.indices((64, 56, 40))
    distance = ((i - 32) / 28) ** 2 + ((j - 28) / 24) ** 2 + ((k - 20) / 17) ** 2
    mask = (i - 24) ** 2 + (j - 18) ** 2 + ((k - 24) * 1.5) ** 2 < 30
    paths = tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz"
    nib.save(nib.Nifti1Image(np.where(distance < 1, 300 + 300 * mask, 0).astype(np.int16), AFFINE), paths[0])
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), AFFINE), paths[1])
    return paths


def test_the_lesion_is_taken_out_and_lies_where_it_was_moved(scan: tuple[Path, Path]) -> None:
    volume = read_source(scan[0])
    mask = read_mask(scan[1], volume)
    healthy, difference = take_out(volume, volume.array.astype(np.float32), mask)
    assert healthy[mask].max() < 320
    image, lesion = put(volume, healthy, difference, mask, Move((20.0, 30.0, -15.0), 1.2, 0.5, turned=False))
    moved = (np.argwhere(lesion).mean(axis=0) - np.argwhere(mask).mean(axis=0)) * volume.spacing
    assert np.abs(moved - (20.0, 30.0, -15.0)).max() < 1.0
    assert lesion.sum() == pytest.approx(1.2**3 * mask.sum(), rel=0.1)
    assert image[lesion].mean() > 380 > 320 > image[(image > 0) & ~lesion].mean()


def test_the_script_writes_an_index_that_trains_on_the_scan_and_tests_on_the_moved(
    scan: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.move_lesion.MOVES", [Move((20, 30, -15), 1.0, 1.0, False), Move((0, 40, 0), 0.9, 0.8, True)])
    for name in ("one", "same"):
        monkeypatch.setattr("sys.argv", ["move_lesion", *map(str, scan), "--out", str(tmp_path / name)])
        main()
    whole, *others = read_index(tmp_path / "one" / "index.jsonl")
    assert (whole.image_path, whole.split) == (scan[0], "train")
    assert [case.split for case in others] == ["test", "test"]
    for case in others:
        volume = read_source(case.image_path)
        lesion = read_mask(case.mask_path, volume)
        assert lesion.any()
        assert not lesion[volume.array == 0].any()
        assert volume.array[lesion].mean() > 1.1 * volume.array[(volume.array > 0) & ~lesion].mean()
        assert np.allclose(volume.affine, AFFINE)
        same = read_source(tmp_path / "same" / case.image_path.name)
        assert np.array_equal(same.array, volume.array)
