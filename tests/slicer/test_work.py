"""Jobs in child processes: progress arrives, cancel ends everything, a killed child is explained, the GUI stays free."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from conftest import make_geometry

from AAClipMedLib import runner  # isort: skip
from AAClipMedLib.batch import Batch, Task  # isort: skip
from AAClipMedLib.check import LocalCheck, judge  # isort: skip
from AAClipMedLib.install import list_arguments, write_constraints  # isort: skip
from AAClipMedLib.jobs import Job, ResultError, Settings, read_result, write_job  # isort: skip
from AAClipMedLib.memory import find_smaller_attempt  # isort: skip
from AAClipMedLib.process import Child, clean_environment, explain_exit  # isort: skip
from AAClipMedLib.work import Event, Work, WorkError  # isort: skip

posix_only = pytest.mark.skipif(os.name == "nt", reason="looks at processes as POSIX shows them")


def make_job(**settings: Any) -> Job:
    """A small phantom with lesions."""
    from aaclip_med.data.phantoms import make_phantom

    phantom = make_phantom("brain-mri", 3, True)
    return Job(np.ascontiguousarray(phantom.array.T[::3]), phantom.affine @ np.diag([1, 1, 3, 1]), Settings(**settings))


@contextmanager
def list_called() -> Iterator[set[str]]:
    """The module's own files that are at work in this thread meanwhile."""
    called: set[str] = set()

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        name = str(frame.f_globals.get("__name__"))
        if event == "call" and name.startswith("AAClipMedLib."):
            called.add(name.removeprefix("AAClipMedLib."))

    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)


def run_loop(work: Work | Batch, until: Any = None, limit: float = 120.0) -> list[Event]:
    """A stand-in for the application's event loop: asks every 50 ms, in a thread that does nothing of the work itself."""
    events: list[Event] = []
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        with list_called() as called:
            events += work.poll()
        assert called <= {"work", "batch"}
        if work.is_over or (until is not None and until(events)):
            return events
        time.sleep(0.05)
    raise AssertionError(f"not over in {limit} s: {events[-3:]}")


def find_alive(pids: list[int]) -> list[int]:
    """Those that still run (a zombie does not)."""
    alive = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if state != "Z":
            alive.append(pid)
    return alive


def await_end(pids: list[int], limit: float = 60.0) -> None:
    """Wait until none runs: one that is killed is still seen for a moment."""
    deadline = time.monotonic() + limit
    while alive := find_alive(pids):
        assert time.monotonic() < deadline, f"{alive} still run"
        time.sleep(0.02)


class Program(runner.LocalJob):
    """A local job that runs another program in the package's place, to see how the job behaves when programs misbehave."""

    def __init__(self, code: str, **settings: Any) -> None:
        super().__init__(Job(np.zeros((2, 3, 4), np.int16), np.eye(4), Settings(**settings)), sys.executable)
        self.code = code

    def run_python(self, arguments: list[str], hear: Any) -> Child:
        return super().run_python(["-c", self.code, arguments[-1]], hear)


def test_starting_asking_and_cancelling_wait_for_nothing_that_the_work_does() -> None:
    begun, held = threading.Event(), threading.Event()

    class Held(Work):
        def do(self) -> None:
            self.tell(0.1, "begun")
            begun.set()
            held.wait(30.0)

    work = Held()
    work.start()
    assert begun.wait(60.0)
    assert [event.text for event in work.poll()] == ["begun"]
    assert work.poll() == []
    work.cancel()
    assert work.poll() == []
    held.set()
    assert [event.kind for event in run_loop(work)] == ["cancelled"]


def test_a_real_run_reports_progress_and_does_nothing_in_the_guis_thread() -> None:
    job = make_job()
    work = runner.LocalJob(job, sys.executable)
    with list_called() as called:
        work.start()
    assert called == {"work"}
    events = run_loop(work)
    assert events[-1].kind == "done", events[-1].text
    shares = [event.share for event in events if event.kind == "progress"]
    assert shares == sorted(shares)
    assert len({round(share, 2) for share in shares}) >= 4
    assert any("scoring" in event.text for event in events)
    result = events[-1].value
    assert result.heatmap.shape == job.voxels.shape
    assert result.heatmap.dtype == np.float32
    assert 0.0 <= result.account["score"] <= 1.0
    assert result.account["run"]["demonstration"] is True


