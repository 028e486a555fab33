"""Tables of an evaluation: JSON, a Markdown and a LaTeX row, one CSV line a case."""

from __future__ import annotations

import math
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from aaclip_med.data.scans import unique_names
from aaclip_med.data.writing import write_csv, write_file, write_json
from aaclip_med.evaluation.baselines import TITLES
from aaclip_med.evaluation.evaluation import Evaluation
from aaclip_med.evaluation.montage import draw_montage
from aaclip_med.evaluation.plots import draw_curves
from aaclip_med.evaluation.tally import NO_LESION, CaseRecord
from aaclip_med.inference.cutting import Cutting
from aaclip_med.inference.predictor import Predictor
from aaclip_med.inference.provenance import describe_run
from aaclip_med.scoring import rates
from aaclip_med.scoring.curve import DICE_RATE
from aaclip_med.scoring.metrics import Figure, explain_missing_class

COLUMNS = {
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "inside_pixel_auroc": "pixel AUROC inside",
    "inside_pixel_ap": "pixel AP inside",
    "pixel_aupro": "AUPRO",
    "pixel_f1_max": "pixel F1 max",
    "pixel_dice_at_5_fpr": "Dice at 5 % FPR",
    "image_auroc": "slice AUROC",
    "image_ap": "slice AP",
    "volume_auroc": "volume AUROC",
    "volume_ap": "volume AP",
    "lesion_sensitivity": "lesion sensitivity",
}
HEAD_LETTERS = 12
LATEX_SIGNS = {sign: f"\\{sign}" for sign in "%_&#${}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
}
CASE_COLUMNS = (
    *("case", "label", "score", "pixel_auroc", "pixel_ap", "dice", "dice_at_5_fpr"),
    *("lesions", "lesions_found", "false_positives", "slices", "abnormal_slices", "status", "reason"),
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
    rows = [["", *COLUMNS.values()], ["---"] + ["---:"] * len(COLUMNS), *_list_rows(evaluation, title, " [{}–{}]")]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    lines = [table, "", _caption(evaluation, note), "", *evaluation.doubts, *evaluation.cautions, *evaluation.verdict]
    undefined = [f"- {line}" for line in _list_undefined(evaluation)]
    return "\n".join([*lines, *(["", "Undefined:", *undefined] if undefined else [])]) + "\n"


def build_latex(evaluation: Evaluation, title: str, note: str) -> str:
    """The same as a LaTeX table (booktabs), one column a detector, which fits the width of a page."""
    heads, *figures = zip(*_list_rows(evaluation, title, " [{}–{}]"), strict=True)
    rows = [[name, *cells] for name, cells in zip(COLUMNS.values(), figures, strict=True)]
    undefined = [f"Undefined: {'; '.join(lines)}." for lines in [_list_undefined(evaluation)] if lines]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\small",
        rf"\caption{{{_escape(_caption(evaluation, note))}}}",
        rf"\label{{tab:{re.sub('[^a-z0-9]+', '-', title.lower()).strip('-')}}}",
        rf"\begin{{tabular*}}{{\textwidth}}{{@{{}}l@{{\extracolsep{{\fill}}}}{'r' * len(heads)}@{{}}}}",
        r"\toprule",
        rf" & {' & '.join(map(_stack, heads))} \\",
        r"\midrule",
        *(rf"{' & '.join(map(_escape, row))} \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular*}",
        r"\par\smallskip\footnotesize",
        *map(_escape, [*evaluation.doubts, *evaluation.cautions, *evaluation.verdict, *undefined]),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def list_cases(evaluation: Evaluation, predictor: Predictor) -> list[dict[str, Any]]:
    """One row a case: its own figures, and Dice and lesions at the thresholds of the whole set.

    ``dice``: at the threshold that gives the set its highest F1; ``lesions_found`` and ``false_positives``: where the set has
    one false positive a volume. Pixel figures come from about 1,000 bins a case, good to about 0.001, ``dice_at_5_fpr`` to
    0.01. ``reason``: why some of it is missing, or that label and mask contradict each other.
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
    detected = curve.threshold_at(1.0) if curve is not None else None
    names = unique_names([record.case.image_path for record in tally.records])
    rows = [_describe(record, thresholds, detected) for record in tally.records]
    for name, row in zip(names, rows, strict=True):
        row["case"] = name
        if "score" in row:
            row["score"] = float(predictor.rescale(row["score"]))
    return rows


def _describe(record: CaseRecord, thresholds: dict[str, float], detected: float | None) -> dict[str, Any]:
    row: dict[str, Any] = {"label": record.case.label, "status": "failed" if record.missing else "ok", "reason": record.error}
    if record.missing:
        return row
    row |= {"score": record.score, "slices": len(record.slice_labels), "abnormal_slices": int(record.slice_labels.sum())}
    reasons: list[str | None] = [record.conflict]
    if record.pixels is None:
        reasons.append("no mask")
    else:
        lowest, normal, abnormal, _ = record.pixels
        row |= {
            "pixel_auroc": float(rates.auroc(normal, abnormal)),
            "pixel_ap": float(rates.average_precision(normal, abnormal)),
        }
        reasons.append(explain_missing_class(int(abnormal.sum()), int(normal.sum()), "pixels"))
        for key, threshold in thresholds.items():
            above = lowest >= threshold
            found, wrong, held = (float(part.sum()) for part in (abnormal[above], normal[above], abnormal))
            row[key] = 2 * found / (found + wrong + held) if held and not math.isnan(threshold) else math.nan
    if record.lesions is not None:
        row["lesions"] = record.lesions.found.size
        if detected is None:
            reasons.append(f"{NO_LESION}, so no threshold for detections")
        else:
            row["lesions_found"] = int((record.lesions.found >= detected).sum())
            row["false_positives"] = int((record.lesions.false >= detected).sum())
    return row | {"reason": "; ".join(reason for reason in reasons if reason)}


def _mark(title: str, evaluation: Evaluation) -> str:
    """The row's title, which says by itself where its intervals are not to be relied on."""
    return f"{title} (doubtful intervals, see below)" if evaluation.doubts else title


def _list_rows(evaluation: Evaluation, title: str, interval: str) -> list[list[str]]:
    """A row a detector: its title, then its figures by ``COLUMNS``."""
    rows = [(_mark(title, evaluation), evaluation.figures)]
    rows += [(TITLES[name], figures) for name, figures in evaluation.baselines.items()]
    return [[head, *(_cell(figures.get(name), interval) for name in COLUMNS)] for head, figures in rows]


def _list_undefined(evaluation: Evaluation) -> list[str]:
    """Why a figure or a baseline is not in the table; a baseline's figures where the detector lacks them for another reason."""
    why = {name: evaluation.figures[name].reason for name in COLUMNS}
    lines = [f"{COLUMNS[name]}: {reason}" for name, reason in why.items() if reason]
    for name, figures in evaluation.baselines.items():
        other = {key: one.reason for key, one in figures.items() if one.reason and one.reason != why.get(key)}
        lines += [f"{TITLES[name]}, {COLUMNS[key]}: {reason}" for key, reason in other.items()]
    return [*lines, *(f"{TITLES[name]}, left out: {reason}" for name, reason in evaluation.left_out.items())]


def _cell(figure: Figure | None, interval: str) -> str:
    if figure is None or math.isnan(figure.value):
        return "-"
    text = f"{100 * figure.value:.2f}"
    if figure.low is None or figure.high is None:
        return text
    return text + interval.format(f"{100 * figure.low:.1f}", f"{100 * figure.high:.1f}")


def _caption(evaluation: Evaluation, note: str) -> str:
    counts = evaluation.counts
    cases, patients, slices, lesions = (
        f"{counts[noun]} {noun.removesuffix('s') if counts[noun] == 1 else noun}"
        for noun in ("cases", "patients", "slices", "lesions")
    )
    rates_said = "AUPRO up to 30 % FPR; lesion sensitivity: mean at 1/8 to 8 false positives a volume"
    return (
        f"In %, with 95 % intervals over patients (bootstrap): {cases} of {patients}, "
        f"{slices} ({counts['abnormal_slices']} abnormal), {lesions}; {_describe_cut(evaluation)}. Slice score: "
        f"{evaluation.tally.slice_score}; a window's: the same or its top 1 %, whichever is better. {rates_said}. {note}."
    )


def _describe_cut(evaluation: Evaluation) -> str:
    """The planes that slices were cut in, and the stride where it is not 1."""
    planes, stride = evaluation.settings["planes"], evaluation.settings["stride"]
    said = ", ".join(f"{plane} ({count})" for plane, count in planes.items()) if len(planes) > 1 else "".join(planes)
    return f"plane: {said or '-'}" + (f"; one slice in {stride} scored, heat interpolated between" if stride != 1 else "")


def _stack(head: str) -> str:
    """A column's head in LaTeX, in lines of few letters."""
    lines = map(_escape, textwrap.wrap(head, HEAD_LETTERS))
    return r"\shortstack[r]{" + r" \\ ".join(lines) + "}"


def _escape(text: str) -> str:
    return "".join(LATEX_SIGNS.get(sign, sign) for sign in text)
