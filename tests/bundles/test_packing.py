"""``aaclip-med pack``: a bundle that needs nothing of the machine it was made on."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from aaclip_med.cli.main import main
from aaclip_med.errors import InputError
from aaclip_med.model.build import settle_activation
from aaclip_med.model.config import FIDELITIES, DetectorConfig
from aaclip_med.zoo.packing import HASHES, change_settings, name_tower, pack_bundle

PROGRAM = """
import sys
hidden = sys.argv[1]
sys.path[:] = [path for path in sys.path if path not in ("", hidden)]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder)]
import monai.bundle
bundle, study, out = sys.argv[2:]
configs = f"{bundle}/configs/"
monai.bundle.run("inference", config_file=configs + "inference.yaml", bundle_root=bundle, dataset_dir=study + "/images",
                 output_dir=out + "/heat")
monai.bundle.run("evaluate", config_file=[configs + "inference.yaml", configs + "evaluate.yaml"], bundle_root=bundle,
                 index=study + "/train.jsonl", output_dir=out + "/figures", device="cpu")
print(sys.modules["aaclip_med"].__file__)
"""
"""Hides the installed package, then runs the bundle, which brings its own."""


@pytest.fixture(scope="module")
def elsewhere(packed: Path, study: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What a packed bundle computes in another folder, where the package is not to be had; and the code that ran."""
    out = tmp_path_factory.mktemp("elsewhere")
    root = Path(__file__).resolve().parents[2]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(root), str(packed), str(study), str(out)]
    run = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return out, run.stdout.strip().splitlines()[-1]


def test_it_runs_its_own_code_in_another_folder(elsewhere: tuple[Path, str], packed: Path) -> None:
    assert elsewhere[1] == str(packed / "aaclip_med" / "__init__.py")


def test_its_heat_is_the_command_lines(elsewhere: tuple[Path, str], study: Path, adapters: Path, tmp_path: Path) -> None:
    assert main(["score", str(study / "images"), "--adapters", str(adapters), "--out", str(tmp_path), "--device", "cpu"]) == 0
    for number in range(4):
        ours = nib.load(tmp_path / "heatmaps" / f"head_{number}_heatmap.nii.gz")
        theirs = nib.load(elsewhere[0] / "heat" / f"head_{number}_heatmap.nii.gz")
        np.testing.assert_allclose(theirs.get_fdata(), ours.get_fdata(), atol=1e-3)
        np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-5)
        segments = nib.load(elsewhere[0] / "heat" / f"head_{number}_segments.nii.gz")
        assert segments.get_data_dtype() == np.uint8
        np.testing.assert_allclose(segments.affine, ours.affine, atol=1e-5)
        np.testing.assert_array_equal(segments.get_fdata() > 0, theirs.get_fdata() >= 0.5)


def test_its_figures_are_the_command_lines(elsewhere: tuple[Path, str], study: Path, adapters: Path, tmp_path: Path) -> None:
    options = ["--adapters", str(adapters), "--device", "cpu", "--precision", "float32", "--out", str(tmp_path)]
    assert main(["evaluate", "--index", str(study / "train.jsonl"), *options]) == 0
    ours, theirs = (json.loads((out / "metrics.json").read_text()) for out in (tmp_path, elsewhere[0] / "figures"))
    assert 0.0 <= ours["pixel_auroc"] <= 1.0
    del ours["run"], theirs["run"]
    assert theirs == ours
    assert (elsewhere[0] / "figures" / "cases.csv").read_text() == (tmp_path / "cases.csv").read_text()


def test_it_leaves_an_account_of_its_run(elsewhere: tuple[Path, str]) -> None:
    account = json.loads((elsewhere[0] / "heat" / "run.json").read_text())
    assert account["calibrated"] is False


def test_its_hashes_are_those_of_its_files(packed: Path) -> None:
    listed = {}
    for line in (packed / HASHES).read_text().splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    files = {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file() and path.name != HASHES}
    assert {name for name in files if "__pycache__" not in name} == listed.keys()
    for name in ("models/adapters.safetensors", "models/tower.safetensors", "configs/inference.yaml"):
        assert hashlib.sha256((packed / name).read_bytes()).hexdigest() == listed[name]


def test_its_metadata_say_what_it_is(packed: Path) -> None:
    metadata = json.loads((packed / "configs" / "metadata.json").read_text())
    assert metadata["name"].endswith("Brain MRI")
    assert metadata["image_size"] == 40
    assert metadata["calibrated"] is metadata["demonstration"] is False
    assert len(metadata["adapters_hash"]) == len(metadata["tower_hash"]) == 64


def test_it_names_no_path_of_the_machine_it_was_made_on(packed: Path, study: Path) -> None:
    texts = [path.read_text() for path in packed.rglob("*") if path.suffix in (".yaml", ".json", ".md", ".txt")]
    assert all(str(place) not in text for text in texts for place in (packed.parent, study, Path.home()))


def test_without_weights_the_tower_is_had_by_name(adapters: Path, tmp_path: Path) -> None:
    assert main(["pack", "--adapters", str(adapters), "--out", str(tmp_path / "light")]) == 0
    assert not (tmp_path / "light" / "models" / "tower.safetensors").exists()
    assert yaml.safe_load((tmp_path / "light" / "configs" / "inference.yaml").read_text())["weights"] is None


def test_a_bundle_packed_again_needs_its_weights_again(packed: Path, tmp_path: Path) -> None:
    adapters = packed / "models" / "adapters.safetensors"
    with pytest.raises(InputError, match="--with-weights"):
        pack_bundle(adapters, tmp_path / "light")
    again = pack_bundle(adapters, tmp_path / "again", with_weights=True)
    tower = "models/tower.safetensors"
    assert (again / tower).read_bytes() == (packed / tower).read_bytes()


def test_weights_by_another_name_keep_their_activation() -> None:
    config = DetectorConfig("ViT-B-32", "laion2b_s34b_b79k", fidelity=FIDELITIES["paper"])
    assert settle_activation(replace(config, weights="tower.safetensors")) != settle_activation(config)
    assert settle_activation(name_tower(config, "tower.safetensors")) == settle_activation(config)


@pytest.mark.parametrize("name", ["liver_detection", "DeepEdit_heads"])
def test_a_name_that_monai_label_misreads_is_refused(adapters: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="another task"):
        pack_bundle(adapters, tmp_path / name)


def test_a_folder_that_is_there_is_left_alone(adapters: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="exists already"):
        pack_bundle(adapters, tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_pack_that_fails_leaves_nothing(adapters: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"no weights")
    assert main(["pack", "--adapters", str(adapters), "--weights", str(weights), "--out", str(tmp_path / "new")]) == 2
    assert list(tmp_path.iterdir()) == [weights]


def test_settings_change_and_comments_stay() -> None:
    text = "adapters: demo              # a file\npreset: null\nlonger_preset: 3\n"
    changed = change_settings(text, {"preset": "liver-ct", "adapters": "$@root + '/a'"})
    assert yaml.safe_load(changed) == {"adapters": "$@root + '/a'", "preset": "liver-ct", "longer_preset": 3}
    assert "# a file" in changed
    with pytest.raises(KeyError):
        change_settings(text, {"weights": None})