def test_a_run_leaves_no_files_behind(tmp_path: Path) -> None:
    work = runner.LocalJob(make_job(adapters="no such adapters"), sys.executable, folder=tmp_path)
    work.start()
    events = run_loop(work)
    assert events[-1].kind == "failed"
    assert "no such adapters" in events[-1].text
    assert list(tmp_path.iterdir()) == []


TREE = """
import json, os, subprocess, sys, time
stubborn = "import time, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
grandchild = subprocess.Popen([sys.executable, "-c", stubborn])
time.sleep(0.5)
print(json.dumps({"progress": 0.3, "message": f"{os.getpid()} {grandchild.pid}"}), flush=True)
time.sleep(600)
"""


@posix_only
def test_cancel_ends_the_whole_process_tree_and_kills_what_ignores_being_asked() -> None:
    work = Program(TREE)
    work.start()
    events = run_loop(work, until=lambda events: any(event.share == 0.3 for event in events))
    pids = [int(text) for text in next(event.text for event in events if event.share == 0.3).split()]
    assert find_alive(pids) == pids
    work.cancel()
    assert run_loop(work)[-1].kind == "cancelled"
    await_end(pids)


@posix_only
def test_a_real_run_can_be_cancelled_while_the_model_loads() -> None:
    job = make_job()
    work = runner.LocalJob(replace(job, voxels=np.tile(job.voxels, (40, 1, 1))), sys.executable)
    work.start()
    run_loop(work, until=lambda events: any("loading" in event.text for event in events))
    work.cancel()
    assert run_loop(work)[-1].kind == "cancelled"


@posix_only
def test_a_killed_child_gives_a_clear_message_and_takes_its_children_along() -> None:
    work = Program(TREE)
    work.start()
    events = run_loop(work, until=lambda events: any(event.share == 0.3 for event in events))
    pids = [int(text) for text in next(event.text for event in events if event.share == 0.3).split()]
    os.kill(pids[0], signal.SIGKILL)
    events = run_loop(work, until=lambda events: any("memory" in event.text for event in events))
    work.cancel()
    run_loop(work)
    await_end(pids)


@posix_only
def test_a_child_killed_on_the_cpu_with_one_slice_fails_with_the_reason() -> None:
    work = Program("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", device="cpu", batch_size=1)
    work.start()
    events = run_loop(work)
    assert events[-1].kind == "failed"
    assert "killed from outside, often because memory ran out" in events[-1].text


def test_out_of_memory_falls_back_to_smaller_batches_then_the_cpu_and_says_so() -> None:
    code = """
import json, sys
from pathlib import Path
import numpy as np
folder = Path(sys.argv[1])
asked = json.loads((folder / "request.json").read_text())
if asked["device"] != "cpu":
    print(json.dumps({"error": "out of memory on the GPU"}))
    sys.exit(2)
np.save(folder / "heatmap.npy", np.zeros((2, 3, 4), np.float32))
(folder / "result.json").write_text(json.dumps({"score": 0, "threshold": 0.5, "candidates": [], "run": asked}))
print(json.dumps({"done": True}))
"""
    work = Program(code)
    work.start()
    events = run_loop(work)
    assert events[-1].kind == "done", events[-1].text
    assert (events[-1].value.account["run"]["device"], events[-1].value.account["run"]["batch_size"]) == ("cpu", 1)
    notes = [event.text for event in events if event.kind == "log"]
    assert "out of memory; trying again with 4 slices at once" in notes
    assert "out of memory on the GPU; trying again on the CPU, which is slower" in notes


