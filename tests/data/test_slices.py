"""The store of slices on disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aaclip_med.data.index import Case
from aaclip_med.data.slices import SliceStore
from aaclip_med.presets import get_preset


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """One grey picture."""
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24), dtype=np.uint8)).save(path)
    return path


def fill(path: Path, cache: Path) -> Path:
    """The folder that the one slice of ``path`` lies in."""
    store = SliceStore([Case(path, 0, "Brain")], get_preset("brain-mri"), cache)
    return store.slices[0].folder


def test_a_file_that_was_copied_or_touched_is_not_cut_again(picture: Path, tmp_path: Path) -> None:
    first = fill(picture, tmp_path / "cache")
    written = (first / "images.npy").stat().st_mtime_ns
    copy = tmp_path / "b.png"
    shutil.copy(picture, copy)
    os.utime(picture, (1, 1))
    assert fill(copy, tmp_path / "cache") == fill(picture, tmp_path / "cache") == first
    assert (first / "images.npy").stat().st_mtime_ns == written


def test_a_file_with_other_content_of_the_same_size_is_cut_anew(picture: Path, tmp_path: Path) -> None:
    first = fill(picture, tmp_path / "cache")
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (20, 24), dtype=np.uint8)).save(picture)
    assert fill(picture, tmp_path / "cache") != first


def test_a_damaged_memory_of_digests_is_made_again(picture: Path, tmp_path: Path) -> None:
    first = fill(picture, tmp_path / "cache")
    (tmp_path / "cache" / "digests.json").write_text("{half")
    assert fill(picture, tmp_path / "cache") == first
