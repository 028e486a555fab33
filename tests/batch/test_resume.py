"""A scoring run that is killed, taken up again, repeated, or started twice."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from aaclip_med.batch.ledger import forget, lock_folder
from aaclip_med.cli.main import main
from tests.batch.conftest import DEMO, OBLIQUE, Table, draw_scan

Read = Callable[[Path], dict[str, Table]]


def list_written(folder: Path) -> list[Path]:
    """Finished heatmaps."""
    return sorted((folder / "heatmaps").glob("[!.]*.nii.gz"))


def test_a_run_killed_at_random_moments_ends_with_the_tables_of_an_undisturbed_one(
    scans: Path, tmp_path: Path, read_tables: Read
) -> None:
    command = ["score", str(scans), *DEMO, "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 3
    rng = random.Random(0)
    broken = tmp_path / "broken"
    for _ in range(3):
        run = subprocess.Popen(
            [sys.executable, "-m", "aaclip_med", *command, str(broken)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.time() + 60
        wanted = len(list_written(broken)) + 1
        while time.time() < deadline and run.poll() is None and len(list_written(broken)) < wanted:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    before = {path.name: path.stat().st_mtime_ns for path in list_written(broken)}
    assert main([*command, str(broken)]) == 3
    assert read_tables(broken) == read_tables(tmp_path / "whole")
    repeated = sum((broken / "heatmaps" / name).stat().st_mtime_ns != stamp for name, stamp in before.items())
    assert repeated <= 2  # one was being written behind, and one was written and not yet in the ledger
    assert not [path for path in broken.rglob(".*.*") if path.is_file() and not path.name.startswith(".lock")]


def test_ctrl_c_ends_a_run_cleanly_and_the_same_command_finishes_it(scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "aaclip_med", "score", str(scans), *DEMO, "--out", str(out)]
    run = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests may run where a shell had it ignored
    )
    deadline = time.time() + 60
    while time.time() < deadline and not list_written(out):
        time.sleep(0.005)
    os.killpg(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "Traceback" not in said
    assert "interrupted" in said
    assert not list(out.rglob(".*.nii.gz"))
    assert main(command[3:]) == 3


def test_a_repeated_run_scores_only_what_changed(scans: Path, tmp_path: Path) -> None:
    command = ["score", str(scans), *DEMO, "--out", str(tmp_path / "out")]
    assert main(command) == 3
    before = {path.name: path.stat().st_mtime_ns for path in list_written(tmp_path / "out")}
    draw_scan(scans / "case_05.nii.gz", 20)
    draw_scan(scans / "case_02.nii.gz", 21)
    assert main(command) == 0
    changed = {path.name for path in list_written(tmp_path / "out") if path.stat().st_mtime_ns != before.get(path.name)}
    assert changed == {"case_05_heatmap.nii.gz", "case_02_heatmap.nii.gz"}


def test_a_case_whose_mask_file_is_gone_is_written_again(scans: Path, tmp_path: Path) -> None:
    command = ["score", str(scans / "case_00.nii.gz"), *DEMO, "--out", str(tmp_path / "out")]
    assert main(command) == 0
    mask = tmp_path / "out" / "masks" / "case_00_mask.nii.gz"
    mask.unlink()
    assert main(command) == 0
    assert mask.is_file()


@pytest.mark.parametrize(
    ("option", "named"),
    [
        (["--threshold", "0.9"], "operating_point, threshold"),
        (["--heatmap-format", "mha"], "outputs"),
    ],
)
def test_another_setting_is_refused_unless_asked_for(
    option: list[str], named: str, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", str(scans / "case_00.nii.gz"), *DEMO, "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert main([*command, *option]) == 2
    assert f"other settings ({named})" in capsys.readouterr().err
    assert main([*command, *option, "--overwrite"]) == 0


def test_another_refinement_of_adapters_without_a_calibration_is_refused(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--adapters", "none", "--preset", "brain-mri", "--backbone", "tiny", "--image-size", "40"]
    command = ["score", str(scans / "case_00.nii.gz"), *model, "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert main([*command, "--refinement", "best"]) == 2
    assert "other settings (refinement)" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--overwrite"], ["--engine", "ray"], ["--shard", "0/2"], ["--shard", "1/4"]])
@pytest.mark.parametrize("at_work", [(0, 1), (0, 2)])
def test_two_runs_do_not_share_a_folder(
    at_work: tuple[int, int], options: list[str], scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    remains = out / ".0123abcd.of_the_run_at_work"
    remains.touch()
    with lock_folder(out, *at_work):
        assert main(["score", str(scans), *DEMO, *options, "--out", str(out)]) == 2
    assert "another run is writing there" in capsys.readouterr().err
    assert not (out / "volumes.csv").exists()
    assert remains.exists()


def test_shards_of_one_run_share_a_folder_and_a_lone_run_follows_them(scans: Path, tmp_path: Path) -> None:
    command = ["score", str(scans / "case_00.nii.gz"), *DEMO, "--out", str(tmp_path)]
    with lock_folder(tmp_path, 1, 2):
        assert main([*command, "--shard", "0/2"]) == 0
    assert main(command) == 0


def test_a_case_that_changed_and_can_no_longer_be_scored_leaves_no_older_result(
    scans: Path, tmp_path: Path, read_tables: Read
) -> None:
    command = ["score", str(scans), *DEMO, "--out", str(tmp_path / "out")]
    assert main(command) == 3
    torn = scans / "case_01.nii.gz"
    torn.write_bytes(torn.read_bytes()[:200])
    assert main(command) == 3
    failed = [row["case"] for row in read_tables(tmp_path / "out")["volumes"] if row["status"] == "failed"]
    assert failed == ["case_01", "case_05"]
    assert not list((tmp_path / "out").rglob("case_01*.nii.gz"))


def test_a_changed_organ_mask_is_noticed(scans: Path, tmp_path: Path, read_tables: Read) -> None:
    organs = tmp_path / "organs"
    organs.mkdir()
    for slices in ([1, 2, 3], [2, 3]):
        organ = np.zeros((28, 30, 4), dtype=np.uint8)
        organ[5:20, 5:20, slices] = 1
        nib.save(nib.Nifti1Image(organ, OBLIQUE), organs / "case_01.nii.gz")
        command = ["score", str(scans / "case_01.nii.gz"), "--adapters", "none", "--backbone", "tiny", "--preset", "brain-mri"]
        assert main([*command, "--mask", str(organs), "--out", str(tmp_path / "out")]) == 0
        assert [row["slice"] for row in read_tables(tmp_path / "out")["slices"]] == [str(number) for number in slices]


def test_results_of_a_run_are_not_scored_as_scans(scans: Path, tmp_path: Path, read_tables: Read) -> None:
    command = ["score", str(scans), *DEMO]
    assert main([*command, "--out", str(scans / "results")]) == 3
    assert main([*command, "--out", str(tmp_path / "out")]) == 3
    assert read_tables(tmp_path / "out") == read_tables(scans / "results")
    shutil.rmtree(scans / "results")


@pytest.mark.parametrize("option", [[], ["--bids"], ["--heatmap-format", "nrrd"]])
def test_a_run_into_a_folder_that_is_an_input_never_scores_its_own_results(
    option: list[str], tmp_path: Path, read_tables: Read
) -> None:
    folder, beside = tmp_path / "scans", tmp_path / "beside"
    for number, place in enumerate((folder, folder / "masks", folder / "sub-1", beside)):
        place.mkdir()
        draw_scan(place / f"p{number}.nii.gz", number)
    command = ["score", str(folder), str(beside), *DEMO, *option, "--out", str(folder)]
    for _ in range(3):
        assert main(command) == 0
        assert sorted(row["case"] for row in read_tables(folder)["volumes"]) == ["p0", "p1", "p2", "p3"]


def test_a_run_that_is_started_again_leaves_nothing_of_the_old_one(scans: Path, tmp_path: Path) -> None:
    command = ["score", str(scans), *DEMO, "--out", str(tmp_path / "out")]
    assert main([*command, "--heatmap-format", "mha"]) == 3
    beside = tmp_path / "out" / "heatmaps" / "notes.txt"
    beside.write_text("the user's own")
    torn = scans / "case_01.nii.gz"
    torn.write_bytes(torn.read_bytes()[:200])
    assert main([*command, "--overwrite"]) == 3
    written = [path.name for folder in ("heatmaps", "masks", "labels") for path in (tmp_path / "out" / folder).iterdir()]
    assert len(written) == 10 * 3 + 1
    assert beside.is_file()
    assert not [name for name in written if name.endswith(".mha") or name.startswith("case_01")]
    assert len([path for path in (tmp_path / "out" / ".run" / "previews").rglob("*") if path.is_file()]) == 10


def list_files(folder: Path) -> set[str]:
    """Every file that is no lock, by its path in ``folder``."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".lock")}


