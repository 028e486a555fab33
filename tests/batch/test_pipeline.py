"""Who does what in a run: the thread that keeps the model busy does nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aaclip_med.cli.main import main
from aaclip_med.data.volumes import read_volume
from aaclip_med.inference.case import score_case
from aaclip_med.inference.cutting import Cutting
from aaclip_med.inference.predictor import load_predictor
from tests.batch.conftest import DEMO


class Enlargements(TorchDispatchMode):
    """Counts how often this thread brings maps to the size of slices, whose corners are not aligned."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket is torch.ops.aten.upsample_bilinear2d:
            self.count += not args[2]
        return func(*args, **(kwargs or {}))


def test_heatmaps_are_made_beside_the_model_and_are_those_of_a_case_alone(scans: Path, tmp_path: Path) -> None:
    with Enlargements() as beside:
        assert main(["score", str(scans), *DEMO, "--out", str(tmp_path / "out")]) == 3
    predictor = load_predictor("demo", "brain-mri")
    with Enlargements() as alone:
        for number in (0, 3, 4):
            volume = read_volume(scans / f"case_{number:02d}.nii.gz")
            wanted = score_case(volume, predictor, Cutting(), None, 0.9, 0.0).heatmap
            found = nib.load(tmp_path / "out" / "heatmaps" / f"case_{number:02d}_heatmap.nii.gz").get_fdata(dtype=np.float32)
            np.testing.assert_array_equal(found, wanted)
    assert beside.count == 0
    assert alone.count > 0
