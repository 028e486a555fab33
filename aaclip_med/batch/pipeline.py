"""Reading, the model and writing side by side: the model waits for neither a decoder nor a compressor."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from aaclip_med.batch.ledger import Ledger
from aaclip_med.batch.outputs import CaseWriter
from aaclip_med.batch.reader import Limits, Reader, StoppedError
from aaclip_med.batch.records import Record, Row, describe_case, describe_failure
from aaclip_med.data.sources import Source
from aaclip_med.data.volumes import printable
from aaclip_med.errors import AaclipError, InputError, OutputError
from aaclip_med.inference.case import finish_case
from aaclip_med.inference.cutting import Cutting
from aaclip_med.inference.predictor import Predictor, Prepared
from aaclip_med.inference.stream import SliceScores


@dataclass
class _Case:
    """A case under way."""

    source: Source
    organ: Path | None
    prepared: Prepared
    reading_s: float


@dataclass
class Stages:
    """Seconds of a run: how long the readers and the writers were busy (all of them together), how long the model worked, and
    how long it waited for the next scan.
    """

    reading: float = 0.0
    waiting: float = 0.0
    model: float = 0.0
    writing: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **seconds: float) -> None:
        """Count ``seconds``; from any thread."""
        with self._lock:
            for name, value in seconds.items():
                setattr(self, name, getattr(self, name) + value)

    def to_json(self) -> dict[str, float]:
        """Each, to a hundredth."""
        return {name: round(getattr(self, name), 2) for name in ("reading", "waiting", "model", "writing")}


class Outcome(NamedTuple):
    """A case's row of the volumes table, and whether an earlier run had done it."""

    row: Row
    kept: bool = False


