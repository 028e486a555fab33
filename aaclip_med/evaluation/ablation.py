"""One table of what each part of the method, of its fidelity and of the scoring is worth."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from aaclip_med.data.index import Case, read_index
from aaclip_med.data.slices import CutCase, cut_case
from aaclip_med.data.writing import atomic_path
from aaclip_med.errors import InputError
from aaclip_med.evaluation.anchors import draw_anchors, embed_prompts
from aaclip_med.inference.bank import collect_bank
from aaclip_med.inference.predictor import ALL_PLANES, Predictor, Prepared, load_predictor
from aaclip_med.inference.refinement import BEST, PUBLISHED, Refinement
from aaclip_med.model.build import build_detector
from aaclip_med.presets import get_preset
from aaclip_med.scoring.curve import BinnedCurve
from aaclip_med.scoring.metrics import auroc

Array = np.ndarray[Any, Any]
Train = Callable[[dict[str, Any]], Path]
Say = Callable[[str], None]

TOP = 0.01
"""The share of a slice's pixels that its intensity is averaged over, for the baseline."""
COLUMNS = ("group", "variant", "pixel_auroc", "body_auroc", "slice_auroc")


@dataclass(frozen=True)
class Variant:
    """One row. training: what differs in training, by the names of the bundle's configuration; empty: the first row's adapters.

    refinement: None: the one stored by training. bank: whether normal patches of the training rows go with it.
    """

    group: str
    name: str
    training: dict[str, Any] = field(default_factory=dict)
    refinement: Refinement | None = None
    plane: str | None = None
    bank: bool = False


@dataclass(frozen=True)
class Row:
    """A variant's figures, as fractions; NaN where the test rows have one class only.

    pixel: all pixels of the scored slices, on the scan's own grid. body: those above 0 under the window. slices: by their
    scores.
    """

    group: str
    name: str
    pixel: float
    body: float
    slices: float


METHOD = (
    Variant("method", "as trained by default"),
    Variant("method", "no image adapters (projections alone)", {"detector::image_adapters": 0}),
    Variant("method", "image adapters not residual", {"detector::image_mix": 1.0}),
    Variant("method", "no text adapters (their projection alone)", {"detector::text_adapters": 0}),
    Variant("method", "stage 1 left out", {"text_learning_rate": 0.0}),
    Variant("method", "no disentangling", {"orthogonality_weight": 0.0}),
    Variant("method", "deepest level alone", {"detector::levels": "deepest"}),
    Variant("method", "no augmentation", {"augment": False}),
    Variant("fidelity", "activation quick_gelu", {"activation": "quick_gelu"}),
    Variant("fidelity", "stage 1 on all levels", {"stage_one_levels": "all"}),
    Variant("fidelity", "stage 1 attends across positions", {"value_attention": "across_positions"}),
    Variant("fidelity", "paper: all three, and its noun", {"fidelity": "paper"}),
)
"""Each needs a training of its own."""

SCORING = (
    Variant("scoring", "published", refinement=PUBLISHED),
    Variant("scoring", "pooled over the top 0.2 %", refinement=Refinement(pool_share=0.002)),
    Variant("scoring", "pooled over the top 1 %", refinement=Refinement(pool_share=0.01)),
    Variant("scoring", "with the detection head", refinement=Refinement(detection_weight=10.0)),
    Variant("scoring", "flips averaged", refinement=Refinement(flips=True)),
    Variant("scoring", "less blur", refinement=Refinement(sigma=0.4)),
    Variant("scoring", "patches laid twice", refinement=Refinement(shifts=2)),
    Variant("scoring", "enlarged, in tiles", refinement=Refinement(zoom=2.5)),
    Variant("scoring", "sharpened", refinement=Refinement(sharpen=5)),
    Variant("scoring", "foreground alone", refinement=Refinement(foreground=True)),
    Variant("scoring", "bank of normal patches", refinement=Refinement(bank_weight=10.0), bank=True),
    Variant("scoring", "three planes", refinement=PUBLISHED, plane=ALL_PLANES),
    Variant("scoring", "best", refinement=BEST),
    Variant("scoring", "best, flips averaged", refinement=replace(BEST, flips=True)),
    Variant("scoring", "best, patches laid twice", refinement=replace(BEST, shifts=2)),
    Variant("scoring", "best, with a bank", refinement=replace(BEST, bank_weight=10.0), bank=True),
    Variant("scoring", "best, three planes", refinement=BEST, plane=ALL_PLANES),
)
"""Of the first row's adapters."""


