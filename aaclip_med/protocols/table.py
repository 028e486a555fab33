"""The table of a protocol: measured, baselines, published and missing, each marked as what it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from aaclip_med.data.writing import write_csv, write_file, write_json
from aaclip_med.evaluation.baselines import TITLES
from aaclip_med.protocols.config import FULL, Protocol
from aaclip_med.protocols.sets import SETS
from aaclip_med.published import AVERAGES, BY_SET

if TYPE_CHECKING:
    from aaclip_med.protocols.run import Outcome

FIGURES = {
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "image_auroc": "slice AUROC",
    "image_ap": "slice AP",
    "volume_auroc": "volume AUROC",
}
MODELS = {"trained": "this package", "clip": "CLIP without adapters", "clip-surgery": "value-value CLIP without adapters"}
COLUMNS = (
    "kind",
    "set",
    "detector",
    "trained_on",
    "shots",
    "runs",
    *(f"{name}{end}" for name in FIGURES for end in ("", "_sd")),
)

Row = dict[str, Any]


class Remarks(NamedTuple):
    """What else a table says. missing: where each missing set is to be had, by name."""

    missing: dict[str, str]
    notes: list[str]
    settings: dict[str, Any]


def write_table(
    folder: Path,
    protocol: Protocol,
    outcomes: Sequence[Outcome],
    titles: dict[str, str],
    remarks: Remarks,
) -> None:
    """Write ``table.md`` (percent), ``table.csv`` and ``table.json`` (fractions) into ``folder``.

    Raises:
        OutputError: a file cannot be written.
    """
    rows = build_rows(protocol, outcomes, titles)
    failed = {f"{titles[one.cell.test]}, {one.cell.run}": one.error for one in outcomes if one.error}
    verdicts = judge_rows(rows)
    write_csv(folder / "table.csv", COLUMNS, rows)
    content = {"title": protocol.title, "rows": rows, "verdict": verdicts, **remarks._asdict(), "failed": failed}
    content["published_averages"] = [AVERAGES[name]._asdict() for name in protocol.average]
    write_json(folder / "table.json", content)
    text = _build_markdown(protocol, rows, verdicts, remarks, failed)
    write_file(folder / "table.md", lambda temporary: temporary.write_text(text, encoding="utf-8"))


def build_rows(protocol: Protocol, outcomes: Sequence[Outcome], titles: dict[str, str]) -> list[Row]:
    """The rows of each tested set, in the protocol's order: measured or missing, baselines, published.

    A figure is the mean over the set's classes, then over runs; ``_sd`` is the standard deviation over runs, empty of one.
    Baselines come from the first run of the set.
    """
    rows: list[Row] = []
    for test in dict.fromkeys(one.cell.test for one in outcomes):
        own = [one for one in outcomes if one.cell.test == test]
        first = next((one for one in own if one.classes), None)
        for key in dict.fromkeys((one.cell.lessons, one.cell.shots) for one in own):
            runs = [one for one in own if (one.cell.lessons, one.cell.shots) == key]
            done = [_average(list(one.classes.values())) for one in runs if one.classes]
            row: Row = {"kind": "measured", "set": titles[test], "detector": _name_detector(protocol)}
            row["trained_on"] = ", ".join(titles.get(name, name) for name in key[0])
            row |= {"shots": key[1] if key[1] is not None else "", "runs": len(done)}
            if not done:
                row["kind"] = "failed" if any(one.error for one in runs) else "missing"
                row["detector"] = "failed, see below" if row["kind"] == "failed" else _name_missing(runs[0], titles)
            for name in FIGURES if done else ():
                values = np.array([one[name] for one in done])
                row[name] = float(values.mean())
                row[f"{name}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else math.nan
            rows.append(row)
        for name in TITLES if first else ():
            per_class = [one["baselines"].get(name) for one in first.classes.values()] if first else []
            if all(per_class):
                figures = _average([one for one in per_class if one])
                rows.append({"kind": "baseline", "set": titles[test], "detector": TITLES[name], **figures})
        if test in BY_SET:
            published = BY_SET[test]._asdict()
            rows.append({"kind": "published", "set": SETS[test].title, "detector": published.pop("what"), **published})
    return rows


def judge_rows(rows: Sequence[Row]) -> list[str]:
    """Plain sentences: which measured rows a baseline beats or reaches, and in what."""
    sentences = []
    for row in (one for one in rows if one["kind"] == "measured"):
        lost: dict[str, list[str]] = {"beats": [], "reaches": []}
        compared = 0
        others = [one for one in rows if one["kind"] == "baseline" and one["set"] == row["set"]]
        for name, title in FIGURES.items():
            theirs = [(one[name], one["detector"]) for one in others if not math.isnan(one[name])]
            if not theirs or math.isnan(row[name]):
                continue
            compared += 1
            best, detector = max(theirs)
            equal = math.isclose(best, row[name], rel_tol=1e-9)
            if equal or best > row[name]:
                said = f"{title} {100 * best:.2f} ({detector}) against {100 * row[name]:.2f}"
                lost["reaches" if equal else "beats"].append(said)
        verdict = " and ".join(f"a baseline {verb} it in {'; '.join(said)}" for verb, said in lost.items() if said)
        nothing = "no baseline reaches it" if compared else "there is no baseline figure to compare it with"
        sentences.append(f"{row['set']}{_tell_training(row)}: {verdict or nothing}.")
    return sentences


def _name_detector(protocol: Protocol) -> str:
    """What is measured. Without residual adapters in either tower the projections are all that is trained."""
    bare = all(protocol.training.get(f"detector::{tower}_adapters") == 0 for tower in ("image", "text"))
    return f"{MODELS[protocol.model]}, projections alone" if bare else MODELS[protocol.model]


def _average(classes: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean over classes; NaN where a figure is undefined in one of them."""
    values = {name: [one.get(name) for one in classes] for name in FIGURES}
    return {name: float(np.mean([math.nan if value is None else value for value in listed])) for name, listed in values.items()}


