"""The server's one folder for uploads and results: gone when it ends, and after a crash when the next one starts."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where the open lock file itself cannot be removed
    fcntl = None  # type: ignore[assignment]

PREFIX = "aaclip-med-server-"
_LOCK = "lock"


@contextlib.contextmanager
def open_scratch(parent: Path | None = None) -> Iterator[Path]:
    """A folder ``aaclip-med-server-PID-...`` that only this user can read, removed at the end of the block.

    A server holds the lock of its folder as long as it lives, so folders of dead servers are told from those of living ones,
    also where several containers share a disk and process numbers repeat. Dead ones are removed first.
    """
    parent = parent or Path(tempfile.gettempdir())
    remove_stale(parent)
    name = f"{PREFIX}{os.getpid()}-"
    if fcntl is None:
        folder = Path(tempfile.mkdtemp(prefix=name, dir=parent))
        lock = (folder / _LOCK).open("w")
    else:
        # Locked before it gets its name: no server that starts meanwhile can take it for a dead one's.
        made = Path(tempfile.mkdtemp(prefix=".aaclip-med-", dir=parent))
        lock = (made / _LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = made.rename(made.with_name(name + made.name[-8:]))
    try:
        yield folder
    finally:
        lock.close()
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale(parent: Path) -> list[Path]:
    """Remove the folders of servers that ended without doing so; returns them."""
    stale = []
    for folder in sorted(parent.glob(f"{PREFIX}*")):
        if folder.is_symlink() or not folder.is_dir() or not _is_free(folder / _LOCK):
            continue
        shutil.rmtree(folder, ignore_errors=True)
        stale.append(folder)
    return stale


def _is_free(lock: Path) -> bool:
    """Whether no living server holds the lock. Another user's folder counts as held."""
    try:
        if fcntl is None:
            lock.unlink()
            return True
        with lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except FileNotFoundError:
        return True
    except OSError:
        return False
