"""Scoring of many cases: the one way from found sources to files, tables and the run's own account."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from aaclip_med.batch.account import Account
from aaclip_med.batch.bids import refuse_foreign
from aaclip_med.batch.ledger import Ledger, lock_folder
from aaclip_med.batch.outputs import CaseWriter, Outputs
from aaclip_med.batch.pipeline import Pipeline
from aaclip_med.batch.progress import Progress, Quiet
from aaclip_med.batch.reader import Limits
from aaclip_med.batch.records import INPUTS, LESIONS, SLICES, VOLUMES, Record, Row
from aaclip_med.batch.report.page import write_report
from aaclip_med.batch.tables import write_table
from aaclip_med.data.sources import Found, Source
from aaclip_med.data.volumes import printable
from aaclip_med.data.writing import prepare_output_folder, write_json
from aaclip_med.inference.cutting import Cutting, check_calibrated_alike
from aaclip_med.inference.operating import Aim, OperatingPoint, choose_operating_point
from aaclip_med.inference.predictor import Predictor
from aaclip_med.inference.provenance import describe_run

REPORTED = 5000
"""Cases on the page, at most: those with the highest scores. The tables hold all."""


@dataclass(frozen=True)
class Shard:
    """This process' part of the cases: every ``count``-th, from ``number``."""

    number: int = 0
    count: int = 1

    def take(self, sources: Sequence[Source]) -> list[Source]:
        """The part."""
        return list(sources[self.number :: self.count])


@dataclass(frozen=True)
class Task:
    """What is done with every case.

    aim: where a candidate begins; None: the default of calibrated or uncalibrated scores. minimum_ml: the smallest
    candidate. readers, writers: threads that read ahead and write behind; 0: by the number of cores. source_root: the BIDS
    data set that the scans are from. settings: options that run.json repeats.
    """

    cutting: Cutting = field(default_factory=Cutting)
    aim: Aim | None = None
    minimum_ml: float = 0.0
    outputs: Outputs = field(default_factory=Outputs)
    limits: Limits = field(default_factory=Limits)
    readers: int = 0
    writers: int = 0
    source_root: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class Tally:
    """How many cases are done and failed, and how many candidates they have."""

    done: int = 0
    failed: int = 0
    candidates: int = 0

    def add(self, row: Row) -> None:
        """Count one case."""
        if row["status"] == "ok":
            self.done += 1
            self.candidates += row["candidates"]
        else:
            self.failed += 1


