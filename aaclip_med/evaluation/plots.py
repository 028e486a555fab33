"""ROC, precision-recall and FROC curves in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aaclip_med.data.writing import write_file
from aaclip_med.evaluation.baselines import TITLES
from aaclip_med.evaluation.evaluation import Evaluation
from aaclip_med.scoring import rates
from aaclip_med.scoring.froc import RATES

Array = np.ndarray[Any, Any]

POINTS = 2000
COLOURS = {"pixels": "#1f4e79", "slices": "#d1603d", "volumes": "#3a7d44"}
BASELINE_STYLES = {"intensity": ":", "difference": "-.", "untrained": "--"}


def draw_curves(path: Path, evaluation: Evaluation, title: str) -> None:
    """Write the picture as PNG: pixels, slices and volumes of the detector, pixels of the baselines in grey.

    Raises:
        OutputError: the file cannot be written.
    """
    figure = build_curves(evaluation, title)
    write_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def build_curves(evaluation: Evaluation, title: str) -> Figure:
    """The figure that ``draw_curves`` writes. No pyplot state is touched."""
    figure = Figure(figsize=(13.5, 6.0), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, weight="bold", parse_math=False)
    roc, recall, free = figure.subplots(1, 3)
    roc.plot([0, 1], [0, 1], color="0.85", linewidth=1)
    for label, colour, style, normal, abnormal in _list_counts(evaluation):
        if not (normal.any() and abnormal.any()):
            continue
        false, true = rates.roc(normal, abnormal)
        precision, found = rates.precision_recall(normal, abnormal)
        area, average = float(rates.auroc(normal, abnormal)), float(rates.average_precision(normal, abnormal))
        _draw(roc, false, true, f"{label} {area:.3f}", colour, style)
        _draw(recall, found, precision, f"{label} {average:.3f}", colour, style)
    _finish(roc, "ROC", "false positive rate", "true positive rate", "AUROC")
    _finish(recall, "precision and recall", "recall", "precision", "average precision")
    curve = evaluation.tally.froc()
    if curve is not None:
        found = curve.at()
        free.plot(RATES, found, color=COLOURS["pixels"], marker="o", markersize=4, label=f"lesions {found.mean():.3f}")
    else:
        free.text(0.5, 0.5, "no lesion in any mask", ha="center", transform=free.transAxes, color="0.4")
    free.set_xscale("log", base=2)
    free.set_xlim(0.11, 9)
    free.set_xticks(RATES, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    free.minorticks_off()
    _finish(free, "FROC", "false positives a volume", "lesions found", "mean sensitivity")
    return figure


def _list_counts(evaluation: Evaluation) -> list[tuple[str, str, str, Array, Array]]:
    """Label, colour, line style, normal and abnormal counts of each curve."""
    tally = evaluation.tally
    pixels = tally.pixels.counts()
    curves = [("pixels", COLOURS["pixels"], "-", pixels.normal, pixels.abnormal)]
    labels, scores, _ = tally.slice_items()
    volumes = [record for record in tally.scored if not record.is_picture]
    volume_items = np.array([one.case.label for one in volumes]), np.array([one.score for one in volumes])
    for name, (truth, values) in (("slices", (labels, scores)), ("volumes", volume_items)):
        if len(truth):
            _, group = np.unique(values, return_inverse=True)
            normal, abnormal = (np.bincount(group[np.asarray(truth) == kind], minlength=group.max() + 1) for kind in (0, 1))
            curves.append((name, COLOURS[name], "-", normal, abnormal))
    for name, other in evaluation.baseline_tallies.items():
        counts = other.pixels.counts()
        curves.append((f"pixels, {TITLES[name].removeprefix('its absolute ')}", "0.55", BASELINE_STYLES[name], *counts[1:3]))
    return curves


def _draw(axes: Axes, x: Array, y: Array, label: str, colour: str, style: str) -> None:
    if len(x) > POINTS:
        kept = np.unique(
            np.concatenate([np.searchsorted(x, np.linspace(0, x[-1], POINTS // 2)), np.geomspace(1, len(x), POINTS // 2) - 1])
        )
        kept = kept.astype(np.int64).clip(0, len(x) - 1)
        x, y = x[kept], y[kept]
    axes.plot(x, y, color=colour, linestyle=style, linewidth=1.6, label=label)


def _finish(axes: Axes, title: str, x: str, y: str, legend: str | None = None) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(0, -0.14),
            borderaxespad=0,
            alignment="left",
            title=legend,
            fontsize=8.5,
            title_fontsize=8.5,
            frameon=False,
        )
