"""300 small volumes, 10 of them poisoned, scored undisturbed and killed 20 times: are the tables the same, is memory flat?

    python benchmarks/batch.py OUT

Writes ``OUT/memory.png`` and ``OUT/batch.json``, and ends with 1 where something does not hold.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import matplotlib as mpl
import nibabel as nib
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

GOOD = 290
KILLS = 20
TABLES = ("volumes.csv", "slices.csv", "lesions.csv")


def draw_scans(folder: Path) -> None:
    """``GOOD`` round heads of 24 to 40 slices of 96 by 100, every third with a bright lesion."""
    folder.mkdir(parents=True)
    for number in range(GOOD):
        rng = np.random.default_rng(number)
        slices = 24 + number % 17
        i, j, _ = np.indices((96, 100, slices))
        head = ((i - 48) ** 2 + (j - 50) ** 2) < 1600
        array = np.where(head, 300 + 40 * rng.standard_normal(head.shape), 0)
        if number % 3 == 0:
            array[30:50, 40:60, 8:16] += 400
        nib.save(nib.Nifti1Image(array.astype(np.int16), np.diag([2.0, 2.0, 3.0, 1.0])), folder / f"case_{number:03d}.nii.gz")


def poison(folder: Path) -> list[str]:
    """Ten scans that cannot be scored; their names."""
    whole = (folder / "case_000.nii.gz").read_bytes()
    (folder / "bad_torn.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "bad_text.nii.gz").write_text("no scan")
    (folder / "bad_empty.nii.gz").write_bytes(b"")
    header = bytearray(gzip.decompress(whole)[:352])
    header[40:56] = struct.pack("<8h", 3, 32767, 32767, 32767, 1, 1, 1, 1)
    (folder / "bad_absurd.nii.gz").write_bytes(gzip.compress(bytes(header)))
    header[40:56] = struct.pack("<8h", 3, 900, 900, 900, 1, 1, 1, 1)
    header[70:74] = struct.pack("<2h", 2, 8)
    (folder / "bad_blowup.nii.gz").write_bytes(gzip.compress(bytes(header) + bytes(900**3), 1))
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 255
    (folder / "bad_flipped.nii.gz").write_bytes(bytes(flipped))
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    nan = np.full((20, 20, 5), np.nan, dtype=np.float32)
    nib.save(nib.Nifti1Image(nan, affine), folder / "bad_nan.nii.gz")
    nib.save(nib.Nifti1Image(np.full((20, 20, 5), 7, dtype=np.int16), affine), folder / "bad_constant.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 5), dtype=np.complex64), affine), folder / "bad_complex.nii.gz")
    os.mkfifo(folder / "bad_hang.nrrd")
    return sorted(path.name.split(".")[0] for path in folder.glob("bad_*"))


def start(scans: Path, out: Path) -> subprocess.Popen[bytes]:
    """The command, in a process group of its own."""
    command = [sys.executable, "-m", "aaclip_med", "score", str(scans), "--adapters", "demo", "--preset", "brain-mri"]
    command += ["--progress", "plain", "--case-seconds", "4", "--case-megabytes", "1500", "--out", str(out)]
    log = (out.parent / f"{out.name}.log").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def measure_memory(pid: int) -> float:
    """Resident megabytes of a process and its children."""
    total = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == pid:  # its process group
                total += int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        except (OSError, ValueError):
            continue
    return total


def run_whole(scans: Path, out: Path) -> list[tuple[float, float, int]]:
    """An undisturbed run: seconds, megabytes and cases done, twice a second."""
    run = start(scans, out)
    clock, samples = time.time(), []
    while run.poll() is None:
        done = sum(1 for _ in (out / "heatmaps").glob("[!.]*")) if (out / "heatmaps").is_dir() else 0
        samples.append((time.time() - clock, measure_memory(run.pid), done))
        time.sleep(0.5)
    assert run.returncode == 3, f"exit code {run.returncode}"
    return samples


def run_killed(scans: Path, out: Path) -> int:
    """The same, killed at random moments, then left to finish; how often it was killed."""
    rng = random.Random(0)
    killed = 0
    while killed < KILLS:
        run = start(scans, out)
        try:
            run.wait(rng.uniform(5.0, 20.0))
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            killed += 1
        else:
            shutil.rmtree(out / "heatmaps" if rng.random() < 0.5 else out / "labels")  # done already: take something away
    run = start(scans, out)
    assert run.wait() == 3, f"exit code {run.returncode}"
    return killed


def draw_memory(samples: list[tuple[float, float, int]], path: Path) -> None:
    """Memory over time, with the number of cases done."""
    seconds, megabytes, done = zip(*samples, strict=True)
    figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    axis.plot(seconds, megabytes, color="#1f5fa8", label="memory of all processes")
    axis.set(xlabel="seconds", ylabel="MB", ylim=(0, None))
    other = axis.twinx()
    other.plot(seconds, done, color="#999999", linestyle="--", label="cases done")
    other.set(ylabel="cases", ylim=(0, None))
    figure.legend(loc="lower right", bbox_to_anchor=(0.88, 0.2), frameon=False)
    figure.savefig(path, dpi=110)


def main() -> int:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    draw_scans(out / "scans")
    bad = poison(out / "scans")
    clock = time.time()
    samples = run_whole(out / "scans", out / "whole")
    whole_s = time.time() - clock
    draw_memory(samples, out / "memory.png")
    killed = run_killed(out / "scans", out / "killed")
    same = {name: (out / "whole" / name).read_bytes() == (out / "killed" / name).read_bytes() for name in TABLES}
    rows = [line.split(",") for line in (out / "whole" / "volumes.csv").read_text().splitlines()[1:]]
    failed = sorted(row[0] for row in rows if "failed" in row)
    steady = [megabytes for _, megabytes, done in samples if 30 <= done < GOOD]
    first, last = np.mean(steady[: len(steady) // 4]), np.mean(steady[-len(steady) // 4 :])
    result = {
        "good": GOOD,
        "poisoned": len(bad),
        "scored": len(rows) - len(failed),
        "failed": failed,
        "seconds": round(whole_s, 1),
        "peak_mb": round(max(megabytes for _, megabytes, _ in samples)),
        "mean_mb_first_and_last_quarter": [round(float(first)), round(float(last))],
        "killed": killed,
        "tables_equal": same,
    }
    (out / "batch.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0 if all(same.values()) and failed == bad and last < 1.1 * first else 1


if __name__ == "__main__":
    sys.exit(main())
