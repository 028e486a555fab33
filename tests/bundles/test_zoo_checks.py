"""The model zoo's checks of a bundle in ``full`` mode: schema, network in and out, TorchScript by script, properties."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import jsonschema
import monai.bundle
import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow

from aaclip_med.errors import InputError
from aaclip_med.inference.network import load_network
from aaclip_med.zoo.failures import MONAI, find_cause, speak_plainly
from tests.bundles.conftest import TEMPLATE

SCHEMA = Path(__file__).with_name("meta_schema_20240725.json")
"""MONAI's own, Apache-2.0, from its MONAI-extra-test-data, release 0.8.1."""
NEEDED = ("LICENSE", "large_files.yml", "docs/README.md", "docs/data_license.txt", "docs/model_card.md", "configs/logging.conf")
REFUSED = [
    ("precision", "int8", "precision 'int8' is for scoring"),
    ("image_epochs", 0, "image_epochs 0: take a whole number from 1"),
    ("text_epochs", "two", "text_epochs 'two'"),
    ("image_batch_size", 0, "image_batch_size 0"),
    ("text_batch_size", 1.5, "text_batch_size 1.5"),
    ("validation_batch_size", True, "validation_batch_size True"),
    ("val_interval", 0, "val_interval 0"),
    ("text_draws", 0, "text_draws 0: take a whole number from 1"),
    ("workers", -1, "workers -1: take a whole number from 0"),
    ("seed", -1, "seed -1: take a whole number from 0 to 4294967295"),
    ("seed", 2**32, "seed 4294967296"),
    ("image_learning_rate", "1e-5", "image_learning_rate '1e-5': take a number, such as 0.0005"),
    ("text_learning_rate", -0.1, "text_learning_rate -0.1"),
]
OVERLAYS = ("multi_gpu_train.yaml", "multi_gpu_evaluate.yaml", "inference_trt.yaml")

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file", "ignore:.*torch.jit:FutureWarning")


def load_workflow(folder: Path, kind: str, files: list[str], **settings: Any) -> ConfigWorkflow:
    configs = [str(folder / "configs" / name) for name in files]
    workflow = ConfigWorkflow(configs, logging_file=False, workflow_type=kind, bundle_root=str(folder), **settings)
    workflow.initialize()
    return workflow


def test_a_bundle_has_the_files_that_the_zoo_looks_for(packed: Path) -> None:
    assert [name for name in NEEDED if not (packed / name).is_file()] == []
    assert (packed / "models" / "model.pt").is_file()
    assert yaml.safe_load((packed / "large_files.yml").read_text()) == {"large_files": []}


def test_the_metadata_follow_the_schema(packed: Path) -> None:
    schema = json.loads(SCHEMA.read_text())
    for folder in (TEMPLATE, packed):
        metadata = json.loads((folder / "configs" / "metadata.json").read_text())
        jsonschema.validate(metadata, schema)
        assert metadata["schema"].endswith(SCHEMA.name)
        assert metadata["changelog"][metadata["version"]]


@pytest.mark.parametrize("config", ["inference.yaml", "train.yaml"])
def test_the_network_takes_and_gives_what_the_metadata_say(packed: Path, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(packed)
    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file="configs/metadata.json",
        config_file=f"configs/{config}",
        device="cpu",
        any=24,
    )


def test_the_checkpoint_becomes_torchscript_by_script_with_the_same_heat(
    packed: Path, adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(packed)
    file = tmp_path / "model.ts"
    monai.bundle.ckpt_export(
        net_id="network_def",
        filepath=str(file),
        ckpt_file="models/model.pt",
        meta_file="configs/metadata.json",
        config_file="configs/inference.yaml",
        key_in_ckpt="",
        use_trace=False,
    )
    pictures = torch.rand(2, 1, 30, 41, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(file)(pictures), load_network(adapters)(pictures), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize(
    ("kind", "files"),
    [("train", ["train.yaml"]), ("inference", ["inference.yaml"]), ("evaluation", ["inference.yaml", "evaluate.yaml"])],
)
def test_no_property_of_a_workflow_is_missing(packed: Path, study: Path, tmp_path: Path, kind: str, files: list[str]) -> None:
    where = {"dataset_dir": str(study / "images")} if kind == "inference" else {"index": str(study / "train.jsonl")}
    workflow = load_workflow(packed, kind, files, output_dir=str(tmp_path), **where)
    assert workflow.check_properties() == []


@pytest.mark.parametrize(("wrong", "right"), [("treshold", "threshold"), ("batch_sise", "batch_size")])
def test_a_misspelt_setting_is_an_error_that_names_the_right_one(packed: Path, wrong: str, right: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        load_workflow(packed, "inference", ["inference.yaml"], **{wrong: 3})
    cause = find_cause(caught.value, InputError)
    assert f"did you mean '{right}'" in str(cause)


@pytest.mark.parametrize("files", [["train.yaml"], ["train.yaml", "multi_gpu_train.yaml"]])
@pytest.mark.parametrize(("name", "value", "said"), REFUSED)
def test_a_value_that_no_training_can_be_done_with_is_refused_before_it_begins(
    packed: Path, files: list[str], name: str, value: object, said: str
) -> None:
    with pytest.raises(RuntimeError) as caught:
        load_workflow(packed, "train", files, **{name: value})
    assert said in str(find_cause(caught.value, InputError))


def test_at_monais_command_line_a_misspelt_setting_ends_the_run_in_one_line(packed: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--bundle_root", str(packed)]
    command += ["--config_file", str(packed / "configs" / "inference.yaml"), "--treshold", "0.5"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert run.stderr.splitlines()[-1] == "aaclip-med: the bundle has no setting 'treshold'; did you mean 'threshold'?"


def test_an_error_that_nobody_foresaw_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec(MONAI, None))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    speak_plainly()
    for cause in (ZeroDivisionError("no foresight"), None):
        error = RuntimeError("wrapped")
        error.__cause__ = cause
        sys.excepthook(RuntimeError, error, None)
        assert "RuntimeError: wrapped" in capsys.readouterr().err


def test_under_another_program_than_monais_nothing_is_hooked() -> None:
    before = sys.excepthook
    speak_plainly()
    assert sys.excepthook is before


def test_names_of_ones_own_begin_with_an_underscore(packed: Path) -> None:
    load_workflow(packed, "inference", ["inference.yaml"], _mine=3)
    with pytest.raises(RuntimeError) as caught:
        load_workflow(packed, "inference", ["inference.yaml"], quite_another_thing=3)
    assert "begin with an underscore" in str(find_cause(caught.value, InputError))


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_changes_only_what_is_there(name: str) -> None:
    known: set[str] = set()
    for file in ("train.yaml", "inference.yaml", "evaluate.yaml"):
        known |= set(yaml.safe_load((TEMPLATE / "configs" / file).read_text()))
    overlay = yaml.safe_load((TEMPLATE / "configs" / name).read_text())
    assert {key.removeprefix("+").split("::")[0] for key in overlay} <= known | {"finalize"}
