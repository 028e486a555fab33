"""Scored cases for the report's tests: a dark block with one bright, hot spot at a known place of the patient."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from aaclip_med.data.planes import plan_volume
from aaclip_med.data.volumes import LPS_TO_RAS, Volume
from aaclip_med.inference.case import ScoredCase
from aaclip_med.presets import PlaneName
from aaclip_med.scoring.candidates import label_candidates

SHAPE = (40, 50, 24)
SPACING = (2.0, 2.0, 4.0)
SPOT = (slice(7, 13), slice(36, 42), slice(15, 19))
"""In RAS order: at the patient's left, in front, above the middle."""
THRESHOLD = 0.999
HOT = 0.99995


def draw_volume(codes: str = "RAS", tilt: float = 0.1) -> tuple[Volume, np.ndarray]:
    """The scan with its axes along ``codes``, slightly oblique, and its heat."""
    i, j, k = np.indices(SHAPE)
    values = 200.0 + 40.0 * np.sin(i / 3.0) * np.cos(j / 4.0) + 5.0 * k
    heat = np.full(SHAPE, 0.3, dtype=np.float32)
    values[SPOT] = 900.0
    heat[SPOT] = HOT
    values[:2] = values[-2:] = 0.0
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(tuple(codes)))
    rotation = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    affine = nib.affines.from_matvec(rotation @ np.diag(SPACING), [-30.0, -40.0, 12.0]) @ inv_ornt_aff(turn, SHAPE)
    array = np.ascontiguousarray(apply_orientation(values.astype(np.int16), turn))
    volume = Volume(array, affine, Path("scan.nii.gz"), None, array.shape, is_picture=False)
    return volume, np.ascontiguousarray(apply_orientation(heat, turn))


def draw_picture(colour: bool = False) -> tuple[Volume, np.ndarray]:
    """A picture of 90 x 60 pixels with a bright, hot spot at columns 60 to 74, rows 10 to 19."""
    values = np.full((90, 60, 1), 60, dtype=np.uint8)
    heat = np.full(values.shape, 0.3, dtype=np.float32)
    values[60:75, 10:20] = 220
    heat[60:75, 10:20] = HOT
    array = np.stack([values, values // 2, values // 4], axis=-1) if colour else values
    return Volume(array, LPS_TO_RAS.copy(), Path("photo.png"), None, (90, 60, 1), is_picture=True), heat


def score(volume: Volume, heat: np.ndarray, plane: PlaneName, p_value: float | None = 0.05) -> ScoredCase:
    """What scoring would have said of ``heat``, calibrated unless ``p_value`` is None."""
    plan = plan_volume(volume, plane)
    maxima = plan.cut(heat).reshape(plan.stack_shape[0], -1).max(axis=1)
    candidates, labels = label_candidates(heat, THRESHOLD, volume.affine, plan.axis)
    return ScoredCase(
        heatmap=heat,
        axis=plan.axis,
        slices=list(range(len(maxima))),
        slice_scores=maxima,
        detection=np.zeros_like(maxima),
        score=float(np.sort(maxima)[-3:].mean()),
        p_value=p_value,
        percentile=None if p_value is None else 95.0,
        candidates=candidates,
        labels=labels,
    )
