"""A result in the scene: heatmap, segmentation, table and points of one input. The heatmap node leads to the others.

Nothing is kept beside the scene, so that a result of a scene that was saved and opened again is as live as a new one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

from .candidates import find_candidates
from .findings import add_peaks, add_table, fill_peaks, fill_table, read_table
from .geometry import Point, find_ijk_to_ras, move_to_world
from .heatmap import add_heatmap, set_threshold
from .hierarchy import file_under
from .jobs import Result
from .mask import Mask
from .provenance import PREFIX, list_facts, mark, read_facts
from .segmentation import add_segmentation, draw_mask
from .work import Work

_PARTS = ("segmentation", "table", "peaks")
_FACTS = ("score", "p_value", "threshold", "run", "operating")


@dataclass(frozen=True)
class Findings:
    """The nodes of one result. volume: the input, None where it is gone."""

    heatmap: slicer.vtkMRMLScalarVolumeNode
    segmentation: slicer.vtkMRMLSegmentationNode
    table: slicer.vtkMRMLTableNode
    peaks: slicer.vtkMRMLMarkupsFiducialNode
    volume: slicer.vtkMRMLScalarVolumeNode | None

    @property
    def nodes(self) -> tuple[slicer.vtkMRMLNode, ...]:
        """The four nodes of the result."""
        return self.heatmap, self.segmentation, self.table, self.peaks

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """The table's rows."""
        return read_table(self.table)

    @property
    def result(self) -> Result:
        """The result as the nodes hold it."""
        facts = read_facts(self.heatmap)
        account = {name: json.loads(facts.get(name, "null")) for name in _FACTS}
        return Result(slicer.util.arrayFromVolume(self.heatmap), account | {"candidates": self.candidates})

    @property
    def is_calibrated(self) -> bool:
        """Whether heat is the share of normal voxels below."""
        return self.heatmap.GetAttribute(PREFIX + "calibrated") == "true"

    def find_place(self, row: int) -> Point:
        """Where the candidate of that row (from 0) is now, in the world, RAS mm."""
        return move_to_world(self.heatmap, self.candidates[row]["peak_ras"])


def find_findings(heatmap: slicer.vtkMRMLNode | None) -> Findings | None:
    """The result that a heatmap belongs to, or None where it is no heatmap of this module, or its nodes were removed."""
    if heatmap is None or heatmap.GetAttribute(PREFIX + "result") != "heatmap":
        return None
    parts = [heatmap.GetNodeReference(PREFIX + part) for part in _PARTS]
    if None in parts:
        return None
    return Findings(heatmap, *parts, heatmap.GetNodeReference(PREFIX + "input"))


def add_findings(
    volume: slicer.vtkMRMLScalarVolumeNode, result: Result, request: dict[str, Any], place: str = "", item: str = ""
) -> Findings:
    """Put a result into the scene.

    Args:
        volume: the input.
        result: what came back.
        request: what was asked for, with the matrix that went out.
        place: where it ran, in words.
        item: which item of a sequence the volume showed.
    """
    scene = volume.GetScene()
    title = f"{volume.GetName()} {item}".strip()
    sent = np.asarray(request["ijk_to_ras"], dtype=float)
    candidates = list(result.account["candidates"])
    heatmap = add_heatmap(volume, result.heatmap, _name(scene, f"{title} heatmap"), sent, result.threshold)
    lined_up = np.allclose(find_ijk_to_ras(volume), find_ijk_to_ras(heatmap), atol=1e-6)
    findings = Findings(
        heatmap,
        add_segmentation(
            volume if lined_up else heatmap, result.mask, _name(scene, f"{title} lesion candidates"), str(request.get("preset"))
        ),
        add_table(scene, candidates, _name(scene, f"{title} candidates table")),
        add_peaks(heatmap, candidates, _name(scene, f"{title} peaks")),
        volume,
    )
    facts = list_facts(result, request, place) | ({"sequence_item": item} if item else {})
    for node, kind in zip(findings.nodes, ("heatmap", *_PARTS), strict=True):
        mark(node, kind, volume, facts)
        if kind != "heatmap":
            heatmap.SetNodeReferenceID(PREFIX + kind, node.GetID())
    file_under(volume, _name(scene, f"{title} AA-CLIP"), findings.nodes)
    return findings


@dataclass(frozen=True)
class Found:
    """The candidates at another threshold, and their voxels."""

    threshold: float
    candidates: list[dict[str, Any]]
    mask: Mask


class Search(Work):
    """Finds the candidates of a result at another threshold; it takes seconds where much of a large volume is hot."""

    def __init__(self, findings: Findings, threshold: float) -> None:
        super().__init__()
        settings = json.loads(findings.heatmap.GetAttribute(PREFIX + "settings") or "{}")
        self._minimum_ml = float(settings.get("minimum_ml") or 0.0)
        self._heat = slicer.util.arrayFromVolume(findings.heatmap)
        self._ijk_to_ras = find_ijk_to_ras(findings.heatmap)
        self._threshold = threshold

    def do(self) -> Found:
        """The candidates. Raises TooHotError where too much is at or above the threshold."""
        self.tell(0.0, "finding candidates")
        candidates, mask = find_candidates(self._heat, self._threshold, self._ijk_to_ras, self._minimum_ml)
        return Found(self._threshold, candidates, mask)


def show_found(findings: Findings, found: Found) -> None:
    """Bring all nodes up to date with a search."""
    set_threshold(findings.heatmap, found.threshold)
    draw_mask(findings.segmentation, found.mask, findings.heatmap)
    fill_table(findings.table, found.candidates)
    fill_peaks(findings.peaks, found.candidates)
    for node in findings.nodes:
        node.SetAttribute(PREFIX + "threshold", json.dumps(found.threshold))


def redraw(findings: Findings, threshold: float) -> None:
    """Find the candidates again at another threshold and bring all nodes up to date; for scripts, it waits.

    Raises:
        TooHotError: too much is at or above it; nothing is changed.
    """
    show_found(findings, Search(findings, threshold).do())


def _name(scene: slicer.vtkMRMLScene, wanted: str) -> str:
    return wanted if scene.GetFirstNodeByName(wanted) is None else scene.GenerateUniqueName(wanted)
