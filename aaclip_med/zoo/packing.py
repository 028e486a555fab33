"""A bundle that needs nothing of this machine: code, adapters, configuration, metadata, hashes and papers in one folder."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file

from aaclip_med import __version__
from aaclip_med.data.writing import prepare_output_folder
from aaclip_med.errors import InputError
from aaclip_med.inference.case import CALIBRATED_THRESHOLD, UNCALIBRATED_THRESHOLD
from aaclip_med.inference.cutting import check_calibrated_alike
from aaclip_med.inference.network import build_network, save_network
from aaclip_med.inference.predictor import Predictor, load_predictor
from aaclip_med.model.build import settle_activation
from aaclip_med.model.checkpoint import Checkpoint, find_named_weights
from aaclip_med.model.config import DetectorConfig
from aaclip_med.model.weights import find_state
from aaclip_med.zoo.names import find_bundle

ADAPTERS = "$os.path.join(@bundle_root, 'models', 'adapters.safetensors')"
TOWER_FILE = "tower.safetensors"
TOWER = f"$os.path.join(@bundle_root, 'models', '{TOWER_FILE}')"
MODELS = "$os.path.join(@bundle_root, 'models')"
RUNS = {"_target_": "aaclip_med.training.ranks.name_run", "folder": "$os.path.join(@bundle_root, 'runs')"}
LEFT_OUT = ("__pycache__", "bundles", "demo_adapters")
HASHES = "hashes.sha256"
NOT_ALLOWED = ("detection", "classification", "deepedit", "deepgrow")
"""MONAI Label takes a bundle with such a name for another task."""


def pack_bundle(
    adapters: str | Path,
    out: str | Path,
    preset: str | None = None,
    weights: str | None = None,
    with_weights: bool = False,
) -> Path:
    """Write a bundle for ``adapters`` to the new folder ``out``, whole or not at all; returns it.

    ``with_weights``: the tower's weights lie in it too; else they are had as the adapters name them, by tag.

    Raises:
        InputError: ``out`` is there already or has a name that MONAI Label misreads; the adapters are zero-shot, or need
            weights that only this machine has, or a calibration that a bundle does not score by.
        OutputError: the folder cannot be written.
        InputError, WeightsError, CheckpointError: as ``load_predictor``.
    """
    out = Path(out).absolute()
    if out.exists():
        raise InputError(f"{out}: exists already; name a new folder")
    misread = [word for word in NOT_ALLOWED if word in out.name.lower()]
    if misread:
        raise InputError(f"{out.name}: MONAI Label takes a bundle named '{misread[0]}' for another task; choose another name")
    predictor = load_predictor(adapters, preset, weights=weights, device="cpu")
    check_calibrated_alike(predictor, None, within_organ=False)
    config = predictor.detector.config
    tower = weights or find_named_weights(config, adapters)
    if not with_weights and Path(tower).is_file():
        raise InputError(
            f"the weights are a file of this machine ({tower}); add --with-weights, or name a tag or hf:// weights"
        )
    prepare_output_folder(out.parent)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary) / out.name
        _copy_bundle(folder)
        (folder / "models").mkdir()
        named = name_tower(config, TOWER_FILE if with_weights else str(tower))
        _write_models(folder / "models", predictor, replace(_describe(predictor), config=named))
        if with_weights:
            state = find_state(config.backbone, tower, predictor.detector.tower)
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "models" / TOWER_FILE)
        _write_configs(folder / "configs", predictor, with_weights)
        _write_papers(folder, predictor, with_weights)
        _write_hashes(folder)
        folder.rename(out)
    return out


def name_tower(config: DetectorConfig, weights: str) -> DetectorConfig:
    """``config`` with other ``weights`` by name. What the old name said of the towers' activation is written down."""
    activation = settle_activation(config)
    return replace(config, weights=weights, fidelity=replace(config.fidelity, activation=activation))


def _copy_bundle(folder: Path) -> None:
    source = find_bundle()
    folder.mkdir()
    for name in ("configs", "docs"):
        shutil.copytree(source / name, folder / name)
    for name in ("LICENSE", "large_files.yml"):
        shutil.copy(source / name, folder / name)
    shutil.copytree(Path(str(files("aaclip_med"))), folder / "aaclip_med", ignore=shutil.ignore_patterns(*LEFT_OUT))


def _describe(predictor: Predictor) -> Checkpoint:
    """The adapters as a checkpoint; the released program's are given one."""
    preset = predictor.preset.name
    if predictor.checkpoint is not None:
        return replace(predictor.checkpoint, preset=preset)
    detector = predictor.detector
    return Checkpoint(detector.config, detector.adapter_state(), detector.tower_hash, preset)


