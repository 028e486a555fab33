"""AA-CLIP heatmaps in 3D Slicer: what looks abnormal in a scan, as a heatmap, candidates and a segmentation."""

# ruff: noqa: N802, N815, PT009 - Slicer's and unittest's names. Types are read by the parameter node: no postponed annotations.

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union

import numpy as np
import qt
import slicer
import vtk
from AAClipMedLib import findings as findings_table
from AAClipMedLib import heatmap as heatmap_view
from AAClipMedLib.backends import BACKENDS, Backend
from AAClipMedLib.batch import Batch, Task
from AAClipMedLib.check import Finding
from AAClipMedLib.desk import Desk
from AAClipMedLib.geometry import find_ijk_to_ras, jump_to
from AAClipMedLib.inputs import list_volumes
from AAClipMedLib.install import PACKAGE, Installation, list_missing
from AAClipMedLib.jobs import DEVICES, PLANES, PRESETS, Settings
from AAClipMedLib.phantoms import Drawing, Phantom, add_phantom
from AAClipMedLib.remote import find_token
from AAClipMedLib.results import Findings, Found, Search, find_findings, show_found
from AAClipMedLib.scoring import make_task
from AAClipMedLib.words import describe_result, describe_threshold
from AAClipMedLib.work import Work
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

POLL_MS = 50


