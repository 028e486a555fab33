"""Results beside their input in Subject Hierarchy, under the same study and patient."""

from __future__ import annotations

from collections.abc import Iterable

import slicer


def file_under(volume: slicer.vtkMRMLNode, folder: str, nodes: Iterable[slicer.vtkMRMLNode]) -> int:
    """Put the nodes into a new folder next to the volume; returns the folder's item."""
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volume.GetScene())
    above = tree.GetItemParent(_find_item(tree, volume)) or tree.GetSceneItemID()
    place = tree.CreateFolderItem(above, folder)
    for node in nodes:
        tree.SetItemParent(_find_item(tree, node), place)
    return place


def _find_item(tree: slicer.vtkMRMLSubjectHierarchyNode, node: slicer.vtkMRMLNode) -> int:
    return tree.GetItemByDataNode(node) or tree.CreateItem(tree.GetSceneItemID(), node)
