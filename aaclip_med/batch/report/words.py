"""What the report page says of a run: warnings, facts, how to read it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def list_notices(account: Mapping[str, Any]) -> list[str]:
    """What nobody may overlook, a few words each."""
    notices = ["For research. Not for clinical use."]
    if account.get("demonstration"):
        notices.append("Demonstration adapters, made on drawn phantoms.")
    if not account.get("calibrated"):
        notices.append("Not calibrated.")
    if account.get("left_out"):
        notices.append(f"{account['left_out']} cases with lower scores are not on this page; the tables hold all.")
    return notices


def list_facts(account: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and texts: scores, operating point, model, version, date, what was passed over."""
    if not account.get("calibrated"):
        scores = "not calibrated: they order cases, and no error rate is known"
    else:
        scores = "calibrated on normal scans" + (f"; {caveat}" if (caveat := account.get("calibration_caveat")) else "")
    passed_over = len(account.get("passed_over", ()))
    adapters, tower = account.get("adapters_hash"), account.get("tower_hash")
    return [
        ("Scores", scores),
        ("Operating point", _say_threshold(account)),
        ("Model", f"adapters {adapters[:12]}" if adapters else f"no adapters, tower {str(tower)[:12]}"),
        ("Version", f"aaclip-med {account.get('aaclip_med', 'unknown')}"),
        ("Date", str(account.get("date") or "not stated")),
        *([("Passed over", f"{passed_over} that are no scans of this run, see run.json")] if passed_over else []),
    ]


def explain(account: Mapping[str, Any]) -> list[str]:
    """How to read the page, in paragraphs."""
    if account.get("calibrated"):
        heat = (
            "Heat is the fraction of voxels in normal scans that score below this one. Beyond 1 in 10,000 it ranks, but is no "
            "measured rate. p says how unusual the scan is among the normal ones of the calibration: for a normal scan like "
            "those, the chance of p at most a is at most a. It is not the chance of disease."
        )
    else:
        heat = "Heat is the model's own probability of abnormal. It keeps order, but it is not calibrated, and there is no p."
    return [
        heat,
        "A case's score is that of its three hottest slices, averaged in log odds, on the scale of heat. A candidate is a "
        "connected region at or above the operating point.",
        "Pictures are reduced, and long scans are shown by a selection of their slices; the heatmap files hold all. Axial and "
        "coronal slices have the patient's right on the left, sagittal ones anterior. OCT and pictures are as stored.",
        "In the picture, the wheel, a drag, a swipe or the arrow keys change the slice, Page Up and Page Down leap, Home and "
        "End go to the ends, Escape leads back to the table. In the table, arrow keys move and Enter opens.",
    ]


def say_share(value: float | None) -> str:
    """A share in [0, 1] with two or three digits, counted from 1 where it is near 1: 0.99953. As ``sayShare`` in cases.js."""
    if value is None:
        return ""
    if value < 0.01:
        return f"{value:.2g}"
    if value < 0.99:
        return f"{value:.3f}"
    return f"{value:.{min(7, max(3, 1 - math.floor(math.log10(max(1 - value, 1e-9)) + 1e-6)))}f}"


def _say_threshold(account: Mapping[str, Any]) -> str:
    threshold = account.get("threshold")
    if threshold is None:
        return "not stated"
    scale = "heat" if account.get("calibrated") else "a model probability of"
    chosen = f" ({account['operating_point']})" if account.get("operating_point") else ""
    return f"candidates begin at {scale} {threshold:.6g}{chosen}"