@dataclass
class Pipeline:
    """Scores sources with ``readers`` reading ahead and ``writers`` writing behind.

    At most ``readers + 1`` scans wait for the model and ``writers + 1`` results for a writer, so memory does not grow with the
    number of cases. Writers also make the heatmap of a case's maps: a GPU, which holds but one batch ahead, would wait for it.
    ``marks`` hold for every row of the tables.
    """

    predictor: Predictor
    ledger: Ledger
    writer: CaseWriter
    cutting: Cutting
    minimum_ml: float
    limits: Limits
    readers: int
    writers: int
    marks: Row
    stages: Stages = field(default_factory=Stages)

    def score(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        """The outcome of each source, as they are done.

        Raises:
            OutputError: a file cannot be written; what was finished is kept.
            MemoryError: the GPU holds not even one slice.
        """
        with _threads(self.readers) as ahead, _readers(self.readers, self.limits) as readers, _threads(self.writers) as behind:
            finished: deque[Outcome] = deque()
            under_way: deque[_Case] = deque()
            writing: deque[Future[Row]] = deque()
            reading = self._read_ahead(sources, readers, ahead, finished)
            clock = time.perf_counter()
            waited = self.stages.waiting

            def prepared() -> Iterator[Prepared]:
                for case in reading:
                    under_way.append(case)
                    yield case.prepared

            for _, parts in self.predictor.score_prepared(prepared()):
                now = time.perf_counter()
                self.stages.add(model=now - clock - (self.stages.waiting - waited))
                writing.append(behind.submit(self._finish, under_way.popleft(), parts))
                while writing and (len(writing) > self.writers + 1 or writing[0].done()):
                    finished.append(Outcome(writing.popleft().result()))
                while finished:
                    yield finished.popleft()
                clock, waited = time.perf_counter(), self.stages.waiting
            finished.extend(Outcome(future.result()) for future in writing)
            yield from finished

    def _read_ahead(
        self,
        sources: Sequence[Source],
        readers: queue.SimpleQueue[Reader],
        pool: ThreadPoolExecutor,
        finished: deque[Outcome],
    ) -> Iterator[_Case]:
        """The cases that could be read, in order; the rows of the others, and of those done before, go to ``finished``."""
        ahead: deque[Future[_Case | Row]] = deque()
        rest = iter(sources)
        more = True
        while more or ahead:
            while more and len(ahead) <= self.readers:
                source = next(rest, None)
                more = source is not None
                if source is not None:
                    kept = self._find(source)
                    if kept is not None:
                        finished.append(Outcome(kept["volume"], kept=True))
                    else:
                        ahead.append(pool.submit(self._read, source, readers))
            if ahead:
                clock = time.perf_counter()
                case = ahead.popleft().result()
                self.stages.add(waiting=time.perf_counter() - clock)
                if isinstance(case, _Case):
                    yield case
                else:
                    finished.append(Outcome(case))

    def _find(self, source: Source) -> Record | None:
        try:
            return self.ledger.find(source, self.cutting.find_organ(source.name))
        except InputError:
            return None  # without its organ the case fails when it is read

    def _read(self, source: Source, readers: queue.SimpleQueue[Reader]) -> _Case | Row:
        clock = time.perf_counter()
        organ_path = None
        reader = readers.get()
        try:
            organ_path = self.cutting.find_organ(source.name)
            volume, organ = reader.read(source, organ_path)
            cutting = self.cutting
            prepared = self.predictor.prepare(volume, cutting.plane, cutting.slices, organ, cutting.stride)
        except (AaclipError, MemoryError) as error:
            return self._fail(source, organ_path, error)
        finally:
            readers.put(reader)
            seconds = time.perf_counter() - clock
            self.stages.add(reading=seconds)
        return _Case(source, organ_path, prepared, seconds)

    def _finish(self, case: _Case, parts: list[SliceScores]) -> Row:
        """Write what is made of the scores of a case's cuts. ``parts`` is emptied: the pool holds on to it for as long."""
        clock = time.perf_counter()
        volume, organ = case.prepared.volume, case.prepared.organ
        try:
            prediction = self.predictor.fuse(case.prepared, parts)
            parts.clear()
            scored = finish_case(volume, self.predictor, prediction, self.writer.account.threshold, self.minimum_ml)
            files, problems = self.writer.write(case.source, volume, organ, scored)
        except OutputError:
            raise
        except (AaclipError, MemoryError) as error:
            return self._fail(case.source, case.organ, error)
        record = describe_case(case.source.name, volume, scored, self.marks)
        put_right = case.source.series.put_right if case.source.series else ()
        record["volume"]["flags"] = _hide_paths("; ".join((*put_right, *problems)), case.source, case.organ)
        seconds = time.perf_counter() - clock
        self.stages.add(writing=seconds)
        record["times"] = {"reading_s": round(case.reading_s, 3), "writing_s": round(seconds, 3)}
        self.ledger.keep(case.source, case.organ, record, files)
        row: Row = record["volume"]
        return row

    def _fail(self, source: Source, organ: Path | None, error: AaclipError | MemoryError) -> Row:
        reason = str(error) or f"{source.path}: out of memory; score it on a larger machine"
        record = describe_failure(source.name, _hide_paths(reason, source, organ), self.marks)
        if not isinstance(error, StoppedError):
            self.ledger.keep(source, organ, record, [])
        row: Row = record["volume"]
        return row


def _hide_paths(text: str, source: Source, organ: Path | None) -> str:
    """Names of folders may name patients: of the case's own paths only the last part stays, escaped where it is no UTF-8."""
    for path in sorted({source.path, *source.files, *((organ,) if organ else ())}, key=lambda path: -len(str(path))):
        text = text.replace(str(path), path.name or str(path))
    return printable(text)


@contextmanager
def _readers(count: int, limits: Limits) -> Iterator[queue.SimpleQueue[Reader]]:
    """``count`` readers in a queue; all are ended with the block."""
    every = [Reader(limits) for _ in range(count)]
    free: queue.SimpleQueue[Reader] = queue.SimpleQueue()
    for reader in every:
        free.put(reader)
    try:
        yield free
    finally:
        for reader in every:
            reader.end()


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose waiting work is dropped when the block is left; what has begun is finished."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
