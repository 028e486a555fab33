"""Weights from every kind of file that CLIP is passed around in."""

from __future__ import annotations

import os
import pickle
import re
import zipfile

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from towers import TOY_TOWER, toy_state

from aaclip_med import build_detector
from aaclip_med.errors import WeightsError
from aaclip_med.model.weights import read_state

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:Detected pickle protocol:UserWarning")

IMAGES = torch.linspace(-2, 2, 2 * 3 * 20 * 20).view(2, 3, 20, 20).sin()
TINY_HASH = "9e4becc1eb834dcd9f5479c6f0ca853526738a92ca7a2a52865cf50e027527e5"


@pytest.fixture(scope="module")
def plain():
    return build_detector(TOY_TOWER, toy_state())


def run(detector):
    with torch.no_grad():
        anchors = detector.encode_noun("scan")
        return *detector(IMAGES, anchors), anchors


def agrees(detector, other):
    return all(torch.equal(a, b) for a, b in zip(run(detector), run(other), strict=True))


class Archive(nn.Module):
    """A module that holds a state dict's tensors under the same names, as OpenAI's archives do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def save_archive(state, path):
    root = Archive()
    numbers = {"input_resolution": 20, "context_length": 77, "vocab_size": 49408}
    for name, tensor in {**state, **{key: torch.tensor(value) for key, value in numbers.items()}}.items():
        *parents, leaf = name.split(".")
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, Archive())
            module = module._modules[parent]
        module.register_buffer(leaf, tensor)
    torch.jit.script(root).save(str(path))


def save_prefixed(state, path):
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)


WRITERS = {
    "clip.safetensors": lambda state, path: save_file(state, path),
    "clip.pt": lambda state, path: torch.save(state, path),
    "clip.bin": save_prefixed,
    "legacy.pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "ViT-toy.pt": save_archive,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_outputs_as_its_state_dict(name, tmp_path, plain):
    WRITERS[name](toy_state(), tmp_path / name)
    detector = build_detector(TOY_TOWER, tmp_path / name)
    assert agrees(detector, plain)
    assert detector.tower_hash == plain.tower_hash
    assert detector.config.weights == str(tmp_path / name)


def test_half_precision_archives_are_widened_to_float32(tmp_path):
    halves = {name: tensor.half() for name, tensor in toy_state().items()}
    save_archive(halves, tmp_path / "ViT-toy.pt")
    detector = build_detector(TOY_TOWER, str(tmp_path / "ViT-toy.pt"))
    wanted = build_detector(TOY_TOWER, {name: tensor.float() for name, tensor in halves.items()})
    assert {parameter.dtype for parameter in detector.parameters()} == {torch.float32}
    assert agrees(detector, wanted)
    assert detector.tower_hash == wanted.tower_hash


def test_the_hash_does_not_depend_on_the_image_size(plain):
    assert build_detector(TOY_TOWER, toy_state(), image_size=28).tower_hash == plain.tower_hash


def test_the_hash_depends_on_every_tensor(plain):
    state = {**toy_state(), "ln_final.bias": toy_state()["ln_final.bias"] + 1e-6}
    assert build_detector(TOY_TOWER, state).tower_hash != plain.tower_hash


class Payload:
    """Unpickled without care, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_a_file_with_code_in_it_is_refused_and_not_run(kind, tmp_path):
    path, trace = tmp_path / "weights.pt", tmp_path / "it-ran"
    if kind == "torch":
        torch.save({"state_dict": toy_state(), "more": Payload(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(WeightsError, match="more than tensors") as caught:
        build_detector(TOY_TOWER, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def corrupt_safetensors(path):
    save_file({"a": torch.ones(9)}, path)
    path.write_bytes(path.read_bytes()[:-8])


def truncate_torch(path):
    torch.save({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:500])


def truncate_archive(path):
    save_archive({"a": torch.ones(9)}, path)
    path.write_bytes(path.read_bytes()[:300])


def break_directory(path):
    save_archive({"a": torch.ones(9)}, path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"PK\x01\x02", b"XX\x01\x02"))


def empty_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/constants.pkl", b"")


DAMAGES = {
    "short.safetensors": corrupt_safetensors,
    "short.pt": truncate_torch,
    "archive.pt": truncate_archive,
    "directory.pt": break_directory,
    "hollow.pt": empty_archive,
    "empty.pt": lambda path: path.write_bytes(b""),
    "text.pt": lambda path: path.write_text("404 Not Found"),
    "empty.safetensors": lambda path: path.write_bytes(b""),
    "list.pt": lambda path: torch.save([torch.ones(2)], path),
    "numbers.pt": lambda path: torch.save({"epoch": 3}, path),
    "nothing.pt": lambda path: torch.save({}, path),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_or_foreign_file_is_named_in_one_line(name, tmp_path):
    DAMAGES[name](tmp_path / name)
    with pytest.raises(WeightsError) as caught:
        read_state(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match="no such weights file"):
        read_state(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"ln_final.weight": None}, "ln_final.weight is missing"),
        ({"visual.head.weight": torch.ones(2)}, "visual.head.weight is not of this tower"),
        ({"visual.proj": torch.ones(64, 16)}, "visual.proj is (64, 16) instead of (64, 32)"),
        (
            {"visual.positional_embedding": torch.ones(24, 64)},
            "visual.positional_embedding is (24, 64) instead of (26, 64)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(changes, fault):
    state = {name: tensor for name, tensor in {**toy_state(), **changes}.items() if tensor is not None}
    with pytest.raises(WeightsError, match=re.escape(fault)):
        build_detector(TOY_TOWER, state)


def test_another_towers_weights_name_three_faults_and_count_the_rest():
    with pytest.raises(WeightsError, match=r"and \d+ more; name the backbone it was made for"):
        build_detector("tiny", toy_state())


def test_an_unknown_tag_lists_the_known_ones():
    with pytest.raises(WeightsError, match=r"weights 'openia'.*backbone 'ViT-B-32'; its tags are openai, laion400m_e31"):
        build_detector("ViT-B-32", "openia", image_size=160)


def test_a_configuration_has_no_tags(tmp_path):
    with pytest.raises(WeightsError, match=r"no such file, and no tag of backbone '\(configuration\)'"):
        build_detector(TOY_TOWER, tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("tag", "file"),
    [
        ("openai", "https://openaipublic.azureedge.net/clip/models/[0-9a-f]+/ViT-B-32.pt"),
        (
            "laion2b_s34b_b79k",
            "https://huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K.*open_clip_pytorch_model.bin",
        ),
    ],
)
def test_a_download_that_fails_says_what_to_fetch_and_where_to_pass_it(tag, file, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=rf"weights '{tag}' of ViT-B-32 .*fetch {file}.*--weights FILE") as caught:
        build_detector("ViT-B-32", tag, image_size=160)
    assert "\n" not in str(caught.value)


def test_tiny_is_the_same_tower_each_time():
    assert build_detector("tiny").tower_hash == build_detector("tiny").tower_hash == TINY_HASH


def test_tiny_is_the_same_tower_at_every_image_size():
    assert build_detector("tiny", image_size=80).tower_hash == TINY_HASH


def test_the_tiny_weights_are_of_the_tiny_tower_alone():
    with pytest.raises(WeightsError, match="weights 'tiny': no such file, and no tag of backbone"):
        build_detector(TOY_TOWER, "tiny")


def test_tiny_needs_no_network(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    detector = build_detector("tiny")
    assert detector.config.weights == "tiny"
    assert detector.config.image_size == 160


def test_a_configuration_without_weights_asks_for_them():
    with pytest.raises(ValueError, match="needs weights: a state dict or a file"):
        build_detector(TOY_TOWER)
