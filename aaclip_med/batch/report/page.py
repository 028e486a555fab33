"""``report.html``: the cases of a run in one self-contained page, which works offline and asks no server for anything."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from matplotlib import colormaps

from aaclip_med.batch.report.preview import (
    CALIBRATED_SCALE,
    HEAT_CODES,
    LISTED_CANDIDATES,
    UNCALIBRATED_SCALE,
    VERSION,
    log_odds,
)
from aaclip_med.batch.report.words import explain, list_facts, list_notices, say_share
from aaclip_med.data.writing import atomic_path
from aaclip_med.presets import PRESETS
from aaclip_med.scoring.colours import HEAT_COLOURS

Row = Mapping[str, Any]

DARKEST = 0.25
"""Where the colours begin within matplotlib's table: what is darker would not stand out from a slice."""

_HEADINGS = {"case": "Case", "score": "Score", "p": "p", "candidates": "Candidates", "ml": "mL", "slices": "Slices"}
_COLUMNS = {"score": "score", "p": "p_value", "candidates": "candidates", "ml": "candidates_ml", "slices": "slices"}
"""The page's columns: their headings, and what they are called in the ``volumes`` table."""


def write_report(
    path: Path,
    account: Mapping[str, Any],
    rows: Sequence[Row],
    lesions: Sequence[Row],
    previews: Callable[[str], bytes | None],
) -> None:
    """Write the page, whole or not at all. Previews pass through one at a time, so memory does not grow with their number.

    Args:
        path: the file.
        account: what ``run.json`` says; shown are ``preset``, ``calibrated``, ``calibration_caveat``, ``demonstration``,
            ``threshold``, ``operating_point``, ``adapters_hash``, ``tower_hash``, ``aaclip_med`` (version), ``date``,
            ``passed_over``.
        rows: the ``volumes`` table, failed cases with their ``error`` included.
        lesions: the ``lesions`` table; the first 50 candidates of a case are listed.
        previews: called with a case's name; what ``draw_preview`` made, or None. Bytes that are damaged or of another
            version count as None.

    Raises:
        OutputError: the file cannot be written, or a preview cannot be read.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as stream:
        stream.writelines(_build_page(account, rows, lesions, previews))


def _build_page(
    account: Mapping[str, Any], rows: Sequence[Row], lesions: Sequence[Row], previews: Callable[[str], bytes | None]
) -> Iterator[str]:
    by_case: dict[str, list[Row]] = defaultdict(list)
    for lesion in lesions:
        if len(by_case[lesion["case"]]) < LISTED_CANDIDATES:
            by_case[lesion["case"]].append(lesion)
    before, between, after = _fill_template(account, rows)
    yield before
    for number in sorted(range(len(rows)), key=lambda number: _rank(rows[number])):
        yield _write_row(number, rows[number])
    yield between
    for number, row in enumerate(rows):
        yield _embed_case(number, row, by_case.get(row["case"], []), previews(row["case"]))
    yield after


def _fill_template(account: Mapping[str, Any], rows: Sequence[Row]) -> tuple[str, str, str]:
    """The page before the table's rows, between them and the cases' data, and after that."""
    style = _read_part("page.css")
    scripts = {f"{name}_script": _read_part(f"{name}.js") for name in ("cases", "picture", "viewer")}
    preset = PRESETS.get(str(account.get("preset")))
    title = f"{preset.title if preset else account.get('preset', '')}, {len(rows)} case{'s' * (len(rows) != 1)}"
    page = Template(_read_part("page.html")).substitute(
        title=escape(title),
        notices="".join(f'<strong class="notice">{escape(notice)}</strong>' for notice in list_notices(account)),
        facts="".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in list_facts(account)),
        reading="".join(f"<p>{escape(text)}</p>" for text in explain(account)),
        choices=_write_choices(rows),
        without_p="" if any(_number(row.get("p_value")) is not None for row in rows) else ' class="without-p"',
        headings="".join(_write_heading(key, name) for key, name in _HEADINGS.items()),
        style=style,
        style_hash=_hash_source(style),
        script_hashes=" ".join(map(_hash_source, scripts.values())),
        colour_table=json.dumps(_sample_colours()),
        **scripts,
    )
    before, rest = page.split("<!-- rows -->")
    between, after = rest.split("<!-- data -->")
    return before, between, after


def _write_choices(rows: Sequence[Row]) -> str:
    failed = sum(row.get("status") != "ok" for row in rows)
    found = sum(bool(_number(row.get("candidates"))) for row in rows)
    choices = (
        ("all", "all", len(rows)),
        ("candidates", "with candidates", found),
        ("ok", "scored", len(rows) - failed),
        ("failed", "failed", failed),
    )
    return "".join(
        f'<input type="radio" name="status" id="show-{key}" value="{key}"{" checked" * (key == "all")}>'
        f'<label for="show-{key}">{name} <span>{count}</span></label>'
        for key, name, count in choices
    )


def _write_heading(key: str, name: str) -> str:
    sort = ' aria-sort="descending"' if key == "score" else ""
    return f'<th scope="col" class="{key}" data-key="{key}"{sort}><button type="button">{name}</button></th>'


def _write_row(number: int, row: Row) -> str:
    name = f'<th scope="row" class="case"><button type="button"><bdi>{escape(str(row["case"]))}</bdi></button></th>'
    if row.get("status") != "ok":
        reason = escape(str(row.get("error") or "no reason given"))
        return (
            f'<tr data-number="{number}" data-status="failed">{name}'
            f'<td class="reason" colspan="{len(_COLUMNS)}"><span class="failed">failed</span> {reason}</td></tr>\n'
        )
    values = {key: _number(row.get(column)) for key, column in _COLUMNS.items()}
    texts = {
        "score": say_share(values["score"]) + _draw_bar(values["score"], bool(row.get("calibrated"))),
        "p": "" if values["p"] is None else f"{values['p']:.3f}",
        "candidates": f"{values['candidates'] or 0:.0f}",
        "ml": _say_ml(values["ml"] or 0.0) if values["candidates"] else "",
        "slices": f"{values['slices'] or 0:.0f}",
    }
    cells = "".join(
        f'<td class="{key}" data-value="{"" if values[key] is None else values[key]}">{text}</td>'
        for key, text in texts.items()
    )
    return f'<tr data-number="{number}" data-status="ok">{name}{cells}</tr>\n'


def _say_ml(volume: float) -> str:
    return f"{volume:.1f}" if volume >= 1 else f"{volume:.2g}"


def _draw_bar(score: float | None, calibrated: bool) -> str:
    """The score as a length, on the scale of the heat's colours."""
    low, high = CALIBRATED_SCALE if calibrated else UNCALIBRATED_SCALE
    share = 0.0 if score is None else float(np.clip((log_odds(np.asarray(score)) - low) / (high - low), 0.0, 1.0))
    bar = f'<rect width="{100 * share:.1f}" height="6"/>'
    return f'<svg viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">{bar}</svg>'


