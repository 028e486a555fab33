"""Sample data without a download: phantoms drawn on the spot by the package."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer

from .process import explain_exit
from .runner import LocalWork
from .work import WorkError

# Arrays and a matrix, no image file: nothing can be turned over on the way.
_DRAW = """
import json, sys
from pathlib import Path
import numpy as np
from aaclip_med.data.phantoms import make_phantom
folder, preset, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
phantom = make_phantom(preset, seed, True)
np.save(folder / "volume.npy", np.ascontiguousarray(phantom.array.T))
np.save(folder / "lesions.npy", np.ascontiguousarray(phantom.mask.T).astype(np.uint8))
print(json.dumps(np.asarray(phantom.affine).tolist()))
"""


@dataclass(frozen=True)
class Phantom:
    """voxels and lesions: (K, J, I). ijk_to_ras: (4, 4), RAS mm."""

    name: str
    voxels: np.ndarray
    lesions: np.ndarray
    ijk_to_ras: np.ndarray


class Drawing(LocalWork):
    """Draws one phantom with lesions."""

    def __init__(self, preset: str, seed: int, python: str, is_own: bool = True) -> None:
        super().__init__(python, is_own)
        self.preset = preset
        self.seed = seed

    def do(self) -> Phantom:
        """The phantom."""
        self.tell(0.2, "drawing a phantom")
        with tempfile.TemporaryDirectory(prefix="aaclip_med_", ignore_cleanup_errors=True) as name:
            said: list[str] = []
            child = self.run_python(["-c", _DRAW, name, self.preset, str(self.seed)], said.append)
            if child.process.returncode != 0 or not said:
                raise WorkError(explain_exit(child.process.returncode, child.complaints))
            folder = Path(name)
            return Phantom(
                f"Phantom {self.preset} {self.seed}",
                np.load(folder / "volume.npy"),
                np.load(folder / "lesions.npy"),
                np.array(json.loads(said[-1])),
            )


def add_phantom(phantom: Phantom) -> tuple[slicer.vtkMRMLScalarVolumeNode, slicer.vtkMRMLLabelMapVolumeNode]:
    """The phantom and its lesions as nodes."""
    volume = slicer.util.addVolumeFromArray(phantom.voxels, ijkToRAS=phantom.ijk_to_ras, name=phantom.name)
    volume.CreateDefaultDisplayNodes()
    lesions = slicer.util.addVolumeFromArray(
        phantom.lesions, ijkToRAS=phantom.ijk_to_ras, name=f"{phantom.name} lesions", nodeClassName="vtkMRMLLabelMapVolumeNode"
    )
    lesions.CreateDefaultDisplayNodes()
    return volume, lesions
