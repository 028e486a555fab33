"""One table of what each part of the method, of its fidelity and of the scoring is worth."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aaclip_med import __version__
from aaclip_med.data.fusion import ALL_PLANES
from aaclip_med.data.index import Case, read_index
from aaclip_med.data.slices import CutCase, cut_case, find_lit, to_grey
from aaclip_med.data.writing import prepare_output_folder
from aaclip_med.errors import InputError
from aaclip_med.evaluation.ablation_table import AblationTable, Row
from aaclip_med.evaluation.anchors import draw_anchors, embed_prompts
from aaclip_med.evaluation.variants import METHOD, SCORING, Variant
from aaclip_med.inference.bank import collect_bank
from aaclip_med.inference.levels import learn_levels
from aaclip_med.inference.predictor import Predictor, Prepared, load_predictor
from aaclip_med.inference.refinement import BEST, PUBLISHED
from aaclip_med.model.build import build_detector
from aaclip_med.model.checkpoint import ZERO_SHOT
from aaclip_med.presets import get_preset
from aaclip_med.scoring.curve import BinnedCurve
from aaclip_med.scoring.metrics import auroc
from aaclip_med.scoring.pooling import pool_maps, smooth_scores

Array = np.ndarray[Any, Any]
Train = Callable[[dict[str, Any]], Path]
Say = Callable[[str], None]

TOP = 0.01
"""The share of a slice's pixels that its intensity is averaged over, for the baseline."""
ANCHORS = "anchors.png"
BASELINES = (
    "intensity (slices: its top 1 %)",
    "intensity (slices: its maximum, smoothed as in best)",
    "distance from the normal mean (slices: its top 1 %)",
    "untrained tower",
)
ONE_PLANE = replace(BEST, fuse=0.0)


def ablate(
    index: str | Path,
    preset: str,
    out: str | Path,
    train: Train,
    backbone: str = "tiny",
    shared: dict[str, Any] | None = None,
    variants: Sequence[Variant] = (*METHOD, *SCORING),
    seeds: Sequence[int] = (0,),
    say: Say = print,
) -> list[Row]:
    """Train and score every variant by every seed; writes ``ablation.csv``, ``ablation.md``, ``ablation.json`` and
    ``anchors.png`` into ``out`` as they come.

    Rows of split ``test`` are scored, all others are trained on. Rows and trainings that an earlier run left in ``out`` are
    kept, and other seeds and variants may be added. A variant that these cases cannot have is left out, and told. ``train``
    runs the bundle with overrides and returns the adapters file; ``shared``: overrides for every variant.

    Raises:
        InputError: there is no test row, an abnormal one without a mask, or none to train on, ``out`` holds an ablation with
            other settings, or what ``train`` raises.
        OutputError: ``out`` cannot be written to.
    """
    cases = read_index(index)
    test = [case for case in cases if case.split == "test"]
    known = [case for case in cases if case.split != "test"]
    if not test or all(case.split == "val" for case in known):
        raise InputError(f"{index}: an ablation needs rows of split 'test' and others to train on; see aaclip-med index split")
    lessons = [case for case in known if case.split != "val"]
    for case in test:
        if case.label and case.mask_path is None:
            raise InputError(f"{index}: row {case.row} is abnormal and has no mask (mask_path) to compare its map with")
    folder = prepare_output_folder(out)
    digest = hashlib.sha256(Path(index).read_bytes()).hexdigest()
    settings = {"version": __version__, "index": digest, "preset": preset, "backbone": backbone, **(shared or {})}
    table = AblationTable(folder, settings, [*BASELINES, *(variant.name for variant in (*METHOD, *SCORING))])
    common = {"preset": preset, "index": str(index), "backbone": backbone, "cache_dir": str(folder / "cache"), **(shared or {})}

    def find_adapters(variant: Variant, seed: int) -> Path:
        run = folder / f"run_{re.sub('[^a-z0-9]+', '_', variant.name).strip('_')}_seed{seed}"
        path = run / "adapters.safetensors"
        if path.is_file():
            return path
        return train(common | _settle(variant.training, backbone) | {"seed": seed, "output_dir": str(run)})

    if not table.holds(BASELINES):
        say("baselines")
        table.add(*judge_baselines(known, test, preset, backbone, common))
    for seed in seeds:
        bank: tuple[torch.Tensor, ...] | None = None
        for number, variant in enumerate(variants):
            if table.holds([variant.name], seed):
                continue
            say(f"seed {seed}, {number + 1} of {len(variants)}: {variant.name}")
            path = find_adapters(variant if variant.training else METHOD[0], seed)
            if not variant.training and not (folder / ANCHORS).is_file():
                _draw_organs(path, backbone, common | {"seed": seed}, folder)
            if variant.bank and bank is None:
                bank = collect_bank(lessons, load_predictor(path, refinement=PUBLISHED))
            predictor = load_predictor(path, refinement=variant.refinement, bank=bank if variant.bank else None)
            predictor.refine(replace(predictor.refinement, fuse=0.0), predictor.bank)
            try:
                if variant.levels:
                    _weigh_levels(known, predictor)
                if variant.level is not None:
                    _take_level(predictor, variant.level)
                table.add(replace(judge(variant.group, variant.name, test, predictor, variant.plane), seed=seed))
            except InputError as error:
                say(f"left out: {variant.name}: {error}")
    return table.sorted()


def _take_level(predictor: Predictor, level: int) -> None:
    """Let the predictor look at one of its levels alone, counted from the shallowest.

    Raises:
        InputError: there are fewer.
    """
    levels = len(predictor.detector.levels)
    if level >= levels:
        raise InputError(f"the tower has {levels} levels")
    weights = tuple(float(number == level) for number in range(levels))
    predictor.refine(replace(predictor.refinement, level_weights=weights), predictor.bank)