def _embed_case(number: int, row: Row, lesions: Sequence[Row], preview: bytes | None) -> str:
    """One case as a block of data, which is no script and is parsed when the case is opened."""
    content = {"row": _keep_finite(row), "lesions": [_keep_finite(one) for one in lesions], "preview": _parse(preview)}
    text = json.dumps(content, separators=(",", ":"), default=str).replace("<", "\\u003c")
    return f'<script type="application/json" id="case-{number}">{text}</script>\n'


def _parse(preview: bytes | None) -> Any:
    """What ``draw_preview`` of this version made, else None."""
    try:
        content = json.loads(preview or b"null")
    except ValueError:
        return None
    return content if isinstance(content, dict) and content.get("version") == VERSION else None


def _keep_finite(row: Row) -> dict[str, Any]:
    """JSON has no NaN and no infinite numbers."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def _sample_colours() -> list[list[int]]:
    """The colour of each code above 0: red, green and blue in 0 to 255."""
    shares = np.linspace(DARKEST, 1.0, HEAT_CODES - 1)
    return np.round(255 * colormaps[HEAT_COLOURS](shares)[:, :3]).astype(int).tolist()  # type: ignore[no-any-return]


def _read_part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _hash_source(text: str) -> str:
    """As a content security policy names an inline style or script (CSP Level 3, section 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _rank(row: Row) -> float:
    """Failed cases come last, and before them the lowest score."""
    score = _number(row.get("score")) if row.get("status") == "ok" else None
    return 1.0 if score is None else -score


def _number(value: Any) -> float | None:
    return None if value is None or value == "" or math.isnan(float(value)) else float(value)
