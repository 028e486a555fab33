"""A study of normal scans and their twins with synthetic lesions: whole volumes, masks and an index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aaclip_med.data.index import Case, write_index
from aaclip_med.data.planes import plan_volume
from aaclip_med.data.sampling import name_patients, patient_of
from aaclip_med.data.scans import unique_names
from aaclip_med.data.slices import choose_preset, read_organ
from aaclip_med.data.sources import read_source
from aaclip_med.data.staging import staged_folder
from aaclip_med.data.synthesis.shapes import find_foreground
from aaclip_med.data.synthesis.synthesis import Synthesis, Synthetic
from aaclip_med.data.volumes import Volume
from aaclip_med.data.windowing import apply_window, find_range
from aaclip_med.data.writing import write_file, write_nifti
from aaclip_med.errors import InputError
from aaclip_med.presets import Preset

Array = np.ndarray[Any, Any]
NOTE = "synthetic lesions drawn by aaclip-med"


@dataclass(frozen=True)
class SyntheticStudy:
    """What was written. index: the index file. scans: how many have lesions. bare: the normal scans that took none."""

    index: Path
    scans: int
    bare: tuple[Path, ...]


def synthesise_study(
    cases: Sequence[Case],
    preset: Preset,
    out: str | Path,
    seed: int = 0,
    synthesis: Synthesis | None = None,
    track: Callable[[Sequence[Case]], Iterable[Case]] = iter,
) -> SyntheticStudy:
    """Write for each normal case a copy with lesions and their mask, into ``images`` and ``masks`` of the new folder ``out``.

    ``out/index.jsonl`` has the normal cases as they are and the copies, which are of the same patient and split. Lesions
    are drawn under the preset's window, in three dimensions (pictures in two), within the case's slices and organ. Voxels
    outside the mask keep their values; the others get the window's. Volumes become NIfTI in the scan's own grid, pictures PNG.

    Raises:
        InputError: no case is normal, one cannot be read or its patient cannot be told, or none took a lesion.
        OutputError: ``out`` holds something already, or cannot be written.
    """
    normal = [replace(case, patient=patient_of(case)) for case in name_patients([case for case in cases if not case.label])]
    if not normal:
        raise InputError("the index has no normal row (label 0) to put lesions into; add normal scans")
    synthesis = synthesis or Synthesis()
    names = unique_names([case.image_path for case in normal])
    rows: list[Case] = []
    bare = []
    with staged_folder(out) as folder:
        for part in ("images", "masks"):
            (folder / part).mkdir()
        for number, case in enumerate(track(normal)):
            volume = read_source(case.image_path, allow_blank_picture=True)
            rng = np.random.default_rng((seed, number))
            drawn, values = _draw(case, volume, choose_preset(case, preset), synthesis, rng)
            if not drawn.names:
                bare.append(case.image_path)
                continue
            ending = ".png" if volume.is_picture else ".nii.gz"
            image, mask = (folder / part / f"{names[number]}{ending}" for part in ("images", "masks"))
            _write(image, values, volume)
            _write(mask, drawn.mask.astype(np.uint8) * (255 if volume.is_picture else 1), volume)
            rows.append(replace(case, image_path=image, mask_path=mask, label=1))
        if not rows:
            raise InputError("no normal scan took a lesion: they show too little of the body or the organ")
        write_index([*normal, *rows], folder / "index.jsonl")
    return SyntheticStudy(Path(out) / "index.jsonl", len(rows), tuple(bare))


def _draw(
    case: Case, volume: Volume, preset: Preset, synthesis: Synthesis, rng: np.random.Generator
) -> tuple[Synthetic, Array]:
    """What is drawn, its mask (I, J, K), and the volume's values with it."""
    organ = read_organ(case.organ_path, volume) if case.organ_path else None
    shown = apply_window(volume, preset.window, organ)
    channels = np.moveaxis(shown, -1, 0) if shown.ndim == 4 else shown[None]
    spacing = volume.spacing
    low, high = find_range(volume, preset.window, organ)
    if case.slices:
        organ = find_foreground(channels, spacing) if organ is None else organ
        stack = plan_volume(volume, case.plane or preset.plane).cut(organ)
        stack[: case.slices[0]] = False
        stack[case.slices[1] + 1 :] = False
    if volume.is_picture:
        flat = synthesis.draw(channels[..., 0], rng, spacing[:2], None if organ is None else organ[..., 0])
        drawn = Synthetic(flat.values[..., None], flat.mask[..., None], flat.names)
    else:
        drawn = synthesis.draw(channels, rng, spacing, organ)
    new = low + (np.moveaxis(drawn.values, 0, -1) if shown.ndim == 4 else drawn.values[0])[drawn.mask] * (high - low)
    values = volume.array.copy()
    if np.issubdtype(values.dtype, np.integer):
        limits = np.iinfo(values.dtype)
        new = np.rint(new).clip(limits.min, limits.max)
    values[drawn.mask] = new
    return drawn, values


def _write(path: Path, array: Array, like: Volume) -> None:
    """A volume as NIfTI, a picture (W, H, 1) or (W, H, 1, 3) as PNG, of 16 bits where it has fractions."""
    if not like.is_picture:
        write_nifti(path, array, like, NOTE)
        return
    picture = array[:, :, 0].swapaxes(0, 1)
    if picture.dtype not in (np.uint8, np.uint16):
        picture = np.rint(picture * np.float64(65535)).astype(np.uint16)
    write_file(path, Image.fromarray(np.ascontiguousarray(picture)).save)
