"""The panel as the person uses it: real Qt widgets from the .ui file, real MRML, real child processes."""

from __future__ import annotations

import ast
import gc
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import MODULE_FOLDER, make_geometry, make_result, make_transform
from test_work import posix_only

stand_ins = pytest.importorskip("stand_ins", reason="PySide6 is not installed (pip install PySide6)")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Widgets are deleted here, in the main thread; a later test's worker that came upon one as garbage would wait for ever."""
    yield
    gc.collect()


@pytest.fixture
def desk(scene: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The module, its panel, and the person before it."""
    person = stand_ins.install(monkeypatch, scene)
    monkeypatch.delitem(sys.modules, "AAClipMed", raising=False)
    module = importlib.import_module("AAClipMed")
    panel = module.AAClipMedWidget()
    panel.setup()
    panel._parameterNode.backend = "Another Python"
    panel.ui.pythonLineEdit.text = sys.executable
    desk = SimpleNamespace(module=module, panel=panel, ui=panel.ui, person=person, scene=scene, chosen=panel._parameterNode)
    yield desk
    panel.cleanup()
    vars(desk).clear()


def run_until(reached: Callable[[], bool], limit: float = 180.0) -> None:
    """Run Qt's own event loop until something is reached."""
    application = stand_ins.find_application()
    deadline = time.monotonic() + limit
    while not reached():
        assert time.monotonic() < deadline, "not reached"
        application.processEvents()
        time.sleep(0.01)


def count_ticks(desk: SimpleNamespace) -> list[None]:
    """One more item after each tick of the timer that asks the work in hand."""
    ticks: list[None] = []
    desk.panel.desk._timer.connect("timeout()", lambda: ticks.append(None))
    return ticks


def hold_python(desk: SimpleNamespace, folder: Path, seconds: int) -> Path:
    """Choose a Python that begins when a file is made there, or after so many seconds; returns the file."""
    python, begin = folder / "python", folder / "begin"
    wait = f'for _ in $(seq {10 * seconds}); do [ -e "{begin}" ] && break; sleep 0.1; done'
    python.write_text(f'#!/bin/sh\n{wait}\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o700)
    desk.ui.pythonLineEdit.text = str(python)
    return begin


def add_scan(desk: SimpleNamespace, geometry: str = "oblique") -> Any:
    """A small phantom with lesions, under a transform."""
    import slicer

    from aaclip_med.data.phantoms import make_phantom

    phantom = make_phantom("brain-mri", 3, True)
    array = np.ascontiguousarray(phantom.array.T[::3])
    scan = slicer.util.addVolumeFromArray(array, ijkToRAS=make_geometry(geometry), name="scan")
    scan.SetAndObserveTransformNodeID(make_transform(desk.scene, "linear").GetID())
    desk.chosen.inputVolume = scan
    desk.chosen.useThreshold = True
    desk.chosen.threshold = 0.5
    return scan


def add_view(scene: Any) -> Any:
    """A slice view's layers."""
    layers = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    layers.SetLayoutName("Red")
    return layers


def test_every_widget_that_the_code_names_is_in_the_ui_file() -> None:
    named = {
        node.attr
        for node in ast.walk(ast.parse((MODULE_FOLDER / "AAClipMed.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and (
            (isinstance(node.value, ast.Attribute) and node.value.attr == "ui")
            or (isinstance(node.value, ast.Name) and node.value.id == "ui")
        )
    }
    panel = stand_ins.load_panel()
    there = {widget.objectName() for widget in panel.findChildren(stand_ins.QtWidgets.QWidget)}
    assert len(named) > 20
    assert named <= there, named - there


def test_every_editor_says_what_it_does() -> None:
    widgets = stand_ins.QtWidgets
    kinds = (widgets.QComboBox, widgets.QLineEdit, widgets.QAbstractButton, widgets.QAbstractSpinBox, stand_ins.ctkSliderWidget)
    panel = stand_ins.load_panel()
    editors = [
        one for kind in kinds for one in panel.findChildren(kind) if one.objectName() and not one.objectName().startswith("qt_")
    ]
    assert len(editors) > 25
    assert [one.objectName() for one in editors if not one.toolTip()] == []


def test_every_file_of_the_module_is_listed_for_the_build() -> None:
    listed = (MODULE_FOLDER / "CMakeLists.txt").read_text(encoding="utf-8")
    files = [
        *MODULE_FOLDER.glob("*.py"),
        *(MODULE_FOLDER / "AAClipMedLib").glob("*.py"),
        *(MODULE_FOLDER / "Resources").rglob("*.*"),
    ]
    expected = [path.relative_to(MODULE_FOLDER).as_posix().replace("AAClipMed.py", "${MODULE_NAME}.py") for path in files]
    missing = [name for name in expected if name not in listed.replace("${MODULE_NAME}Lib", "AAClipMedLib")]
    assert missing == []


def test_the_catalogue_entry_has_the_schemas_keys_and_agrees_with_the_build() -> None:
    entry = json.loads((MODULE_FOLDER.parent / "AAClipMed.json").read_text(encoding="utf-8"))
    build = (MODULE_FOLDER.parent / "CMakeLists.txt").read_text(encoding="utf-8")
    # slicer-extension-catalog-entry-schema-v1.0.2.json
    assert {"$schema", "category", "scm_url"} <= set(entry)
    assert set(entry) <= {"$schema", "category", "scm_url", "scm_type", "scm_revision", "build_dependencies", "tier"}
    assert entry["$schema"].endswith("/slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert entry["scm_type"] in ("git", "local")
    assert 1 <= entry["tier"] <= 5
    assert f'set(EXTENSION_CATEGORY "{entry["category"]}")' in build
    assert f'set(EXTENSION_DEPENDS "{" ".join(entry["build_dependencies"])}")' in build
    if entry["scm_type"] == "local":
        assert (MODULE_FOLDER.parents[1] / entry["scm_url"] / "CMakeLists.txt").is_file()


def test_the_library_imports_slicer_vtk_numpy_and_the_standard_library_alone() -> None:
    allowed = set(sys.stdlib_module_names) | {"slicer", "vtk", "numpy"}
    for path in (MODULE_FOLDER / "AAClipMedLib").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {name.name.split(".")[0] for name in node.names} <= allowed, path
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] in allowed, path


def test_apply_waits_for_a_volume(desk: SimpleNamespace) -> None:
    assert desk.ui.applyButton.enabled is False
    add_scan(desk)
    assert desk.ui.applyButton.enabled is True


@posix_only
def test_a_scan_is_scored_taken_and_shown_while_the_event_loop_goes_on(desk: SimpleNamespace, tmp_path: Path) -> None:
    scan, view = add_scan(desk), add_view(desk.scene)
    desk.chosen.batchSize = 2
    ticks, begin = count_ticks(desk), hold_python(desk, tmp_path, 60)
    seen: list[int] = []
    taken: list[int] = []
    shown: list[int] = []
    desk.ui.progressBar.connect("valueChanged(int)", seen.append)
    desk.ui.candidatesTable.target.model().rowsInserted.connect(lambda *_: shown.append(len(ticks)))
    desk.panel.onApply()
    run_until(lambda: len(ticks) >= 5)
    assert desk.ui.applyButton.text == "Cancel"  # the work is held, the loop is not
    begin.touch()
    tag = desk.scene.AddObserver(desk.scene.NodeAddedEvent, lambda *_: taken.append(len(ticks)))
    run_until(lambda: desk.ui.applyButton.text == "Apply")
    desk.scene.RemoveObserver(tag)
    assert desk.person.errors == []
    assert taken[0] < shown[0]
    assert len(shown) == 1
    assert seen == sorted(seen)
    assert len(set(seen)) >= 3
    findings = desk.panel.findFindings()
    assert desk.ui.candidatesTable.rowCount == min(len(findings.candidates), 200) > 0
    assert "not for clinical use" in desk.ui.resultLabel.text
    assert "Demonstration adapters" in desk.ui.resultLabel.text
    assert view.GetBackgroundVolumeID() == scan.GetID()
    assert view.GetForegroundVolumeID() == findings.heatmap.GetID()
    assert view.GetForegroundOpacity() == pytest.approx(0.6)
    assert findings.heatmap.GetTransformNodeID() == scan.GetTransformNodeID()


@posix_only
def test_cancel_gives_the_panel_back_from_a_child_that_would_never_answer(desk: SimpleNamespace, tmp_path: Path) -> None:
    add_scan(desk)
    ticks = count_ticks(desk)
    hold_python(desk, tmp_path, 600)
    desk.panel.onApply()
    run_until(lambda: len(ticks) >= 5)
    desk.panel.onApply()
    assert desk.ui.statusLabel.text == "Cancelling"
    assert desk.panel.desk.is_busy
    run_until(lambda: desk.ui.applyButton.text == "Apply")
    assert desk.ui.statusLabel.text == "Cancelled"
    assert desk.chosen.heatmap is None
    assert desk.person.errors == []


def test_a_failure_is_shown_and_the_panel_goes_on(desk: SimpleNamespace) -> None:
    add_scan(desk)
    desk.chosen.adapters = "/no/such/file"
    desk.panel.onApply()
    run_until(lambda: desk.ui.applyButton.text == "Apply")
    assert "/no/such/file" in desk.person.errors[0]
    assert desk.ui.applyButton.enabled is True


def test_closing_the_scene_stops_the_run(desk: SimpleNamespace) -> None:
    add_scan(desk)
    desk.panel.onApply()
    run_until(lambda: "loading" in desk.ui.statusLabel.text)
    desk.panel.onSceneStartClose()
    assert not desk.panel.desk.is_busy
    desk.scene.Clear(0)
    desk.panel.onSceneEndClose()
    assert desk.ui.applyButton.text == "Apply"
    assert desk.ui.applyButton.enabled is False


def show_result(desk: SimpleNamespace, calibrated: bool = False) -> Any:
    """A result of two hot voxels."""
    import slicer
    from AAClipMedLib.results import add_findings

    matrix = make_geometry("sheared")
    scan = slicer.util.addVolumeFromArray(np.zeros((9, 13, 17), np.int16), ijkToRAS=matrix, name="scan")
    scan.CreateDefaultDisplayNodes()
    heat = np.full((9, 13, 17), 0.1, np.float32)
    heat[2, 3, 4], heat[6, 10, 14] = 0.9, 0.7
    request = {"preset": "brain-mri", "ijk_to_ras": matrix.tolist(), "minimum_ml": 0.0}
    findings = add_findings(scan, make_result(heat, matrix, calibrated=calibrated), request)
    desk.panel.showFindings(findings)
    return findings


def test_the_sliders_change_the_overlay_at_once(desk: SimpleNamespace) -> None:
    view = add_view(desk.scene)
    findings = show_result(desk)
    desk.ui.thresholdSlider.value = 0.8
    assert findings.heatmap.GetDisplayNode().GetLowerThreshold() == pytest.approx(0.8)
    assert findings.table.GetNumberOfRows() == 2
    desk.panel.onRedraw()
    run_until(lambda: desk.ui.redrawButton.enabled)
    assert findings.table.GetNumberOfRows() == desk.ui.candidatesTable.rowCount == 1
    desk.ui.opacitySlider.value = 0.25
    assert view.GetForegroundOpacity() == pytest.approx(0.25)


def test_thousands_of_candidates_are_taken_in_one_tick_and_the_hottest_shown_once_in_the_next(
    desk: SimpleNamespace,
) -> None:
    import slicer
    from AAClipMedLib.batch import Batch, Task
    from AAClipMedLib.results import add_findings
    from AAClipMedLib.work import Work

    matrix = make_geometry("oblique")
    scan = slicer.util.addVolumeFromArray(np.zeros((30, 60, 60), np.int16), ijkToRAS=matrix, name="scan")
    heat = np.full((30, 60, 60), 0.1, np.float32)
    spots = heat[1::2, 1::3, 1::3]
    spots[...] = np.linspace(0.6, 0.9, spots.size, dtype=np.float32).reshape(spots.shape)
    request = {"preset": "brain-mri", "ijk_to_ras": matrix.tolist(), "minimum_ml": 0.0}

    class Ready(Work):
        def do(self) -> Any:
            result = make_result(heat, matrix)
            _ = result.mask  # found here, as where a result is read
            return result

    rows: list[int] = []
    cells: list[None] = []
    model = desk.ui.candidatesTable.target.model()
    model.rowsInserted.connect(lambda _parent, first, last: rows.append(last - first + 1))
    model.dataChanged.connect(lambda *_: cells.append(None))
    batch = Batch([Task("scan", Ready, lambda result: add_findings(scan, result, request), desk.panel.showFindings)])
    while batch.finished == 0:
        batch.poll()
    assert not batch.is_over
    assert rows == []
    batch.poll()
    assert batch.is_over
    assert rows == [200]
    assert len(cells) == 200 * desk.ui.candidatesTable.columnCount
    assert desk.ui.candidatesTable.horizontalHeader().resizeContentsPrecision() == 0  # the rows in view are measured alone
    findings = desk.panel.findFindings()
    assert findings.table.GetNumberOfRows() == len(findings.candidates) == spots.size == 6000
    assert desk.ui.candidatesTable.rowCount == 200 == findings.peaks.GetNumberOfControlPoints()
    assert desk.ui.candidatesTable.target.item(199, 0).text() == "200"
    assert "The hottest 200 are listed and marked" in desk.ui.resultLabel.text


def test_a_click_on_a_row_moves_the_views(desk: SimpleNamespace) -> None:
    findings = show_result(desk)
    view = desk.scene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    desk.ui.candidatesTable.target.cellClicked.emit(1, 0)
    place = [view.GetSliceToRAS().GetElement(row, 3) for row in range(3)]
    np.testing.assert_allclose(place, findings.find_place(1), atol=1e-3)


def test_boxes_hide_legend_segmentation_and_peaks(desk: SimpleNamespace) -> None:
    add_view(desk.scene)
    findings = show_result(desk)
    legend = desk.scene.GetFirstNodeByClass("vtkMRMLColorLegendDisplayNode")
    assert legend.GetVisibility()
    for name in ("legendCheckBox", "segmentationCheckBox", "peaksCheckBox"):
        getattr(desk.ui, name).checked = False
    assert not legend.GetVisibility()
    assert not findings.segmentation.GetDisplayVisibility()
    assert not findings.peaks.GetDisplayVisibility()


def test_a_p_value_is_told_in_words(desk: SimpleNamespace) -> None:
    show_result(desk, calibrated=True)
    assert "p = 0.02: of 100 volumes like the normal ones" in desk.ui.resultLabel.text
    assert "about 2 would score this high" in desk.ui.resultLabel.text


def test_the_threshold_is_told_in_candidates_of_normal_volumes(desk: SimpleNamespace) -> None:
    show_result(desk, calibrated=True)
    assert desk.ui.thresholdLabel.text.startswith("0.4: 9 candidates a normal volume, on average over the 20")
    desk.ui.thresholdSlider.value = 0.7
    assert desk.ui.thresholdLabel.text.startswith("0.6: 1.3 candidates")
    desk.ui.thresholdSlider.value = 0.2
    assert "were not counted" in desk.ui.thresholdLabel.text
    show_result(desk)
    assert desk.ui.thresholdLabel.text == ""


def test_all_loaded_volumes_are_scored_one_after_another(desk: SimpleNamespace) -> None:
    import slicer

    add_scan(desk)
    slicer.util.addVolumeFromArray(np.zeros((4, 8, 8), np.int16), name="empty")
    add_scan(desk, "left-handed").SetName("second")
    desk.chosen.allVolumes = True
    desk.panel.onApply()
    run_until(lambda: desk.ui.applyButton.text == "Apply")
    heatmaps = [
        node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if "heatmap" in node.GetName()
    ]
    assert heatmaps == ["scan heatmap", "second heatmap"]
    assert len(desk.person.errors) == 1
    assert "empty: volume.npy: every voxel is 0" in desk.person.errors[0]


def test_nothing_is_installed_without_consent(desk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    add_scan(desk)
    desk.chosen.backend = "This Slicer"
    monkeypatch.setattr(desk.module, "list_missing", lambda: ["torch", "aaclip-med"])
    desk.person.answer = False
    desk.panel.onApply()
    assert len(desk.person.questions) == 1
    assert "numpy, SimpleITK and torch are left as they are" in desk.person.questions[0]
    assert not desk.panel.desk.is_busy


def test_a_scan_is_never_sent_without_consent(desk: SimpleNamespace) -> None:
    add_scan(desk)
    desk.chosen.backend = "Server"
    desk.ui.serverLineEdit.text = "https://server.example"
    desk.person.answer = False
    desk.panel.onApply()
    assert "sent to https://server.example" in desk.person.questions[0]
    assert not desk.panel.desk.is_busy


def test_a_missing_address_is_told(desk: SimpleNamespace) -> None:
    add_scan(desk)
    desk.chosen.backend = "Server"
    desk.panel.onApply()
    run_until(lambda: desk.ui.applyButton.text == "Apply")
    assert "is no server address" in desk.person.errors[0]


def test_the_token_is_never_stored(desk: SimpleNamespace) -> None:
    desk.ui.tokenLineEdit.text = "secret"
    desk.ui.serverLineEdit.text = "https://server.example"
    desk.panel.exit()
    stored = stand_ins.Settings.values
    assert stored["AAClipMed/server"] == "https://server.example"
    assert "secret" not in stored.values()


def test_check_writes_its_findings_into_the_log(desk: SimpleNamespace) -> None:
    desk.panel.onCheck()
    run_until(lambda: desk.ui.applyButton.text == "Apply")
    log = desk.ui.logText.toPlainText()
    assert "[OK] Python:" in log
    assert "[OK] Weights:" in log


def test_a_phantom_of_each_preset_is_offered_as_sample_data(desk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    import slicer

    offered: dict[str, dict[str, Any]] = {}
    logic = SimpleNamespace(registerCustomSampleDataSource=lambda **source: offered.update({source["sampleName"]: source}))
    monkeypatch.setitem(sys.modules, "SampleData", SimpleNamespace(SampleDataLogic=logic))
    representation = SimpleNamespace(self=lambda: desk.panel)
    slicer.modules.aaclipmed = SimpleNamespace(widgetRepresentation=lambda: representation)
    desk.module.registerSampleData()
    assert set(offered) == {"Phantom brain-mri", "Phantom liver-ct", "Phantom retinal-oct"}
    assert all(Path(source["thumbnailFileName"]).is_file() for source in offered.values())
    offered["Phantom retinal-oct"]["customDownloader"](None)
    assert desk.person.modules == ["AAClipMed"]
    run_until(lambda: desk.ui.applyButton.text == "Apply")
    assert desk.chosen.inputVolume.GetName().startswith("Phantom retinal-oct")
    assert desk.chosen.preset == "retinal-oct"
    assert desk.person.errors == []
    assert desk.scene.GetFirstNodeByClass("vtkMRMLLabelMapVolumeNode") is not None


def test_the_modules_own_test_passes(desk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AACLIP_MED_PYTHON", sys.executable)
    test = desk.module.AAClipMedTest()
    test.runTest()
    assert test.shown[-1] == "Passed"


def test_the_panel_has_a_picture(desk: SimpleNamespace, tmp_path: Path) -> None:
    show_result(desk)
    window = desk.panel.window
    window.resize(520, 1000)
    for section in window.findChildren(stand_ins.ctkCollapsibleButton):
        section.fold()
    path = tmp_path / "panel.png"
    assert window.grab().save(str(path))
    assert path.stat().st_size > 10_000