def test_memory_that_no_smaller_batch_can_save_goes_straight_to_the_cpu() -> None:
    error = "out of memory on the GPU with one slice at a time; take --device cpu"
    request, note = find_smaller_attempt({"batch_size": 16, "device": "auto"}, error) or ({}, "")
    assert request["device"] == "cpu"
    assert "CPU" in note
    assert find_smaller_attempt({"batch_size": 1, "device": "cpu"}, error) is None
    assert find_smaller_attempt({"batch_size": 16, "device": "auto"}, "every voxel is 0") is None


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_package", "lacks a package"),
        ("raise SystemExit(7)", "ended with code 7"),
        ("import os; os.abort()", "ended with code -6"),
        ("print('{\"done\": true}')", "the results cannot be read"),
    ],
)
@posix_only
def test_every_way_to_fail_has_its_message(code: str, message: str) -> None:
    work = Program(code)
    work.start()
    events = run_loop(work)
    assert events[-1].kind == "failed"
    assert message in events[-1].text


def test_a_python_that_is_not_there_is_named() -> None:
    work = runner.LocalJob(make_job(), "/no/such/python", is_own=False)
    work.start()
    events = run_loop(work)
    assert "/no/such/python cannot be started" in events[-1].text


def test_lines_that_are_no_json_and_warnings_reach_the_log() -> None:
    work = Program("import sys; print('hello'); print('beware', file=sys.stderr); raise SystemExit(1)")
    work.start()
    events = run_loop(work)
    assert {"hello", "beware"} <= {event.text for event in events if event.kind == "log"}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python looks in the working folder before 3.11, whatever it is told")
def test_modules_in_the_folder_that_slicer_was_started_in_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "colorsys.py").write_text("print('planted')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    work = Program("import colorsys; print(colorsys.rgb_to_hsv(0, 0, 1))")
    work.start()
    events = run_loop(work)
    heard = [event.text for event in events if event.kind == "log"]
    assert "planted" not in heard
    assert any("1" in text for text in heard)


def test_another_python_does_not_inherit_slicers_paths() -> None:
    assert clean_environment({"PYTHONHOME": "a", "PYTHONPATH": "b", "LD_LIBRARY_PATH": "c", "HOME": "d"}) == {"HOME": "d"}


def test_a_crash_is_told_from_a_kill() -> None:
    assert "segmentation fault" in explain_exit(-11, [])
    assert "killed" in explain_exit(-9, [])


def test_a_job_folder_holds_what_the_package_reads(tmp_path: Path) -> None:
    from aaclip_med.inference.job import JobRequest

    job = Job(np.zeros((2, 3, 4), np.int16), make_geometry("sheared"), Settings(plane="all"), np.ones((2, 3, 4), np.uint8))
    write_job(tmp_path, job)
    request = JobRequest.from_json(json.loads((tmp_path / "request.json").read_text(encoding="utf-8")))
    assert request.plane == "all"
    assert request.organ == "organ.npy"
    np.testing.assert_array_equal(request.ijk_to_ras, make_geometry("sheared"))
    assert "volume" not in job.describe(remote=True)


def test_presets_and_planes_are_the_packages() -> None:
    from AAClipMedLib.jobs import PLANES, PRESETS

    from aaclip_med import presets

    assert tuple(presets.PRESETS) == PRESETS
    assert ("preset", *presets.PLANES, "all") == PLANES


def test_a_heatmap_on_another_grid_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "heatmap.npy", np.zeros((2, 2, 2), np.float32))
    (tmp_path / "result.json").write_text('{"score": 0, "threshold": 0.5, "candidates": []}', encoding="utf-8")
    with pytest.raises(ResultError, match="shape"):
        read_result(tmp_path, Job(np.zeros((2, 3, 4), np.int16), np.eye(4), Settings()))


