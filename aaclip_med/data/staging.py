"""Folders that appear when all of them is written, and not before."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aaclip_med.data.writing import prepare_output_folder
from aaclip_med.errors import OutputError


@contextmanager
def staged_folder(out: str | Path) -> Iterator[Path]:
    """An empty folder beside ``out`` that becomes ``out`` when the block ends well, and is gone when it does not.

    Raises:
        OutputError: ``out`` holds something already, or cannot be written.
    """
    out = Path(out).absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise OutputError(f"{out}: there is something already; choose another --out")
    staging = prepare_output_folder(out.parent) / f".{secrets.token_hex(4)}.{out.name}"
    try:
        yield prepare_output_folder(staging)
        _move(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(staging: Path, out: Path) -> None:
    try:
        if out.is_dir():
            out.rmdir()
        staging.rename(out)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}; choose another --out") from error
