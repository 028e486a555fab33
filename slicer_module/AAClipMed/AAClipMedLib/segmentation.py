"""The voxels at or above the threshold, as a segmentation."""

from __future__ import annotations

import slicer
from vtk.util.numpy_support import numpy_to_vtk

from .geometry import find_ijk_to_ras, place_like
from .mask import Mask

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
    volume: slicer.vtkMRMLScalarVolumeNode, mask: Mask, name: str, preset: str
) -> slicer.vtkMRMLSegmentationNode:
    """A segmentation of one segment from a mask on the volume's grid."""
    node = volume.GetScene().AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    place_like(node, volume)
    segment = slicer.vtkSegment()
    segment.SetName("Lesion candidates")
    segment.SetColor(0.95, 0.35, 0.25)
    segment.SetTerminology(name_terms(preset))
    # Given along with the segment the image is taken as it is; the segmentations' logic would copy it.
    kind = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segment.AddRepresentation(kind, _wrap(mask, volume))
    node.GetSegmentation().AddSegment(segment, SEGMENT)
    display = node.GetDisplayNode()
    display.SetVisibility2DFill(False)
    display.SetVisibility2DOutline(True)
    return node


def draw_mask(node: slicer.vtkMRMLSegmentationNode, mask: Mask, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Replace the segment by a mask on the volume's grid; what is made of it, such as surfaces, is made anew."""
    slicer.vtkSlicerSegmentationsModuleLogic.SetBinaryLabelmapToSegment(_wrap(mask, volume), node, SEGMENT)


def _wrap(mask: Mask, volume: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkOrientedImageData:
    """The mask as an image that takes its memory, in the volume's own frame."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*mask.extent)
    image.GetPointData().SetScalars(numpy_to_vtk(mask.voxels.reshape(-1)))
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(find_ijk_to_ras(volume)))
    return image
