"""What is sent out: the volume's voxels as they lie, and where to look, as a mask on the same grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from .geometry import GeometryError, find_ijk_to_ras, find_transform_between
from .organs import Source

Organ = Callable[[], np.ndarray]
"""Draws a mask: (K, J, I) uint8 on the volume's grid, 1 inside."""


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


def find_organ(node: slicer.vtkMRMLNode | None, volume: slicer.vtkMRMLScalarVolumeNode) -> Organ | None:
    """What gives the mask on the volume's grid: the visible segments, a labelmap's labels, or a ROI's box.

    Here only places and references are read; the mask of a large volume takes seconds, in the thread that asks for it.

    Raises:
        GeometryError: it cannot be brought onto the grid; asked for the mask: nothing of it lies in the volume.
    """
    if node is None:
        return None
    if node.IsA("vtkMRMLMarkupsROINode"):
        sources = [_read_roi(node, volume)]
    elif node.IsA("vtkMRMLSegmentationNode"):
        sources = _read_segments(node, volume)
    else:
        to_labels = np.linalg.inv(find_ijk_to_ras(node)) @ find_transform_between(volume, node)
        sources = [Source(to_labels @ find_ijk_to_ras(volume), labels=slicer.util.arrayFromVolume(node))]
    shape, missed = slicer.util.arrayFromVolume(volume).shape, f"{node.GetName()} does not reach into {volume.GetName()}"

    def draw() -> np.ndarray:
        mask = np.zeros(shape, dtype=np.uint8)
        for source in sources:
            source.draw(mask)
        if not mask.any():
            raise GeometryError(f"{missed}; nothing would be scored")
        return mask

    return draw


def _read_roi(roi: slicer.vtkMRMLMarkupsROINode, volume: slicer.vtkMRMLScalarVolumeNode) -> Source:
    to_box = np.linalg.inv(slicer.util.arrayFromVTKMatrix(roi.GetObjectToNodeMatrix()))
    return Source(to_box @ find_transform_between(volume, roi) @ find_ijk_to_ras(volume), half=np.asarray(roi.GetSize()) / 2.0)


def _read_segments(node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode) -> list[Source]:
    segments, display = node.GetSegmentation(), node.GetDisplayNode()
    kind = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    sources = []
    for name in segments.GetSegmentIDs():
        if display is not None and not display.GetSegmentVisibility(name):
            continue
        segment = segments.GetSegment(name)
        image = segment.GetRepresentation(kind)
        if image is None:
            raise GeometryError(f"{node.GetName()} holds surfaces alone; create its binary labelmap (Segmentations module)")
        if image.GetNumberOfPoints() == 0:
            continue
        to_world = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(to_world)
        first = image.GetExtent()[::2]
        labels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
        to_image = np.linalg.inv(slicer.util.arrayFromVTKMatrix(to_world)) @ find_transform_between(volume, node)
        to_image[:3, 3] -= first
        sources.append(Source(to_image @ find_ijk_to_ras(volume), labels=labels, value=segment.GetLabelValue()))
    return sources


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
