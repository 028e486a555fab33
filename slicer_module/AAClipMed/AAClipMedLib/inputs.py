"""What is sent out: the volume's voxels as they lie, and where to look, as a mask on the same grid."""

from __future__ import annotations

from itertools import product

import numpy as np
import slicer
import vtk

from .geometry import GeometryError, find_ijk_to_ras, find_transform_to_world


def read_voxels(volume: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """(K, J, I), a view into the node. A sequence's item stays alive in it when the sequence moves on.

    Raises:
        GeometryError: the node holds no 3-D array of single values.
    """
    image = volume.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        raise GeometryError(f"{volume.GetName()} holds no voxels")
    if image.GetNumberOfScalarComponents() != 1:
        raise GeometryError(f"{volume.GetName()} has {image.GetNumberOfScalarComponents()} values a voxel; 1 is needed")
    return slicer.util.arrayFromVolume(volume)


def describe_item(volume: slicer.vtkMRMLVolumeNode) -> str:
    """``item 3`` where the volume shows the third item of a sequence, else an empty string."""
    for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"):
        if browser.GetSequenceNode(volume) is not None:
            return f"item {browser.GetSelectedItemNumber() + 1}"
    return ""


def find_organ(node: slicer.vtkMRMLNode | None, volume: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray | None:
    """(K, J, I) uint8 on the volume's grid, 1 inside: the visible segments, a labelmap's labels, or a ROI's box.

    Raises:
        GeometryError: nothing of it lies in the volume, or it cannot be brought onto the grid.
    """
    if node is None:
        return None
    if node.IsA("vtkMRMLMarkupsROINode"):
        mask = _fill_roi(node, volume)
    elif node.IsA("vtkMRMLSegmentationNode"):
        mask = _draw_segments(node, volume)
    else:
        mask = _resample_labels(node, volume)
    if not mask.any():
        raise GeometryError(f"{node.GetName()} does not reach into {volume.GetName()}; nothing would be scored")
    return mask


def _draw_segments(segmentation: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    display = segmentation.GetDisplayNode()
    all_segments = segmentation.GetSegmentation().GetSegmentIDs()
    visible = [one for one in all_segments if display is None or display.GetSegmentVisibility(one)]
    mask = np.zeros(slicer.util.arrayFromVolume(volume).shape, dtype=np.uint8)
    for segment in visible:
        mask |= (slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment, volume) > 0).astype(np.uint8)
    return mask


def _resample_labels(labels: slicer.vtkMRMLLabelMapVolumeNode, volume: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    array = slicer.util.arrayFromVolume(labels)
    same_grid = array.shape == slicer.util.arrayFromVolume(volume).shape and np.allclose(
        find_ijk_to_ras(labels), find_ijk_to_ras(volume), atol=1e-4
    )
    if same_grid and labels.GetTransformNodeID() == volume.GetTransformNodeID():
        return (array > 0).astype(np.uint8)
    scene = volume.GetScene()
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "AAClipMed organ")
    try:
        segmentation.SetAndObserveTransformNodeID(labels.GetTransformNodeID())
        slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, segmentation)
        return _draw_segments(segmentation, volume)
    finally:
        scene.RemoveNode(segmentation)


def _fill_roi(roi: slicer.vtkMRMLMarkupsROINode, volume: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    box_to_node = slicer.util.arrayFromVTKMatrix(roi.GetObjectToNodeMatrix())
    volume_to_world = find_transform_to_world(volume) @ find_ijk_to_ras(volume)
    ijk_to_box = np.linalg.inv(find_transform_to_world(roi) @ box_to_node) @ volume_to_world
    half = np.asarray(roi.GetSize()) / 2.0
    shape = slicer.util.arrayFromVolume(volume).shape
    mask = np.zeros(shape, dtype=np.uint8)
    corners = np.array([[*(half * signs), 1.0] for signs in product((-1, 1), repeat=3)])
    reach = (corners @ np.linalg.inv(ijk_to_box).T)[:, :3]
    first = np.clip(np.floor(reach.min(axis=0)), 0, None).astype(int)
    last = np.minimum(np.ceil(reach.max(axis=0)).astype(int), np.array(shape[::-1]) - 1)
    if (last < first).any():
        return mask
    i, j, k = (np.arange(a, b + 1, dtype=np.float32) for a, b in zip(first, last, strict=True))
    inside = np.ones((len(k), len(j), len(i)), dtype=bool)
    for axis in range(3):
        a, b, c, origin = ijk_to_box[axis]
        place = (c * k)[:, None, None] + (b * j)[None, :, None] + (a * i)[None, None, :] + origin
        inside &= np.abs(place) <= half[axis] + 1e-4
    mask[first[2] : last[2] + 1, first[1] : last[1] + 1, first[0] : last[0] + 1] = inside
    return mask


def list_volumes(scene: slicer.vtkMRMLScene) -> list[slicer.vtkMRMLScalarVolumeNode]:
    """The scene's volumes that can be scored: scalar, with voxels, no labelmaps and no heatmaps of this module."""
    nodes: vtk.vtkCollection = scene.GetNodesByClass("vtkMRMLScalarVolumeNode")
    nodes.UnRegister(None)
    volumes = [nodes.GetItemAsObject(number) for number in range(nodes.GetNumberOfItems())]
    return [
        volume
        for volume in volumes
        if volume.GetClassName() == "vtkMRMLScalarVolumeNode"
        and not volume.GetHideFromEditors()
        and volume.GetImageData() is not None
        and volume.GetAttribute("AAClipMed.result") is None
    ]
