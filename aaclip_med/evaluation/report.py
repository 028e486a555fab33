"""Tables of an evaluation: JSON, a Markdown and a LaTeX row, one CSV line a case."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from aaclip_med.data.scans import unique_names
from aaclip_med.data.writing import write_csv, write_file, write_json
from aaclip_med.evaluation.baselines import TITLES
from aaclip_med.evaluation.evaluation import Evaluation
from aaclip_med.evaluation.montage import draw_montage
from aaclip_med.evaluation.plots import draw_curves
from aaclip_med.evaluation.tally import CaseRecord
from aaclip_med.inference.cutting import Cutting
from aaclip_med.inference.predictor import Predictor
from aaclip_med.inference.provenance import describe_run
from aaclip_med.scoring import rates
from aaclip_med.scoring.curve import DICE_RATE
from aaclip_med.scoring.metrics import Figure

COLUMNS = {
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "inside_pixel_auroc": "pixel AUROC inside",
    "pixel_aupro": "AUPRO",
    "pixel_f1_max": "pixel F1 max",
    "pixel_dice_at_5_fpr": "Dice at 5 % FPR",
    "image_auroc": "slice AUROC",
    "image_ap": "slice AP",
    "volume_auroc": "volume AUROC",
    "volume_ap": "volume AP",
    "lesion_sensitivity": "lesion sensitivity",
}
CASE_COLUMNS = (
    *("case", "label", "score", "pixel_auroc", "pixel_ap", "dice", "dice_at_5_fpr"),
    *("lesions", "lesions_found", "false_positives", "slices", "abnormal_slices", "status"),
)


def write_evaluation(folder: Path, evaluation: Evaluation, predictor: Predictor, cutting: Cutting, title: str) -> None:
    """Write ``metrics.json``, ``metrics.md``, ``metrics.tex``, ``cases.csv``, ``curves.png`` and ``montage.png``.

    There is no montage without an abnormal case that has a mask.

    Raises:
        OutputError: a file cannot be written.
    """
    write_json(folder / "metrics.json", evaluation.to_json() | {"run": describe_run(predictor)})
    write_text(folder / "metrics.md", build_markdown(evaluation, title, predictor.note))
    write_text(folder / "metrics.tex", build_latex(evaluation, title, predictor.note))
    rows = list_cases(evaluation, predictor)
    write_csv(folder / "cases.csv", CASE_COLUMNS, rows)
    draw_curves(folder / "curves.png", evaluation, title)
    draw_montage(folder / "montage.png", evaluation, rows, predictor, cutting, title)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def build_markdown(evaluation: Evaluation, title: str, note: str) -> str:
    """One row a detector in Markdown, in percent with 95 % intervals; the baselines below."""
    rows = [["", *COLUMNS.values()], ["---"] + ["---:"] * len(COLUMNS)]
    rows.append([_mark(title, evaluation), *(_cell(evaluation.figures[name]) for name in COLUMNS)])
    for name, figures in evaluation.baselines.items():
        rows.append([TITLES[name], *(_cell(figures.get(figure)) for figure in COLUMNS)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    reasons = [f"- {COLUMNS[name]}: {one.reason}" for name, one in evaluation.figures.items() if name in COLUMNS and one.reason]
    lines = [table, "", _caption(evaluation, note, "%"), "", *evaluation.doubts, *evaluation.verdict]
    return "\n".join([*lines, *(["", "Undefined:", *reasons] if reasons else [])]) + "\n"


def build_latex(evaluation: Evaluation, title: str, note: str) -> str:
    """The same as a LaTeX table (booktabs)."""
    head = " & ".join(["", *COLUMNS.values()]).replace("%", r"\%")
    rows = [
        " & ".join([_escape(_mark(title, evaluation)), *(_cell(evaluation.figures[name], r"\,[{}--{}]") for name in COLUMNS)])
    ]
    for name, figures in evaluation.baselines.items():
        rows.append(" & ".join([TITLES[name], *(_cell(figures.get(figure)) for figure in COLUMNS)]))
    lines = [
        r"\begin{table}",
        rf"\caption{{{_escape(' '.join([_caption(evaluation, note, '%'), *evaluation.doubts, *evaluation.verdict]))}}}",
        rf"\begin{{tabular}}{{l{'r' * len(COLUMNS)}}}",
        r"\toprule",
        rf"{head} \\",
        r"\midrule",
        *(rf"{row} \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def list_cases(evaluation: Evaluation, predictor: Predictor) -> list[dict[str, Any]]:
    """One row a case: its own figures, and Dice and lesions at the thresholds of the whole set.

    ``dice``: at the threshold that gives the set its highest F1; ``lesions_found`` and ``false_positives``: where the set has
    one false positive a volume. Pixel figures come from about 1,000 bins a case, good to about 0.001.
    """
    tally = evaluation.tally
    counts, curve = tally.pixels.counts(), tally.froc()
    thresholds = {"dice": math.nan, "dice_at_5_fpr": math.nan}
    if counts.normal.any() and counts.abnormal.any():
        bins = {
            "dice": int(rates.find_f1_bin(counts.normal, counts.abnormal)),
            "dice_at_5_fpr": int(rates.find_fpr_bin(counts.normal, DICE_RATE)),
        }
        thresholds = {name: float(np.append(counts.lowest, np.inf)[place]) for name, place in bins.items()}
    detected = curve.threshold_at(1.0) if curve is not None else math.inf
    names = unique_names([record.case.image_path for record in tally.records])
    rows = [_describe(record, thresholds, detected) for record in tally.records]
    for name, row in zip(names, rows, strict=True):
        row["case"] = name
        if "score" in row:
            row["score"] = float(predictor.rescale(row["score"]))
    return rows


def _describe(record: CaseRecord, thresholds: dict[str, float], detected: float) -> dict[str, Any]:
    row: dict[str, Any] = {"label": record.case.label, "status": "failed" if record.missing else "ok"}
    if record.missing:
        return row
    row |= {"score": record.score, "slices": len(record.slice_labels), "abnormal_slices": int(record.slice_labels.sum())}
    if record.pixels is not None:
        lowest, normal, abnormal, _ = record.pixels
        row |= {
            "pixel_auroc": float(rates.auroc(normal, abnormal)),
            "pixel_ap": float(rates.average_precision(normal, abnormal)),
        }
        for key, threshold in thresholds.items():
            above = lowest >= threshold
            found, wrong, held = (float(part.sum()) for part in (abnormal[above], normal[above], abnormal))
            row[key] = 2 * found / (found + wrong + held) if held and not math.isnan(threshold) else math.nan
    if record.lesions is not None:
        row |= {
            "lesions": record.lesions.found.size,
            "lesions_found": int((record.lesions.found >= detected).sum()),
            "false_positives": int((record.lesions.false >= detected).sum()),
        }
    return row


def _mark(title: str, evaluation: Evaluation) -> str:
    """The row's title, which says by itself where its intervals are not to be relied on."""
    return f"{title} (doubtful intervals, see below)" if evaluation.doubts else title


def _cell(figure: Figure | None, interval: str = " [{}–{}]") -> str:
    if figure is None or math.isnan(figure.value):
        return "-"
    text = f"{100 * figure.value:.2f}"
    if figure.low is None or figure.high is None:
        return text
    return text + interval.format(f"{100 * figure.low:.1f}", f"{100 * figure.high:.1f}")


def _caption(evaluation: Evaluation, note: str, unit: str) -> str:
    counts = evaluation.counts
    rates_said = f"AUPRO up to 30 {unit} FPR; lesion sensitivity: mean at 1/8 to 8 false positives a volume"
    return (
        f"In {unit}, with 95 % intervals over patients (bootstrap): {counts['cases']} cases of {counts['patients']} patients, "
        f"{counts['slices']} slices ({counts['abnormal_slices']} abnormal), {counts['lesions']} lesions. Slice score: "
        f"{evaluation.tally.slice_score}. {rates_said}. {note}."
    )


def _escape(text: str) -> str:
    return "".join({"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "–": "--"}.get(sign, sign) for sign in text)
