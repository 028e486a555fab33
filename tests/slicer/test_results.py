"""Heatmap, segmentation, markups and table lie where the input's voxels lie, for every geometry."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import GEOMETRIES, make_geometry, make_result, make_transform
from test_work import run_loop

SHAPE = (9, 13, 17)
MARKS = ((2, 3, 4), (6, 10, 14))


def make_request(matrix: np.ndarray) -> dict[str, Any]:
    """What was asked for."""
    return {"preset": "brain-mri", "adapters": "demo", "minimum_ml": 0.0, "ijk_to_ras": matrix.tolist()}


TOLERANCE_MM = 1e-3


def make_case(scene: Any, geometry: str, transform: str = "none") -> tuple[Any, Any, np.ndarray]:
    """A volume, its findings, and its matrix: two voxels (k, j, i) are hot, the first one hotter."""
    import slicer
    from AAClipMedLib.results import add_findings

    matrix = make_geometry(geometry)
    volume = slicer.util.addVolumeFromArray(
        np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), ijkToRAS=matrix, name="scan"
    )
    parent = make_transform(scene, transform)
    if parent is not None:
        volume.SetAndObserveTransformNodeID(parent.GetID())
    heat = np.full(SHAPE, 0.1, dtype=np.float32)
    heat[MARKS[0]], heat[MARKS[1]] = 0.9, 0.7
    return volume, add_findings(volume, make_result(heat, matrix), make_request(matrix), "this computer"), matrix


def find_world(node: Any, point: np.ndarray) -> np.ndarray:
    """A point of the node's own frame in the world, by MRML's own transform."""
    import slicer
    import vtk

    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(node.GetParentTransformNode(), None, transform)
    return np.array(transform.TransformPoint(*point))


def find_voxel_world(node: Any, kji: tuple[int, int, int]) -> np.ndarray:
    """A voxel's centre in the world."""
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return find_world(node, slicer.util.arrayFromVTKMatrix(matrix)[:3] @ (*kji[::-1], 1.0))


