"""``python -m benchmarks``: failures stay their own, and a volume is measured as it is scored."""

from __future__ import annotations

import json

import pytest

from aaclip_med.model.linear import has_onednn
from benchmarks import around, memory, precision
from benchmarks.__main__ import Scene, measure, run
from benchmarks.tables import write_tables

MACHINE = {
    "processor": "a processor",
    "cores": 2,
    "capability": "AVX2",
    "torch": "2",
    "date": "2026-01-01",
    "matrix_gflops": {"float32": 1.0, "bf16": 2.0},
}


def test_a_part_that_fails_is_named_and_the_others_go_on_and_are_kept_at_once(tmp_path):
    figures, file = {"machine": MACHINE}, tmp_path / "benchmarks.json"
    kept = []

    def keep():
        file.write_text(json.dumps(figures))
        kept.append(sorted(figures))

    def measure_wrongly(scene):
        return run("metrics", "--maps", scene.backbone)

    def measure_start(scene):
        return {"help_seconds": 0.25, "score_seconds": 3.0, "backbone": scene.backbone}

    parts = {"tower": measure_wrongly, "startup": measure_start}
    measure(parts, Scene(backbone="tiny"), figures, keep)
    assert kept == [["failed", "machine"], ["failed", "machine", "startup"]]
    written = json.loads(file.read_text())
    assert "benchmarks.metrics --maps tiny ended with 2" in written["failed"]["tower"]
    table = write_tables(written)
    assert "**tower failed:**" in table
    assert "invalid int value: 'tiny'" in table
    assert "`--help`: 0.25 s" in table


def test_around_the_tower_every_slice_with_something_in_it_is_scored():
    part = around.measure("tiny", 160, slices=8, timed=2)
    assert part["shape"] == (240, 240, 8)
    assert 4 <= part["scored"] <= 8
    assert part["tower_seconds"] == pytest.approx(part["scored"] * part["tower_seconds_a_slice"])
    assert 0.0 < part["share"] < 1.0
    assert f"{part['scored']} slices scored" in "\n".join(write_tables({"machine": MACHINE, "around": part}).splitlines())


@pytest.mark.skipif(not has_onednn(), reason="needs an x86 processor and oneDNN")
def test_fewer_bits_are_compared_with_float32():
    part = precision.measure("tiny", 160, slices=2)
    assert {row["precision"] for row in part["rows"]} == {"bf16", "int8"}
    assert all(0.9 < row["worst_slice"] <= row["correlation"] + 0.1 and row["correlation"] < 1.0 for row in part["rows"])


def test_what_a_step_allocates_on_a_gpu_is_counted_without_one():
    plain, ours, again = (memory.count(who, "image", "tiny", 160, 4) for who in ("plain", "ours", "checkpointed"))
    added = [row["peak_gib"] - row["loaded_gib"] for row in (plain, ours, again)]
    assert added[0] > 1.5 * added[1] > 2 * added[2] > 0


def test_a_gpu_is_named_and_its_memory_and_batches_are_in_the_tables():
    machine = MACHINE | {"gpu": {"name": "a GPU", "memory_gib": 80.0, "cuda": "13.0"}}
    common = {"gflop_a_slice": 1000.0, "peak_gib": 3.0, "gpu_peak_gib": 5.25, "profile": {}}
    tower = [
        {"variant": name, "slices": 32, "seconds_a_slice": 1 / rate, "slices_a_second": rate, "share_of_matrix_rate": 0.6}
        | common
        for name, rate in (("bf16", 400.0), ("plain-bf16", 100.0))
    ]
    steps = [
        {"stage": "text", "who": who, "precision": precision, "batch": 16, "size": 518, "seconds_a_step": seconds} | common
        for who, seconds in (("plain", 0.4), ("ours", 0.2))
        for precision in ("float32", "bf16")
    ]
    table = write_tables({"machine": machine, "tower": tower, "training": steps})
    assert "a GPU, 80 GiB, CUDA 13.0" in table
    assert "| bf16 | 32 | 400.0 | 4.0 | 400 | 60% | 5.25 | 3.00 |" in table
    assert "| text | ours | bf16 | 16 | 0.200 | 2.0 | 5.25 | 3.00 |" in table


def test_rows_are_kept_as_they_come_also_those_before_a_failure():
    def measure_rows(scene):
        yield {"size": scene.size}
        yield run("metrics", "--maps", scene.backbone)

    figures, kept = {}, []
    measure({"training": measure_rows}, Scene(backbone="tiny"), figures, lambda: kept.append(len(figures["training"])))
    assert kept == [1, 1]
    assert figures["training"] == [{"size": 518}]
    assert "training" in figures["failed"]
