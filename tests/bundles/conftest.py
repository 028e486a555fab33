"""A bundle packed with toy adapters, made once a session."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from aaclip_med.zoo.names import find_bundle
from aaclip_med.zoo.packing import pack_bundle
from tests.cli.conftest import adapters, study

__all__ = ["adapters", "study"]

TEMPLATE = find_bundle()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """MONAI puts a bundle's folder into ``sys.path``, and a process started later would import the package that lies there."""
    kept = sys.path.copy()
    try:
        return (yield)
    finally:
        sys.path[:] = kept


@pytest.fixture(scope="session")
def packed(adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with its tower's weights."""
    return pack_bundle(adapters, tmp_path_factory.mktemp("packed") / "toy_heads", with_weights=True)