def ablate(
    index: str | Path,
    preset: str,
    out: str | Path,
    train: Train,
    backbone: str = "tiny",
    shared: dict[str, Any] | None = None,
    variants: Sequence[Variant] = (*METHOD, *SCORING),
    say: Say = print,
) -> list[Row]:
    """Train and score every variant; writes ``ablation.csv``, ``ablation.md`` and ``anchors.png`` into ``out``
    as they come.

    Rows of split ``test`` are scored, all others are trained on. ``train`` runs the bundle with overrides and returns the
    adapters file; ``shared``: overrides for every variant.

    Raises:
        InputError: there is no test row, or none to train on, or what ``train`` raises.
    """
    cases = read_index(index)
    test = [case for case in cases if case.split == "test"]
    known = [case for case in cases if case.split != "test"]
    if not test or not known:
        raise InputError(f"{index}: an ablation needs rows of split 'test' and others to train on; see aaclip-med index split")
    folder = Path(out)
    common = {"preset": preset, "index": str(index), "backbone": backbone, "cache_dir": str(folder / "cache"), **(shared or {})}
    say("baselines")
    rows = judge_baselines(known, test, preset, backbone, common)
    adapters: Path | None = None
    bank: list[Any] | None = None
    for number, variant in enumerate(variants):
        say(f"{number + 1} of {len(variants)}: {variant.name}")
        path = adapters
        if variant.training or path is None:
            path = train(common | _settle(variant.training, backbone) | {"output_dir": str(folder / f"run_{number}")})
            if adapters is None:
                adapters = path
                _draw_organs(path, backbone, common, folder)
        predictor = load_predictor(path, refinement=variant.refinement)
        if variant.bank:
            bank = bank or collect_bank(known, predictor)
            predictor.bank = bank
        rows.append(judge(variant.group, variant.name, test, predictor, variant.plane))
        write_table(rows, folder)
    return rows


def _draw_organs(adapters: Path, backbone: str, common: dict[str, Any], folder: Path) -> None:
    """``anchors.png``: the prompts of all organs before and after training."""
    fresh = build_detector(backbone, common.get("weights"), common.get("image_size"), seed=common.get("seed", 0))
    clouds = {"fresh text adapters": embed_prompts(fresh), "trained": embed_prompts(build_detector(adapters=adapters))}
    draw_anchors(folder / "anchors.png", clouds)


def judge_baselines(
    known: Sequence[Case], test: Sequence[Case], preset: str, backbone: str, common: dict[str, Any]
) -> list[Row]:
    """What no training reaches: the windowed intensity, its distance from the normal mean, and the untrained detector."""
    task = get_preset(preset)
    total, count = 0.0, 0
    for case in known:
        cut = cut_case(case, task)
        images = _grey(cut.images[cut.used])
        normal = images > 0
        if cut.masks is not None:
            normal &= ~cut.masks[cut.used]
        total, count = total + float(images[normal].sum()), count + int(normal.sum())
    mean = total / max(count, 1)
    intensity, distance = _Figures(), _Figures()
    for case in test:
        cut = cut_case(case, task)
        images = _grey(cut.images[cut.used])
        for figures, heat in ((intensity, images), (distance, np.where(images > 0, np.abs(images - mean), 0.0))):
            flat = np.sort(heat.reshape(len(heat), -1), axis=1)
            figures.add(cut, cut.used, heat, flat[:, -max(1, round(TOP * flat.shape[1])) :].mean(axis=1))
    untrained = Predictor(build_detector(backbone, common.get("weights"), common.get("image_size")), task)
    return [
        intensity.row("baseline", "intensity (slices: its top 1 %)"),
        distance.row("baseline", "distance from the normal mean (slices: its top 1 %)"),
        judge("baseline", "untrained detector", test, untrained),
    ]


def judge(group: str, name: str, test: Iterable[Case], predictor: Predictor, plane: str | None = None) -> Row:
    """Score ``test`` and compare with its masks, on the scans' own grid; of ``all`` planes within the rows' slice ranges."""
    figures = _Figures()
    waiting: deque[CutCase] = deque()

    def prepared() -> Iterator[Prepared]:
        for case in test:
            cut = cut_case(case, predictor.preset)
            waiting.append(cut)
            limits = None if plane == ALL_PLANES else case.slices
            yield predictor.prepare(cut.volume, plane or case.plane, limits, _uncut_organ(cut))

    for prediction in predictor.predict_prepared(prepared()):
        cut = waiting.popleft()
        heat = cut.crop(cut.plan.cut(prediction.heatmap))[cut.used]
        at = {number: place for place, number in enumerate(prediction.slices)}
        figures.add(cut, cut.used, heat, prediction.slice_scores[[at[number] for number in cut.used]])
    return figures.row(group, name)


def write_table(rows: Sequence[Row], folder: Path) -> None:
    """``ablation.csv`` and ``ablation.md``, whole or not at all."""
    lines = [(row.group, row.name, *(f"{value:.4f}" for value in (row.pixel, row.body, row.slices))) for row in rows]
    with atomic_path(folder / "ablation.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(lines)
    head = "| | variant | pixel AUROC | pixel AUROC in the body | slice AUROC |\n|---|---|---|---|---|\n"
    with atomic_path(folder / "ablation.md") as path:
        path.write_text(head + "".join(f"| {' | '.join(line)} |\n" for line in lines), encoding="utf-8")


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
        masks, inside = cut.masks[numbers], _grey(cut.images[numbers]) > 0
        self.pixels.add(heat, masks)
        self.body.add(heat[inside], masks[inside])
        self.labels += np.atleast_1d(masks.any(axis=(1, 2))).tolist()
        self.scores += scores.tolist()

    def row(self, group: str, name: str) -> Row:
        """The figures."""
        slices = auroc(np.array(self.labels), np.array(self.scores))
        return Row(group, name, self.pixels.auroc().value, self.body.auroc().value, slices.value)


def _grey(images: Array) -> Array:
    return images.mean(axis=-1) if images.ndim == 4 else images


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
