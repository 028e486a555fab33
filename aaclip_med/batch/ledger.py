"""What a run over many cases has done so far, on disk, so that the same command finishes what is missing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from itertools import takewhile
from pathlib import Path

from filelock import FileLock, Timeout

from aaclip_med.batch.bids import TREE_FILES
from aaclip_med.batch.records import Record
from aaclip_med.data.sources import RUN_MARK, Source
from aaclip_med.data.writing import is_temporary, prepare_output_folder, write_json
from aaclip_med.errors import InputError


class Ledger:
    """One JSON file a case in ``OUT/.run/cases``, and the settings they were made with in ``OUT/.run/settings.json``.

    A record is written after the case's files, whole or not at all; so a run killed anywhere repeats no more than the cases
    it was in. A case counts as done while its own files, the organ's among them, have the same size and date and what was
    written of it is there. Several processes may share a ledger, each for cases of its own.
    """

    def __init__(self, out: Path, settings: Record, overwrite: bool = False) -> None:
        """Take up the run in ``out``, or begin one.

        Raises:
            InputError: ``out`` holds a run with other settings, or its settings are damaged, and ``overwrite`` is False.
            OutputError: the folder cannot be written to.
        """
        self.out = out
        self.folder = out / ".run"
        if overwrite:
            forget(out)
        prepare_output_folder(self.folder / "cases")
        self.begun = self._settle(json.loads(json.dumps(settings, default=str)))

    def _settle(self, settings: Record) -> datetime:
        """When the run began: at first now, later what was written down then."""
        path = self.out / RUN_MARK
        if path.is_file():
            stored = _read_record(path)
            try:
                begun = datetime.fromisoformat(stored.pop("begun", ""))
            except ValueError:
                raise InputError(f"{path}: damaged; start again with --overwrite") from None
            changed = sorted(key for key in stored.keys() | settings.keys() if stored.get(key) != settings.get(key))
            if changed:
                raise InputError(
                    f"{self.out} holds a run with other settings ({', '.join(changed)}); choose another --out, or start it "
                    "again with --overwrite"
                )
            return begun
        begun = datetime.now(timezone.utc).replace(microsecond=0)
        write_json(path, settings | {"begun": begun.isoformat()})
        return begun

    def sweep(self) -> None:
        """Remove temporary files of a run that was killed. Only while no other process writes into the folder."""
        for remains in self.out.rglob(".*"):
            if is_temporary(remains):
                remains.unlink(missing_ok=True)

    def find(self, source: Source, organ: Path | None) -> Record | None:
        """What was kept of a case that is done; None where it is to be scored, and then nothing of an older one is left."""
        record = self.read(source.name)
        if record is None:
            return None
        files = _list_files(self.out, record)
        done = record["volume"]["status"] == "ok" and all(file.is_file() for file in files)
        if done and record["input"] == _stamp(source, organ):
            return record
        for file in (self._path(source.name), *files):
            file.unlink(missing_ok=True)
        return None

    def read(self, name: str) -> Record | None:
        """What was kept of case ``name``, done or failed; None of one whose record is damaged."""
        path = self._path(name)
        return (_read_record(path) or None) if path.is_file() else None

    def keep(self, source: Source, organ: Path | None, record: Record, files: list[Path]) -> None:
        """Remember a case that is done or failed, with the files that were written of it.

        Raises:
            OutputError: the record cannot be written.
        """
        path = self._path(source.name)
        path.parent.mkdir(exist_ok=True)
        names = [file.relative_to(self.out).as_posix() for file in files]
        write_json(path, {"scan": _identify(source), "input": _stamp(source, organ), "files": names, **record})

    def forget_renamed(self, sources: Sequence[Source]) -> None:
        """Remove what was written of scans that are called otherwise now, as where another scan of the same name came.

        ``sources``: all there are. What was written of scans that are not among them stays.
        """
        named = {self._path(source.name) for source in sources}
        others = [path for path in (self.folder / "cases").glob("*/[!.]*.json") if path not in named]
        scans = {_identify(source) for source in sources} if others else set()
        for path in others:
            record = _read_record(path)
            if record.get("scan") in scans:
                _remove_files(self.out, record)
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()[:24]
        return self.folder / "cases" / digest[:2] / f"{digest}.json"


def forget(out: Path) -> None:
    """Begin anew: no case in ``out`` counts as done any more, and what the run wrote there is gone."""
    for path in (out / ".run" / "cases").rglob("*.json"):
        _remove_files(out, _read_record(path))
    shutil.rmtree(out / ".run" / "cases", ignore_errors=True)
    mark = out / RUN_MARK
    if mark.is_file():
        for name in (*_name_summaries(_read_record(mark).get("outputs", {})), RUN_MARK):
            (out / name).unlink(missing_ok=True)


def _name_summaries(outputs: Record) -> list[str]:
    """What a run with these outputs writes of all cases together."""
    tables = [f"{name}.{ending}" for name in ("volumes", "slices", "lesions", "inputs") for ending in ("csv", "parquet")]
    page = ["report.html"] if outputs.get("report") else []
    return [*tables, "run.json", *page, *(TREE_FILES if outputs.get("bids") else [])]


@contextmanager
def lock_folder(out: Path, number: int = 0, count: int = 1) -> Iterator[None]:
    """Keep every other run out of ``out``, except the other shards of the same ``count``.

    The system lets go of a lock when its process ends, in any way.

    Raises:
        InputError: another run is at work there.
    """
    lock = FileLock(out / f".lock-{number}-of-{count}")
    try:
        with FileLock(out / ".lock"):  # or two that begin at once would not see each other
            lock.acquire(timeout=0)
            for other in out.glob(".lock-*-of-*"):
                if not other.name.endswith(f"-of-{count}"):
                    FileLock(other).acquire(timeout=0).lock.release()
    except Timeout:
        lock.release()
        raise InputError(f"{out}: another run is writing there; wait for it, or choose another --out") from None
    try:
        yield
    finally:
        lock.release()


def _read_record(path: Path) -> Record:
    """The object in a JSON file; an empty one where the file is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _list_files(out: Path, record: Record) -> list[Path]:
    """What was written of a case, within ``out``."""
    names = map(Path, record.get("files", []))
    return [out / name for name in names if not name.is_absolute() and ".." not in name.parts]


def _remove_files(out: Path, record: Record) -> None:
    """Remove what was written of a case, and folders of a BIDS subject that are then empty."""
    for file in _list_files(out, record):
        file.unlink(missing_ok=True)
        if file.relative_to(out).parts[0].startswith("sub-"):
            for folder in takewhile(lambda folder: folder != out, file.parents):
                with suppress(OSError):  # something lies in it
                    folder.rmdir()


def _identify(source: Source) -> str:
    """Where a case's scan lies."""
    return hashlib.sha256(json.dumps([str(file.absolute()) for file in source.files]).encode()).hexdigest()


def _stamp(source: Source, organ: Path | None) -> str:
    """Which files a case was made of, by path, size and date. A file that is gone counts as one of size -1."""
    states = []
    for file in (*source.files, *((organ,) if organ else ())):
        state = file.stat() if file.exists() else None
        states.append((str(file.resolve()), *((state.st_size, state.st_mtime_ns) if state else (-1, 0))))
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()
