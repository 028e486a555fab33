"""A detector against the masks of an index: figures, intervals, baselines, tables and pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from aaclip_med.data.index import Case, read_index
from aaclip_med.data.planes import plan_volume
from aaclip_med.data.slices import cut_case
from aaclip_med.data.volumes import read_volume
from aaclip_med.data.writing import prepare_output_folder
from aaclip_med.errors import AaclipError, InputError
from aaclip_med.evaluation.baselines import NormalMean, judge_baselines, tally_baselines
from aaclip_med.evaluation.evaluation import Evaluation
from aaclip_med.evaluation.report import write_evaluation
from aaclip_med.evaluation.tally import Tally
from aaclip_med.evaluation.views import is_on_square, score_cases
from aaclip_med.inference.cutting import Cutting, find_plane, forget_unlike_calibration
from aaclip_med.inference.predictor import Predictor, load_predictor
from aaclip_med.model.preprocess import fit_masks
from aaclip_med.scoring.pooling import read_share

Track = Callable[[Sequence[Case]], Iterable[Case]]


def evaluate_cases(
    cases: Sequence[Case],
    predictor: Predictor,
    track: Track = iter,
    cutting: Cutting | None = None,
    image_score: str | None = None,
    seed: int = 0,
) -> Evaluation:
    """Score every row of an index and its baselines, and compare with the masks.

    A case that cannot be scored is listed and left out; for MOOD's figures it counts as zeros, unless it is its mask that
    cannot be used. ``image_score``: a slice's score, ``max``, or ``top1%`` and the like; None: what the refinement says.
    ``seed``: of the intervals' draws.

    Raises:
        InputError: the image score is unknown, the industrial protocol is asked for with a stride or all planes, or two scans
            would share an organ mask.
    """
    cutting = cutting or Cutting()
    cutting.check_names(cases)
    refinement = predictor.refinement
    if image_score is not None:
        refinement = replace(refinement, pool_share=read_share(image_score))
    tally = Tally(refinement, predictor.domain, detailed=True)
    mean, scored, planes = NormalMean(), [], Counter[str]()
    for case, found in score_cases(track(cases), predictor, cutting):
        if isinstance(found, AaclipError):
            tally.add_missing(case, str(found), _count_mask(case, predictor, cutting), _is_truth_false(case, predictor))
            continue
        planes[found.plane] += 1
        tally.add(found)
        mean.add(found)
        scored.append(case)
    figures = tally.figures(seed=seed)
    others = tally_baselines(scored, predictor, cutting, refinement, mean.value, track)
    baselines = {name: other.figures() for name, other in others.items()}
    verdict = judge_baselines(figures, baselines)
    settings = _list_settings(cases, predictor, cutting, image_score) | {"planes": dict(planes)}
    return Evaluation(tally, figures, others, baselines, verdict, _count(tally), mean.value, settings)


def evaluate_index(
    index: str | Path,
    adapters: str | Path,
    out: str | Path,
    split: str | None = None,
    track: Track = iter,
    cutting: Cutting | None = None,
    image_score: str | None = None,
    title: str | None = None,
    **model: Any,
) -> Evaluation:
    """What ``aaclip-med evaluate`` does: ``evaluate_into`` of the rows of ``index``, of those of ``split`` where it is named.

    ``model``: what else ``load_predictor`` takes, such as ``preset``, ``window``, ``refinement``, ``domain``, ``batch_size``.

    Raises:
        InputError: the index, the split, the image score or the adapters cannot be used.
        OutputError: the folder cannot be written to.
    """
    read_share(image_score or "max")
    cases = [case for case in read_index(index) if split in (None, case.split)]
    if not cases:
        raise InputError(f"{index}: no row of split '{split}'")
    prepare_output_folder(out)
    told = {"index": Path(index).name, "index_sha256": sha256(Path(index).read_bytes()).hexdigest(), "split": split}
    return evaluate_into(cases, load_predictor(adapters, **model), out, track, cutting, image_score, title, told)


def evaluate_into(
    cases: Sequence[Case],
    predictor: Predictor,
    out: str | Path,
    track: Track = iter,
    cutting: Cutting | None = None,
    image_score: str | None = None,
    title: str | None = None,
    told: Mapping[str, Any] | None = None,
) -> Evaluation:
    """``evaluate_cases``, and its tables and pictures in the folder ``out``; see ``write_evaluation``.

    ``told``: what else its settings are to say, such as where the rows are from.

    A calibration that was made otherwise than a case is scored is left out for all: figures need none, and the cases' scores
    are the model's own probabilities then.
    """
    folder = prepare_output_folder(out)
    predictor = forget_unlike_calibration(predictor, cases, cutting or Cutting())
    evaluation = evaluate_cases(cases, predictor, track, cutting, image_score)
    evaluation.settings.update(told or {})
    write_evaluation(folder, evaluation, predictor, cutting or Cutting(), title or predictor.preset.title)
    return evaluation


def _list_settings(cases: Sequence[Case], predictor: Predictor, cutting: Cutting, image_score: str | None) -> dict[str, Any]:
    """How rows were chosen and cut; holds no paths."""
    window = predictor.preset.window
    return {
        "splits": dict(Counter(case.split or "none" for case in cases)),
        "domain": predictor.domain,
        "image_score": image_score,
        "window": [window.kind, float(window.low), float(window.high)],
        "crop": predictor.preset.crop,
        "plane": cutting.plane,
        "slices": cutting.slices,
        "stride": cutting.stride,
        "within_organ_masks": cutting.masks is not None,
        "volume": cutting.volume,
        "spacing_mm": cutting.spacing_mm,
    }


def _count(tally: Tally) -> dict[str, int]:
    scored = tally.scored
    volumes = [record for record in scored if not record.is_picture]
    labels = np.concatenate([record.slice_labels for record in scored]) if scored else np.zeros(0, dtype=int)
    return {
        "cases": len(scored),
        "patients": len({record.patient for record in scored}),
        "volumes": len(volumes),
        "abnormal_volumes": sum(record.case.label for record in volumes),
        "slices": len(labels),
        "abnormal_slices": int(labels.sum()),
        "pixels": tally.pixels.total,
        "lesions": sum(record.lesions.found.size for record in scored if record.lesions is not None),
        "volumes_without_mask": sum(record.pixels is None for record in volumes),
        "failed": len(tally.records) - len(scored),
    }


def _is_truth_false(case: Case, predictor: Predictor) -> bool:
    """Whether a row cannot be used for its mask alone."""
    return not _can_be_cut(case, predictor) and _can_be_cut(replace(case, mask_path=None), predictor)


def _can_be_cut(case: Case, predictor: Predictor) -> bool:
    try:
        cut_case(case, predictor.preset)
    except AaclipError:
        return False
    return True


def _count_mask(case: Case, predictor: Predictor, cutting: Cutting) -> tuple[int, int] | None:
    """Normal and abnormal pixels of a case's mask, all slices of the row; None where it has none or it cannot be read."""
    if case.mask_path is None:
        return None
    try:
        volume = read_volume(case.mask_path, allow_blank_picture=True)
    except AaclipError:
        return None
    mask = volume.array if volume.array.ndim == 3 else volume.array.max(axis=-1)
    stack = plan_volume(volume, case.plane or predictor.preset.plane).cut(mask > 0)
    first, last = case.slices or (0, len(stack) - 1)
    stack = stack[first : last + 1]
    if len(stack) and is_on_square(find_plane(volume, case, predictor, cutting), cutting.stride):
        stack = fit_masks(stack, predictor.choose_side(stack.shape[1], stack.shape[2]))
    abnormal = int(np.count_nonzero(stack))
    return stack.size - abnormal, abnormal
