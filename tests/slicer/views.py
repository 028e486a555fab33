"""Three slice views as the application draws them, with legend, outlines and points, off screen and without a GPU.

``python views.py PICTURES.npz`` draws a phantom with a synthetic heatmap: of each view the whole picture, the one with the
slice alone, and what the slice logic blends. It runs in a process of its own: VTK ends the process that renders where there is
no GL, and software GL brings compiler libraries that clash with torch's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

MANAGERS = (
    "vtkMRMLColorLegendDisplayableManager",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
)
VIEWS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
SIZE = 560
ENVIRONMENT = {"VTK_DEFAULT_OPENGL_WINDOW": "vtkEGLRenderWindow"}

_PROBE = "import vtk; window = vtk.vtkRenderWindow(); window.SetOffScreenRendering(True); window.Render(); print('drawn')"


def can_draw() -> bool:
    """Whether EGL is there."""
    tried = subprocess.run(
        [sys.executable, "-c", _PROBE], env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )
    return tried.returncode == 0 and "drawn" in tried.stdout


class View:
    """One slice's window, centred on the first candidate's peak."""

    def __init__(self, logic: Any, factory: Any) -> None:
        import vtk

        self.logic = logic
        self._window, self._renderer = vtk.vtkRenderWindow(), vtk.vtkRenderer()
        self._window.SetOffScreenRendering(True)
        self._window.SetMultiSamples(0)
        self._window.SetSize(SIZE, SIZE)
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._group = factory.InstantiateDisplayableManagers(self._renderer)
        self._group.SetMRMLDisplayableNode(logic.GetSliceNode())

    def show_slice(self) -> None:
        """Put the blended slice behind everything; the layers are set by now."""
        import vtk

        mapper = vtk.vtkImageMapper()
        mapper.SetInputConnection(self.logic.GetImageDataConnection())
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        blended = vtk.vtkActor2D()
        blended.SetMapper(mapper)
        blended.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(blended)

    def draw(self) -> np.ndarray:
        """(560, 560, 3) uint8, rows from above."""
        import vtk

        self._window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self._window)
        grab.ReadFrontBufferOff()
        grab.Update()
        return _read(grab.GetOutput())

    def blend(self) -> np.ndarray:
        """The same without any GL: the scan and the heatmap alone."""
        producer = self.logic.GetImageDataConnection().GetProducer()
        producer.Update()
        return _read(producer.GetOutputDataObject(0))

    def close(self) -> None:
        """Give the window back."""
        self._group.SetMRMLDisplayableNode(None)
        self._window.Finalize()


def open_views(application: Any, scan: Any, findings: Any) -> dict[str, View]:
    """The three views by name."""
    import slicer
    from AAClipMedLib.geometry import jump_to
    from AAClipMedLib.heatmap import show_legend, show_overlay

    scene = application.GetMRMLScene()
    factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
    factory.SetMRMLApplicationLogic(application)
    for name in MANAGERS:
        if not factory.IsDisplayableManagerRegistered(name):
            factory.RegisterDisplayableManager(name)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    views = {}
    for name, orientation in VIEWS.items():
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        node = logic.AddSliceNode(name)
        node.SetOrientation(orientation)
        node.SetDimensions(SIZE, SIZE, 1)
        application.GetSliceLogics().AddItem(logic)
        views[name] = View(logic, factory)
    show_overlay(scan, findings.heatmap, 0.6)
    show_legend(findings.heatmap, findings.is_calibrated)
    for view in views.values():
        view.logic.FitSliceToBackground(SIZE, SIZE)
        view.show_slice()
    jump_to(findings.find_place(0), scene)
    return views


def _read(image: Any) -> np.ndarray:
    from vtk.util.numpy_support import vtk_to_numpy

    width, height, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3].copy()


def main(path: str) -> None:
    """Draw, and write the pictures."""
    import slicer
    from conftest import make_application
    from test_pictures import make_scene

    with tempfile.TemporaryDirectory() as cache:
        application = make_application(slicer, Path(cache))
        scan, findings = make_scene()
        views = open_views(application, scan, findings)
        pictures = {f"{name} whole": view.draw() for name, view in views.items()}
        slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(findings.heatmap).SetVisibility(False)
        findings.segmentation.SetDisplayVisibility(False)
        findings.peaks.SetDisplayVisibility(False)
        for name, view in views.items():
            pictures |= {f"{name} bare": view.draw(), f"{name} blended": view.blend()}
            view.close()
        np.savez(path, **pictures)
    os._exit(0)  # the order in which the scene's parts end is not what is looked at


if __name__ == "__main__":
    main(sys.argv[1])