def test_a_run_started_again_in_another_form_leaves_no_page_or_tree_of_the_old_one(scans: Path, tmp_path: Path) -> None:
    command = ["score", str(scans / "case_00.nii.gz"), *DEMO, "--out"]
    assert main([*command, str(tmp_path / "fresh"), "--no-report"]) == 0
    assert main([*command, str(tmp_path / "out"), "--bids"]) == 0
    assert main([*command, str(tmp_path / "out"), "--no-report", "--overwrite"]) == 0
    assert list_files(tmp_path / "out") == list_files(tmp_path / "fresh")


@pytest.mark.parametrize("option", [[], ["--bids"]])
def test_a_scan_that_gets_another_name_leaves_nothing_under_its_old_one(option: list[str], tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    for number, place in enumerate((scans / "a", scans / "b", tmp_path / "elsewhere")):
        place.mkdir(parents=True)
        draw_scan(place / f"{'other' if number == 2 else 'scan'}.nii.gz", number)
    command = ["score", *DEMO, *option, "--out"]
    assert main([*command, str(tmp_path / "fresh"), str(tmp_path / "elsewhere")]) == 0
    assert main([*command, str(tmp_path / "fresh"), str(scans)]) == 0
    assert main([*command, str(out), str(tmp_path / "elsewhere")]) == 0
    assert main([*command, str(out), str(scans / "a")]) == 0
    assert main([*command, str(out), str(scans)]) == 0
    assert list_files(out) == list_files(tmp_path / "fresh")
    assert len(list_files(out / "heatmaps")) == 3 or option
    if option:
        rows = (out / "participants.tsv").read_text().splitlines()[1:]
        assert [row.split("\t")[1] for row in rows] == ["1"] * 3
        assert len(list(out.glob("sub-*"))) == 3


def test_files_that_no_run_wrote_survive_one_that_is_started_again(scans: Path, tmp_path: Path) -> None:
    command = ["score", str(scans / "case_00.nii.gz"), *DEMO, "--no-report", "--out", str(tmp_path)]
    own = [tmp_path / name for name in ("report.html", "dataset_description.json", "participants.tsv", "README.md")]
    for path in own:
        path.write_text("the user's own")
    assert main(command) == 0
    assert main([*command, "--overwrite"]) == 0
    assert [path.read_text() for path in own] == ["the user's own"] * 4


def test_a_run_started_again_and_stopped_leaves_no_table_of_the_old_one(scans: Path, tmp_path: Path) -> None:
    assert main(["score", str(scans / "case_00.nii.gz"), *DEMO, "--out", str(tmp_path / "out")]) == 0
    forget(tmp_path / "out")
    assert list_files(tmp_path / "out") == set()


def test_nothing_outside_the_folder_is_removed_whatever_a_record_says(scans: Path, tmp_path: Path) -> None:
    command = ["score", str(scans / "case_00.nii.gz"), *DEMO, "--out", str(tmp_path / "out")]
    assert main(command) == 0
    (record,) = (tmp_path / "out" / ".run" / "cases").rglob("*.json")
    content = json.loads(record.read_text())
    content["files"] += ["../scans/case_01.nii.gz", str(scans / "case_02.nii.gz")]
    record.write_text(json.dumps(content))
    assert main([*command, "--overwrite"]) == 0
    assert (scans / "case_01.nii.gz").is_file()
    assert (scans / "case_02.nii.gz").is_file()


@pytest.mark.parametrize("content", ["", '{"input": "a', "null"])
def test_a_damaged_record_counts_as_not_done(content: str, scans: Path, tmp_path: Path, read_tables: Read) -> None:
    command = ["score", str(scans / "case_00.nii.gz"), *DEMO, "--out", str(tmp_path / "out")]
    assert main(command) == 0
    before = read_tables(tmp_path / "out")
    (record,) = (tmp_path / "out" / ".run" / "cases").rglob("*.json")
    record.write_text(content)
    assert main(command) == 0
    assert read_tables(tmp_path / "out") == before
    assert json.loads(record.read_text())["files"]
    record.write_text(content)
    assert main([*command, "--overwrite"]) == 0


@pytest.mark.parametrize("content", ["", '{"begun": "2026-', "{}", "null", '{"begun": "today"}'])
def test_damaged_settings_are_refused_unless_the_run_is_started_again(
    content: str, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", str(scans / "case_00.nii.gz"), *DEMO, "--out", str(tmp_path / "out")]
    assert main(command) == 0
    (tmp_path / "out" / ".run" / "settings.json").write_text(content)
    assert main(command) == 2
    assert "settings.json: damaged; start again with --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
