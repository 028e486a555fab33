"""What MONAI Label does to a bundle, done by its steps: ``scripts/check_monailabel.sh`` asks the program itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from aaclip_med.cli.main import main
from aaclip_med.errors import InputError
from aaclip_med.model.checkpoint import read_checkpoint
from aaclip_med.zoo.reading import list_scans, to_volumes
from aaclip_med.zoo.results import LikelihoodSegmentsd

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def bundle(packed: Path, tmp_path: Path) -> Path:
    """A copy that may be trained."""
    return Path(shutil.copytree(packed, tmp_path / "heads"))


def read_config(bundle: Path, name: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / name))
    parser.config["bundle_root"] = str(bundle)
    return parser


def test_inference_step_by_step_keeps_the_geometry_and_gives_integers(bundle: Path, study: Path) -> None:
    config = read_config(bundle, "inference.yaml")
    network = config.get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True), strict=False)
    options = config.get_parsed_content("displayable_configs")
    assert options == {"threshold": 0.5}
    sums = []
    for threshold in (0.2, 0.9999):
        config["displayable_configs"].update({"threshold": threshold})
        config.parse()
        path = study / "images" / "head_1.nii.gz"
        data: dict[str, Any] = {"image": str(path)}
        for transform in config.get_parsed_content("preprocessing").transforms:
            data = transform(data)
        with torch.no_grad():
            data["pred"] = config.get_parsed_content("inferer")(data["image"][None], network)[0]
        for transform in config.get_parsed_content("postprocessing").transforms:
            if not isinstance(transform, monai.transforms.SaveImaged):
                data = transform(data)
        scan = nib.load(path)
        assert data["pred"].dtype == torch.uint8
        assert data["pred"].shape[1:] == scan.shape
        np.testing.assert_allclose(data["pred"].affine, scan.affine, atol=1e-5)
        sums.append(int(data["pred"].sum()))
    assert sums[0] > sums[1]


@pytest.fixture(scope="module")
def trained(packed: Path, study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that was trained as MONAI Label trains: with rows of its own and an empty run id."""
    bundle = Path(shutil.copytree(packed, tmp_path_factory.mktemp("trained") / "heads"))
    rows = [
        {"image": str(study / "images" / f"head_{n}.nii.gz"), "label": str(study / "masks" / f"head_{n}.nii.gz")}
        for n in range(4)
    ]
    handlers = read_config(bundle, "train.yaml")["train#handlers"]
    assert all(isinstance(handler, dict) and "_target_" in handler for handler in handlers)
    file = bundle / "models" / "model.pt"
    loader = {"_target_": "CheckpointLoader", "load_path": str(file), "load_dict": {"model": "$@network"}, "strict": False}
    monai.bundle.run(
        run_id="",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "train.yaml"),
        bundle_root=str(bundle),
        device="cpu",
        **{
            "train#trainer#max_epochs": 1,
            "train#dataset#data": rows[:2],
            "validate#dataset#data": rows[2:],
            "train#handlers": [loader, *handlers],
            "text_epochs": 1,
        },
    )
    return bundle


def test_training_replaces_the_bundles_model(trained: Path, packed: Path) -> None:
    assert (trained / "models" / "model.pt").read_bytes() != (packed / "models" / "model.pt").read_bytes()
    (run,) = (trained / "runs").iterdir()
    assert (run / "training.json").is_file()
    assert [path.name for path in (trained / "models").glob("*.pt")] == ["model.pt"]


def test_training_that_is_repeated_in_a_bundle_changes_nothing_and_repairs_what_a_kill_left(
    bundle: Path, packed: Path, study: Path, tmp_path: Path
) -> None:
    def train() -> None:
        config = {"config_file": str(bundle / "configs" / "train.yaml"), "bundle_root": str(bundle), "device": "cpu"}
        where = {"index": str(study / "train.jsonl"), "output_dir": str(tmp_path / "run")}
        monai.bundle.run("training", **config, **where, text_epochs=1, image_epochs=1)

    train()
    adapters, model = bundle / "models" / "adapters.safetensors", bundle / "models" / "model.pt"
    result = torch.load(model, weights_only=True)
    assert main(["calibrate", "--index", str(study / "normal.jsonl"), "--device", "cpu", "--adapters", str(adapters)]) == 0
    calibrated = adapters.read_bytes()
    shutil.copy(packed / "models" / "model.pt", model)
    train()
    assert adapters.read_bytes() == calibrated
    torch.testing.assert_close(torch.load(model, weights_only=True), result, atol=0.0, rtol=0.0)
    shutil.copy(packed / "models" / "adapters.safetensors", adapters)
    train()
    assert read_checkpoint(adapters).digest == read_checkpoint(tmp_path / "run" / "adapters.safetensors").digest


