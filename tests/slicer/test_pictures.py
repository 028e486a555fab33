"""What the slice views show: the scan in grey, the heatmap over it, nothing below the threshold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import views
from conftest import make_result

SLICE_SIZE = (480, 480)


def draw_slice(application: Any, scan: Any, findings: Any, place: Any) -> tuple[np.ndarray, tuple[int, int]]:
    """(480, 480, 4) uint8, rows from below: the blended axial slice through a place, without any graphics hardware.

    Also the place's pixel (row, column).
    """
    import slicer
    import vtk
    from AAClipMedLib.heatmap import show_legend, show_overlay

    scene = scan.GetScene()
    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLApplicationLogic(application)
    logic.SetMRMLScene(scene)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    node = logic.AddSliceNode("Red")
    node.SetOrientation("Axial")
    application.GetSliceLogics().AddItem(logic)
    node.SetDimensions(*SLICE_SIZE, 1)
    show_overlay(scan, findings.heatmap, 0.6)
    show_legend(findings.heatmap, findings.is_calibrated)
    node.RotateToVolumePlane(scan)
    logic.FitSliceToBackground(*SLICE_SIZE)
    node.JumpSliceByOffsetting(*place)
    connection = logic.GetImageDataConnection()
    connection.GetProducer().Update()
    image = connection.GetProducer().GetOutputDataObject(0)
    width, height, _ = image.GetDimensions()
    picture = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1).copy()
    column, row, _ = np.linalg.inv(slicer.util.arrayFromVTKMatrix(node.GetXYToRAS()))[:3] @ (*place, 1.0)
    return picture, (round(row), round(column))


def make_scene() -> tuple[Any, Any]:
    """A phantom, on the oblique grid it is drawn on, and a synthetic heatmap of its lesions."""
    import slicer
    from AAClipMedLib.results import add_findings

    from aaclip_med.data.phantoms import make_phantom

    phantom = make_phantom("brain-mri", 3, True)
    matrix = phantom.affine
    scan = slicer.util.addVolumeFromArray(np.ascontiguousarray(phantom.array.T), ijkToRAS=matrix, name="scan")
    scan.CreateDefaultDisplayNodes()
    display = scan.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(float(phantom.array.min()), float(np.percentile(phantom.array, 99.5)))
    heat = np.zeros(phantom.array.T.shape, np.float32)
    lesions = np.argwhere(phantom.mask.T)
    k, j, i = np.indices(heat.shape)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)[::-1]
    middle = lesions[len(lesions) // 2]
    distance = sum(((axis - at) * step) ** 2 for axis, at, step in zip((k, j, i), middle, spacing, strict=True))
    heat = np.exp(-distance / (2 * 9.0**2)).astype(np.float32)
    request = {"preset": "brain-mri", "ijk_to_ras": matrix.tolist(), "minimum_ml": 0.0}
    return scan, add_findings(scan, make_result(heat, matrix), request)


def test_the_overlay_is_coloured_above_the_threshold_and_grey_below(application: Any, tmp_path: Path) -> None:
    from PIL import Image

    scan, findings = make_scene()
    picture, pixel = draw_slice(application, scan, findings, findings.find_place(0))
    rgb = picture[..., :3].astype(int)
    coloured = rgb.max(axis=-1) - rgb.min(axis=-1) > 20
    assert coloured[pixel]
    assert 0.002 < coloured.mean() < 0.25
    assert (rgb[~coloured].max(axis=-1) > 60).mean() > 0.1  # the scan around it
    path = tmp_path / "slice.png"
    Image.fromarray(np.flipud(picture[..., :3])).resize(SLICE_SIZE).save(path)
    assert path.stat().st_size > 5_000


def test_the_legend_belongs_to_the_heatmap_and_says_what_heat_is(application: Any) -> None:
    import slicer

    scan, findings = make_scene()
    draw_slice(application, scan, findings, findings.find_place(0))
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(findings.heatmap)
    assert legend.GetPrimaryDisplayNode() is findings.heatmap.GetDisplayNode()
    assert legend.GetTitleText() == "Model probability\n(uncalibrated)"
    assert legend.GetVisibility()


def test_the_views_show_slice_outline_point_and_legend_as_the_application_does(slicer_core: Any, tmp_path: Path) -> None:
    from AAClipMedLib.colours import make_ramp
    from PIL import Image

    assert slicer_core
    if not views.can_draw():
        pytest.skip("no EGL to draw with (Debian: libegl1 libegl-mesa0 libgl1-mesa-dri)")
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | views.ENVIRONMENT | {"PYTHONPATH": paths}
    command = [sys.executable, views.__file__, str(tmp_path / "views.npz")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    pictures = {name: picture.astype(int) for name, picture in np.load(tmp_path / "views.npz").items()}
    whole = [pictures[f"{name} whole"] for name in views.VIEWS]
    Image.fromarray(np.concatenate(whole, axis=1).astype(np.uint8)).save(tmp_path / "views.png")
    middle, bar = slice(views.SIZE // 2 - 4, views.SIZE // 2 + 5), slice(int(0.9 * views.SIZE), views.SIZE)
    for name, picture in zip(views.VIEWS, whole, strict=True):
        bare = pictures[f"{name} bare"]
        assert np.abs(bare - pictures[f"{name} blended"]).max() <= 2, "the window shows what the slice logic blends"
        added = np.abs(picture - bare).max(axis=-1) > 40
        assert _shows(picture[middle, middle], (1.0, 0.9, 0.3)), "the peak's point is in the middle of every view"
        assert _shows(picture, (0.95, 0.35, 0.25)), "the outline has the segment's colour"
        assert added[:, bar].mean() > 0.05
        for colour in make_ramp()[[2, 64, 128, 192, 253]]:
            assert _shows(picture[:, bar], colour), "the legend runs through the heatmap's own colours"
        assert added[:, : views.SIZE // 4].mean() < 0.01


def _shows(picture: np.ndarray, colour: Any) -> bool:
    """Whether a pixel of the picture has the colour (RGB, 0 to 1), nearly."""
    return bool((np.abs(picture - 255.0 * np.asarray(colour)).max(axis=-1) <= 12).any())
