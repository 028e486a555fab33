"""The voxels at or above the threshold, as a segmentation."""

from __future__ import annotations

import numpy as np
import slicer

from .geometry import place_like

SEGMENT = "lesion_candidates"

_ORGANS = {
    "brain-mri": "SCT^12738006^Brain",
    "liver-ct": "SCT^10200004^Liver",
    "retinal-oct": "SCT^5665001^Retina",
}


def name_terms(preset: str) -> str:
    """Slicer's terminology entry: SNOMED CT's altered structure, lesion, in the preset's organ."""
    kind = "SCT^49755003^Morphologically Altered Structure~SCT^52988006^Lesion~^^"
    organ = f"Anatomic codes - DICOM master list~{_ORGANS.get(preset, '^^')}~^^"
    return f"Segmentation category and type - DICOM master list~{kind}~{organ}"


def add_segmentation(
    volume: slicer.vtkMRMLScalarVolumeNode, mask: np.ndarray, name: str, preset: str
) -> slicer.vtkMRMLSegmentationNode:
    """A segmentation of one segment from a (K, J, I) mask on the volume's grid."""
    node = volume.GetScene().AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    place_like(node, volume)
    segment = slicer.vtkSegment()
    segment.SetName("Lesion candidates")
    segment.SetColor(0.95, 0.35, 0.25)
    segment.SetTerminology(name_terms(preset))
    node.GetSegmentation().AddSegment(segment, SEGMENT)
    draw_mask(node, mask, volume)
    display = node.GetDisplayNode()
    display.SetVisibility2DFill(False)
    display.SetVisibility2DOutline(True)
    return node


def draw_mask(node: slicer.vtkMRMLSegmentationNode, mask: np.ndarray, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Replace the segment by a (K, J, I) mask on the volume's grid."""
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.ascontiguousarray(mask, dtype=np.uint8), node, SEGMENT, volume)
