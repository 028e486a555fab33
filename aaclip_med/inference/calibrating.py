"""Calibration from normal cases, stored in the adapters file."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aaclip_med.data.fusion import ALL_PLANES
from aaclip_med.data.index import Case
from aaclip_med.data.sampling import name_patients
from aaclip_med.data.slices import cut_volume, find_lit, read_organ
from aaclip_med.data.sources import read_source
from aaclip_med.data.volumes import Volume
from aaclip_med.data.writing import atomic_path
from aaclip_med.errors import InputError
from aaclip_med.inference.cutting import Cutting, describe_scale
from aaclip_med.inference.predictor import Prediction, Predictor
from aaclip_med.model.checkpoint import Checkpoint, rename_weights
from aaclip_med.model.heatmap import LOG_ODDS_LIMIT
from aaclip_med.scoring.calibration import Calibration, CalibrationBuilder
from aaclip_med.scoring.operating import OperatingBuilder

Array = np.ndarray[Any, Any]

Track = Callable[[Sequence[Case]], Iterable[Case]]


def calibrate(
    cases: Sequence[Case],
    predictor: Predictor,
    track: Track = iter,
    cutting: Cutting | None = None,
    minimum_ml: float = 0.0,
) -> tuple[Calibration, dict[str, Any]]:
    """The distribution of the scores of normal cases: foreground voxels (above 0 under the window) and volumes; and how many
    candidates of at least ``minimum_ml`` millilitres each threshold would find in them. With it what all of them share, plane
    and window among it, and cases scored with it must: see ``store_calibration``.

    Rows of abnormal cases are left out. Heatmaps wait in the system's temporary folder until the scale is known.

    Raises:
        InputError: no row is normal, a normal case cannot be read or has several rows, two would share an organ mask, or the
            cases differ in what a calibration must share.
    """
    cutting = cutting or Cutting()
    normal = [case for case in cases if case.label == 0]
    if not normal:
        raise InputError("no normal case (label 0) in this index; calibration needs normal cases that were not trained on")
    cutting.check_names(normal)
    scale = _agree(normal, predictor, cutting)
    builder = CalibrationBuilder(-LOG_ODDS_LIMIT, LOG_ODDS_LIMIT)
    with tempfile.TemporaryDirectory() as scratch:
        kept: list[tuple[Path, float]] = []
        for case in track(normal):
            volume, prediction, foreground, plane = _predict(case, predictor, cutting)
            if plane != (agreed := scale["plane"] or plane):
                raise InputError(
                    f"{case.image_path}: voxels of {', '.join(f'{mm:.3g}' for mm in volume.spacing)} mm are scored in plane "
                    f"{plane}, and normal rows before it in plane {agreed}; calibrate on scans of one kind, or name a plane "
                    "with --plane"
                )
            scale["plane"] = plane
            builder.add_volume(prediction.heatmap[foreground], prediction.score)
            path = Path(scratch) / f"{len(kept)}.npy"
            np.save(path, prediction.heatmap)
            kept.append((path, volume.voxel_ml))
        calibration = builder.build()
        counter = OperatingBuilder(minimum_ml)
        for path, voxel_ml in kept:
            counter.add(calibration.fraction_below(np.load(path)), voxel_ml)
            path.unlink()
    return replace(calibration, operating=counter.build()), scale


def _predict(case: Case, predictor: Predictor, cutting: Cutting) -> tuple[Volume, Prediction, Array, str]:
    """A normal case, its prediction, where its foreground is, (I, J, K) bool, and the plane it was scored in."""
    volume = read_source(case.image_path, allow_blank_picture=True)
    organ_path = cutting.find_organ(case.name) or case.organ_path
    organ = read_organ(organ_path, volume) if organ_path else None
    plane = cutting.plane or case.plane or predictor.choose_plane(volume, case.slices)
    prediction = predictor.predict_volume(volume, plane, case.slices, organ, cutting.stride)
    cut = cut_volume(volume, predictor.preset, None if plane == ALL_PLANES else plane, case.slices, organ)
    foreground = np.zeros(cut.plan.stack_shape, dtype=bool)
    cut.crop(foreground)[cut.used] = find_lit(cut.images[cut.used])
    return volume, prediction, cut.plan.paste(foreground), plane


def _agree(normal: Sequence[Case], predictor: Predictor, cutting: Cutting) -> dict[str, Any]:
    """What all ``normal`` cases share by their rows: all but the plane, where these name none.

    Raises:
        InputError: they differ in plane or in whether an organ or slices are named, or a row is of another preset or of a scan
            that has another row.
    """
    rows = Counter(case.image_path.resolve() for case in normal)
    image, count = rows.most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{image}: {count} normal rows are of this scan, and would count as {count} scans; keep one, with the slices "
            "[first, last] that the cases scored later have too"
        )
    for case in normal:
        if case.preset not in (None, predictor.preset.name):
            raise InputError(
                f"{case.image_path}: a row of preset '{case.preset}', and the calibration is for '{predictor.preset.name}'; "
                "calibrate each preset by itself"
            )
    named = {cutting.plane or case.plane for case in normal}
    insides = {cutting.masks is not None or case.organ_path is not None for case in normal}
    ranges = {case.slices is not None for case in normal}
    if len({plane or predictor.preset.plane for plane in named}) > 1 or len(insides) > 1 or len(ranges) > 1:
        raise InputError(
            "the normal rows differ in plane, or some name an organ or slices and some do not; calibrate on rows of one kind"
        )
    scale = describe_scale(predictor, None, insides.pop(), ranges.pop())
    return scale | {"plane": next((plane for plane in named if plane), None)}


def keep_apart(cases: Sequence[Case], lessons: Sequence[Case]) -> None:
    """Refuse cases that were learned from: they score lower than others, and p-values of others would be too small.

    Rows without ``patient`` get one, see ``name_patients``; where names do not tell it, they go by their files alone.

    Raises:
        InputError: one of ``cases`` is among ``lessons``, or its patient is.
    """
    named: Sequence[Case] = [*cases, *lessons]
    with suppress(InputError):
        named = name_patients(named)
    learned = named[len(cases) :]
    paths, patients = {case.image_path.resolve() for case in learned}, {case.patient for case in learned} - {None}
    for case in named[: len(cases)]:
        if case.image_path.resolve() in paths or case.patient in patients:
            raise InputError(
                f"{case.image_path}: it or its patient is in two of calibration, bank and level weights; take other patients "
                "for each"
            )


def refuse_lessons(cases: Sequence[Case]) -> None:
    """Refuse normal cases of split train.

    Raises:
        InputError: there is one.
    """
    trained = [case for case in cases if case.label == 0 and case.split == "train"]
    if trained:
        raise InputError(
            f"{trained[0].image_path}: {len(trained)} of the normal rows are of split train, and what was trained on scores "
            "lower than other normal cases, so p-values of these would be too small; take --split val, rows that training "
            "never saw, or --split train if these adapters were trained on others"
        )


def require_checkpoint(predictor: Predictor) -> Checkpoint:
    """The adapters file's content that the predictor comes from.

    Raises:
        InputError: it comes from no adapters file of ours.
    """
    if predictor.checkpoint is None:
        raise InputError("only an aaclip-med adapters file can hold a calibration; train one or convert the released pair")
    return predictor.checkpoint


def store_calibration(
    predictor: Predictor,
    calibration: Calibration,
    path: str | Path,
    scale: dict[str, Any],
    source: str | Path | None = None,
    lessons: dict[str, Any] | None = None,
) -> None:
    """Write the predictor's checkpoint with ``calibration``, its refinement and its bank to ``path``, whole or not at all.

    ``scale``: what the cases scored with it must share (``calibrate``). ``source``: the adapters file it was read from;
    weights that lie beside it are named as seen from ``path``. ``lessons``: what the provenance says of bank and level weights.

    Raises:
        InputError: the predictor comes from no adapters file of ours.
        OutputError: the file cannot be written.
    """
    checkpoint = require_checkpoint(predictor)
    provenance = {
        **checkpoint.provenance,
        **(lessons or {}),
        "calibration": scale,
        "refinement": predictor.refinement.to_json(),
    }
    bank = predictor.bank or checkpoint.bank
    config = rename_weights(predictor.detector.config, source, path)
    about: dict[str, Any] = {"config": config, "calibration": calibration.to_json(), "provenance": provenance}
    about["bank"] = tuple(bank) if bank else None
    content = replace(checkpoint, **about).to_bytes()
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