@pytest.mark.parametrize("transform", ["none", "linear", "warping"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_marked_voxel_lies_at_the_same_point_in_every_result(scene: Any, geometry: str, transform: str) -> None:
    import slicer

    volume, findings, _ = make_case(scene, geometry, transform)
    heat = slicer.util.arrayFromVolume(findings.heatmap)
    assert heat.shape == SHAPE
    assert np.unravel_index(heat.argmax(), SHAPE) == MARKS[0]
    for number, mark in enumerate(MARKS):
        expected = find_voxel_world(volume, mark)
        np.testing.assert_allclose(find_voxel_world(findings.heatmap, mark), expected, atol=TOLERANCE_MM)
        point = np.zeros(3)
        findings.peaks.GetNthControlPointPositionWorld(number, point)
        np.testing.assert_allclose(point, expected, atol=TOLERANCE_MM)
        row = [float(findings.table.GetTable().GetValue(number, column).ToString()) for column in range(7)]
        np.testing.assert_allclose(find_world(volume, row[4:]), expected, atol=TOLERANCE_MM)
        np.testing.assert_allclose(findings.find_place(number), expected, atol=TOLERANCE_MM)


@pytest.mark.parametrize("transform", ["none", "linear"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_segmentation_holds_the_hot_voxels_where_they_are(scene: Any, geometry: str, transform: str) -> None:
    import slicer
    import vtk
    from AAClipMedLib.segmentation import SEGMENT

    volume, findings, _ = make_case(scene, geometry, transform)
    drawn = slicer.util.arrayFromSegmentBinaryLabelmap(findings.segmentation, SEGMENT, volume)
    assert sorted(map(tuple, np.argwhere(drawn).tolist())) == sorted(MARKS)
    # Independently of the reference volume: the stored labelmap's own matrix, under the segmentation's own transform.
    image = findings.segmentation.GetBinaryLabelmapInternalRepresentation(SEGMENT)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    i0, i1, j0, j1, k0, k1 = image.GetExtent()
    stored = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(
        k1 - k0 + 1, j1 - j0 + 1, i1 - i0 + 1
    )
    places = [
        find_world(findings.segmentation, slicer.util.arrayFromVTKMatrix(matrix)[:3] @ (i + i0, j + j0, k + k0, 1.0))
        for k, j, i in np.argwhere(stored)
    ]
    expected = [find_voxel_world(volume, mark) for mark in MARKS]
    np.testing.assert_allclose(sorted(map(tuple, places)), sorted(map(tuple, expected)), atol=TOLERANCE_MM)


def test_results_follow_when_the_input_is_moved_afterwards(scene: Any) -> None:
    volume, findings, _ = make_case(scene, "oblique", "linear")
    before = find_voxel_world(volume, MARKS[0])
    import slicer

    volume.GetParentTransformNode().SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.eye(4)))
    after = find_voxel_world(volume, MARKS[0])
    assert np.linalg.norm(after - before) > 1.0
    point = np.zeros(3)
    findings.peaks.GetNthControlPointPositionWorld(0, point)
    np.testing.assert_allclose(point, after, atol=TOLERANCE_MM)
    np.testing.assert_allclose(findings.find_place(0), after, atol=TOLERANCE_MM)


def test_a_click_moves_every_slice_view_to_the_candidate(scene: Any) -> None:
    from AAClipMedLib.geometry import jump_to

    volume, findings, _ = make_case(scene, "sheared", "linear")
    views = []
    for name in ("Red", "Green", "Yellow"):
        view = scene.AddNewNodeByClass("vtkMRMLSliceNode", name)
        view.SetLayoutName(name)
        view.SetOrientation({"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}[name])
        views.append(view)
    camera = scene.AddNewNodeByClass("vtkMRMLCameraNode", "camera")
    jump_to(findings.find_place(1), scene)
    expected = find_voxel_world(volume, MARKS[1])
    for view in views:
        matrix = view.GetSliceToRAS()
        np.testing.assert_allclose([matrix.GetElement(row, 3) for row in range(3)], expected, atol=TOLERANCE_MM)
    np.testing.assert_allclose(camera.GetFocalPoint(), expected, atol=TOLERANCE_MM)


def test_heat_below_the_threshold_is_see_through_and_the_threshold_is_live(scene: Any) -> None:
    from AAClipMedLib.heatmap import set_threshold

    _, findings, _ = make_case(scene, "axial")
    display = findings.heatmap.GetDisplayNode()

    def count_opaque() -> int:
        import vtk

        display.GetImageDataConnection().GetProducer().Update()
        image = display.GetOutputImageDataConnection().GetProducer()
        image.Update()
        colours = vtk.util.numpy_support.vtk_to_numpy(image.GetOutputDataObject(0).GetPointData().GetScalars())
        return int((colours[:, 3] > 0).sum())

    assert display.GetApplyThreshold()
    assert display.GetColorNode().GetName() == "AA-CLIP heat"
    assert count_opaque() == 2
    set_threshold(findings.heatmap, 0.8)
    assert count_opaque() == 1
    set_threshold(findings.heatmap, 0.0)
    assert count_opaque() == np.prod(SHAPE)


def test_a_calibrated_heatmap_spreads_its_colours_around_its_threshold(slicer_core: Any) -> None:
    from AAClipMedLib.heatmap import find_colour_range

    assert slicer_core
    assert find_colour_range(0.5) == (0.0, 1.0)
    assert find_colour_range(0.999) == pytest.approx((0.998, 1.0))


def test_the_colours_rise_evenly_in_lightness(slicer_core: Any) -> None:
    from AAClipMedLib.colours import make_ramp

    assert slicer_core
    rgb = make_ramp()
    assert rgb.min() >= 0.0
    assert rgb.max() <= 1.0
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126729, 0.7151522, 0.0721750)
    lightness = 116 * np.cbrt(luminance) - 16
    steps = np.diff(lightness)
    np.testing.assert_allclose(steps, 65.0 / 255, rtol=0.02)


def test_a_new_threshold_brings_segmentation_table_and_points_up_to_date(scene: Any) -> None:
    import slicer
    from AAClipMedLib.results import redraw
    from AAClipMedLib.segmentation import SEGMENT

    volume, findings, _ = make_case(scene, "left-handed", "linear")
    redraw(findings, 0.8)
    assert findings.table.GetNumberOfRows() == 1
    assert findings.peaks.GetNumberOfControlPoints() == 1
    assert len(findings.candidates) == 1
    drawn = slicer.util.arrayFromSegmentBinaryLabelmap(findings.segmentation, SEGMENT, volume)
    assert np.argwhere(drawn).tolist() == [list(MARKS[0])]
    redraw(findings, 0.6)
    assert findings.table.GetNumberOfRows() == 2
    point = np.zeros(3)
    findings.peaks.GetNthControlPointPositionWorld(1, point)
    np.testing.assert_allclose(point, find_voxel_world(volume, MARKS[1]), atol=TOLERANCE_MM)
    assert findings.heatmap.GetAttribute("AAClipMed.threshold") == "0.6"


def test_a_threshold_that_nothing_reaches_empties_the_results(scene: Any) -> None:
    from AAClipMedLib.results import redraw

    _, findings, _ = make_case(scene, "axial")
    redraw(findings, 0.95)
    assert findings.candidates == []
    assert findings.table.GetNumberOfRows() == 0
    assert findings.peaks.GetNumberOfControlPoints() == 0


def test_nodes_say_which_model_and_settings_made_them(scene: Any) -> None:
    from AAClipMedLib.provenance import read_facts

    volume, findings, _ = make_case(scene, "axial")
    for node in findings.nodes:
        facts = read_facts(node)
        assert facts["adapters_hash"] == "a" * 64
        assert facts["tower_hash"] == "b" * 64
        assert '"adapters": "demo"' in facts["settings"]
        assert node.GetNodeReferenceID("AAClipMed.input") == volume.GetID()


def test_folders_of_the_computer_are_not_kept_in_the_scene(scene: Any) -> None:
    from AAClipMedLib.provenance import list_facts

    _, findings, matrix = make_case(scene, "axial")
    request = make_request(matrix) | {"adapters": "/home/me/trial/adapters.safetensors", "weights": "C:\\me\\tower.pt"}
    settings = json.loads(list_facts(findings.result, request, "")["settings"])
    assert (settings["adapters"], settings["weights"]) == ("adapters.safetensors", "tower.pt")


def test_the_segment_carries_terms_and_the_reference_geometry(scene: Any) -> None:
    import slicer
    from AAClipMedLib.segmentation import SEGMENT

    _, findings, matrix = make_case(scene, "sheared")
    segment = findings.segmentation.GetSegmentation().GetSegment(SEGMENT)
    assert "SCT^52988006^Lesion" in segment.GetTerminology()
    assert "SCT^12738006^Brain" in segment.GetTerminology()
    kept = findings.segmentation.GetSegmentation().GetConversionParameter("Reference image geometry")
    numbers = np.array([float(text) for text in kept.split(";") if text][:16]).reshape(4, 4)
    np.testing.assert_allclose(numbers, matrix, atol=1e-6)
    assert slicer.vtkSegment().GetTerminology() != segment.GetTerminology()


def test_results_are_filed_under_the_inputs_study(scene: Any) -> None:
    import slicer
    from AAClipMedLib.results import add_findings

    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    volume = slicer.util.addVolumeFromArray(np.zeros(SHAPE, np.int16), name="scan")
    patient = tree.CreateSubjectItem(tree.GetSceneItemID(), "patient")
    study = tree.CreateStudyItem(patient, "study")
    tree.CreateItem(study, volume)
    heat = np.zeros(SHAPE, np.float32)
    heat[MARKS[0]] = 1.0
    findings = add_findings(volume, make_result(heat, np.eye(4)), make_request(np.eye(4)))
    folders = {tree.GetItemParent(tree.GetItemByDataNode(node)) for node in findings.nodes}
    assert len(folders) == 1
    assert tree.GetItemParent(folders.pop()) == study


def test_a_second_run_keeps_the_first_ones_results(scene: Any) -> None:
    from AAClipMedLib.results import add_findings

    volume, first, matrix = make_case(scene, "axial")
    second = add_findings(volume, first.result, make_request(matrix))
    names = [node.GetName() for node in (*first.nodes, *second.nodes)]
    assert len(set(names)) == 8


def test_the_scene_comes_back_whole_from_an_mrb(scene: Any, tmp_path: Any) -> None:
    import slicer
    from AAClipMedLib.results import find_findings

    volume, findings, _ = make_case(scene, "oblique", "linear")
    expected = find_voxel_world(volume, MARKS[0])
    names = [node.GetName() for node in findings.nodes]
    path = str(tmp_path / "scene.mrb")
    assert scene.WriteToMRB(path)
    scene.Clear(0)
    assert scene.ReadFromMRB(path)
    heatmap, segmentation, table, peaks = (scene.GetFirstNodeByName(name) for name in names)
    again = find_findings(heatmap)
    assert again is not None
    assert [node.GetName() for node in again.nodes] == names
    assert again.result.account["score"] == pytest.approx(0.9)
    np.testing.assert_allclose(again.find_place(0), expected, atol=TOLERANCE_MM)
    hottest = np.unravel_index(slicer.util.arrayFromVolume(heatmap).argmax(), SHAPE)
    np.testing.assert_allclose(find_voxel_world(heatmap, hottest), expected, atol=TOLERANCE_MM)
    point = np.zeros(3)
    peaks.GetNthControlPointPositionWorld(0, point)
    np.testing.assert_allclose(point, expected, atol=TOLERANCE_MM)
    assert table.GetNumberOfRows() == 2
    assert "Lesion" in segmentation.GetSegmentation().GetNthSegment(0).GetTerminology()
    assert heatmap.GetAttribute("AAClipMed.adapters_hash") == "a" * 64
    assert heatmap.GetDisplayNode().GetApplyThreshold()
    assert heatmap.GetDisplayNode().GetLowerThreshold() == pytest.approx(0.5)
    assert heatmap.GetDisplayNode().GetColorNode().GetName() == "AA-CLIP heat"


def test_a_sequences_item_is_named_in_the_results(scene: Any) -> None:
    import slicer
    from AAClipMedLib.inputs import describe_item
    from AAClipMedLib.results import add_findings

    matrix = make_geometry("oblique")
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine")
    for number in range(3):
        frame = slicer.util.addVolumeFromArray(np.full(SHAPE, number, np.int16), ijkToRAS=matrix, name=f"frame {number}")
        sequence.SetDataNodeAtValue(frame, str(number))
        scene.RemoveNode(frame)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    browser.SetSelectedItemNumber(1)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    shown = browser.GetProxyNode(sequence)
    assert describe_item(shown) == "item 2"
    assert slicer.util.arrayFromVolume(shown).max() == 1
    heat = np.zeros(SHAPE, np.float32)
    heat[MARKS[0]] = 1.0
    findings = add_findings(shown, make_result(heat, matrix), make_request(matrix), item=describe_item(shown))
    assert "item 2" in findings.heatmap.GetName()
    browser.SetSelectedItemNumber(2)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    np.testing.assert_allclose(
        find_voxel_world(findings.heatmap, MARKS[0]), find_voxel_world(shown, MARKS[0]), atol=TOLERANCE_MM
    )


def test_results_of_this_module_are_never_scored_themselves(scene: Any) -> None:
    from AAClipMedLib.inputs import list_volumes

    volume, _, _ = make_case(scene, "axial")
    assert list_volumes(scene) == [volume]


def test_a_result_enters_the_scene_without_a_copy_and_its_mask_is_found_before(scene: Any, tmp_path: Any) -> None:
    import slicer
    from AAClipMedLib.heatmap import set_threshold, show_legend, show_overlay
    from AAClipMedLib.jobs import Job, Settings, read_result
    from AAClipMedLib.results import Search, add_findings, show_found
    from AAClipMedLib.work import Work

    shape, matrix = (30, 64, 64), make_geometry("oblique")
    assert scene is slicer.mrmlScene
    volume = slicer.util.addVolumeFromArray(np.zeros(shape, np.uint8), ijkToRAS=matrix, name="scan")
    heat = np.full(shape, 0.1, np.float32)
    blobs = [(2, 4, 4), (12, 30, 40), (22, 50, 50)]
    for number, (k, j, i) in enumerate(blobs):
        heat[k : k + 4, j : j + 8, i : i + 8] = 0.9 - 0.1 * number
    small = make_result(heat, matrix)
    np.save(tmp_path / "heatmap.npy", heat)
    (tmp_path / "result.json").write_text(json.dumps(small.account), encoding="utf-8")
    del heat

    class Reading(Work):
        def do(self) -> Any:
            return read_result(tmp_path, Job(slicer.util.arrayFromVolume(volume), matrix, Settings(minimum_ml=0.001)))

    work = Reading()
    work.start()
    result = run_loop(work)[-1].value
    assert "mask" in vars(result)
    findings = add_findings(volume, result, make_request(matrix))
    assert np.shares_memory(slicer.util.arrayFromVolume(findings.heatmap), result.heatmap)
    assert np.shares_memory(find_segment(findings), result.mask.voxels)
    show_overlay(volume, findings.heatmap, 0.6)
    show_legend(findings.heatmap, False)
    search = Search(findings, 0.75)
    search.start()
    show_found(findings, run_loop(search)[-1].value)
    set_threshold(findings.heatmap, 0.6)
    assert findings.table.GetNumberOfRows() == 2
    assert slicer.util.arrayFromVolume(findings.heatmap)[14, 35, 45] == pytest.approx(0.8)


def find_segment(findings: Any) -> np.ndarray:
    """The voxels of the segment's own box, as they lie in memory."""
    from AAClipMedLib.segmentation import SEGMENT
    from vtk.util.numpy_support import vtk_to_numpy

    segment = findings.segmentation.GetSegmentation().GetSegment(SEGMENT)
    return vtk_to_numpy(segment.GetRepresentation("Binary labelmap").GetPointData().GetScalars())


def count_steps(node: Any, change: Callable[[], None]) -> tuple[int, Counter[str]]:
    """How many calls a change takes, and the events of the node meanwhile."""
    calls, events = 0, Counter[str]()

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    tag = node.AddObserver("AnyEvent", lambda _caller, event: events.update([event]))
    sys.setprofile(note)
    try:
        change()
    finally:
        sys.setprofile(None)
        node.RemoveObserver(tag)
    return calls, events


def test_thousands_of_candidates_are_written_in_as_few_steps_as_200(scene: Any) -> None:
    from AAClipMedLib.findings import fill_peaks, fill_table

    _, findings, _ = make_case(scene, "axial")
    one = findings.candidates[0]
    for fill, node in ((fill_table, findings.table), (fill_peaks, findings.peaks)):
        (_, single), (calls, events), (again, last) = (
            count_steps(node, lambda fill=fill, node=node, count=count: fill(node, [one] * count)) for count in (1, 200, 6000)
        )
        assert calls == again
        assert single == events == last


def test_the_mask_of_a_result_leaves_small_regions_out_where_that_was_asked_for(slicer_core: Any) -> None:
    from dataclasses import replace

    from AAClipMedLib.jobs import Job, Settings

    assert slicer_core
    heat = np.zeros(SHAPE, np.float32)
    heat[1, 2, 3], heat[4:7, 5:9, 6:11] = 0.9, 0.8
    result = make_result(heat, np.eye(4))
    np.testing.assert_array_equal(result.mask.fill(SHAPE), heat > 0.5)
    job = Job(heat, np.eye(4), Settings(minimum_ml=0.01))
    np.testing.assert_array_equal(replace(result, job=job).mask.fill(SHAPE), heat == np.float32(0.8))
    assert not replace(result, account=result.account | {"threshold": 0.95}).mask.voxels.any()
