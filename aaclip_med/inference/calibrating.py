"""Calibration from normal cases, stored in the adapters file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from aaclip_med.data.index import Case
from aaclip_med.data.slices import cut_case
from aaclip_med.data.writing import atomic_path
from aaclip_med.errors import InputError
from aaclip_med.inference.predictor import LOG_ODDS_LIMIT, Predictor
from aaclip_med.scoring.calibration import Calibration, CalibrationBuilder

Track = Callable[[Sequence[Case]], Iterable[Case]]


def calibrate(cases: Sequence[Case], predictor: Predictor, track: Track = iter) -> Calibration:
    """The distribution of the scores of normal cases: foreground voxels (above 0 under the window) and volumes.

    Rows of abnormal cases are left out.

    Raises:
        InputError: no row is normal, or a normal case cannot be read.
    """
    normal = [case for case in cases if case.label == 0]
    if not normal:
        raise InputError("no normal case (label 0) in this index; calibration needs normal cases that were not trained on")
    builder = CalibrationBuilder(-LOG_ODDS_LIMIT, LOG_ODDS_LIMIT)
    for case in track(normal):
        cut = cut_case(case, predictor.preset)
        prediction = predictor.predict(cut)
        heat, images = cut.plan.cut(prediction.heatmap)[cut.used], cut.images[cut.used]
        foreground = (images.max(axis=-1) if images.ndim == 4 else images) > 0
        builder.add_volume(heat[foreground], prediction.score)
    return builder.build()


def store_calibration(predictor: Predictor, calibration: Calibration, path: str | Path) -> None:
    """Write the predictor's checkpoint with ``calibration`` to ``path``, whole or not at all.

    Raises:
        InputError: the predictor comes from no adapters file of ours.
        OutputError: the file cannot be written.
    """
    if predictor.checkpoint is None:
        raise InputError("only an aaclip-med adapters file can hold a calibration; train one or convert the released pair")
    content = replace(predictor.checkpoint, calibration=calibration.to_json()).to_bytes()
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
