"""A protocol from its sets on disk to its table. What is done is kept: the same call goes on where it was left."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aaclip_med import __version__
from aaclip_med.data.index import Case, write_index
from aaclip_med.data.writing import prepare_output_folder, write_json
from aaclip_med.errors import AaclipError, InputError, OutputError, WeightsError
from aaclip_med.evaluation.run import evaluate_into
from aaclip_med.inference.predictor import Predictor, load_predictor
from aaclip_med.model.checkpoint import ZERO_SHOT
from aaclip_med.model.surgery import build_surgery_detector
from aaclip_med.presets import get_preset
from aaclip_med.protocols.config import FULL, ITSELF, OTHERS, Part, Protocol, Shots
from aaclip_med.protocols.sets import FoundSet, describe_missing, draw_lessons, find_set
from aaclip_med.protocols.table import Remarks, write_table
from aaclip_med.training.bundle import train

Say = Callable[[str], None]


@dataclass(frozen=True)
class Machine:
    """What a run of a protocol adds to it: the tower, the arithmetic, shorter training. None: as ``train`` has it.

    training: settings of the bundle's ``train.yaml`` by name, over those of the protocol.
    """

    backbone: str = "ViT-L-14-336"
    weights: str | None = None
    image_size: int | None = None
    device: str = "auto"
    precision: str = "float32"
    batch_size: int = 16
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One set, tested on by one detector. lessons: the names of the sets it was trained on; none for a baseline."""

    test: str
    lessons: tuple[str, ...] = ()
    shots: Shots | None = None
    seed: int | None = None

    @property
    def run(self) -> str:
        """What the detector is called on disk."""
        if self.shots is None:
            return "untrained"
        return f"{'+'.join(self.lessons) or 'nothing'}_{self.shots}{'' if self.shots == FULL else '_shots'}_seed{self.seed}"


@dataclass
class Outcome:
    """What became of a cell: the figures of each of its classes as ``metrics.json`` has them, or why there are none."""

    cell: Cell
    classes: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    error: str | None = None

    @property
    def is_faulty(self) -> bool:
        """Whether the cell, or a case of it, failed."""
        return self.error is not None or any(one["failures"] for one in self.classes.values())


def run_protocol(
    protocol: Protocol, data: str | Path, out: str | Path, machine: Machine | None = None, say: Say = print
) -> list[Outcome]:
    """Train and test what is on disk, and write ``table.md``, ``.csv`` and ``.json`` into ``out``.

    A set that is missing or cannot be read costs its own cells, and those that are to learn from it by name; ``others`` go
    without it. Cells whose ``metrics.json`` is there are not run again; a training that was killed goes on by itself.

    Raises:
        InputError: none of the sets is there, or ``out`` holds a run with other settings.
        WeightsError: the tower's weights cannot be had.
        OutputError: a file cannot be written.
    """
    machine = machine or Machine()
    data, out = Path(data), Path(out)
    names = dict.fromkeys(name for part in protocol.parts for name in _list_names(part))
    found = {name: one for name in names if (one := find_set(name, data))}
    missing = {name: describe_missing(name) for name in names if name not in found}
    for text in missing.values():
        say(f"missing: {text}")
    if not found:
        raise InputError(f"{data}: none of the {len(missing)} sets is there; get one, and put it where docs/protocols.md says")
    prepare_output_folder(out / "indexes")
    _settle(out / "settings.json", protocol, data, machine)
    runner = _Runner(protocol, found, out, machine, say)
    runner.read_sets()
    _settle_sets(out / "settings.json", (found[name] for name in runner.rows), data)
    outcomes = [runner.run(cell, lacking) for cell, lacking in list_cells(protocol, runner.rows)]
    titles = {name: found[name].title if name in found else missing[name].split(":")[0] for name in names}
    write_table(out, protocol, outcomes, titles, Remarks(missing, list(runner.notes), _describe(machine)))
    return outcomes


def list_cells(protocol: Protocol, found: Collection[str]) -> Iterator[tuple[Cell, tuple[str, ...]]]:
    """Every cell, and the names of the sets that it lacks. ``others`` are those that are found and could be read."""
    for part in protocol.parts:
        for test in part.test:
            if not protocol.is_trained:
                yield Cell(test), () if test in found else (test,)
                continue
            lessons = {OTHERS: tuple(name for name in part.test if name != test and name in found), ITSELF: (test,)}
            trained = lessons[part.train] if isinstance(part.train, str) else part.train
            lacking = {name: None for name in (test, *trained) if name not in found}
            if not trained:
                lacking |= dict.fromkeys(name for name in part.test if name not in found)
            for shots in protocol.shots:
                for seed in protocol.seeds:
                    yield Cell(test, trained, shots, seed), tuple(lacking)