def test_what_a_bundle_trained_finds_the_bundles_tower_wherever_the_bundle_lies(
    trained: Path, study: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(trained, tmp_path / "elsewhere"))
    for file in (*bundle.glob("runs/*/adapters.safetensors"), bundle / "models" / "adapters.safetensors"):
        assert read_checkpoint(file).config.weights.endswith("tower.safetensors")
        calibrate = ["calibrate", "--index", str(study / "normal.jsonl"), "--device", "cpu", "--adapters"]
        assert main([*calibrate, str(file)]) == 0
        assert main([*calibrate, str(file), "--out", str(tmp_path / "calibrated.safetensors")]) == 0
        assert main([*calibrate, str(tmp_path / "calibrated.safetensors")]) == 0


def score(bundle: Path, scans: Path, out: Path, **settings: str) -> dict[str, Any]:
    """Run the bundle's inference, and ``score`` with the same adapters; returns the account when their heat is the same."""
    run = {"config_file": str(bundle / "configs" / "inference.yaml"), "bundle_root": str(bundle), "device": "cpu"}
    monai.bundle.run("inference", **run, dataset_dir=str(scans), output_dir=str(out / "bundle"), **settings)
    adapters = settings.get("adapters", str(bundle / "models" / "adapters.safetensors"))
    assert main(["score", str(scans), "--adapters", adapters, "--out", str(out / "command"), "--device", "cpu"]) == 0
    for theirs in (out / "bundle").glob("*_heatmap.nii.gz"):
        ours = nib.load(out / "command" / "heatmaps" / theirs.name)
        np.testing.assert_allclose(nib.load(theirs).get_fdata(), ours.get_fdata(), atol=1e-3)
    return dict(json.loads((out / "bundle" / "run.json").read_text()))


def test_adapters_calibrated_in_a_bundle_give_it_the_heat_of_the_command_line(
    trained: Path, study: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(trained, tmp_path / "calibrated"))
    adapters = str(bundle / "models" / "adapters.safetensors")
    assert main(["calibrate", "--index", str(study / "normal.jsonl"), "--device", "cpu", "--adapters", adapters]) == 0
    assert score(bundle, study / "images", tmp_path)["calibrated"]


def test_a_bundle_scores_by_the_adapters_that_it_is_told(packed: Path, trained: Path, study: Path, tmp_path: Path) -> None:
    other = trained / "models" / "adapters.safetensors"
    account = score(packed, study / "images", tmp_path, adapters=str(other))
    assert account["adapters_hash"] == read_checkpoint(other).digest


def test_a_row_without_a_mask_is_refused_by_its_number(study: Path, tmp_path: Path) -> None:
    from aaclip_med.training.dataset import gather_slices

    with pytest.raises(InputError, match="row 1 has image"):
        gather_slices([{"image": str(study / "images" / "head_0.nii.gz")}], "brain-mri", tmp_path)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -3.0])
def test_a_threshold_that_is_no_heat_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        LikelihoodSegmentsd("pred", threshold)


def test_segments_begin_where_heat_is_ten_times_nearer_to_1() -> None:
    heat = torch.tensor([0.0, 0.98, 0.991, 0.9985, 0.9995, 0.99995])
    numbers = LikelihoodSegmentsd("pred", 0.99)({"pred": heat[None]})["pred"]
    assert numbers.tolist() == [[0, 0, 1, 1, 2, 3]]


def test_scans_of_a_folder_are_listed_without_their_masks(study: Path) -> None:
    assert [Path(row["image"]).name for row in list_scans(study / "images")] == [f"head_{n}.nii.gz" for n in range(4)]


def test_a_plain_tensor_has_voxels_of_a_millimetre() -> None:
    (volume,) = to_volumes(torch.zeros(1, 1, 3, 4, 5))
    assert volume.array.shape == (3, 4, 5)
    np.testing.assert_array_equal(volume.affine, np.eye(4))
