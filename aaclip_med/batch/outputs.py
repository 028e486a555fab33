"""What is written of each case."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aaclip_med.batch.account import Account
from aaclip_med.batch.bids import BidsTree
from aaclip_med.batch.dicom_objects import require_highdicom, write_measurements, write_parametric_map, write_segmentation
from aaclip_med.batch.report.preview import draw_preview
from aaclip_med.data.sources import Source
from aaclip_med.data.volumes import Volume
from aaclip_med.data.writing import prepare_output_folder, write_file, write_image
from aaclip_med.errors import InputError
from aaclip_med.inference.case import ScoredCase
from aaclip_med.presets import Preset

Array = np.ndarray[Any, Any]

HEATMAP_FORMATS = ("nii.gz", "nrrd", "mha")
_OBJECTS = {
    "dicom_seg": ("seg", write_segmentation),
    "dicom_pm": ("pm", write_parametric_map),
    "dicom_sr": ("sr", write_measurements),
}


@dataclass(frozen=True)
class Outputs:
    """Which files a run writes.

    heatmap_format: of heatmap, mask and labels. bids: instead of these a BIDS derivatives tree. dicom_seg, dicom_pm, dicom_sr:
    DICOM objects beside the source series; a report (sr) points to the segmentation, so it brings that along. report: the page
    of all cases. preview_kb: what a case may take in it.
    """

    heatmap_format: str = "nii.gz"
    bids: bool = False
    dicom_seg: bool = False
    dicom_pm: bool = False
    dicom_sr: bool = False
    report: bool = True
    preview_kb: int = 100

    def describe(self) -> dict[str, Any]:
        """What may not change within a run."""
        return {name: value for name, value in asdict(self).items() if name != "preview_kb"}


class CaseWriter:
    """Writes the files of one case after another into ``out``."""

    def __init__(self, out: Path, outputs: Outputs, account: Account, preset: Preset, source_root: Path | None = None) -> None:
        """``source_root``: the BIDS data set that the scans are from, if they are.

        Raises:
            InputError: DICOM objects are wanted and highdicom is not installed.
            OutputError: the folder cannot be written to.
        """
        self.out = out
        self.outputs = outputs
        self.account = account
        self.preset = preset
        self.tree = BidsTree(out, account, source_root) if outputs.bids else None
        if outputs.dicom_seg or outputs.dicom_pm or outputs.dicom_sr:
            require_highdicom()

    def write(self, source: Source, volume: Volume, organ: Array | None, case: ScoredCase) -> tuple[list[Path], list[str]]:
        """The files that were written, and why DICOM objects could not be.

        Raises:
            InputError: the scan's grid does not fit the format.
            OutputError: a file cannot be written.
        """
        files = self._write_images(source, volume, case)
        problems = []
        for option, (name, write) in _OBJECTS.items():
            if getattr(self.outputs, option) or (option == "dicom_seg" and self.outputs.dicom_sr):
                path = self._place("dicom", f"{source.name}_{name}.dcm")
                try:
                    write(path, source, volume, case, self.account)
                    files.append(path)
                except InputError as error:
                    problems.append(f"no DICOM {name.upper()}: {error}")
        if self.outputs.report:
            path = self.preview_path(source.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            preview = draw_preview(volume, case, self.preset, organ, self.account.threshold, self.outputs.preview_kb)
            write_file(path, lambda temporary: temporary.write_bytes(preview))
            files.append(path)
        return files, problems

    def _write_images(self, source: Source, volume: Volume, case: ScoredCase) -> list[Path]:
        if self.tree is not None:
            return self.tree.add_case(source.name, source.path, volume, case)
        images = {"heatmap": case.heatmap, "mask": (case.labels > 0).astype(np.uint8), "labels": case.labels}
        note = f"aaclip-med {'DEMONSTRATION; ' if self.account.demonstration else ''}{self.account.scale}"
        files = []
        for kind, array in images.items():
            path = self._place(kind if kind == "labels" else f"{kind}s", f"{source.name}_{kind}.{self.outputs.heatmap_format}")
            write_image(path, array, volume, note if kind == "heatmap" else self.account.operating_point)
            files.append(path)
        return files

    def _place(self, folder: str, name: str) -> Path:
        return prepare_output_folder(self.out / folder) / name

    def preview_path(self, name: str) -> Path:
        """Where the preview of case ``name`` is kept."""
        digest = hashlib.sha256(name.encode()).hexdigest()[:24]
        return self.out / ".run" / "previews" / digest[:2] / f"{digest}.json"
