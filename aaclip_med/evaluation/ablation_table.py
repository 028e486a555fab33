"""The rows of an ablation on disk: they outlive the run that made them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aaclip_med.data.writing import atomic_path, write_json
from aaclip_med.errors import InputError
from aaclip_med.published import AVERAGES

FIGURES = {
    "pixel_auroc": "pixel AUROC",
    "body_auroc": "pixel AUROC in the body",
    "pixel_ap": "pixel AP",
    "slice_auroc": "slice AUROC",
}
"""The fields of a row that are figures, and what they are called."""
COLUMNS = ("group", "variant", "runs", *(f"{name}{end}" for name in FIGURES for end in ("", "_sd")))
BASELINE = "baseline"
PUBLISHED = "Published, averages over the paper's sets (pixel, image AUROC), quoted and not measured here: " + "; ".join(
    f"{one.what} {one.pixel_auroc:.3f}, {one.image_auroc:.3f}" for one in AVERAGES.values()
)


@dataclass(frozen=True)
class Row:
    """A variant's figures, as fractions; NaN where the test rows have one class only.

    pixel: all pixels of the scored slices, on the scan's own grid. body: those above 0 under the window. seed: of its
    training; None: it has none.
    """

    group: str
    name: str
    pixel_auroc: float
    body_auroc: float
    pixel_ap: float
    slice_auroc: float
    seed: int | None = None


class AblationTable:
    """The rows in ``folder``, by name and seed; ``order``: the names in which they are shown.

    ``ablation.json`` has the settings and every row in full; ``ablation.csv`` and ``ablation.md`` are for reading: a line a
    variant, mean and standard deviation over seeds.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], order: Sequence[str]) -> None:
        """Rows that an earlier run left are taken over.

        Raises:
            InputError: they were made with other settings, or cannot be read.
        """
        self.folder, self.settings, self.order = folder, settings, list(order)
        self.rows: dict[tuple[str, int | None], Row] = {}
        path = folder / "ablation.json"
        if not path.is_file():
            return
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            rows = [_read_row(one) for one in stored["rows"]]
            made: dict[str, Any] = stored["settings"]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}: damaged ({error}); remove it, or name another folder") from error
        other = sorted(name for name in settings.keys() | made.keys() if settings.get(name) != made.get(name))
        if other:
            raise InputError(f"{folder}: holds an ablation with other settings ({', '.join(other)}); name another folder")
        self.rows = {(row.name, row.seed): row for row in rows}

    def holds(self, names: Iterable[str], seed: int | None = None) -> bool:
        """Whether all these rows are there."""
        return all((name, seed) in self.rows for name in names)

    def add(self, *rows: Row) -> None:
        """Take in rows, and write all, each file whole or not at all."""
        self.rows |= {(row.name, row.seed): row for row in rows}
        write_json(self.folder / "ablation.json", {"settings": self.settings, "rows": [asdict(row) for row in self.sorted()]})
        self.show()

    def sorted(self) -> list[Row]:
        """The rows in the table's order, seeds of one together; those it does not know at its end."""
        places = {name: place for place, name in enumerate(self.order)}
        return sorted(self.rows.values(), key=lambda row: (places.get(row.name, len(places)), row.seed or 0))

    def summarise(self) -> list[dict[str, Any]]:
        """A dictionary a variant, by ``COLUMNS``: means and standard deviations over its seeds (NaN of one)."""
        lines = []
        for name in dict.fromkeys(row.name for row in self.sorted()):
            rows = [row for row in self.rows.values() if row.name == name]
            line: dict[str, Any] = {"group": rows[0].group, "variant": name, "runs": len(rows)}
            for figure in FIGURES:
                values = np.array([getattr(row, figure) for row in rows])
                line[figure] = float(values.mean())
                line[f"{figure}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else math.nan
            lines.append(line)
        return lines

    def show(self) -> None:
        """Write ``ablation.csv`` and ``ablation.md``."""
        lines = self.summarise()
        with atomic_path(self.folder / "ablation.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows({name: _plain(value) for name, value in line.items()} for line in lines)
        text = f"| | variant | runs | {' | '.join(FIGURES.values())} |\n|---|---|{'---:|' * (len(FIGURES) + 1)}\n"
        for line in lines:
            figures = " | ".join(_spread(line[name], line[f"{name}_sd"]) for name in FIGURES)
            text += f"| {line['group']} | {line['variant']} | {line['runs']} | {figures} |\n"
        text += "\n" + "\n".join(judge_lines(lines)) + f"\n\n{PUBLISHED}\n"
        with atomic_path(self.folder / "ablation.md") as path:
            path.write_text(text, encoding="utf-8")


def judge_lines(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Plain sentences: which variants a baseline reaches or beats, and in what; one that says so where none does."""
    baselines = [line for line in lines if line["group"] == BASELINE]
    others = [line for line in lines if line["group"] != BASELINE]
    sentences = []
    for figure, title in FIGURES.items():
        known = [line for line in baselines if not math.isnan(line[figure])]
        if not known:
            sentences.append(f"- {title}: undefined, the test rows have one class only.")
            continue
        best = max(known, key=lambda line: line[figure])
        lost = [line["variant"] for line in others if line[figure] <= best[figure]]
        if lost:
            sentences.append(f"- {title}: {best['variant']} reaches or beats, with {best[figure]:.4f}, {'; '.join(lost)}.")
        elif others:
            sentences.append(f"- {title}: no baseline reaches any variant; the best has {best[figure]:.4f}.")
    return sentences


def _spread(mean: float, deviation: float) -> str:
    return f"{mean:.4f}" if math.isnan(deviation) else f"{mean:.4f} ± {deviation:.4f}"


def _plain(value: Any) -> Any:
    return ("" if math.isnan(value) else f"{value:.4f}") if isinstance(value, float) else value


def _read_row(stored: dict[str, Any]) -> Row:
    figures = {name: math.nan if stored[name] is None else float(stored[name]) for name in FIGURES}
    return Row(stored["group"], stored["name"], **figures, seed=stored["seed"])
