"""Where a voxel lies: indices (I, J, K), the volume's own frame and the world, both RAS mm.

A node's own frame is the world before its parent transforms. Results are made in the input's own frame and carry the input's
parent transform, so they stay lined up when that transform changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer
import vtk

Point = tuple[float, float, float]


class GeometryError(ValueError):
    """Two nodes cannot be brought onto one grid; the message says what to do."""


def find_ijk_to_ras(volume: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    """(4, 4), voxel index (I, J, K) to RAS mm in the volume's own frame."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def find_transform_to_world(node: slicer.vtkMRMLTransformableNode) -> np.ndarray:
    """(4, 4), the node's own frame to the world.

    Raises:
        GeometryError: a parent transform is not linear.
    """
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        raise GeometryError(f"{node.GetName()} is under a warping transform; harden it first (Transforms module)")
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def find_transform_between(source: slicer.vtkMRMLTransformableNode, target: slicer.vtkMRMLTransformableNode) -> np.ndarray:
    """(4, 4), the one node's own frame to the other's.

    Raises:
        GeometryError: they are under different transforms, and one is not linear.
    """
    if source.GetTransformNodeID() == target.GetTransformNodeID():
        return np.eye(4)
    return np.linalg.inv(find_transform_to_world(target)) @ find_transform_to_world(source)


def move_to_world(node: slicer.vtkMRMLTransformableNode, point: Sequence[float]) -> Point:
    """A point of the node's own frame, in the world. Parent transforms may warp."""
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(node.GetParentTransformNode(), None, transform)
    return transform.TransformPoint(*point)


def place_like(node: slicer.vtkMRMLTransformableNode, volume: slicer.vtkMRMLVolumeNode) -> None:
    """Put the node under the volume's parent transform."""
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())


def jump_to(point: Sequence[float], scene: slicer.vtkMRMLScene) -> None:
    """Show a point of the world (RAS mm) in every slice and 3D view, and put the crosshair there."""
    slicer.vtkMRMLSliceNode.JumpAllSlices(scene, *point, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
    for camera in slicer.util.getNodesByClass("vtkMRMLCameraNode"):
        shift = np.subtract(point, camera.GetFocalPoint())
        camera.SetPosition(*np.add(camera.GetPosition(), shift))
        camera.SetFocalPoint(*point)
    crosshair = slicer.util.getFirstNodeByClassByName("vtkMRMLCrosshairNode", "default")
    if crosshair is not None:
        crosshair.SetCrosshairRAS(*point)
