"""Whole sets of phantoms on disk: volumes, masks and the three index files of an experiment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import nibabel as nib

from aaclip_med.data.phantoms.phantom import make_phantom
from aaclip_med.errors import InputError, OutputError
from aaclip_med.presets import get_preset

_PARTS = {"train": "train", "calibration": "val", "test": "test"}
"""The parts of a set, and the split that index files call them by."""
_ROOM = 10_000


class PhantomSet(NamedTuple):
    """The index files (JSON lines) that `write_phantom_set` wrote; paths inside them are relative to their folder."""

    train: Path
    calibration: Path
    test: Path


def write_phantom_set(folder: Path, preset_name: str, n_train: int, n_normal: int, n_test: int, seed: int) -> PhantomSet:
    """Write phantoms for training (2 of 3 abnormal), calibration (all normal) and testing (every other one abnormal).

    Volumes go to ``<folder>/<part>/<preset>_<part>_<number>.nii.gz``, where the part is train, calibration or test;
    masks (1 = lesion; all 0 for a normal phantom) to ``<folder>/masks/`` under the same name with ``_mask``. No two
    phantoms of a set share a seed, and the test phantoms do not depend on how many are made for training.

    Args:
        folder: created where needed; files of the same names are overwritten.
        preset_name: ``brain-mri``, ``liver-ct`` or ``retinal-oct``.
        n_train: phantoms to train on.
        n_normal: normal phantoms to calibrate on.
        n_test: phantoms to test on.
        seed: 0 or more; another seed gives other phantoms throughout.

    Raises:
        InputError: unknown preset, or a number out of range.
        OutputError: the folder cannot be written to.
    """
    class_name = get_preset(preset_name).class_name
    counts = dict(zip(_PARTS, (n_train, n_normal, n_test), strict=True))
    for part, count in counts.items():
        if not 0 <= count < _ROOM:
            raise InputError(f"{count} {part} phantoms asked for; give 0 to {_ROOM - 1}")
    if seed < 0:
        raise InputError(f"phantom seed {seed} is negative; give 0 or more")
    indexes = []
    try:
        (folder / "masks").mkdir(parents=True, exist_ok=True)
        for number, (part, split) in enumerate(_PARTS.items()):
            (folder / part).mkdir(exist_ok=True)
            rows = []
            for i in range(counts[part]):
                abnormal = _is_abnormal(part, i)
                phantom = make_phantom(preset_name, (seed * len(_PARTS) + number) * _ROOM + i, abnormal)
                name = f"{preset_name}_{part}_{i:03d}"
                image, mask = Path(part, f"{name}.nii.gz"), Path("masks", f"{name}_mask.nii.gz")
                for array, path in ((phantom.array, image), (phantom.mask, mask)):
                    nib.save(nib.Nifti1Image(array, phantom.affine), folder / path)
                rows.append(
                    {
                        "image_path": image.as_posix(),
                        "label": int(abnormal),
                        "class_name": class_name,
                        "mask_path": mask.as_posix(),
                        "patient": name,
                        "split": split,
                        "preset": preset_name,
                    }
                )
            index = folder / f"{part}.jsonl"
            index.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            indexes.append(index)
    except OSError as error:
        raise OutputError(f"cannot write phantoms to '{folder}': {error.strerror}; choose a folder you may write to") from error
    return PhantomSet(*indexes)


def _is_abnormal(part: str, number: int) -> bool:
    if part == "calibration":
        return False
    return number % 3 != 2 if part == "train" else number % 2 == 0
