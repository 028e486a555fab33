"""Errors in MONAI's wrapping, and what MONAI's command line says of those that a user can act on."""

from __future__ import annotations

import sys
from types import TracebackType

from aaclip_med.errors import AaclipError

MONAI = "monai.bundle.__main__"


def find_cause(error: BaseException, *kinds: type[BaseException]) -> BaseException | None:
    """The first error of one of ``kinds`` that ``error`` is, or was raised from; None where there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kinds):
        cause = cause.__cause__
    return cause


def speak_plainly() -> None:
    """Where ``python -m monai.bundle`` runs, an ``AaclipError`` or a full memory ends it with its one line and exit code; other
    errors keep their traceback. Under another program nothing changes.
    """
    if getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", None) == MONAI:
        sys.excepthook = _end


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    cause = find_cause(error, AaclipError, MemoryError)
    if cause is None:
        return sys.__excepthook__(kind, error, trace)
    print(f"aaclip-med: {' '.join(str(cause).split()) or 'out of memory'}", file=sys.stderr)
    raise SystemExit(cause.exit_code if isinstance(cause, AaclipError) else AaclipError.exit_code)
