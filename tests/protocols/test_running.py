"""Protocols from end to end, on look-alikes and the tiny tower."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aaclip_med import __version__
from aaclip_med.cli.main import main
from aaclip_med.data.index import read_index, write_index
from aaclip_med.protocols.config import Part, Protocol
from aaclip_med.protocols.run import Cell, list_cells
from aaclip_med.protocols.sets import find_set
from aaclip_med.protocols.table import FIGURES, judge_rows

SMALL = ("--backbone", "tiny", "--image-size", "40", "--text-epochs", "1", "--image-epochs", "1", "--no-augmentation")


def run(name: str | Path, data: Path, out: Path, *options: str) -> int:
    return main(["protocol", str(name), "--data", str(data), "--out", str(out), *SMALL, *options])


def rows_of(out: Path, kind: str | None = None) -> list[dict[str, Any]]:
    rows = json.loads((out / "table.json").read_text())["rows"]
    return [row for row in rows if kind in (None, row["kind"])]


def own_protocol(folder: Path, text: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def zero_shot(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("zero_shot") / "out"
    assert run("zero_shot", data, out, "--shots", "2", "--seeds", "0") == 0
    return out


def test_zero_shot_trains_on_visa_and_tests_what_is_on_disk(zero_shot: Path) -> None:
    measured = rows_of(zero_shot, "measured")
    assert [(row["set"], row["trained_on"], row["shots"]) for row in measured] == [
        ("Brain (BMAD)", "VisA", 2),
        ("Retina (BMAD, RESC)", "VisA", 2),
    ]
    cell = json.loads((zero_shot / "cells" / "visa_2_shots_seed0" / "brain" / "metrics.json").read_text())
    assert cell["pixel_auroc"] == pytest.approx(measured[0]["pixel_auroc"])
    assert cell["counts"]["cases"] == 4
    assert cell["run"]["preset"] == "brain-mri"


def test_what_is_missing_is_named_with_where_it_is_to_be_had(zero_shot: Path) -> None:
    text = (zero_shot / "table.md").read_text()
    assert (
        "- Liver (BMAD): no folder BMAD/Liver or Liver or Liver_AD, nor BMAD/Liver.jsonl; see BMAD, arXiv 2306.11876; https://github.com/DorisBao/BMAD"
        in text
    )
    assert str(zero_shot.parent.parent) not in text
    missing = {row["set"]: row["detector"] for row in rows_of(zero_shot, "missing")}
    assert missing["Kvasir-SEG"] == "missing: Kvasir-SEG"
    assert missing["VisA"] == "missing: MVTec AD"
    assert len(missing) == 9


def test_published_figures_and_baselines_stand_beside_ours_and_are_marked(zero_shot: Path) -> None:
    brain = [row for row in rows_of(zero_shot) if row["set"] == "Brain (BMAD)"]
    assert [row["kind"] for row in brain] == ["measured", "baseline", "baseline", "baseline", "published"]
    assert (brain[-1]["pixel_auroc"], brain[-1]["image_ap"]) == (0.9572, 0.9441)
    text = (zero_shot / "table.md").read_text()
    assert "| *published:* AA-CLIP on BMAD's test set, released log, trained on VisA, full-shot |" in text
    assert "95.72 | 44.91 | 79.26 | 94.41" in text
    assert "- *published:* the whole method, average over the paper's sets, pixel AUROC 92.7, image AUROC 83.3" in text
    with (zero_shot / "table.csv").open() as stream:
        assert [row["kind"] for row in csv.DictReader(stream)] == [row["kind"] for row in rows_of(zero_shot)]


def test_a_row_that_a_baseline_beats_is_said_to_be_beaten(zero_shot: Path) -> None:
    verdicts = json.loads((zero_shot / "table.json").read_text())["verdict"]
    for row, said in zip(rows_of(zero_shot, "measured"), verdicts, strict=True):
        others = [one for one in rows_of(zero_shot, "baseline") if one["set"] == row["set"]]
        figures = [(other[name], row[name]) for other in others for name in FIGURES if None not in (other[name], row[name])]
        assert ("beats it" in said) is any(theirs > ours for theirs, ours in figures)
        assert ("no baseline reaches it" in said) is all(theirs < ours for theirs, ours in figures)


def test_a_tie_with_a_baseline_is_called_one_and_without_a_baseline_nothing_is_claimed() -> None:
    nothing = dict.fromkeys(FIGURES, math.nan)
    row = {"kind": "measured", "set": "Brain", **nothing}
    baseline = {"kind": "baseline", "set": "Brain", "detector": "intensity", **nothing}
    assert judge_rows([row]) == ["Brain: there is no baseline figure to compare it with."]
    assert judge_rows([row | {"pixel_ap": 0.5}, baseline | {"pixel_ap": 0.5, "image_ap": 0.4}]) == [
        "Brain: a baseline reaches it in pixel AP 50.00 (intensity) against 50.00."
    ]
    assert judge_rows([row | {"pixel_ap": 0.5, "image_ap": 0.5}, baseline | {"pixel_ap": 0.5, "image_ap": 0.6}]) == [
        "Brain: a baseline beats it in slice AP 60.00 (intensity) against 50.00 and a baseline reaches it in pixel AP 50.00 "
        "(intensity) against 50.00."
    ]
    assert judge_rows([row | {"pixel_ap": 0.5}, baseline | {"pixel_ap": 0.4}]) == ["Brain: no baseline reaches it."]


def test_the_few_pictures_are_of_both_classes_and_others_choose_the_epoch(zero_shot: Path) -> None:
    cases = read_index(zero_shot / "indexes" / "visa_2_shots_seed0.jsonl")
    chosen = {(case.class_name, case.label) for case in cases}
    assert chosen == {("candle", 0), ("candle", 1), ("pcb1", 0), ("pcb1", 1)}
    assert len(cases) == len({case.image_path for case in cases})
    assert all(case.preset == "retinal-oct" for case in cases)


def test_a_run_goes_on_where_it_was_left_and_finished_cells_are_kept(
    data: Path, zero_shot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = zero_shot / "cells" / "visa_2_shots_seed0"
    kept, lost = cells / "brain" / "metrics.json", cells / "retina" / "metrics.json"
    content = json.loads(kept.read_text()) | {"pixel_auroc": 0.123}
    kept.write_text(json.dumps(content))
    again = lost.read_text()
    lost.unlink()
    (zero_shot / "table.md").unlink()
    assert run("zero_shot", data, zero_shot, "--shots", "2", "--seeds", "0") == 0
    assert json.loads(lost.read_text())["pixel_auroc"] == json.loads(again)["pixel_auroc"]
    assert rows_of(zero_shot, "measured")[0]["pixel_auroc"] == 0.123
    assert "12.30" in capsys.readouterr().out
    assert run("zero_shot", data, zero_shot, "--shots", "2", "--seeds", "0", "--precision", "bf16") == 2
    assert "holds a run with other settings (precision)" in capsys.readouterr().err


def test_leave_one_organ_out_trains_on_the_organs_that_are_there_but_not_on_the_tested_one(data: Path, tmp_path: Path) -> None:
    assert run("leave_one_organ_out", data, tmp_path / "out", "--shots", "1", "--seeds", "3") == 0
    measured = rows_of(tmp_path / "out", "measured")
    assert [(row["set"], row["trained_on"]) for row in measured] == [
        ("Brain (BMAD)", "Retina (BMAD, RESC)"),
        ("Retina (BMAD, RESC)", "Brain (BMAD)"),
    ]
    learned = read_index(tmp_path / "out" / "indexes" / "retina_1_shots_seed3.jsonl")
    assert {case.class_name for case in learned} == {"Retina"}
    assert not any("test" in case.image_path.parts for case in learned)
    assert sorted(case.split or "" for case in learned) == ["train"] * 2 + ["val"] * 4
    (missing,) = rows_of(tmp_path / "out", "missing")
    assert missing["detector"] == "missing: Liver (BMAD)"


def test_few_shot_gives_mean_and_deviation_over_its_seeds(data: Path, tmp_path: Path) -> None:
    protocol = own_protocol(
        tmp_path, "title: Few\nparts: [{train: itself, test: [retina]}]\nshots: [1]\nseeds: [0, 1]\nvalidation_shots: 1\n"
    )
    assert run(protocol, data, tmp_path / "out") == 0
    (row,) = rows_of(tmp_path / "out", "measured")
    cells = tmp_path / "out" / "cells"
    each = [json.loads((cells / f"retina_1_shots_seed{seed}" / "retina" / "metrics.json").read_text()) for seed in (0, 1)]
    values = [one["pixel_auroc"] for one in each]
    assert row["runs"] == 2
    assert values[0] != values[1]
    assert row["pixel_auroc"] == pytest.approx(np.mean(values))
    assert row["pixel_auroc_sd"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    indexes = tmp_path / "out" / "indexes"
    drawn = [{case.image_path for case in read_index(indexes / f"retina_1_shots_seed{seed}.jsonl")} for seed in (0, 1)]
    assert drawn[0] != drawn[1]


def test_clip_is_scored_without_adapters_and_a_set_of_objects_is_the_mean_of_its_classes(data: Path, tmp_path: Path) -> None:
    protocol = own_protocol(tmp_path, "title: CLIP\nmodel: clip\nparts: [{test: [visa]}]\n")
    assert run(protocol, data, tmp_path / "clip") == 0
    assert not (tmp_path / "clip" / "training").exists()
    cell = tmp_path / "clip" / "cells" / "untrained" / "visa"
    each = [json.loads((cell / name / "metrics.json").read_text()) for name in ("candle", "pcb1")]
    assert not any(one["run"]["adapted"] for one in each)
    (row,) = rows_of(tmp_path / "clip", "measured")
    assert row["image_auroc"] == pytest.approx(np.mean([one["image_auroc"] for one in each]))


def test_the_value_value_baseline_stands_beside_the_published_average_of_clip(data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "Brain").symlink_to(data / "BMAD" / "Brain")
    assert run("clip_surgery", tmp_path / "data", tmp_path / "surgery") == 0
    (row,) = rows_of(tmp_path / "surgery", "measured")
    assert row["detector"] == "value-value CLIP without adapters"
    assert {one["kind"] for one in rows_of(tmp_path / "surgery")} == {"measured", "baseline", "published", "missing"}
    text = (tmp_path / "surgery" / "table.md").read_text()
    assert "CLIP without adapters, average over the paper's sets, pixel AUROC 50.3, image AUROC 69.3" in text


def test_the_linear_projection_has_no_adapter(data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "Brain").symlink_to(data / "BMAD" / "Brain")
    assert run("linear_projection", tmp_path / "data", tmp_path / "out", "--shots", "1", "--seeds", "0") == 0
    cell = json.loads((tmp_path / "out" / "cells" / "brain_1_shots_seed0" / "brain" / "metrics.json").read_text())
    detector = cell["run"]["detector"]
    assert (detector["image_adapters"], detector["text_adapters"], detector["projection_relu"]) == (0, 0, False)
    (row,) = rows_of(tmp_path / "out", "measured")
    assert row["detector"] == "this package, projections alone"
    text = (tmp_path / "out" / "table.md").read_text()
    for what in ("CLIP without adapters, average", "the whole method, average"):
        assert f"- *published:* {what} over the paper's sets, pixel AUROC" in text


def test_normal_only_learns_from_no_abnormal_row(data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "Brain").symlink_to(data / "BMAD" / "Brain")
    assert run("normal_only", tmp_path / "data", tmp_path / "out", "--seeds", "0") == 0
    cases = read_index(tmp_path / "out" / "indexes" / "brain_full_seed0.jsonl")
    assert len(cases) == 7
    assert not any(case.label for case in cases)
    cell = json.loads((tmp_path / "out" / "cells" / "brain_full_seed0" / "brain" / "metrics.json").read_text())
    assert cell["run"]["provenance"]["normal_only"] is True
    assert "- brain_full_seed0: the last epochs are averaged, and none is chosen" in (tmp_path / "out" / "table.md").read_text()


def test_a_set_that_cannot_be_used_costs_its_own_cells_alone(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    (folder / "Liver" / "train").mkdir(parents=True)
    (folder / "BMAD").symlink_to(data / "BMAD")
    protocol = own_protocol(tmp_path, "title: Two\nmodel: clip\nparts: [{test: [brain, liver]}]\n")
    assert run(protocol, folder, tmp_path / "out") == 3
    assert [row["kind"] for row in rows_of(tmp_path / "out") if row["kind"] != "baseline"] == [
        *("measured", "published", "failed", "published")
    ]
    assert "Failed:" in capsys.readouterr().out


def test_an_organ_that_cannot_be_read_is_not_learned_from_and_the_others_go_on(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "BMAD" / "Liver" / "train").mkdir(parents=True)
    (folder / "BMAD" / "Brain").symlink_to(data / "BMAD" / "Brain")
    (folder / "Retina_RESC").symlink_to(data / "Retina_RESC")
    assert run("leave_one_organ_out", folder, tmp_path / "out", "--shots", "1", "--seeds", "0") == 3
    measured = [(row["set"], row["trained_on"]) for row in rows_of(tmp_path / "out", "measured")]
    assert measured == [("Brain (BMAD)", "Retina (BMAD, RESC)"), ("Retina (BMAD, RESC)", "Brain (BMAD)")]
    assert [row["set"] for row in rows_of(tmp_path / "out", "failed")] == ["Liver (BMAD)"]
    text = (tmp_path / "out" / "table.md").read_text()
    assert "- Liver (BMAD), brain+retina_1_shots_seed0: " in text
    assert "no folder 'test' in it" in text


def test_what_was_to_be_learned_from_a_set_that_cannot_be_read_has_failed(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "VisA" / "candle").mkdir(parents=True)
    (folder / "Brain").symlink_to(data / "BMAD" / "Brain")
    assert run("zero_shot", folder, tmp_path / "out", "--shots", "1", "--seeds", "0") == 1
    (brain,) = (row for row in rows_of(tmp_path / "out") if row["set"] == "Brain (BMAD)" and row["kind"] != "published")
    assert brain["kind"] == "failed"
    assert "- Brain (BMAD), visa_1_shots_seed0: " in (tmp_path / "out" / "table.md").read_text()


def test_an_index_of_ones_own_stands_for_a_set_and_for_one_that_nobody_published(data: Path, tmp_path: Path) -> None:
    found = find_set("brain", data)
    assert found is not None
    cases = found.read(tmp_path / "brain.jsonl")
    write_index(cases, tmp_path / "mine.jsonl")
    protocol = own_protocol(tmp_path, "title: Mine\nparts: [{train: itself, test: [mine]}]\nshots: [9]\nvalidation_shots: 1\n")
    assert run(protocol, tmp_path, tmp_path / "out") == 0
    assert rows_of(tmp_path / "out", "measured")[0]["set"] == "mine.jsonl"
    text = (tmp_path / "out" / "table.md").read_text()
    assert "- mine.jsonl, Brain: 2 shots where 9 were asked for; it has no more beside what is set aside for validation" in text


def test_a_set_with_a_patient_in_train_and_test_is_tested_only_by_what_learned_from_others(data: Path, tmp_path: Path) -> None:
    found = find_set("brain", data)
    assert found is not None
    cases = [replace(case, patient=f"p{n % 3}") for n, case in enumerate(found.read(tmp_path / "brain.jsonl"))]
    write_index(cases, tmp_path / "mine.jsonl")
    write_index([replace(case, patient=None) for case in cases], tmp_path / "pictures.jsonl")
    parts = "{train: itself, test: [mine]}, {train: [mine], test: [pictures]}, {train: itself, test: [pictures]}"
    text = f"title: Mine\nparts: [{parts}]\nshots: [full]\nvalidation_shots: 0\n"
    assert run(own_protocol(tmp_path, text), tmp_path, tmp_path / "out") == 3
    (failed,) = rows_of(tmp_path / "out", "failed")
    assert failed["set"] == "mine.jsonl"
    assert len(rows_of(tmp_path / "out", "measured")) == 2
    assert "patient p0 is in train and test" in (tmp_path / "out" / "table.md").read_text()


def test_an_index_of_ones_own_that_has_changed_is_refused_but_not_another_or_one_repaired(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = find_set("brain", data)
    assert found is not None
    cases = [case for case in found.read(tmp_path / "brain.jsonl") if case.split == "test"]
    write_index(cases, tmp_path / "mine.jsonl")
    protocol = own_protocol(tmp_path, "title: Mine\nmodel: clip\nparts: [{test: [mine, other]}]\n")
    out = tmp_path / "out"
    assert run(protocol, tmp_path, out) == 0
    settings = json.loads((out / "settings.json").read_text())
    assert settings["version"] == __version__
    assert settings["sets"] == {"mine": hashlib.sha256((tmp_path / "mine.jsonl").read_bytes()).hexdigest()}
    (tmp_path / "other.jsonl").write_text("not yet an index")
    assert run(protocol, tmp_path, out) == 3
    write_index(cases, tmp_path / "other.jsonl")
    assert run(protocol, tmp_path, out) == 0
    assert json.loads((out / "settings.json").read_text())["sets"].keys() == {"mine", "other"}
    write_index(cases[1:], tmp_path / "mine.jsonl")
    capsys.readouterr()
    assert run(protocol, tmp_path, out) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'mine.jsonl'} is not what the run in {out} was made with; choose another --out" in said


def test_a_run_of_another_version_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    protocol = own_protocol(tmp_path, "title: CLIP\nmodel: clip\nparts: [{test: [brain]}]\n")
    assert run(protocol, data, tmp_path / "out") == 0
    settings = tmp_path / "out" / "settings.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"version": "0.0.1"}))
    assert run(protocol, data, tmp_path / "out") == 2
    assert "holds a run with other settings (version)" in capsys.readouterr().err
    settings.write_text("{")
    assert run(protocol, data, tmp_path / "out") == 2
    assert "settings.json: damaged" in capsys.readouterr().err


def test_cases_that_cannot_be_scored_are_counted_and_if_none_can_the_cell_has_failed(data: Path, tmp_path: Path) -> None:
    found = find_set("brain", data)
    assert found is not None
    good = [case for case in found.read(tmp_path / "brain.jsonl") if case.split == "test"]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken = replace(good[0], image_path=tmp_path / "broken.png", row=9)
    protocol = own_protocol(tmp_path, "title: Mine\nmodel: clip\nparts: [{test: [some, none]}]\n")
    write_index([*good, broken], tmp_path / "some.jsonl")
    write_index([broken], tmp_path / "none.jsonl")
    assert run(protocol, tmp_path, tmp_path / "out") == 3
    text = (tmp_path / "out" / "table.md").read_text()
    assert "- some.jsonl, Brain: 1 cases could not be scored; see untrained/some" in text
    assert "- none.jsonl, untrained: no case of Brain could be scored: " in text
    assert not (tmp_path / "out" / "cells" / "untrained" / "none" / "metrics.json").exists()


def test_where_nothing_is_there_all_is_named_and_nothing_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    assert run("few_shot", tmp_path / "data", tmp_path / "out") == 2
    *missing, refused = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2] for line in missing] == ["Brain (BMAD)", "Liver (BMAD)", "Retina (BMAD, RESC)"]
    assert all("https://github.com/DorisBao/BMAD" in line for line in missing)
    assert "data: none of the 3 sets is there; get one" in refused
    assert not (tmp_path / "out").exists()


def test_where_what_is_there_makes_no_cell_nothing_was_done(data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "Brain").symlink_to(data / "BMAD" / "Brain")
    assert run("zero_shot", tmp_path / "data", tmp_path / "out") == 1
    assert rows_of(tmp_path / "out", "missing")[0]["detector"] == "missing: VisA"


def test_a_set_is_never_trained_on_what_it_is_tested_on(data: Path, tmp_path: Path) -> None:
    protocol = own_protocol(tmp_path, "title: Leak\nparts: [{train: itself, test: [visa]}]\nshots: [1]\n")
    assert run(protocol, data, tmp_path / "out") == 1
    assert "keeps all its anomalies for testing" in (tmp_path / "out" / "table.md").read_text()


def test_others_are_the_sets_of_the_part_that_are_found(data: Path) -> None:
    found = {name: one for name in ("brain", "retina") if (one := find_set(name, data))}
    protocol = Protocol("", (Part(("brain", "liver", "retina"), "others"),), shots=(4,))
    assert list(list_cells(protocol, found)) == [
        (Cell("brain", ("retina",), 4, 0), ()),
        (Cell("liver", ("brain", "retina"), 4, 0), ("liver",)),
        (Cell("retina", ("brain",), 4, 0), ()),
    ]
