"""Adapters on disk: ours, and the released program's pair."""

from __future__ import annotations

import json
import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from towers import TOY_TOWER, toy_state

from aaclip_med import build_detector
from aaclip_med.errors import CheckpointError
from aaclip_med.model.checkpoint import Checkpoint, read_checkpoint, read_released_pair

IMAGES = torch.linspace(-2, 2, 2 * 3 * 160 * 160).view(2, 3, 160, 160).sin()


def checkpoint_of(detector, **about):
    return Checkpoint(detector.config, detector.adapter_state(), detector.tower_hash, **about)


def run(detector):
    with torch.no_grad():
        return detector(IMAGES, detector.encode_noun("scan"))


@pytest.fixture(scope="module")
def tiny():
    return build_detector("tiny", fidelity="paper", levels=(2, 4), image_mix=0.3, text_adapters=2, projection_relu=True, seed=9)


@pytest.fixture(scope="module")
def toy():
    return build_detector(TOY_TOWER, toy_state(), seed=9)


@pytest.fixture
def path(tiny, tmp_path):
    path = tmp_path / "adapters.safetensors"
    path.write_bytes(checkpoint_of(tiny, preset="brain-mri", calibration={"a": [1, 2]}, provenance={"demo": True}).to_bytes())
    return path


def is_one_line_of(caught, path):
    return str(path) in str(caught.value) and "\n" not in str(caught.value)


def rewrite(path, **changes):
    """The same file with entries of its metadata replaced."""
    with safe_open(path, framework="pt") as stored:
        about = json.loads(stored.metadata()["aaclip_med"])
    save_file(load_file(path), path, metadata={"aaclip_med": json.dumps({**about, **changes})})


def test_the_file_alone_rebuilds_the_same_outputs(path, tiny):
    detector = build_detector(adapters=path)
    assert detector.config == tiny.config
    for found, wanted in zip(run(detector), run(tiny), strict=True):
        assert torch.equal(found, wanted)


def test_everything_in_a_checkpoint_comes_back(path, tiny):
    found = read_checkpoint(path)
    assert (found.config, found.tower_hash, found.preset) == (tiny.config, tiny.tower_hash, "brain-mri")
    assert found.calibration == {"a": [1, 2]}
    assert found.is_demo
    assert found.tensors.keys() == tiny.adapter_state().keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tiny.adapter_state().items())


def test_a_given_state_dict_is_asked_for_again_and_recognised(toy, tmp_path):
    path = tmp_path / "adapters.safetensors"
    path.write_bytes(checkpoint_of(toy).to_bytes())
    detector = build_detector(weights=toy_state(), adapters=str(path))
    assert all(torch.equal(detector.adapter_state()[name], tensor) for name, tensor in toy.adapter_state().items())


def test_other_weights_than_the_trained_ones_are_refused(toy, tmp_path):
    path = tmp_path / "adapters.safetensors"
    path.write_bytes(checkpoint_of(toy).to_bytes())
    other = {**toy_state(), "ln_final.bias": toy_state()["ln_final.bias"] + 1.0}
    with pytest.raises(CheckpointError, match=r"trained on a tower with other weights.*--weights") as caught:
        build_detector(weights=other, adapters=path)
    assert is_one_line_of(caught, path)


def test_another_backbone_is_refused(path):
    with pytest.raises(CheckpointError, match="made for backbone 'tiny', not 'ViT-B-32'") as caught:
        build_detector("ViT-B-32", adapters=path)
    assert is_one_line_of(caught, path)


def test_another_fidelity_is_refused(path):
    with pytest.raises(CheckpointError, match="trained with fidelity 'paper', not 'reference'") as caught:
        build_detector(fidelity="reference", adapters=path)
    assert is_one_line_of(caught, path)


def test_the_same_backbone_and_fidelity_may_be_repeated(path):
    assert build_detector("tiny", fidelity="paper", adapters=path).config.fidelity.name == "paper"


def test_another_image_size_is_allowed(path):
    assert build_detector(adapters=path, image_size=80).tower.grid == (10, 10)


def test_adapters_of_another_shape_are_refused_by_name(path, tiny):
    tensors = tiny.adapter_state()
    tensors["text_adapter.0.fc.0.weight"] = torch.ones(3, 3)
    del tensors["image_adapter.det_proj.fc.0.weight"]
    tensors["image_adapter.more"] = torch.ones(1)
    path.write_bytes(Checkpoint(tiny.config, tensors, tiny.tower_hash).to_bytes())
    with pytest.raises(CheckpointError) as caught:
        build_detector(adapters=path)
    assert "image_adapter.det_proj.fc.0.weight is missing" in str(caught.value)
    assert "image_adapter.more is not of this detector" in str(caught.value)
    assert "text_adapter.0.fc.0.weight is (3, 3) instead of (128, 128)" in str(caught.value)
    assert is_one_line_of(caught, path)


