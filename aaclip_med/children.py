"""Child processes of this program: Python, with the modules of this process and none of the working folder."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def name_command(module: str, *arguments: int) -> list[str]:
    """The command line of a process that calls ``main(*arguments)`` of a ``module`` of this package.

    ``python -m`` looks for modules in the working folder first, where users have their data: a ``numpy.py`` there would be
    run. The process looks where this one does; in the working folder only where this package is itself found there.
    """
    paths = [path or str(_ROOT) for path in sys.path if path or Path.cwd() == _ROOT]
    program = f"import sys; sys.path[:] = {paths!a}; from {module} import main; main(*{arguments!r})"
    return [sys.executable, "-c", program]