class _Runner:
    """Runs cells one by one; sets are read once."""

    def __init__(self, protocol: Protocol, found: dict[str, FoundSet], out: Path, machine: Machine, say: Say) -> None:
        self.protocol, self.found, self.out, self.machine, self.say = protocol, found, out, machine, say
        self.rows: dict[str, list[Case]] = {}
        self.broken: dict[str, str] = {}
        self.notes: dict[str, None] = {}

    def read_sets(self) -> None:
        """Read every set; why one cannot be read is kept in ``broken``."""
        for name, one in self.found.items():
            try:
                self.rows[name] = one.read(self.out / "indexes" / f"{name}.jsonl")
            except InputError as error:
                self.say(f"failed: {one.title}: {error}")
                self.broken[name] = str(error)

    def run(self, cell: Cell, lacking: tuple[str, ...]) -> Outcome:
        if lacking or (self.protocol.is_trained and not cell.lessons):
            reasons = [self.broken[name] for name in lacking if name in self.broken]
            return Outcome(cell, missing=lacking, error="; ".join(reasons) or None)
        try:
            classes = self._group(cell)
            self.say(f"{cell.test}: {cell.run}")
            return Outcome(cell, self._evaluate(cell, classes))
        except (OutputError, WeightsError):  # would befall every other cell
            raise
        except AaclipError as error:
            self.say(f"failed: {cell.test}: {error}")
            return Outcome(cell, error=str(error))

    def _group(self, cell: Cell) -> dict[str, list[Case]]:
        """The rows that are tested on, by class."""
        rows = self.found[cell.test].choose_test(self.rows[cell.test])
        return {name: [row for row in rows if row.class_name == name] for name in sorted({row.class_name for row in rows})}

    def _evaluate(self, cell: Cell, classes: dict[str, list[Case]]) -> dict[str, dict[str, Any]]:
        folder = self.out / "cells" / cell.run / cell.test
        folders = {name: folder / name if len(classes) > 1 else folder for name in classes}
        undone = [name for name, place in folders.items() if not (place / "metrics.json").is_file()]
        lessons = self._draw(cell) if self.protocol.is_trained else []
        if undone:
            adapters = self._train(cell, lessons) if lessons else None
            predictor = self._load(cell, adapters, str(classes[undone[0]][0].preset))
            for name in undone:
                named = name_class(predictor, name)
                evaluate_into(classes[name], named, folders[name], title=f"{self.found[cell.test].title}: {name}")
        if lessons and not any(row.split == "val" for row in lessons):
            self._tell_choice(cell)
        results = {name: json.loads((place / "metrics.json").read_text("utf-8")) for name, place in folders.items()}
        for name, result in results.items():
            failures = result["failures"]
            if failures and not result["counts"]["cases"]:
                (folders[name] / "metrics.json").unlink()
                raise InputError(f"no case of {name} could be scored: {failures[0]['error']}")
            if failures:
                title = f"{self.found[cell.test].title}, {name}"
                self.notes[f"{title}: {len(failures)} cases could not be scored; see {cell.run}/{cell.test}"] = None
        return results

    def _draw(self, cell: Cell) -> list[Case]:
        """The rows that a cell learns from; notes what falls short of what was asked for."""
        assert cell.shots is not None
        assert cell.seed is not None
        rows: list[Case] = []
        for name in cell.lessons:
            lessons = self.found[name]
            if name == cell.test and lessons.published and lessons.published.teaches == "test":
                raise InputError(f"{lessons.title} keeps all its anomalies for testing; train on another set")
            drawn, notes = draw_lessons(
                lessons.choose_lessons(self.rows[name], tested=name == cell.test),
                cell.shots,
                self.protocol.validation_shots,
                cell.seed,
                bool(self.protocol.training.get("normal_only")),
            )
            if lessons.domain == "medical" and any(row.patient is None for row in drawn):
                notes.append("patients are not named; each file counts as one")
            self.notes |= {f"{lessons.title}, {note}": None for note in notes}
            rows += drawn
        if not any(row.split == "val" for row in rows):  # so that ``train`` keeps some for validation
            rows = [replace(row, split=None) for row in rows]
        return rows

    def _train(self, cell: Cell, rows: list[Case]) -> Path:
        """The adapters of a cell; those of another that learned the same are taken."""
        index = self.out / "indexes" / f"{cell.run}.jsonl"
        write_index(rows, index)
        fidelity = {"fidelity": self.protocol.fidelity} if self.protocol.fidelity else {}
        tower = {name: getattr(self.machine, name) for name in ("backbone", "weights", "image_size")}
        return train(
            fidelity
            | {name: value for name, value in tower.items() if value is not None}
            | {"preset": rows[0].preset, "seed": cell.seed, "device": self.machine.device}
            | {"index": str(index), "output_dir": str(self.out / "training" / cell.run), "cache_dir": str(self.out / "cache")}
            | self.protocol.training
            | self.machine.training
        )

    def _tell_choice(self, cell: Cell) -> None:
        """Note what ``train`` chose the epoch on by itself, where it chose one."""
        path = self.out / "training" / cell.run / "training.json"
        if path.is_file():
            story = json.loads(path.read_text("utf-8"))
            image = story["stages"]["image"]
            if "averaged_epochs" in image:
                said = "the last epochs are averaged, and none is chosen"
            elif image["best_score"] is not None:
                said = f"the epoch is chosen on {story['slices']['validation_split']}"
            else:
                said = "no epoch could be chosen, and the last is taken: validation has no slice with a lesion, or none without"
            self.notes[f"{cell.run}: {said}"] = None

    def _load(self, cell: Cell, adapters: Path | None, preset: str) -> Predictor:
        machine, fidelity = self.machine, self.protocol.fidelity
        options: dict[str, Any] = {"device": machine.device, "precision": machine.precision, "batch_size": machine.batch_size}
        options["domain"] = self.found[cell.test].domain
        if self.protocol.model == "clip-surgery":
            detector = build_surgery_detector(machine.backbone, machine.weights, machine.image_size, fidelity)
            return Predictor(detector, get_preset(preset), **options)
        if adapters is None:
            tower = (machine.backbone, machine.weights, machine.image_size, fidelity)
            return load_predictor(ZERO_SHOT, preset, *tower, **options)
        return load_predictor(adapters, preset, weights=machine.weights, **options)


