"""A finished job's heatmap as a file of the format asked for, in the grid of its volume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813

from aaclip_med.data.volumes import LPS_TO_RAS, Volume
from aaclip_med.data.writing import write_file, write_heatmap
from aaclip_med.server.jobs import Job

Format = Literal["npy", "nii.gz", "nrrd"]

MEDIA_TYPES: dict[Format, str] = {
    "npy": "application/octet-stream",
    "nii.gz": "application/gzip",
    "nrrd": "application/octet-stream",
}


def provide_heatmap(job: Job, form: Format) -> Path:
    """The file, made when it is first asked for: float32, ``npy`` in the order (K, J, I).

    A NIfTI volume's heatmap has its header's geometry; otherwise ``ijk_to_ras`` of the result gives it.

    Raises:
        OutputError: it cannot be written.
        FileNotFoundError: the results are gone.
    """
    path = job.folder / f"heatmap.{form}"
    if path.exists():
        return path
    heatmap = np.load(job.folder / "heatmap.npy", mmap_mode="r")
    result = json.loads((job.folder / "result.json").read_text(encoding="utf-8"))
    affine = np.array(result["ijk_to_ras"])
    if form == "nrrd":
        _write_nrrd(path, heatmap, affine)
    else:
        shape = heatmap.T.shape if job.header is None else job.header.get_data_shape()
        like = Volume(heatmap.T, affine, path, job.header, tuple(shape), is_picture=False)
        write_heatmap(path, heatmap.T, like, result["run"]["note"])
    return path


def _write_nrrd(path: Path, heatmap: np.ndarray[Any, Any], affine: np.ndarray[Any, Any]) -> None:
    image = sitk.GetImageFromArray(heatmap)
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    write_file(path, lambda temporary: sitk.WriteImage(image, str(temporary), useCompression=True))