class AAClipMed(ScriptedLoadableModule):
    """The module as Slicer lists it."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("AA-CLIP Heatmaps")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["The aaclip-med contributors"]
        self.parent.helpText = _(
            "Heatmaps of what looks abnormal in brain MR, liver CT and retinal OCT, with ranked lesion candidates. "
            "For research, not for clinical use."
        )
        self.parent.acknowledgementText = _("After AA-CLIP (CVPR 2025).")
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData() -> None:
    """Offer a phantom of each preset in the Sample Data module; nothing is downloaded."""
    import SampleData

    def draw(preset: str) -> None:
        slicer.util.selectModule("AAClipMed")
        slicer.modules.aaclipmed.widgetRepresentation().self().drawPhantom(preset)

    icon = Path(__file__).parent / "Resources" / "Icons" / "AAClipMed.png"
    for preset in PRESETS:
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category="AA-CLIP",
            sampleName=f"Phantom {preset}",
            thumbnailFileName=str(icon),
            customDownloader=lambda _source, preset=preset: draw(preset),
        )


@parameterNodeWrapper
class AAClipMedParameterNode:
    """The choices that are saved with the scene. Paths, addresses and the token are not: they belong to the computer."""

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    organ: Union[slicer.vtkMRMLSegmentationNode, slicer.vtkMRMLLabelMapVolumeNode, slicer.vtkMRMLMarkupsROINode]  # noqa: UP007
    heatmap: slicer.vtkMRMLScalarVolumeNode
    allVolumes: bool = False
    preset: Annotated[str, Choice(list(PRESETS))] = PRESETS[0]
    adapters: str = "demo"
    plane: Annotated[str, Choice(list(PLANES))] = PLANES[0]
    backend: Annotated[str, Choice(list(BACKENDS))] = BACKENDS[0]
    device: Annotated[str, Choice(list(DEVICES))] = DEVICES[0]
    batchSize: Annotated[int, WithinRange(1, 256)] = 16
    stride: Annotated[int, WithinRange(1, 20)] = 1
    minimumMl: Annotated[float, WithinRange(0.0, 1000.0)] = 0.0
    useThreshold: bool = False
    threshold: Annotated[float, WithinRange(0.0, 1.0)] = 0.5
    opacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.6
    showLegend: bool = True
    showSegmentation: bool = True
    showPeaks: bool = True


class AAClipMedWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel. A timer asks the work in hand; nothing here waits for it."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: AAClipMedLogic | None = None
        self._parameterNode: Any = None
        self._connection: Any = None
        self._told: set[str] = set()

    # Setting up and leaving

    def setup(self) -> None:
        """Build the panel."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/AAClipMed.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = AAClipMedLogic()
        timer = qt.QTimer()
        timer.setInterval(POLL_MS)
        ui = self.ui
        self.desk = Desk(ui, timer, self.updateApply)
        ui.applyButton.connect("clicked(bool)", self.onApply)
        ui.phantomButton.connect("clicked(bool)", self.onPhantom)
        ui.checkButton.connect("clicked(bool)", self.onCheck)
        ui.installButton.connect("clicked(bool)", self.onInstall)
        ui.redrawButton.connect("clicked(bool)", self.onRedraw)
        ui.segmentEditorButton.connect("clicked(bool)", self.onSegmentEditor)
        ui.candidatesTable.connect("cellClicked(int,int)", self.onCandidate)
        ui.candidatesTable.horizontalHeader().setResizeContentsPrecision(0)  # measure the rows in view, not all
        ui.thresholdSlider.connect("valueChanged(double)", self.onThreshold)
        ui.opacitySlider.connect("valueChanged(double)", self.onOpacity)
        for box in (ui.legendCheckBox, ui.segmentationCheckBox, ui.peaksCheckBox):
            box.connect("toggled(bool)", self.onVisibility)
        ui.heatmapSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onHeatmap)
        for selector in (ui.inputSelector, ui.allVolumesCheckBox):
            name = "toggled(bool)" if selector is ui.allVolumesCheckBox else "currentNodeChanged(vtkMRMLNode*)"
            selector.connect(name, self.updateApply)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self._readSiteSettings()
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Stop whatever runs."""
        self.desk.clear()
        self.removeObservers()
        self._setParameterNode(None)

    def enter(self) -> None:
        """The panel is shown."""
        self.initializeParameterNode()

    def exit(self) -> None:
        """Another module is shown; work goes on."""
        self._writeSiteSettings()

    def onSceneStartClose(self, _caller: Any = None, _event: Any = None) -> None:
        """The scene goes; so does work for it."""
        self.desk.clear()
        self._setParameterNode(None)

    def onSceneEndClose(self, _caller: Any = None, _event: Any = None) -> None:
        """An empty scene is there."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Take the scene's choices, and its first scan where none is chosen."""
        self._setParameterNode(self.logic.getParameterNode())
        if self._parameterNode.inputVolume is None:
            volumes = list_volumes(slicer.mrmlScene)
            if volumes:
                self._parameterNode.inputVolume = volumes[0]
        self.updateApply()
        self.onHeatmap()

    def _setParameterNode(self, node: Any) -> None:
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._connection)
        self._parameterNode = node
        if node is not None:
            self._connection = node.connectGui(self.ui)

    def _readSiteSettings(self) -> None:
        settings = qt.QSettings()
        for name, editor in self._siteEditors().items():
            editor.text = settings.value(f"AAClipMed/{name}", "") or ""
        self.ui.tokenLineEdit.text = find_token()

    def _writeSiteSettings(self) -> None:
        settings = qt.QSettings()
        for name, editor in self._siteEditors().items():
            settings.setValue(f"AAClipMed/{name}", editor.text)

    def _siteEditors(self) -> dict[str, Any]:
        ui = self.ui
        return {
            "python": ui.pythonLineEdit,
            "server": ui.serverLineEdit,
            "weights": ui.weightsLineEdit,
            "wheels": ui.wheelsLineEdit,
            "source": ui.sourceLineEdit,
        }

    # What is chosen

    def makeSettings(self) -> Settings:
        """The settings chosen."""
        chosen = self._parameterNode
        return Settings(
            preset=chosen.preset,
            adapters=chosen.adapters.strip() or "demo",
            plane=chosen.plane,
            threshold=chosen.threshold if chosen.useThreshold else None,
            minimum_ml=chosen.minimumMl,
            stride=chosen.stride,
            device=chosen.device,
            batch_size=chosen.batchSize,
            weights=self.ui.weightsLineEdit.text.strip() or None,
        )

    def makeBackend(self) -> Backend:
        """The place chosen."""
        ui = self.ui
        return Backend(self._parameterNode.backend, ui.pythonLineEdit.text, ui.serverLineEdit.text, ui.tokenLineEdit.text)

    def updateApply(self, _changed: Any = None) -> None:
        """Say whether Apply can be pressed, and why not."""
        if self.desk.is_busy:
            return
        chosen = self._parameterNode
        ready = chosen is not None and (chosen.allVolumes or chosen.inputVolume is not None)
        self.ui.applyButton.enabled = ready
        self.ui.applyButton.toolTip = _("Score the scan.") if ready else _("Choose a volume first.")

    # Work

    def onApply(self, _checked: bool = False) -> None:
        """Score, or cancel."""
        if self.desk.is_busy:
            self.desk.cancel()
            return
        with slicer.util.tryWithErrorDisplay(_("The scan cannot be scored."), waitCursor=False):
            self._writeSiteSettings()
            backend = self.makeBackend()
            if backend.is_remote and not self._mayTell(backend.address):
                return
            if backend.is_own and list_missing():
                self.install(self.startScoring)
                return
            self.startScoring()

    def startScoring(self) -> None:
        """Begin with the scan chosen, or with all of them."""
        chosen = self._parameterNode
        volumes = list_volumes(slicer.mrmlScene) if chosen.allVolumes else [chosen.inputVolume]
        settings, backend = self.makeSettings(), self.makeBackend()
        self.desk.start([make_task(volume, settings, backend, chosen.organ, self.showFindings) for volume in volumes])

    def _mayTell(self, address: str) -> bool:
        if address not in self._told and not slicer.util.confirmOkCancelDisplay(
            _("The scan's voxels and geometry are sent to {address}. Names and dates are not.").format(address=address),
            windowTitle=_("Send to a server?"),
        ):
            return False
        self._told.add(address)
        return True

    # Packages, check, sample data

    def onInstall(self, _checked: bool = False) -> None:
        """Install packages, after a question."""
        with slicer.util.tryWithErrorDisplay(_("The packages cannot be installed."), waitCursor=False):
            self.install(None)

    def install(self, afterwards: Callable[[], None] | None) -> None:
        """Ask, bring torch through the PyTorch extension, and the rest through pip; then go on."""
        backend = self.makeBackend()
        wheels, source = self.ui.wheelsLineEdit.text.strip(), self.ui.sourceLineEdit.text.strip() or PACKAGE
        origin = wheels or _("the network (up to 3 GB with torch)")
        asked = _(
            "Install {source} and what it needs for {python}, from {origin}? numpy, SimpleITK and torch are left as they are."
        )
        if not slicer.util.confirmOkCancelDisplay(
            asked.format(source=source, python=backend.interpreter, origin=origin), windowTitle=_("Install packages?")
        ):
            return
        if backend.is_own and "torch" in list_missing() and not wheels:
            self.logic.installTorch()

        def make() -> Work:
            return Installation(backend.interpreter, backend.is_own, wheels or None, source)

        self.desk.start(
            [Task(_("Packages"), make, lambda kept: self.desk.log(_("Installed; kept {kept}").format(kept=kept)))], afterwards
        )

    def onCheck(self, _checked: bool = False) -> None:
        """Look whether scoring would go well."""
        with slicer.util.tryWithErrorDisplay(_("The check cannot be made."), waitCursor=False):
            backend, settings = self.makeBackend(), self.makeSettings()
            self.ui.logSection.collapsed = False
            self.desk.start([Task(_("Check"), lambda: backend.check(settings), self.showCheck)])

    def showCheck(self, found: list[Finding]) -> None:
        """Write what the check found."""
        for finding in found:
            self.desk.log(str(finding))

    def onPhantom(self, _checked: bool = False) -> None:
        """Draw a phantom for the preset."""
        with slicer.util.tryWithErrorDisplay(_("No phantom can be drawn."), waitCursor=False):
            backend, preset = self.makeBackend(), self._parameterNode.preset
            place = Backend() if backend.is_remote else backend
            if place.is_own and list_missing():
                self.install(self.onPhantom)
                return
            seed = int(time.time()) % 1000
            self.desk.start(
                [Task(_("Phantom"), lambda: Drawing(preset, seed, place.interpreter, place.is_own), self.showPhantom)]
            )

    def drawPhantom(self, preset: str) -> None:
        """Draw a phantom for a preset, which is chosen along with it."""
        if not self.desk.is_busy:
            self._parameterNode.preset = preset
            self.onPhantom()

    def showPhantom(self, phantom: Phantom) -> None:
        """Load a phantom and choose it."""
        volume, _lesions = add_phantom(phantom)
        self._parameterNode.inputVolume = volume
        slicer.util.setSliceViewerLayers(background=volume, foreground=None, label=None, fit=True)
        self.updateApply()

    # Results

    def showFindings(self, findings: Findings) -> None:
        """Show a new result: chosen in its selector, whose signal fills the panel."""
        if findings.heatmap.GetScene() is None:
            return
        heatmap_view.show_overlay(findings.volume, findings.heatmap, self._parameterNode.opacity)
        self._parameterNode.heatmap = findings.heatmap

    def findFindings(self) -> Findings | None:
        """The result that is shown."""
        return find_findings(self._parameterNode.heatmap) if self._parameterNode is not None else None

    def onHeatmap(self, _node: Any = None) -> None:
        """Another result is chosen: show its threshold, words and candidates."""
        findings = self.findFindings()
        self.ui.redrawButton.enabled = findings is not None and not self.desk.is_searching
        self.ui.segmentEditorButton.enabled = findings is not None
        if findings is None:
            self.ui.resultLabel.text = _("No result yet.")
            self.ui.thresholdLabel.text = ""
            self.ui.candidatesTable.rowCount = 0
            return
        self._parameterNode.threshold = min(max(findings.heatmap.GetDisplayNode().GetLowerThreshold(), 0.0), 1.0)
        self.onVisibility()
        self._showCandidates(findings)

    def _showCandidates(self, findings: Findings) -> None:
        result = findings.result
        self.ui.resultLabel.text = describe_result(result, findings_table.MOST_SHOWN)
        self.ui.thresholdLabel.text = describe_threshold(result, result.threshold)
        table = self.ui.candidatesTable
        rows = findings_table.list_rows(result.account["candidates"][: findings_table.MOST_SHOWN])
        table.columnCount = len(findings_table.COLUMNS)
        table.setHorizontalHeaderLabels(list(findings_table.COLUMNS))
        table.rowCount = len(rows)
        for number, row in enumerate(rows):
            for column, value in enumerate(row):
                text = str(int(value)) if column == 0 else f"{value:.4f}" if column < 4 else f"{value:.1f}"
                table.setItem(number, column, qt.QTableWidgetItem(text))
        table.resizeColumnsToContents()

    def onCandidate(self, row: int, _column: int = 0) -> None:
        """All views go to the candidate."""
        findings = self.findFindings()
        if findings is not None:
            jump_to(findings.find_place(row), slicer.mrmlScene)

    def onThreshold(self, threshold: float) -> None:
        """The overlay follows the slider."""
        findings = self.findFindings()
        if findings is not None:
            heatmap_view.set_threshold(findings.heatmap, threshold)
            self.ui.thresholdLabel.text = describe_threshold(findings.result, threshold)

    def onOpacity(self, opacity: float) -> None:
        """The overlay follows the slider."""
        findings = self.findFindings()
        if findings is not None:
            heatmap_view.set_opacity(slicer.mrmlScene, findings.heatmap, opacity)

    def onVisibility(self, _shown: Any = None) -> None:
        """Show or hide legend, segmentation and peaks."""
        findings = self.findFindings()
        if findings is None:
            return
        ui = self.ui
        legend = heatmap_view.show_legend(findings.heatmap, findings.is_calibrated)
        legend.SetVisibility(ui.legendCheckBox.checked)
        findings.segmentation.SetDisplayVisibility(ui.segmentationCheckBox.checked)
        findings.peaks.SetDisplayVisibility(ui.peaksCheckBox.checked)

    def onRedraw(self, _checked: bool = False) -> None:
        """Find the candidates at the threshold shown."""
        findings = self.findFindings()
        if findings is None:
            return
        threshold = self._parameterNode.threshold
        self.desk.search(
            Task(
                _("Candidates"),
                lambda: Search(findings, threshold),
                lambda found: self.takeFound(findings, found),
                self.showFound,
            )
        )

    def takeFound(self, findings: Findings, found: Found) -> Findings:
        """Bring a result up to date with a search, unless it was removed meanwhile."""
        if findings.heatmap.GetScene() is not None:
            show_found(findings, found)
        return findings

    def showFound(self, findings: Findings) -> None:
        """Show the candidates of a search, where its result is still the one chosen."""
        if self._parameterNode is not None and self._parameterNode.heatmap is findings.heatmap:
            self._showCandidates(findings)

    def onSegmentEditor(self, _checked: bool = False) -> None:
        """Open the Segment Editor on the segmentation and its scan."""
        findings = self.findFindings()
        if findings is None:
            return
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        editor.setSegmentationNode(findings.segmentation)
        editor.setSourceVolumeNode(findings.volume or findings.heatmap)


