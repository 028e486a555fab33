"""Where to look: an organ or a box comes out on the scan's own grid, whatever their transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import GEOMETRIES, make_geometry, make_transform

SHAPE = (9, 13, 17)


def add_scan(scene: Any, geometry: str, transform: str = "none") -> Any:
    """A scan."""
    import slicer

    scan = slicer.util.addVolumeFromArray(np.zeros(SHAPE, np.int16), ijkToRAS=make_geometry(geometry), name="scan")
    parent = make_transform(scene, transform)
    if parent is not None:
        scan.SetAndObserveTransformNodeID(parent.GetID())
    return scan


def find_centres(scan: Any) -> np.ndarray:
    """(K, J, I, 3) the voxels' centres in the world."""
    import slicer
    from AAClipMedLib.geometry import find_ijk_to_ras, find_transform_to_world

    k, j, i = np.indices(slicer.util.arrayFromVolume(scan).shape)
    matrix = find_transform_to_world(scan) @ find_ijk_to_ras(scan)
    return np.stack([i, j, k, np.ones_like(i)], axis=-1) @ matrix.T[:, :3]


@pytest.mark.parametrize("transform", ["none", "linear"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_box_takes_in_the_voxels_whose_centres_lie_in_it(scene: Any, geometry: str, transform: str) -> None:
    import slicer
    from AAClipMedLib.inputs import find_organ

    scan = add_scan(scene, geometry, transform)
    centres = find_centres(scan)
    box = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    middle, size = centres[4, 6, 8] + 0.1, np.array([9.07, 7.03, 8.05])
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, middle
    box.SetSize(*size)
    box.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(matrix))
    expected = (np.abs((centres - middle) @ turn) <= size / 2).all(axis=-1)
    assert expected.sum() > 20
    on_a_face = (np.abs(np.abs((centres - middle) @ turn) - size / 2) < 1e-3).any(axis=-1)
    np.testing.assert_array_equal(find_organ(box, scan)()[~on_a_face], expected[~on_a_face])


@pytest.mark.parametrize("transform", ["none", "linear"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_visible_segments_are_taken_hidden_ones_are_not(scene: Any, geometry: str, transform: str) -> None:
    import slicer
    from AAClipMedLib.inputs import find_organ

    scan = add_scan(scene, geometry, transform)
    organ = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organ")
    organ.CreateDefaultDisplayNodes()
    organ.SetReferenceImageGeometryParameterFromVolumeNode(scan)
    organ.SetAndObserveTransformNodeID(scan.GetTransformNodeID())
    masks = [np.zeros(SHAPE, np.uint8) for _ in range(3)]
    masks[0][2:5, 3:9, 4:11] = 1
    masks[1][6:8, 1:3, 1:4] = 1
    masks[2][0:2, 10:12, 12:15] = 1
    names = [organ.GetSegmentation().AddEmptySegment(f"segment {number}") for number in range(3)]
    for name, mask in zip(names, masks, strict=True):
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, organ, name, scan)
    organ.GetDisplayNode().SetSegmentVisibility(names[2], False)
    np.testing.assert_array_equal(find_organ(organ, scan)(), masks[0] | masks[1])


def test_a_labelmap_on_another_grid_and_under_another_transform_is_brought_over(scene: Any) -> None:
    import slicer
    from AAClipMedLib.inputs import find_organ

    scan = add_scan(scene, "oblique", "linear")
    centres = find_centres(scan)
    # A finer axial grid in the world that covers the scan.
    low, high = centres.reshape(-1, 3).min(axis=0) - 2, centres.reshape(-1, 3).max(axis=0) + 2
    step = 0.25
    size = np.ceil((high - low) / step).astype(int)
    i, j, k = (low[axis] + step * np.arange(size[axis]) for axis in range(3))
    middle = centres[4, 6, 8]
    x, y, z = i[None, None, :] - middle[0], j[None, :, None] - middle[1], k[:, None, None] - middle[2]
    ball = x**2 + y**2 + z**2 <= 36.0
    matrix = np.diag([step, step, step, 1.0])
    matrix[:3, 3] = low
    labels = slicer.util.addVolumeFromArray(ball.astype(np.uint8), matrix, "labels", "vtkMRMLLabelMapVolumeNode")
    before = scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    mask = find_organ(labels, scan)()
    expected = ((centres - middle) ** 2).sum(axis=-1) <= 36.0
    assert expected.sum() > 50
    overlap = 2 * (mask & expected).sum() / (mask.sum() + expected.sum())
    assert overlap > 0.97
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == before


def test_a_labelmap_on_the_scans_grid_is_taken_as_it_is(scene: Any) -> None:
    import slicer
    from AAClipMedLib.inputs import find_organ

    scan = add_scan(scene, "sheared", "linear")
    values = np.zeros(SHAPE, np.uint8)
    values[3, 4, 5] = 7
    labels = slicer.util.addVolumeFromArray(values, make_geometry("sheared"), "labels", "vtkMRMLLabelMapVolumeNode")
    labels.SetAndObserveTransformNodeID(scan.GetTransformNodeID())
    np.testing.assert_array_equal(find_organ(labels, scan)(), values > 0)


def test_a_box_beside_the_scan_is_refused(scene: Any) -> None:
    from AAClipMedLib.geometry import GeometryError
    from AAClipMedLib.inputs import find_organ

    scan = add_scan(scene, "axial")
    box = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    box.SetSize(5, 5, 5)
    box.SetCenter(900, 900, 900)
    draw = find_organ(box, scan)
    with pytest.raises(GeometryError, match="box does not reach into scan"):
        draw()


def test_a_box_over_a_warped_scan_is_refused_with_the_way_out(scene: Any) -> None:
    from AAClipMedLib.geometry import GeometryError
    from AAClipMedLib.inputs import find_organ

    scan = add_scan(scene, "axial", "warping")
    box = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    box.SetSize(5, 5, 5)
    with pytest.raises(GeometryError, match="harden it first"):
        find_organ(box, scan)


def test_a_colour_volume_is_refused(scene: Any) -> None:
    import slicer
    from AAClipMedLib.geometry import GeometryError
    from AAClipMedLib.inputs import read_voxels

    colour = slicer.util.addVolumeFromArray(np.zeros((2, 3, 4, 3), np.uint8), nodeClassName="vtkMRMLVectorVolumeNode")
    with pytest.raises(GeometryError, match="3 values a voxel"):
        read_voxels(colour)
    assert scene is slicer.mrmlScene


def test_an_empty_volume_is_refused(scene: Any) -> None:
    from AAClipMedLib.geometry import GeometryError
    from AAClipMedLib.inputs import read_voxels

    with pytest.raises(GeometryError, match="holds no voxels"):
        read_voxels(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing"))
