"""The rows of an ablation on disk: they outlive the run that made them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aaclip_med.data.writing import atomic_path, write_json
from aaclip_med.errors import InputError

COLUMNS = ("group", "variant", "pixel_auroc", "body_auroc", "pixel_ap", "slice_auroc")
FIGURES = ("pixel", "body", "precision", "slices")
"""The fields of a row that are figures, in the columns' order."""


@dataclass(frozen=True)
class Row:
    """A variant's figures, as fractions; NaN where the test rows have one class only.

    pixel: all pixels of the scored slices, on the scan's own grid. body: those above 0 under the window. slices: by their
    scores. precision: average precision of all pixels.
    """

    group: str
    name: str
    pixel: float
    body: float
    precision: float
    slices: float


class AblationTable:
    """The rows in ``folder``, by name; ``order``: the names in which they are shown.

    ``ablation.json`` has the settings and the figures in full, ``ablation.csv`` and ``ablation.md`` are for reading.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], order: Sequence[str]) -> None:
        """Rows that an earlier run left are taken over.

        Raises:
            InputError: they were made with other settings, or cannot be read.
        """
        self.folder, self.settings, self.order = folder, settings, list(order)
        self.rows: dict[str, Row] = {}
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
        self.rows = {row.name: row for row in rows}

    def add(self, *rows: Row) -> None:
        """Take in rows, and write all, each file whole or not at all."""
        self.rows |= {row.name: row for row in rows}
        write_json(self.folder / "ablation.json", {"settings": self.settings, "rows": [asdict(row) for row in self.sorted()]})
        self.show()

    def sorted(self) -> list[Row]:
        """The rows in the table's order; those it does not know at its end."""
        places = {name: place for place, name in enumerate(self.order)}
        return sorted(self.rows.values(), key=lambda row: places.get(row.name, len(places)))

    def show(self) -> None:
        """Write ``ablation.csv`` and ``ablation.md``."""
        rows = self.sorted()
        lines = [(row.group, row.name, *(f"{getattr(row, name):.4f}" for name in FIGURES)) for row in rows]
        with atomic_path(self.folder / "ablation.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(lines)
        head = "| | variant | pixel AUROC | pixel AUROC in the body | pixel AP | slice AUROC |\n|---|---|---|---|---|---|\n"
        with atomic_path(self.folder / "ablation.md") as path:
            path.write_text(head + "".join(f"| {' | '.join(line)} |\n" for line in lines), encoding="utf-8")


def _read_row(stored: dict[str, Any]) -> Row:
    figures = (math.nan if stored[name] is None else float(stored[name]) for name in FIGURES)
    return Row(stored["group"], stored["name"], *figures)
