"""The bundle's files fit together: metadata, overlays, argument files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import yaml

import aaclip_med
from aaclip_med.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "aaclip_med"
OVERLAYS = sorted((BUNDLE / "configs").glob("preset_*.yaml"))
ARGUMENT_FILES = sorted((BUNDLE / "args").glob("*.yaml"))
REQUIRED_TEXTS = (
    *("schema", "version", "monai_version", "pytorch_version", "numpy_version"),
    *("task", "description", "authors", "copyright"),
)
TENSOR_KEYS = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"}


def read_yaml(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    content = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def test_the_metadata_has_what_the_schema_requires(metadata: dict[str, Any]) -> None:
    assert [key for key in REQUIRED_TEXTS if not isinstance(metadata.get(key), str) or not metadata[key]] == []
    assert all(isinstance(version, str) for version in metadata["required_packages_version"].values())
    for way in ("inputs", "outputs"):
        tensors = metadata["network_data_format"][way]
        assert tensors
        assert all(tensor.keys() >= TENSOR_KEYS for tensor in tensors.values())


def test_the_bundle_has_the_version_of_the_package_and_says_what_changed(metadata: dict[str, Any]) -> None:
    assert metadata["version"] == aaclip_med.__version__
    assert metadata["changelog"][metadata["version"]]


def test_every_preset_has_an_overlay_and_an_argument_file() -> None:
    names = {name.replace("-", "_") for name in PRESETS}
    assert {path.stem.removeprefix("preset_") for path in OVERLAYS} == names
    assert {path.stem.removeprefix("train_") for path in ARGUMENT_FILES} == names


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_an_overlay_sets_only_what_the_training_configuration_knows(path: Path) -> None:
    overlay = read_yaml(path)
    assert overlay.keys() <= read_yaml(BUNDLE / "configs" / "train.yaml").keys()
    assert overlay["preset"] == path.stem.removeprefix("preset_").replace("_", "-")


@pytest.mark.parametrize("path", ARGUMENT_FILES, ids=lambda path: path.stem)
def test_monai_takes_an_argument_file_with_its_preset(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = read_yaml(path)
    assert arguments["run_id"] == "training"
    monkeypatch.chdir(ROOT)
    asked_for = "$print('asked for', @preset, @checkpoint_dir)"
    monai.bundle.run(args_file=str(path), run_id="_asked_for", output_dir="somewhere", _asked_for=asked_for)
    preset = path.stem.removeprefix("train_").replace("_", "-")
    assert f"asked for {preset} somewhere/checkpoints" in capsys.readouterr().out


def test_the_licence_is_the_packages_own() -> None:
    assert (BUNDLE / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_model_card_is_the_documentations_own() -> None:
    assert (BUNDLE / "docs" / "model_card.md").read_bytes() == (ROOT / "docs" / "model_card.md").read_bytes()


def test_the_citation_names_the_packages_version() -> None:
    assert read_yaml(ROOT / "CITATION.cff")["version"] == aaclip_med.__version__