def name_class(predictor: Predictor, class_name: str) -> Predictor:
    """The same predictor, told of another class."""
    named = copy.copy(predictor)
    named.preset = replace(predictor.preset, class_name=class_name)
    noun = predictor.preset.noun_for(predictor.detector.config.fidelity.name, class_name)
    named.anchors = predictor.detector.encode_noun(noun).detach().float()
    return named


def _list_names(part: Part) -> Sequence[str]:
    return part.test if isinstance(part.train, str) else (*part.train, *part.test)


def _settle(path: Path, protocol: Protocol, data: Path, machine: Machine) -> None:
    """Note what cells depend on; refuse a folder that has others. More sets, shots and seeds are more cells, and welcome."""
    settings = {name: getattr(protocol, name) for name in ("model", "validation_shots", "training", "fidelity")}
    settings |= {"version": __version__, "data": str(data.resolve())} | _describe(machine)
    settings = json.loads(json.dumps(settings))
    if not path.is_file():
        write_json(path, settings | {"sets": {}})
        return
    try:
        held = json.loads(path.read_text("utf-8"))
        held.pop("sets", None)
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error}); choose another --out") from None
    changed = sorted(name for name in settings.keys() | held.keys() if settings.get(name) != held.get(name))
    if changed:
        raise InputError(f"{path.parent} holds a run with other settings ({', '.join(changed)}); choose another --out")


def _settle_sets(path: Path, sets: Iterable[FoundSet], data: Path) -> None:
    """Note of each set its folder, or of an index of one's own its SHA-256; refuse one that was another before."""
    settings = json.loads(path.read_text("utf-8"))
    for one in sets:
        identity = one.identify(data)
        if settings["sets"].setdefault(one.name, identity) != identity:
            raise InputError(f"{one.path} is not what the run in {path.parent} was made with; choose another --out")
    write_json(path, settings)


def _describe(machine: Machine) -> dict[str, Any]:
    kept = ("backbone", "weights", "image_size", "precision")
    overrides = {name: value for name, value in machine.training.items() if name != "workers"}
    return {name: getattr(machine, name) for name in kept} | {"overrides": overrides}