class AAClipMedLogic(ScriptedLoadableModuleLogic):
    """What the module does, for scripts and for the panel."""

    def getParameterNode(self) -> AAClipMedParameterNode:
        """The scene's choices."""
        return AAClipMedParameterNode(super().getParameterNode())

    def score(
        self,
        volume: slicer.vtkMRMLScalarVolumeNode,
        settings: Settings = Settings(),  # noqa: B008 - frozen
        backend: Backend = Backend(),  # noqa: B008 - frozen
        organ: Any = None,
        log: Callable[[str], None] = print,
    ) -> Findings:
        """Score a volume and wait; for scripts. The application stays alive meanwhile.

        Raises:
            RuntimeError: it failed; the message says why.
        """
        kept: list[Findings] = []
        batch = Batch([make_task(volume, settings, backend, organ, kept.append)])
        while not batch.is_over:
            for event in batch.poll():
                if event.kind != "progress":
                    log(event.text)
            slicer.app.processEvents()
            time.sleep(POLL_MS / 1000)
        if not kept:
            raise RuntimeError("; ".join(batch.failures) or "cancelled")
        return kept[0]

    @staticmethod
    def installTorch() -> None:
        """Torch through the PyTorch extension, which finds the build that fits the GPU, and asks.

        Raises:
            ValueError: the extension is missing, or the person declined.
        """
        try:
            import PyTorchUtils
        except ModuleNotFoundError:
            raise ValueError(
                _("Install the PyTorch extension (Extensions Manager), restart Slicer; or take another Python or a server.")
            ) from None
        if PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=">=2.4") is None:
            raise ValueError(_("torch was not installed"))