def _name_missing(outcome: Outcome, titles: dict[str, str]) -> str:
    names = ", ".join(titles.get(name, name) for name in outcome.missing)
    return f"missing: {names}" if names else "missing: nothing else to train on"


def _tell_training(row: Row) -> str:
    if not row.get("trained_on"):
        return ""
    shots = "all rows" if row["shots"] == FULL else f"{row['shots']} shots"
    return f", trained on {row['trained_on']} ({shots})"


def _build_markdown(
    protocol: Protocol,
    rows: Sequence[Row],
    verdicts: Sequence[str],
    remarks: Remarks,
    failed: dict[str, str],
) -> str:
    shown = [name for name in FIGURES if any(not math.isnan(row.get(name, math.nan)) for row in rows)]
    head = ["tested on", "detector", "trained on", "shots", "runs", *(FIGURES[name] for name in shown)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * 4}{'---:|' * (len(shown) + 1)}"]
    for row in rows:
        kind = "" if row["kind"] in ("measured", "missing", "failed") else f"*{row['kind']}:* "
        cells = [row["set"], f"{kind}{row['detector']}", *(str(row.get(name, "")) for name in ("trained_on", "shots", "runs"))]
        lines.append(f"| {' | '.join([*cells, *(_cell(row, name) for name in shown)])} |")
    said = ", ".join(f"{name} {value}" for name, value in remarks.settings.items() if value)
    parts = [f"# {protocol.title}", "\n".join(lines)]
    parts.append(
        "In percent: mean and standard deviation over runs, each the mean over the set's classes. Rows marked *published* are "
        f"quoted, not measured here; *baseline* rows are measured. Settings: {said}."
    )
    averages = [
        f"*published:* {what}, average over the paper's sets, pixel AUROC {100 * pixel:.1f}, image AUROC {100 * image:.1f}"
        for what, pixel, image in (AVERAGES[name] for name in protocol.average)
    ]
    for name, texts in (
        ("AA-CLIP's ablation, quoted, under the paper's own protocol", averages),
        ("Against the baselines", list(verdicts)),
        ("Notes", remarks.notes),
        ("Missing", list(remarks.missing.values())),
        ("Failed", [f"{cell}: {why}" for cell, why in failed.items()]),
    ):
        if texts:
            parts.append(f"{name}:\n\n" + "\n".join(f"- {text}" for text in texts))
    return "\n\n".join(parts) + "\n"


def _cell(row: Row, name: str) -> str:
    value, spread = row.get(name, math.nan), row.get(f"{name}_sd", math.nan)
    if math.isnan(value):
        return "-"
    return f"{100 * value:.2f}" + ("" if math.isnan(spread) else f" ± {100 * spread:.2f}")
