"""The heatmap as a volume node: lined up with the input, coloured, see-through below a threshold."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from .colours import find_colours
from .geometry import find_ijk_to_ras, place_like

_TOP = 1e30


def add_heatmap(
    volume: slicer.vtkMRMLScalarVolumeNode, heat: np.ndarray, name: str, sent: np.ndarray, threshold: float
) -> slicer.vtkMRMLScalarVolumeNode:
    """A volume of (K, J, I) heat on the input's own grid, whatever it is: oblique, left-handed, sheared, transformed.

    The threshold lies in the middle of its colours; 1 is the top. Values below the threshold are see-through.

    ``sent``: the matrix (IJK to RAS) that went out with the voxels. It counts where the node shows another grid by now, as a
    sequence that has moved on does.
    """
    scene = volume.GetScene()
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.CopyOrientation(volume)
    if not np.allclose(find_ijk_to_ras(volume), sent, atol=1e-6):
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(sent))
    place_like(node, volume)
    # Fixed before there are voxels: an automatic window would be found by a histogram of the whole volume, twice.
    display = scene.AddNewNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    display.SetAndObserveColorNodeID(find_colours(scene).GetID())
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(*find_colour_range(threshold))
    node.SetAndObserveDisplayNodeID(display.GetID())
    set_threshold(node, threshold)
    node.SetAndObserveImageData(_wrap(heat))
    return node


def _wrap(heat: np.ndarray) -> vtk.vtkImageData:
    """(K, J, I) heat as VTK's image, which takes the array's own memory: a copy of a large one takes too long here."""
    image = vtk.vtkImageData()
    image.SetDimensions(*heat.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(heat.reshape(-1)))
    return image


def find_colour_range(threshold: float) -> tuple[float, float]:
    """The heat of the first and of the last colour: 0 to 1 for 0.5, 0.998 to 1 for 0.999."""
    low = min(max(2.0 * threshold - 1.0, 0.0), 0.999999)
    return low, 1.0


def set_threshold(node: slicer.vtkMRMLScalarVolumeNode, threshold: float) -> None:
    """Make heat below ``threshold`` see-through. Colours stay as they are, and stretch down where the threshold leaves them."""
    display = node.GetDisplayNode()
    display.AutoThresholdOff()
    display.SetThreshold(threshold, _TOP)
    display.ApplyThresholdOn()
    if threshold < display.GetWindowLevelMin():
        display.SetWindowLevelMinMax(threshold, 1.0)


def show_overlay(volume: slicer.vtkMRMLScalarVolumeNode, heatmap: slicer.vtkMRMLScalarVolumeNode, opacity: float) -> None:
    """Show the heatmap over the volume in every slice view."""
    slicer.util.setSliceViewerLayers(background=volume, foreground=heatmap, foregroundOpacity=opacity)


def set_opacity(scene: slicer.vtkMRMLScene, heatmap: slicer.vtkMRMLScalarVolumeNode, opacity: float) -> None:
    """Set the overlay's opacity in the slice views that show this heatmap."""
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
        layers = scene.GetNthNodeByClass(number, "vtkMRMLSliceCompositeNode")
        if layers.GetForegroundVolumeID() == heatmap.GetID():
            layers.SetForegroundOpacity(opacity)


def show_legend(heatmap: slicer.vtkMRMLScalarVolumeNode, is_calibrated: bool) -> slicer.vtkMRMLColorLegendDisplayNode:
    """Show a colour legend beside the slices. Slice layers are set first, or it stays empty."""
    legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(heatmap)
    legend.SetTitleText("Share of normal\nvoxels below" if is_calibrated else "Model probability\n(uncalibrated)")
    low, _ = heatmap.GetDisplayNode().GetWindowLevelMin(), heatmap.GetDisplayNode().GetWindowLevelMax()
    legend.SetLabelFormat("%.4f" if low > 0.9 else "%.2f")
    legend.SetVisibility(True)
    return legend
