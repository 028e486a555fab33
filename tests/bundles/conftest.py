"""A bundle packed with toy adapters, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from aaclip_med.zoo.names import find_bundle
from aaclip_med.zoo.packing import pack_bundle
from tests.cli.conftest import adapters, study

__all__ = ["adapters", "study"]

TEMPLATE = find_bundle()


@pytest.fixture(scope="session")
def packed(adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with its tower's weights."""
    return pack_bundle(adapters, tmp_path_factory.mktemp("packed") / "toy_heads", with_weights=True)
