"""Where a node comes from, kept on the node: the model's hashes, the settings, the score. Saved with the scene."""

from __future__ import annotations

import json
import re
from typing import Any

import slicer

from .jobs import Result

PREFIX = "AAClipMed."


def list_facts(result: Result, request: dict[str, Any], place: str) -> dict[str, str]:
    """The facts by name. ``place``: where it ran, in words; holds no token."""
    account, run = result.account, result.account.get("run", {})
    settings = {name: value for name, value in request.items() if name not in ("volume", "organ", "ijk_to_ras")}
    for name in ("adapters", "weights"):  # a scene is shared; the computer's folders are not
        if isinstance(settings.get(name), str):
            settings[name] = re.split(r"[\\/]", settings[name])[-1]
    facts: dict[str, Any] = {
        "score": account["score"],
        "p_value": account.get("p_value"),
        "threshold": result.threshold,
        "version": run.get("aaclip_med"),
        "preset": run.get("preset", request.get("preset")),
        "adapters_hash": run.get("adapters_hash"),
        "tower_hash": run.get("tower_hash"),
        "calibrated": result.is_calibrated,
        "note": run.get("note"),
        "ran_on": place,
        "settings": settings,
        "operating": account.get("operating"),
        "run": run,
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items() if value is not None}


def mark(node: slicer.vtkMRMLNode, kind: str, source: slicer.vtkMRMLNode, facts: dict[str, str]) -> None:
    """Write what the node is (``result``), its input and the facts on the node."""
    node.SetAttribute(PREFIX + "result", kind)
    node.SetNodeReferenceID(PREFIX + "input", source.GetID())
    for name, value in facts.items():
        node.SetAttribute(PREFIX + name, value)


def read_facts(node: slicer.vtkMRMLNode) -> dict[str, str]:
    """What ``mark`` wrote."""
    return {name.removeprefix(PREFIX): node.GetAttribute(name) for name in node.GetAttributeNames() if name.startswith(PREFIX)}