class AAClipMedTest(ScriptedLoadableModuleTest):
    """Runs inference on a phantom, in Slicer, with the demonstration adapters of the small tower ``tiny``."""

    def setUp(self) -> None:
        """An empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """All tests."""
        self.setUp()
        self.test_a_phantom_is_scored_and_lined_up()

    def test_a_phantom_is_scored_and_lined_up(self) -> None:
        """A phantom under a transform is scored in a child process; heatmap, segmentation, table and points agree."""
        backend = self.findBackend()
        if backend is None:
            self.delayDisplay(
                "Skipped: torch and aaclip-med are not installed; set AACLIP_MED_PYTHON or press Install in the panel"
            )
            return
        self.delayDisplay("Drawing a phantom")
        drawing = Drawing("brain-mri", 1, backend.interpreter, backend.is_own)
        volume, _lesions = add_phantom(drawing.do())
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        matrix = vtk.vtkMatrix4x4()
        matrix.SetElement(0, 3, 25.0)
        transform.SetMatrixTransformToParent(matrix)
        volume.SetAndObserveTransformNodeID(transform.GetID())
        self.delayDisplay("Scoring")
        findings = AAClipMedLogic().score(volume, Settings(stride=4, device="cpu", threshold=0.5), backend)
        heat = slicer.util.arrayFromVolume(findings.heatmap)
        self.assertEqual(heat.shape, slicer.util.arrayFromVolume(volume).shape)
        np.testing.assert_allclose(find_ijk_to_ras(findings.heatmap), find_ijk_to_ras(volume), atol=1e-6)
        self.assertEqual(findings.heatmap.GetTransformNodeID(), volume.GetTransformNodeID())
        self.assertEqual(findings.table.GetNumberOfRows(), len(findings.candidates))
        if findings.candidates:
            point = np.zeros(3)
            findings.peaks.GetNthControlPointPositionWorld(0, point)
            np.testing.assert_allclose(point, findings.find_place(0), atol=1e-3)
            peak = np.linalg.inv(find_ijk_to_ras(volume)) @ (*findings.candidates[0]["peak_ras"], 1.0)
            i, j, k = np.rint(peak[:3]).astype(int)
            self.assertAlmostEqual(float(heat[k, j, i]), findings.candidates[0]["peak"], places=5)
        self.delayDisplay("Passed")

    @staticmethod
    def findBackend() -> Backend | None:
        """A Python that has the package: the one named in AACLIP_MED_PYTHON, or Slicer's own."""
        import os

        named = os.environ.get("AACLIP_MED_PYTHON", "")
        if named and Path(named).is_file():
            return Backend("Another Python", named)
        return None if list_missing() else Backend()
