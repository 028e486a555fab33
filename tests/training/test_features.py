"""The cache of features: what it takes for the same, and what it does with a file that is damaged or cannot be written."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from aaclip_med.training import features
from aaclip_med.training.features import FeatureCache, Features

IMAGES = torch.randn(3, 3, 20, 20, generator=torch.Generator().manual_seed(1))


class Tower:
    """Two features of an image; ``seen`` counts the images looked at."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: torch.Tensor) -> Features:
        self.seen += len(images)
        return {"tokens": images.flatten(2) * 2.0, "embedding": images.mean(dim=(2, 3))}


def assert_whole(found: Features) -> None:
    wanted = Tower()(IMAGES)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_file_cut_anywhere_is_made_anew(length: int, tmp_path: Path) -> None:
    tower, cache = Tower(), FeatureCache(tmp_path, "tower")
    cache.fetch(IMAGES, tower)
    damaged = min(tmp_path.iterdir())
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:length])
    assert_whole(cache.fetch(IMAGES, tower))
    assert tower.seen == 4
    assert damaged.read_bytes() == whole
    assert_whole(cache.fetch(IMAGES, tower))
    assert tower.seen == 4


def test_a_cache_without_a_folder_is_told_of_once_and_features_are_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    tower, cache = Tower(), FeatureCache(tmp_path / "file" / "features", "tower")
    for _ in range(2):
        assert_whole(cache.fetch(IMAGES, tower))
    assert tower.seen == 6
    told = capsys.readouterr().err
    assert told.count("cannot write the feature cache") == 1
    assert "Not a directory" in told
    assert "--out" not in told


def test_on_a_disk_that_runs_full_features_are_computed_and_those_there_are_still_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tower, cache = Tower(), FeatureCache(tmp_path, "tower")
    cache.fetch(IMAGES[:1], tower)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        found = cache.fetch(IMAGES, tower)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_whole(found)
    assert tower.seen == 3
    assert len(list(tmp_path.iterdir())) == 1
    assert "File too large; training goes on" in capsys.readouterr().err


@pytest.mark.parametrize(("owner", "name", "value"), [(torch, "__version__", "9.9"), (features, "LAYOUT", 99)])
def test_features_of_another_torch_or_layout_are_not_taken(
    owner: object, name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower, cache = Tower(), FeatureCache(tmp_path, "tower")
    cache.fetch(IMAGES, tower)
    monkeypatch.setattr(owner, name, value)
    assert_whole(cache.fetch(IMAGES, tower))
    assert tower.seen == 6
    assert len(list(tmp_path.iterdir())) == 6