def _weigh_levels(known: Sequence[Case], predictor: Predictor) -> None:
    """Let the predictor weigh its levels as the rows of split val teach.

    Raises:
        InputError: there are none, or they have no lesion.
    """
    validation = [case for case in known if case.split == "val"]
    if not validation:
        raise InputError("level weights are learned from rows of split 'val', and there are none")
    weights = learn_levels(validation, predictor).weights
    predictor.refine(replace(predictor.refinement, level_weights=weights), predictor.bank)


def _draw_organs(adapters: Path, backbone: str, common: dict[str, Any], folder: Path) -> None:
    """``anchors.png``: the prompts of all organs through fresh adapters and through trained ones."""
    tower = (backbone, common.get("weights"), common.get("image_size"))
    fresh, trained = build_detector(*tower, seed=common["seed"]), build_detector(adapters=adapters)
    clouds = {"fresh text adapters": embed_prompts(fresh), "trained": embed_prompts(trained)}
    draw_anchors(folder / ANCHORS, clouds, embed_prompts(build_detector(*tower, adapters=ZERO_SHOT)))


def judge_baselines(
    known: Sequence[Case], test: Sequence[Case], preset: str, backbone: str, common: dict[str, Any]
) -> list[Row]:
    """What training has to beat: the windowed intensity, its distance from the normal mean, and the tower without adapters,
    scored as ``best`` in one plane.
    """
    task = get_preset(preset)
    total, count = 0.0, 0
    for case in known:
        cut = cut_case(case, task)
        images = to_grey(cut.images[cut.used])
        normal = images > 0
        if cut.masks is not None:
            normal &= ~cut.masks[cut.used]
        total, count = total + float(images[normal].sum()), count + int(normal.sum())
    mean = total / max(count, 1)
    tower = build_detector(backbone, common.get("weights"), common.get("image_size"), adapters=ZERO_SHOT)
    untrained = Predictor(tower, task, refinement=ONE_PLANE)
    intensity, smoothed, distance = _Figures(), _Figures(), _Figures()
    for case in test:
        cut = cut_case(case, task)
        images = to_grey(cut.images[cut.used])
        far = np.where(images > 0, np.abs(images - mean), 0.0)
        intensity.add(cut, cut.used, images, pool_maps(images, TOP))
        smoothed.add(cut, cut.used, images, smooth_scores(pool_maps(images), untrained.place_slices(cut, cut.used), BEST.reach))
        distance.add(cut, cut.used, far, pool_maps(far, TOP))
    windows = zip((intensity, smoothed, distance), BASELINES, strict=False)
    rows = [figures.row("baseline", name) for figures, name in windows]
    return [*rows, judge("baseline", BASELINES[-1], test, untrained)]


def judge(group: str, name: str, test: Iterable[Case], predictor: Predictor, plane: str | None = None) -> Row:
    """Score ``test`` and compare with its masks, on the scans' own grid; of another plane than the preset's, and of ``all``,
    within the rows' slice ranges. The score of a slice that was not scored as such is the maximum of its heat.
    """
    figures = _Figures()
    waiting: deque[CutCase] = deque()

    def prepared() -> Iterator[Prepared]:
        for case in test:
            cut = cut_case(case, predictor.preset)
            waiting.append(cut)
            limits = None if plane else case.slices
            yield predictor.prepare(cut.volume, plane or case.plane, limits, _uncut_organ(cut))

    for prediction in predictor.predict_prepared(prepared()):
        cut = waiting.popleft()
        heat = cut.crop(cut.plan.cut(prediction.heatmap))[cut.used]
        if plane in (None, ALL_PLANES):
            at = {number: place for place, number in enumerate(prediction.slices)}
            scores = prediction.slice_scores[[at[number] for number in cut.used]]
        else:
            scores = pool_maps(heat)
        figures.add(cut, cut.used, heat, scores)
    return figures.row(group, name)


class _Figures:
    """Pixels and slices of a set, in little memory."""

    def __init__(self) -> None:
        self.pixels, self.body = BinnedCurve(), BinnedCurve()
        self.labels: list[bool] = []
        self.scores: list[float] = []

    def add(self, cut: CutCase, numbers: list[int], heat: Array, scores: Array) -> None:
        """Heat (S, H, W) and scores (S,) of the slices ``numbers`` of a case; left out where it has no mask."""
        if cut.masks is None:
            return
        masks, inside = cut.masks[numbers], find_lit(cut.images[numbers])
        self.pixels.add(heat, masks)
        self.body.add(heat[inside], masks[inside])
        self.labels += np.atleast_1d(masks.any(axis=(1, 2))).tolist()
        self.scores += scores.tolist()

    def row(self, group: str, name: str) -> Row:
        """The figures."""
        slices = auroc(np.array(self.labels), np.array(self.scores))
        precision = self.pixels.average_precision().value
        return Row(group, name, self.pixels.auroc().value, self.body.auroc().value, precision, slices.value)


def _uncut_organ(cut: CutCase) -> Array | None:
    """The organ of a case on the volume's own grid."""
    if cut.organ is None:
        return None
    whole = np.zeros(cut.plan.stack_shape, dtype=bool)
    cut.crop(whole)[:] = cut.organ
    return cut.plan.paste(whole)


def _settle(training: dict[str, Any], backbone: str) -> dict[str, Any]:
    """``deepest`` as the number of the tower's last block."""
    if training.get("detector::levels") != "deepest":
        return training
    from aaclip_med.model.towers import find_tower_config

    return training | {"detector::levels": [int(find_tower_config(backbone)["vision_cfg"]["layers"])]}
