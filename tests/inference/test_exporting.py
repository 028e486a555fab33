"""The model for other runtimes computes what torch computes, for any number and size of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aaclip_med.cli.main import main
from aaclip_med.errors import InputError
from aaclip_med.inference.engines import load_engine
from aaclip_med.inference.exporting import ABOUT
from aaclip_med.inference.network import build_network, sample_scale
from aaclip_med.inference.predictor import Predictor, load_predictor
from aaclip_med.model.heatmap import HeatmapNetwork, resample
from aaclip_med.model.onnx_engine import OnnxEngine, choose_providers
from aaclip_med.model.preprocess import resize_slices
from tests.cli.conftest import study  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_predictor("demo", "liver-ct", image_size=80, device="cpu")


@pytest.fixture(scope="module")
def network(predictor: Predictor) -> HeatmapNetwork:
    return build_network(predictor)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each format: two from the command line, and the one that an engine keeps."""
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("exported")
    made = {}
    for form, ending in (("torchscript", ".ts"), ("torch-export", ".pt2")):
        made[form] = folder / f"model{ending}"
        assert main(["export", "--format", form, "--adapters", "demo", "--preset", "liver-ct", "--out", str(made[form])]) == 0
    load_engine(load_predictor("demo", "liver-ct", device="cpu"), folder / "kept")
    (made["onnx"],) = (folder / "kept").iterdir()
    return made


def draw(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_the_network_gives_the_predictors_scores(predictor: Predictor, network: HeatmapNetwork) -> None:
    pictures = draw(3, 1, 50, 64)
    scores = predictor.score_slices(pictures[:, 0].numpy())
    with torch.no_grad():
        log_odds, detection = network.score(pictures)
    np.testing.assert_allclose(log_odds.numpy(), scores.log_odds, atol=1e-4)
    np.testing.assert_allclose(detection.numpy(), scores.detection, atol=1e-5)


def test_the_scale_is_the_predictors(predictor: Predictor) -> None:
    scale = sample_scale(predictor.calibration)
    odds = np.linspace(-12, 12, 4001)
    np.testing.assert_allclose(np.interp(odds, scale.log_odds, scale.heat), predictor.rescale(odds), atol=1e-4)
    uncalibrated = sample_scale(None)
    np.testing.assert_allclose(
        np.interp(odds, uncalibrated.log_odds, uncalibrated.heat), 1.0 / (1.0 + np.exp(-odds)), atol=1e-5
    )


def test_a_state_dict_holds_no_tower_and_is_loaded_without_one(network: HeatmapNetwork) -> None:
    state = network.state_dict()
    assert not [name for name in state if ".block." in name or name.startswith("conv1")]
    other = build_network(load_predictor("demo", "brain-mri", image_size=80, device="cpu"))
    other.load_state_dict(state)
    pictures = draw(1, 1, 33, 44)
    with torch.no_grad():
        assert torch.equal(other(pictures), network(pictures))


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), size=st.integers(20, 160))
def test_the_product_of_matrices_resizes_as_torch_does(height: int, width: int, size: int) -> None:
    pictures = draw(1, 1, height, width)
    torch.testing.assert_close(resample(pictures, size), resize_slices(pictures, size), atol=2e-6, rtol=0.0)


def test_every_format_computes_the_same_heat_for_any_batch_and_size(files: dict[str, Path]) -> None:
    network = build_network(load_predictor("demo", "liver-ct", device="cpu"))
    scripted = torch.jit.load(files["torchscript"])
    program = torch.export.load(files["torch-export"]).module()
    engine = OnnxEngine(files["onnx"])
    for shape in ((1, 3, 31, 200), (4, 3, 96, 96)):
        pictures = draw(*shape)
        with torch.no_grad():
            heat, (log_odds, detection) = network(pictures), network.score(pictures)
            for other in (scripted(pictures), program(pictures)[0], engine.draw(pictures)):
                torch.testing.assert_close(other, heat, atol=1e-4, rtol=0.0)
            for ours, theirs in zip((log_odds, detection), engine.score(pictures), strict=True):
                torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0.0)


def test_an_engine_takes_the_file_that_it_kept(files: dict[str, Path]) -> None:
    written = files["onnx"].stat().st_mtime_ns
    load_engine(load_predictor("demo", "liver-ct", device="cpu"), files["onnx"].parent)
    assert files["onnx"].stat().st_mtime_ns == written
    assert list(files["onnx"].parent.iterdir()) == [files["onnx"]]


def test_an_exported_file_says_what_it_is(files: dict[str, Path]) -> None:
    import onnx

    held = {ABOUT: ""}
    torch.jit.load(files["torchscript"], _extra_files=held)
    about = json.loads(held[ABOUT])
    assert about["preset"] == "liver-ct"
    assert about["demonstration"] is True
    (entry,) = [entry for entry in onnx.load(files["onnx"]).metadata_props if entry.key == ABOUT]
    assert json.loads(entry.value)["adapters_hash"] == about["adapters_hash"]


def test_an_engine_refuses_a_precision_that_it_would_pass_over(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="computes in float32, not bfloat16; take --precision float32"):
        load_engine(load_predictor("demo", "liver-ct", device="cpu", precision="bf16"), tmp_path)


def test_what_is_no_onnx_file_is_refused(study: Path) -> None:  # noqa: F811
    with pytest.raises(InputError, match="not a readable ONNX file"):
        OnnxEngine(study / "images" / "head_0.nii.gz")


def test_a_name_that_does_not_suit_the_format_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--format", "onnx", "--adapters", "demo", "--out", str(tmp_path / "model.ts")]) == 2
    assert "ends in .onnx" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_onnx_runtime_takes_the_gpu_that_is_named_where_it_has_one() -> None:
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    first, last = choose_providers(torch.device("cuda:1"), both)
    assert (first[0], first[1]["device_id"], last) == ("CUDAExecutionProvider", "1", "CPUExecutionProvider")
    assert choose_providers(torch.device("cuda"), both)[0][1]["device_id"] == "0"
    assert choose_providers(torch.device("cuda:1"), both[1:]) == choose_providers(torch.device("cpu"), both) == both[1:]
