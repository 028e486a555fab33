"""SHA-256 of the files that scans lie in."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from aaclip_med.data.volumes import list_files, walk_files
from aaclip_med.data.writing import atomic_path


def hash_file(path: Path) -> str:
    """Its SHA-256, read block by block."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


class Digests:
    """SHA-256 of files, remembered by path, size and date, so that a file is read for it once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, str] = {}
        if path.is_file():
            with contextlib.suppress(ValueError):
                self.known = json.loads(path.read_text())

    def of(self, path: Path) -> str:
        """The digest of all files of a volume, or in a folder."""
        files = sorted(file for file in walk_files(path) if file.is_file()) if path.is_dir() else list_files(path)
        return hashlib.sha256("".join(self._of_file(file) for file in files).encode()).hexdigest()

    def _of_file(self, path: Path) -> str:
        state = path.stat()
        key = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"
        if key not in self.known:
            self.known[key] = hash_file(path)
        return self.known[key]

    def save(self) -> None:
        """Write what is known, whole or not at all."""
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(self.known))
