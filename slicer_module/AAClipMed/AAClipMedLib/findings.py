"""The candidates as a table and as markup points, hottest first. Positions are in the input's own frame (RAS mm)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from .geometry import place_like

COLUMNS = ("Rank", "Peak", "Mean", "Volume (ml)", "R (mm)", "A (mm)", "S (mm)")

MOST_SHOWN = 200
"""Views and panel grow slow with more points and rows; the table holds every candidate."""


def list_rows(candidates: Sequence[dict[str, Any]]) -> list[tuple[float, ...]]:
    """One row a candidate, as ``COLUMNS`` says."""
    return [(one["id"], one["peak"], one["mean"], one["volume_ml"], *one["peak_ras"]) for one in candidates]


def add_table(scene: slicer.vtkMRMLScene, candidates: Sequence[dict[str, Any]], name: str) -> slicer.vtkMRMLTableNode:
    """A table of the candidates."""
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", name)
    fill_table(node, candidates)
    return node


def fill_table(node: slicer.vtkMRMLTableNode, candidates: Sequence[dict[str, Any]]) -> None:
    """Replace the table's rows."""
    columns = np.array(list_rows(candidates), dtype=np.float64).reshape(-1, len(COLUMNS)).T
    node.RemoveAllColumns()
    for number, (title, values) in enumerate(zip(COLUMNS, columns, strict=True)):
        kind = np.int32 if number == 0 else np.float64
        column = numpy_to_vtk(np.ascontiguousarray(values, dtype=kind), deep=True)
        column.SetName(title)
        node.AddColumn(column)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.Modified()


def add_peaks(
    volume: slicer.vtkMRMLScalarVolumeNode, candidates: Sequence[dict[str, Any]], name: str
) -> slicer.vtkMRMLMarkupsFiducialNode:
    """Points at the hottest voxels, in the volume's own frame, under its parent transform."""
    node = volume.GetScene().AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetSelectedColor(1.0, 0.9, 0.3)
    display.SetGlyphScale(2.0)
    display.SetTextScale(2.5)
    place_like(node, volume)
    fill_peaks(node, candidates)
    return node


def fill_peaks(node: slicer.vtkMRMLMarkupsFiducialNode, candidates: Sequence[dict[str, Any]]) -> None:
    """Replace the points."""
    with slicer.util.NodeModify(node):  # one change for all the points, not one for each
        node.SetLocked(False)
        node.SetFixedNumberOfControlPoints(False)
        node.RemoveAllControlPoints()
        for one in candidates[:MOST_SHOWN]:
            number = node.AddControlPoint(vtk.vtkVector3d(*one["peak_ras"]), f"{one['id']}: {one['peak']:.4g}")
            node.SetNthControlPointDescription(number, f"{one['volume_ml']:.3g} ml")
        node.SetLocked(True)


def read_table(node: slicer.vtkMRMLTableNode) -> list[dict[str, Any]]:
    """The candidates that ``fill_table`` wrote."""
    table = node.GetTable()
    columns = [table.GetColumnByName(title) for title in COLUMNS]
    if None in columns:
        return []
    rows = zip(*(vtk_to_numpy(column).tolist() for column in columns), strict=True)
    return [{"id": int(row[0]), "peak": row[1], "mean": row[2], "volume_ml": row[3], "peak_ras": list(row[4:])} for row in rows]
