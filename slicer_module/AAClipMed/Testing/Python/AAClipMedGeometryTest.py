"""In the application: a voxel marked in a heatmap lies where the input's voxel lies, with no package installed."""

# ruff: noqa: PT009 - unittest's names

import unittest

import numpy as np
import slicer
from AAClipMedLib.geometry import find_ijk_to_ras
from AAClipMedLib.jobs import Result
from AAClipMedLib.results import add_findings, find_findings, redraw


class AAClipMedGeometryTest(unittest.TestCase):
    """A sheared, left-handed volume under a transform."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()
        matrix = np.array([[0.7, 0.1, 0.3, -20], [-0.1, 1.1, 0.4, 35], [0.05, 0.2, -2.3, 80], [0, 0, 0, 1.0]])
        self.volume = slicer.util.addVolumeFromArray(np.zeros((6, 7, 8), np.int16), ijkToRAS=matrix, name="scan")
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        turn = np.array([[0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1.0]])
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(turn))
        self.volume.SetAndObserveTransformNodeID(transform.GetID())
        heat = np.zeros((6, 7, 8), np.float32)
        heat[2, 3, 4] = 0.9
        self.peak = (matrix @ (4, 3, 2, 1))[:3]
        self.expected = (turn @ (*self.peak, 1))[:3]
        candidate = {"id": 1, "peak": 0.9, "mean": 0.9, "volume_ml": 0.001, "peak_ras": self.peak.tolist()}
        account = {"score": 0.9, "p_value": None, "threshold": 0.5, "candidates": [candidate], "run": {}}
        self.findings = add_findings(self.volume, Result(heat, account), {"ijk_to_ras": matrix.tolist(), "preset": "brain-mri"})

    def test_everything_lies_at_the_marked_voxel(self) -> None:
        np.testing.assert_allclose(find_ijk_to_ras(self.findings.heatmap), find_ijk_to_ras(self.volume), atol=1e-6)
        point = np.zeros(3)
        self.findings.peaks.GetNthControlPointPositionWorld(0, point)
        np.testing.assert_allclose(point, self.expected, atol=1e-3)
        np.testing.assert_allclose(self.findings.find_place(0), self.expected, atol=1e-3)

    def test_the_result_is_found_again_and_redrawn(self) -> None:
        found = find_findings(self.findings.heatmap)
        redraw(found, 0.8)
        np.testing.assert_allclose(found.find_place(0), self.expected, atol=1e-3)
        redraw(found, 0.95)
        self.assertEqual(found.table.GetNumberOfRows(), 0)


if __name__ == "__main__":
    unittest.main()