class Batch:
    """A run in the folder ``out``: its ledger, its outputs, and a predictor. Several processes may each hold one."""

    def __init__(self, predictor: Predictor, out: str | Path, task: Task, overwrite: bool = False) -> None:
        """Take up the run in ``out``, or begin one.

        Raises:
            InputError: ``out`` holds a run with other settings or others' BIDS data set, or the calibration was made on other
                cuts or knows no such operating point.
            OutputError: the folder cannot be written to.
        """
        cutting = task.cutting
        check_calibrated_alike(predictor, cutting.plane, cutting.masks is not None, by_range=cutting.slices is not None)
        self.predictor = predictor
        self.out = prepare_output_folder(out)
        self.task = task
        self.point = choose_operating_point(predictor, task.aim, task.minimum_ml)
        if task.outputs.bids:
            refuse_foreign(self.out)
        self.ledger = Ledger(self.out, _describe_settings(predictor, task, self.point), overwrite)
        checkpoint = predictor.checkpoint
        self.account = Account(
            threshold=self.point.threshold,
            meaning=self.point.meaning,
            calibrated=predictor.calibration is not None,
            demonstration=predictor.is_demo,
            preset=predictor.preset.name,
            version=describe_run(predictor)["aaclip_med"],
            model=(checkpoint.digest if checkpoint else predictor.detector.tower_hash)[:12],
            made=self.ledger.begun,
        )
        self.writer = CaseWriter(self.out, task.outputs, self.account, predictor.preset, task.source_root)
        cores = os.cpu_count() or 1
        self.pipeline = Pipeline(
            predictor,
            self.ledger,
            self.writer,
            cutting,
            task.minimum_ml,
            task.limits,
            task.readers or max(1, min(8, cores // 4)),
            task.writers or max(1, min(8, cores // 4)),
            self._marks(),
        )

    def _marks(self) -> Row:
        return {
            "threshold": self.account.threshold,
            "operating_point": self.account.meaning,
            "preset": self.account.preset,
            "model": self.account.model,
            "calibrated": self.account.calibrated,
            "demonstration": self.account.demonstration,
        }

    def score(self, sources: Sequence[Source], progress: Progress) -> Tally:
        """Score what is not done yet. A case that cannot be scored is recorded as failed and does not stop the rest."""
        tally = Tally()
        for row, kept in self.pipeline.score(sources):
            tally.add(row)
            progress.advance(row, kept)
        return tally

    def finish(self, found: Found) -> None:
        """Write the tables, the page and ``run.json`` of what is recorded, in the order of ``found``; one process at a time."""
        with FileLock(self.out / ".lock-tables"):
            self.ledger.forget_renamed(found.sources)
            inputs = {source.name: printable(str(source.path)) for source in found.sources}
            write_table(self.out, "volumes", VOLUMES, (record["volume"] for record in self._records(found)))
            write_table(self.out, "slices", SLICES, (row for record in self._records(found) for row in record["slices"]))
            write_table(self.out, "lesions", LESIONS, (row for record in self._records(found) for row in record["lesions"]))
            write_table(
                self.out, "inputs", INPUTS,
                ({"case": name, "input": inputs[name]} | record.get("times", {}) for record in self._records(found)
                 if (name := record["volume"]["case"])),
            )  # fmt: skip
            tally = Tally()
            for record in self._records(found):
                tally.add(record["volume"])
            account = self._account(found, tally)
            if self.writer.tree is not None:
                self.writer.tree.write_participants()
            if self.task.outputs.report:
                self._write_report(found, account)
            write_json(self.out / "run.json", account)

    def _records(self, found: Found) -> Iterator[Record]:
        """What is recorded, in the order of the sources; one case at a time is in memory."""
        for source in found.sources:
            record = self.ledger.read(source.name)
            if record is not None:
                yield record

    def _account(self, found: Found, tally: Tally) -> dict[str, Any]:
        return describe_run(self.predictor) | {
            "begun": self.account.made.isoformat(),
            "threshold": self.point.threshold,
            "operating_point": self.point.meaning,
            "minimum_ml": self.task.minimum_ml,
            "options": self.task.settings,
            "cases": len(found.sources),
            "scored": tally.done,
            "failed": tally.failed,
            "missing": len(found.sources) - tally.done - tally.failed,
            "passed_over": [{"path": str(item.path), "reason": item.reason} for item in found.passed_over],
            "stages_s": self.pipeline.stages.to_json(),
        }

    def _write_report(self, found: Found, account: dict[str, Any]) -> None:
        def preview(name: str) -> bytes | None:
            path = self.writer.preview_path(name)
            return path.read_bytes() if path.is_file() else None

        records = heapq.nlargest(REPORTED, self._records(found), key=lambda record: record["volume"].get("score") or -1.0)
        rows = [record["volume"] for record in records]
        lesions = [row for record in records for row in record["lesions"]]
        extra = {"date": account["begun"][:10], "left_out": account["scored"] + account["failed"] - len(rows)}
        write_report(self.out / "report.html", account | extra, rows, lesions, preview)


def score_sources(
    found: Found,
    predictor: Predictor,
    out: str | Path,
    task: Task | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    shard: Shard | None = None,
) -> Tally:
    """Score what ``data.sources.find_sources`` found, or this process' ``shard`` of it.

    ``out`` gets the files of each case, ``volumes``, ``slices``, ``lesions`` and ``inputs`` as CSV and Parquet, ``report.html``
    and ``run.json``. A case that cannot be scored gets a row with its error and does not stop the rest. A run that was cut off
    is finished by the same call; with other settings the folder is refused unless ``overwrite`` starts it again. Shards know
    nothing of each other: each one that ends writes the tables of all that is recorded, so the last one's are complete.

    Returns:
        The count of this shard's cases.

    Raises:
        InputError: ``out`` holds another run or one is at work there, or the calibration was made on other cuts.
        OutputError: the folder cannot be written to.
        MemoryError: the GPU holds not even one slice.
    """
    task, progress, shard = task or Task(), progress or Quiet(), shard or Shard()
    out = prepare_output_folder(out)
    with lock_folder(out, shard.number, shard.count):
        batch = Batch(predictor, out, task, overwrite)
        if shard.count == 1:
            batch.ledger.sweep()
        sources = shard.take(found.sources)
        with progress.of(len(sources)):
            tally = batch.score(sources, progress)
        batch.finish(found)
    return tally


def _describe_settings(predictor: Predictor, task: Task, point: OperatingPoint) -> Record:
    """What may not change while a folder is scored."""
    return {
        "adapters": predictor.checkpoint.digest if predictor.checkpoint else None,
        "tower": predictor.detector.tower_hash,
        "detector": predictor.detector.config.to_json(),
        "preset": asdict(predictor.preset),
        "precision": str(predictor.dtype),
        "drop_background": predictor.drop_background,
        "refinement": predictor.refinement.to_json(),
        "engine": "torch" if predictor.engine is None else "onnx",
        "cutting": asdict(task.cutting),
        "threshold": point.threshold,
        "operating_point": point.meaning,
        "minimum_ml": task.minimum_ml,
        "outputs": task.outputs.describe(),
    }
