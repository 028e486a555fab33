"""How long Slicer's panel is kept from its event loop by a result with 6,000 candidates: read, taken and shown. Prints JSON.

    QT_QPA_PLATFORM=offscreen python benchmarks/panel.py [--runs 5]

Real Qt and MRML, set up as the module's tests do it (extra ``slicer-test``), on a volume of 512 x 512 x 120. Per run the
longest turn of the loop, in ms by the clock, and the most processor time that a turn took of the panel's own thread.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "slicer"), str(ROOT / "slicer_module" / "AAClipMed")]
SHAPE = (120, 512, 512)


def measure(panel: Any, task: Any) -> dict[str, float]:
    """One task from its start until it is shown."""
    import stand_ins

    application = stand_ins.find_application()
    panel.desk.start([task])
    clock, processor = 0.0, 0.0
    while panel.desk.is_busy:
        began, computed = time.perf_counter(), time.thread_time()
        application.processEvents()
        clock = max(clock, time.perf_counter() - began)
        processor = max(processor, time.thread_time() - computed)
        time.sleep(0.01)
    return {"longest_ms": round(1000 * clock, 1), "processor_ms": round(1000 * processor, 1)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    import conftest
    import slicer
    import stand_ins
    from AAClipMedLib.batch import Task
    from AAClipMedLib.jobs import Job, Settings, read_result
    from AAClipMedLib.results import add_findings
    from AAClipMedLib.work import Work

    matrix = conftest.make_geometry("oblique")
    heat = np.full(SHAPE, 0.1, np.float32)
    spots = heat[1:60:2, 1:60:3, 1:30:3]
    spots[...] = np.linspace(0.6, 0.9, spots.size, dtype=np.float32).reshape(spots.shape)
    account = conftest.make_result(heat, matrix).account
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patches:
        folder = Path(name)
        np.save(folder / "heatmap.npy", heat)
        (folder / "result.json").write_text(json.dumps(account), encoding="utf-8")
        application = conftest.make_application(slicer, folder)
        stand_ins.install(patches, application.GetMRMLScene())
        panel = importlib.import_module("AAClipMed").AAClipMedWidget()
        panel.setup()
        scan = slicer.util.addVolumeFromArray(np.zeros(SHAPE, np.uint8), ijkToRAS=matrix, name="scan")
        job = Job(slicer.util.arrayFromVolume(scan), matrix, Settings())

        class Reading(Work):
            def do(self) -> Any:
                return read_result(folder, job)

        request = job.describe()
        task = Task("scan", Reading, lambda result: add_findings(scan, result, request), panel.showFindings)
        figures = [measure(panel, task) for _ in range(runs)]
        panel.cleanup()
        application.GetMRMLScene().Clear(1)
    print(json.dumps({"candidates": len(account["candidates"]), "runs": figures}))


if __name__ == "__main__":
    main()
