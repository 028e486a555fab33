"""What a run over many cases has done so far, on disk, so that the same command finishes what is missing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aaclip_med.data.sources import Source
from aaclip_med.data.writing import prepare_output_folder, write_json
from aaclip_med.errors import InputError

Record = dict[str, Any]


class Ledger:
    """One JSON file a finished case in ``OUT/.run/cases``, and the settings they were made with in ``OUT/.run/settings.json``.

    A record is written after the case's heatmap, whole or not at all; so a run killed anywhere repeats no more than the case
    it was in. A case counts as done while its files, the organ's among them, have the same size and date and its heatmap is
    there.
    """

    def __init__(self, out: Path, settings: Record, overwrite: bool = False) -> None:
        """Take up the run in ``out``, or begin one.

        Raises:
            InputError: ``out`` holds a run with other settings and ``overwrite`` is False.
            OutputError: the folder cannot be written to.
        """
        self.out = out
        self.folder = out / ".run"
        if overwrite and self.folder.is_dir():
            shutil.rmtree(self.folder / "cases", ignore_errors=True)
            (self.folder / "settings.json").unlink(missing_ok=True)
        prepare_output_folder(self.folder / "cases")
        self._settle(json.loads(json.dumps(settings, default=str)))
        for remains in (*out.glob(".*.csv"), *(out / "heatmaps").glob(".*.nii.gz"), *self.folder.rglob(".*.json")):
            remains.unlink(missing_ok=True)  # temporary files of a run that was killed

    def _settle(self, settings: Record) -> None:
        path = self.folder / "settings.json"
        if path.is_file():
            stored = json.loads(path.read_text(encoding="utf-8"))
            changed = sorted(key for key in stored.keys() | settings.keys() if stored.get(key) != settings.get(key))
            if changed:
                raise InputError(
                    f"{self.out} holds a run with other settings ({', '.join(changed)}); choose another --out, or start it "
                    "again with --overwrite"
                )
        else:
            write_json(path, settings)

    def find(self, source: Source, organ: Path | None) -> Record | None:
        """What was kept of a case that is done; None where it is to be scored, and then nothing of an older one is left."""
        path, heatmap = self._path(source), self.out / "heatmaps" / f"{source.name}_heatmap.nii.gz"
        if path.is_file() and heatmap.is_file():
            record: Record = json.loads(path.read_text(encoding="utf-8"))
            if record["input"] == _stamp(source, organ):
                return record
        path.unlink(missing_ok=True)
        heatmap.unlink(missing_ok=True)
        return None

    def keep(self, source: Source, organ: Path | None, record: Record) -> None:
        """Remember a case that is done.

        Raises:
            OutputError: the record cannot be written.
        """
        write_json(self._path(source), {"input": _stamp(source, organ), **record})

    def _path(self, source: Source) -> Path:
        return self.folder / "cases" / f"{hashlib.sha256(source.name.encode()).hexdigest()[:24]}.json"


@contextmanager
def lock_folder(out: Path) -> Iterator[None]:
    """Keep a second run out of ``out``; the system lets go of the lock when the process ends, however it ends.

    Raises:
        InputError: another run is at work there.
    """
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{out}: another run is writing there; wait for it, or choose another --out") from None
    try:
        yield
    finally:
        lock.release()


def _stamp(source: Source, organ: Path | None) -> str:
    """Which files a case was made of, by path, size and date."""
    states = [(str(file.resolve()), file.stat()) for file in (*source.files, *((organ,) if organ else ()))]
    text = json.dumps([(name, state.st_size, state.st_mtime_ns) for name, state in states])
    return hashlib.sha256(text.encode()).hexdigest()