def test_a_future_format_asks_for_an_update(path):
    rewrite(path, format="aaclip-med/99")
    with pytest.raises(CheckpointError, match=r"format 'aaclip-med/99' is not 'aaclip-med/1'; update aaclip-med") as caught:
        build_detector(adapters=path)
    assert is_one_line_of(caught, path)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": None},
        {"config": {"backbone": "tiny"}},
        {"config": {"fidelity": {"name": "exact"}}},
        {"format": ["aaclip-med/1"]},
        {"provenance": "made by hand"},
        {"tower_hash": None},
        {"calibration": 3},
        {"preset": 3},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_metadata_of_a_wrong_form_is_refused(path, changes):
    rewrite(path, **changes)
    with pytest.raises(CheckpointError) as caught:
        build_detector(adapters=path)
    assert is_one_line_of(caught, path)


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"aaclip_med": "{"}, {"aaclip_med": "[]"}, {"aaclip_med": "null"}]
)
def test_a_safetensors_file_that_is_not_ours_is_refused(tmp_path, metadata):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(3)}, path, metadata=metadata)
    with pytest.raises(CheckpointError) as caught:
        build_detector(adapters=path)
    assert is_one_line_of(caught, path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"\xff" * 64, b"<html>\n404\n</html>\n"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "adapters.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        build_detector(adapters=path)
    assert is_one_line_of(caught, path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_cut_short_or_with_a_flipped_header_byte_is_refused_or_reads_as_a_checkpoint(data, tiny, tmp_path):
    content = bytearray(Checkpoint(tiny.config, {"a": torch.ones(8)}, tiny.tower_hash).to_bytes())
    path = tmp_path / "adapters.safetensors"
    if data.draw(st.booleans(), label="cut"):
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1), label="length")])
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path)
        assert is_one_line_of(caught, path)
        return
    place = data.draw(st.integers(0, len(content) - 33), label="place")
    content[place] ^= data.draw(st.integers(1, 255), label="flip")
    path.write_bytes(content)
    message = ""
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        message = str(error)
    assert "\n" not in message


def test_adapters_that_are_nowhere_are_named(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"none.safetensors: no such adapters; name a .safetensors file, 'demo' or 'none'"
    ):
        build_detector("tiny", adapters=tmp_path / "none.safetensors")


def test_no_adapters_is_zero_shot():
    detector = build_detector("tiny", adapters="none")
    assert not detector.adapted


def parts(detector):
    state = detector.adapter_state()
    return {
        part: {name.removeprefix(f"{part}."): tensor for name, tensor in state.items() if name.startswith(part)}
        for part in ("text_adapter", "image_adapter")
    }


@pytest.mark.parametrize("wrapped", [True, False])
def test_the_released_pair_is_read_and_its_highest_epoch_taken(toy, tmp_path, wrapped):
    older, newer = parts(build_detector(TOY_TOWER, toy_state(), seed=1)), parts(toy)
    files = {
        "text_adapter.pth": ("text_adapter", newer),
        "image_adapter_9.pth": ("image_adapter", older),
        "image_adapter_10.pth": ("image_adapter", newer),
    }
    for name, (part, state) in files.items():
        torch.save(
            {"epoch": 5, part: state[part], "text_optimizer": {"state": {}}} if wrapped else state[part],
            tmp_path / name,
        )
    torch.save({}, tmp_path / "image_adapter_best.pth")
    detector = build_detector(TOY_TOWER, toy_state(), adapters=tmp_path)
    assert all(torch.equal(detector.adapter_state()[name], tensor) for name, tensor in toy.adapter_state().items())


def save_pair(folder, text, image):
    torch.save(text, folder / "text_adapter.pth")
    torch.save(image, folder / "image_adapter_1.pth")


@pytest.mark.parametrize("missing", ["text_adapter.pth", "image_adapter_1.pth"])
def test_half_a_released_pair_is_refused(toy, tmp_path, missing):
    save_pair(tmp_path, *parts(toy).values())
    (tmp_path / missing).unlink()
    with pytest.raises(CheckpointError, match=r"needs text_adapter.pth and image_adapter_N.pth") as caught:
        build_detector(TOY_TOWER, toy_state(), adapters=tmp_path)
    assert is_one_line_of(caught, tmp_path)


class Payload:
    """Unpickled without care, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_released_pair_with_code_in_it_is_refused_and_not_run(toy, tmp_path):
    text, image = parts(toy).values()
    save_pair(tmp_path, text, {"image_adapter": image, "more": Payload(tmp_path / "it-ran")})
    with pytest.raises(CheckpointError, match="more than tensors") as caught:
        read_released_pair(tmp_path)
    assert is_one_line_of(caught, tmp_path / "image_adapter_1.pth")
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("content", [b"", b"not a torch file", b"PK\x03\x04 not a zip"])
def test_a_damaged_released_pair_is_refused(toy, tmp_path, content):
    save_pair(tmp_path, *parts(toy).values())
    (tmp_path / "text_adapter.pth").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_released_pair(tmp_path)
    assert is_one_line_of(caught, tmp_path / "text_adapter.pth")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 5}, {"text_adapter": 3}])
def test_a_released_pair_without_a_state_dict_is_refused(toy, tmp_path, content):
    save_pair(tmp_path, content, parts(toy)["image_adapter"])
    with pytest.raises(CheckpointError, match="holds no 'text_adapter' state dict"):
        read_released_pair(tmp_path)


def test_a_released_pair_of_another_tower_is_refused(toy, tmp_path):
    save_pair(tmp_path, *parts(toy).values())
    with pytest.raises(CheckpointError, match=r"belongs to another tower.*name the backbone it was made for") as caught:
        build_detector("tiny", adapters=tmp_path)
    assert is_one_line_of(caught, tmp_path)
