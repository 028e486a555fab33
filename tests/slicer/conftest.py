"""The module's code against real MRML: the scene and logics of slicer-core, set up as the application does it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

MODULE_FOLDER = Path(__file__).parents[2] / "slicer_module" / "AAClipMed"
sys.path.insert(0, str(MODULE_FOLDER))

_LOGICS = {
    "segmentations": "vtkSlicerSegmentationsModuleLogic",  # before any segmentation node
    "volumes": "vtkSlicerVolumesLogic",
    "markups": "vtkSlicerMarkupsLogic",
    "sequences": "vtkSlicerSequencesLogic",
    "tables": "vtkSlicerTablesLogic",
}


@pytest.fixture
def slicer_core() -> ModuleType:
    """The ``slicer`` package of slicer-core."""
    slicer = pytest.importorskip("slicer", reason="slicer-core is not installed (pip install slicer-core)")
    if not hasattr(slicer, "vtkMRMLScene"):
        pytest.skip("slicer-core is not installed (pip install slicer-core); what is called slicer here is something else")
    return slicer


def make_application(slicer_core: ModuleType, cache_folder: Path) -> Any:
    """An application logic with an empty scene, and a folder to unpack scenes in."""
    import vtk

    scene = slicer_core.vtkMRMLScene()
    slicer_core.mrmlScene = scene
    files, cache = slicer_core.vtkDataIOManager(), slicer_core.vtkCacheManager()
    cache.SetRemoteCacheDirectory(str(cache_folder))
    files.SetCacheManager(cache)
    scene.SetDataIOManager(files)
    scene.SetCacheManager(cache)
    application = slicer_core.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    colours = slicer_core.vtkSlicerColorLogic()  # the base class knows no legends
    colours.SetMRMLApplicationLogic(application)
    colours.SetMRMLScene(scene)
    application.SetColorLogic(colours)
    colours.AddDefaultColorNodes()
    application.SetSliceLogics(vtk.vtkCollection())
    application.SetViewLogics(vtk.vtkCollection())
    application.SetModuleLogic("Colors", colours)
    modules = {"colors": SimpleNamespace(logic=lambda: colours)}
    for name, kind in _LOGICS.items():
        logic = getattr(slicer_core, kind)()
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        application.SetModuleLogic(name.capitalize(), logic)
        modules[name] = SimpleNamespace(logic=lambda logic=logic: logic)
    slicer_core.modules = SimpleNamespace(**modules)
    return application


@pytest.fixture
def application(slicer_core: ModuleType, tmp_path: Path) -> Iterator[Any]:
    """An application logic with an empty scene, and a cache folder to unpack scenes in."""
    (tmp_path / "cache").mkdir()
    application = make_application(slicer_core, tmp_path / "cache")
    yield application
    application.GetMRMLScene().Clear(1)


@pytest.fixture
def scene(application: Any) -> Any:
    """The scene."""
    return application.GetMRMLScene()


def make_geometry(kind: str) -> np.ndarray:
    """(4, 4) IJK to RAS, mm, of every kind that scanners and tools produce."""
    a, b, c = 0.4, -0.3, 0.7
    turn_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    turn_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    spacing = np.diag([0.7, 1.1, 2.3])
    axes = {
        "axial": np.diag([-1.0, -1.0, 1.0]) @ spacing,
        "oblique": turn_x @ turn_y @ turn_z @ spacing,
        "left-handed": turn_x @ turn_z @ np.diag([1.0, 1.0, -1.0]) @ spacing,
        "sheared": np.array([[1, 0, 0], [0, 1, 0.35], [0, 0, 1.0]]) @ turn_z @ spacing,
    }[kind]
    matrix = np.eye(4)
    matrix[:3, :3] = axes
    matrix[:3, 3] = (-31.5, 12.25, 107.0)
    return matrix


GEOMETRIES = ("axial", "oblique", "left-handed", "sheared")


def make_transform(scene: Any, kind: str) -> Any:
    """A parent transform node: None, linear (with shear and scale), or warping."""
    import slicer
    import vtk

    if kind == "none":
        return None
    if kind == "linear":
        node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "registration")
        matrix = np.array([[0.9, 0.2, -0.1, 14], [-0.2, 1.1, 0.05, -6], [0.1, 0.0, 1.2, 33], [0, 0, 0, 1.0]])
        node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        return node
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "warp")
    warp = vtk.vtkThinPlateSplineTransform()
    points = np.array([[-60, -60, 60], [60, -60, 60], [-60, 60, 60], [-60, -60, 180], [60, 60, 180.0]])
    shifts = np.array([[1, 2, 3], [-2, 1, 0], [0, 3, -1], [2, 0, 1], [4, -3, 2.0]])
    for set_points, values in ((warp.SetSourceLandmarks, points), (warp.SetTargetLandmarks, points + shifts)):
        landmarks = vtk.vtkPoints()
        for value in values:
            landmarks.InsertNextPoint(*value)
        set_points(landmarks)
    warp.SetBasisToR()
    node.SetAndObserveTransformToParent(warp)
    return node


def make_result(heat: np.ndarray, ijk_to_ras: np.ndarray, threshold: float = 0.5, calibrated: bool = False) -> Any:
    """A result as the package writes it, of a (K, J, I) heatmap; candidates are found by the package itself."""
    from dataclasses import asdict

    from AAClipMedLib.jobs import Result

    from aaclip_med.scoring.candidates import label_candidates

    candidates = [asdict(one) for one in label_candidates(heat.T, threshold, ijk_to_ras, 2)[0]]
    account = {
        "score": float(heat.max()),
        "p_value": 0.02 if calibrated else None,
        "threshold": threshold,
        "axis": 2,
        "candidates": candidates,
        "slices": [],
        "operating": {"volumes": 20, "minimum_ml": 0.0, "thresholds": [0.4, 0.6, 0.8], "candidates": [9.0, 1.3, 0.0]}
        if calibrated
        else None,
        "run": {
            "aaclip_med": "1.2.3",
            "calibrated": calibrated,
            "adapters_hash": "a" * 64,
            "tower_hash": "b" * 64,
            "preset": "brain-mri",
            "note": "DEMONSTRATION",
            "demonstration": True,
            "calibration_caveat": "20 normal volumes",
        },
    }
    return Result(heat.astype(np.float32), account)