def _write_models(folder: Path, predictor: Predictor, checkpoint: Checkpoint) -> None:
    network = build_network(predictor)
    (folder / "adapters.safetensors").write_bytes(checkpoint.to_bytes())
    save_network(folder / "model.pt", network)


def _write_configs(folder: Path, predictor: Predictor, with_weights: bool) -> None:
    shared = {"adapters": ADAPTERS, "preset": predictor.preset.name, "weights": TOWER if with_weights else None}
    threshold = CALIBRATED_THRESHOLD if predictor.calibration else UNCALIBRATED_THRESHOLD
    training = {"models_dir": MODELS, "output_dir": RUNS, "crop": predictor.preset.crop}
    for name, settings in (("inference", {"threshold": threshold}), ("train", training)):
        path = folder / f"{name}.yaml"
        path.write_text(change_settings(path.read_text(encoding="utf-8"), shared | settings), encoding="utf-8")
    path = folder / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(fill_metadata(metadata, predictor), indent=4) + "\n", encoding="utf-8")


def change_settings(text: str, settings: Mapping[str, Any]) -> str:
    """A configuration's text with other values for top-level names; comments stay.

    Raises:
        KeyError: it has no such name with a plain value.
    """
    for name, value in settings.items():
        written = (
            json.dumps(value) if isinstance(value, dict) else yaml.safe_dump(value, width=1000).removesuffix("...\n").strip()
        )
        pattern = re.compile(rf"^{name}: [^#\n]*?( *#.*)?$", re.MULTILINE)
        if not pattern.search(text):
            raise KeyError(name)
        text = pattern.sub(lambda found, line=f"{name}: {written}": f"{line}{_indent(found[1])}", text, count=1)  # type: ignore[misc]
    return text


def _indent(comment: str | None) -> str:
    return f"   {comment.strip()}" if comment else ""


def fill_metadata(metadata: dict[str, Any], predictor: Predictor) -> dict[str, Any]:
    """The bundle's metadata with this machine's versions and what is known of the adapters."""
    detector, preset = predictor.detector, predictor.preset
    packages = {name: _version(name, fallback) for name, fallback in metadata["required_packages_version"].items()}
    backbone = detector.config.backbone if isinstance(detector.config.backbone, str) else "a CLIP ViT"
    return metadata | {
        "version": __version__,
        "monai_version": _version("monai", metadata["monai_version"]),
        "pytorch_version": _version("torch", metadata["pytorch_version"]),
        "numpy_version": _version("numpy", metadata["numpy_version"]),
        "required_packages_version": packages,
        "name": f"AA-CLIP lesion heatmaps: {preset.title}",
        "description": f"{preset.title}: {metadata['description']} Tower {backbone}. Scores: {predictor.note}.",
        "adapters_hash": predictor.checkpoint.digest if predictor.checkpoint else "",
        "tower_hash": detector.tower_hash,
        "image_size": detector.config.image_size,
        "calibrated": predictor.calibration is not None,
        "demonstration": predictor.is_demo,
    }


def _version(package: str, fallback: str) -> str:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return fallback


def _write_papers(folder: Path, predictor: Predictor, with_weights: bool) -> None:
    try:
        lines = [line for line in requires("aaclip-med") or [] if "extra ==" not in line]
        (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except PackageNotFoundError:  # a packed bundle that packs: it has the file
        shutil.copy(find_bundle() / "requirements.txt", folder)
    where = f"models/{TOWER_FILE}" if with_weights else f"not in this bundle: '{predictor.detector.config.weights}'"
    about = f"""# {predictor.preset.title}: an AA-CLIP bundle

**For research. Not for clinical use.** Scores: {predictor.note}.

    pip install -r requirements.txt
    python -m monai.bundle run inference --config_file configs/inference.yaml --dataset_dir SCANS --output_dir OUT

From another folder, name the bundle: `--bundle_root BUNDLE --config_file BUNDLE/configs/inference.yaml`.

| file | what |
|---|---|
| `models/adapters.safetensors` | the adapters, their configuration and calibration |
| `models/model.pt` | the same as the network's state dict, for MONAI Label and MONAI's exports |
| the tower's weights | {where} |
| `aaclip_med/` | the code |
| `{HASHES}` | check with `sha256sum -c {HASHES}` |
| `docs/` | the bundle's manual, the model card, the data's licence |
"""
    (folder / "README.md").write_text(about, encoding="utf-8")


def _write_hashes(folder: Path) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    (folder / HASHES).write_text("".join(lines), encoding="utf-8")
