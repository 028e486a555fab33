"""What holds for every test."""

from __future__ import annotations

import sys
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """MONAI puts a bundle's folder into ``sys.path``, and a process started later would import the package that lies there."""
    kept = sys.path.copy()
    try:
        return (yield)
    finally:
        sys.path[:] = kept
