"""The scans that nibabel ships: each is read where nibabel puts it, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from aaclip_med.data.volumes import read_volume
from aaclip_med.errors import InputError

SAMPLES = sorted(Path(nib.__file__).parent.rglob("*.nii*"))
REFUSED = {"row_major.dconn.nii": "CIFTI", "resampled_anat_moved.nii": "NaN"}


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_sample_of_nibabel_is_read_or_refused_by_name(path: Path) -> None:
    shape = nib.load(path).shape
    if path.name in REFUSED:
        with pytest.raises(InputError, match=REFUSED[path.name]):
            read_volume(path)
        return
    if len(shape) == 4:
        with pytest.raises(InputError, match=f"{shape[3]} volumes"):
            read_volume(path)
    volume = read_volume(path, number=shape[3] - 1 if len(shape) == 4 else None)
    wanted = np.asanyarray(nib.load(path).dataobj)
    np.testing.assert_allclose(volume.array, wanted[..., -1] if len(shape) == 4 else wanted, rtol=1e-6)  # ours is float32
    np.testing.assert_array_equal(volume.affine, nib.load(path).affine)
