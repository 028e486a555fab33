"""What becomes of a heatmap: files like the command line's, and segments of likelihood for a segmentation editor."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, SaveImaged

from aaclip_med.data.volumes import case_name
from aaclip_med.data.writing import prepare_output_folder, write_heatmap, write_json
from aaclip_med.errors import InputError
from aaclip_med.inference.predictor import Predictor
from aaclip_med.inference.provenance import describe_run
from aaclip_med.zoo.reading import to_volumes

SEGMENTS = ("background", "likelihood low", "likelihood medium", "likelihood high")
"""By their number in the mask."""
STEP = 10.0
"""Each segment begins where a voxel is this many times nearer to heat 1."""


class SaveHeatmapd(SaveImaged):  # type: ignore[misc]
    """Writes ``<case>_heatmap.nii.gz`` as ``aaclip-med score`` does. A ``SaveImaged``, which MONAI Label leaves out."""

    def __init__(self, keys: str, output_dir: str | Path, note: str = "") -> None:
        super().__init__(keys, output_dir=str(output_dir), print_log=False, savepath_in_metadict=False)
        self.folder = Path(output_dir)
        self.note = note

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Unchanged; ``keys`` (1, I, J, K) is written.

        Raises:
            OutputError: the file cannot be written.
        """
        for key in self.keys:
            heat = data[key]
            source = heat.meta.get("filename_or_obj", "image") if isinstance(heat, MetaTensor) else "image"
            (volume,) = to_volumes(heat[None])
            path = prepare_output_folder(self.folder) / f"{case_name(str(source))}_heatmap.nii.gz"
            write_heatmap(path, volume.array, volume, f"aaclip-med {self.note}")
        return dict(data)


class LikelihoodSegmentsd(MapTransform):  # type: ignore[misc]
    """Heat (1, I, J, K) in [0, 1] to the numbers of ``SEGMENTS``, uint8.

    The first segment begins at ``threshold``, the next where 1 minus the heat is a tenth of what it was: of a calibrated map,
    each is ten times rarer among normal voxels.

    Raises:
        InputError: the threshold is not between 0 and 1.
    """

    def __init__(self, keys: str, threshold: float) -> None:
        super().__init__(keys)
        if not 0.0 < threshold < 1.0:
            raise InputError(f"threshold {threshold}: take one between 0 and 1")
        self.edges = [1.0 - (1.0 - threshold) / STEP**number for number in range(len(SEGMENTS) - 1)]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Heat becomes segments under ``keys``."""
        result = dict(data)
        for key in self.keys:
            heat = torch.as_tensor(result[key])
            numbers = torch.from_numpy(
                np.digitize(np.asarray(heat.detach().cpu(), dtype=np.float64), self.edges).astype(np.uint8)
            )
            result[key] = MetaTensor(numbers, meta=heat.meta) if isinstance(heat, MetaTensor) else numbers
        return result


def write_account(predictor: Predictor, output_dir: str | Path) -> None:
    """``run.json``: what the heatmaps of this folder were made with.

    Raises:
        OutputError: it cannot be written.
    """
    write_json(prepare_output_folder(output_dir) / "run.json", describe_run(predictor))