def test_a_batch_goes_on_after_a_failure_and_counts() -> None:
    done: list[str] = []

    def refuse() -> Work:
        raise WorkError("no voxels")

    class Quick(Work):
        def do(self) -> str:
            self.tell(0.5, "halfway")
            return "fine"

    batch = Batch([Task("a", Quick, done.append), Task("b", refuse, done.append), Task("c", Quick, done.append)])
    events = run_loop(batch)
    assert done == ["fine", "fine"]
    assert batch.failures == ["b: no voxels"]
    assert batch.finished == 2
    shares = [event.share for event in events]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_cancelled_batch_begins_nothing_more() -> None:
    begun: list[str] = []

    class Slow(Work):
        def do(self) -> None:
            begun.append("one")
            self.wait(600.0)

    batch = Batch([Task("a", Slow, print), Task("b", Slow, print)])
    batch.poll()
    batch.cancel()
    events = run_loop(batch)
    assert [event.kind for event in events] == ["cancelled"]
    assert begun == ["one"]


def test_the_check_of_this_python_finds_everything() -> None:
    work = LocalCheck(sys.executable, True, Settings())
    work.start()
    events = run_loop(work)
    findings = {finding.name: finding for finding in events[-1].value}
    assert findings["Python"].state == "good"
    assert findings["torch"].state == "good"
    assert findings["Weights"].state == "good"
    assert "DEMONSTRATION" in findings["Weights"].found
    assert "GPU" in findings


def test_the_check_says_what_to_do_about_missing_adapters() -> None:
    work = LocalCheck(sys.executable, True, Settings(adapters="/no/such/adapters.safetensors"))
    work.start()
    findings = {finding.name: finding for finding in run_loop(work)[-1].value}
    assert findings["Weights"].state == "bad"
    assert "/no/such/adapters.safetensors" in findings["Weights"].found
    assert findings["Weights"].advice


@pytest.mark.parametrize(
    ("torch", "driver", "advice"),
    [
        ({"built_for_cuda": None, "cuda": False}, "550.54", "PyTorch Util"),
        ({"built_for_cuda": "12.8", "cuda": False}, "470.10", "bring the driver up to date"),
        ({"built_for_cuda": None, "cuda": False}, None, "a server, is quicker"),
    ],
)
def test_the_check_tells_a_cpu_torch_from_an_old_driver(torch: dict[str, Any], driver: str | None, advice: str) -> None:
    facts = {"python": [3, 12, 1], "executable": "python", "packages": {"torch": "2.8", "aaclip-med": "1"}, "torch": torch}
    gpu = next(finding for finding in judge(facts | {"driver": driver}) if finding.name == "GPU")
    assert gpu.state == "note"
    assert advice in gpu.advice


def test_packages_that_slicer_needs_are_pinned_and_a_wheel_folder_needs_no_network(tmp_path: Path) -> None:
    assert write_constraints({"numpy": "2.1.0", "torch": "2.8.0+cu128"}) == "numpy==2.1.0\ntorch==2.8.0+cu128\n"
    arguments = list_arguments("aaclip-med", tmp_path / "constraints.txt", "/wheels")
    assert "--no-index" in arguments
    assert arguments[-1] == "aaclip-med"
    assert "--no-index" not in list_arguments("aaclip-med", tmp_path / "constraints.txt", None)


def test_packages_come_from_a_folder_of_wheels_without_a_network(tmp_path: Path) -> None:
    from AAClipMedLib.install import Installation

    base = Path(sys.base_prefix) / ("python.exe" if os.name == "nt" else "bin/python3")
    if subprocess.run([base, "-m", "pip", "--version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("the Python that this one was made from has no pip")
    info = "site_probe-1.0.dist-info"
    files = {
        "site_probe.py": "",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: site-probe\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "site_probe-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    venv.create(tmp_path / "python", system_site_packages=True)
    python = tmp_path / "python" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    work = Installation(str(python), False, str(tmp_path / "wheels"), "site-probe")
    work.start()
    events = run_loop(work)
    assert events[-1].kind == "done", events[-1].text
    assert list((tmp_path / "python").rglob("site_probe.py"))


def test_an_installation_without_its_wheel_says_so_and_changes_nothing(tmp_path: Path) -> None:
    from AAClipMedLib.install import Installation

    work = Installation(sys.executable, True, str(tmp_path), "a-package-that-is-not-here")
    work.start()
    events = run_loop(work)
    assert events[-1].kind == "failed"
    assert "give a folder that holds every wheel" in events[-1].text
