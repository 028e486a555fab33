"""Precisions, packed weights and dropped background: what they change, and what they do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from towers import TOY_TOWER, toy_state

from aaclip_med import build_detector
from aaclip_med.errors import InputError
from aaclip_med.model import attention, towers
from aaclip_med.model import detector as detector_module
from aaclip_med.model.adapters import mix
from aaclip_med.model.attention import Block, attend
from aaclip_med.model.linear import PlainLinear, has_onednn
from aaclip_med.model.precision import choose_device, choose_dtype, choose_gpu_dtype
from aaclip_med.model.preprocess import find_foreground, normalise_slices

CPU = torch.device("cpu")
needs_onednn = pytest.mark.skipif(not has_onednn(), reason="needs an x86 processor and oneDNN")


@pytest.fixture(scope="module")
def heads() -> torch.Tensor:
    """Slices (3, 3, 160, 160) of discs with texture on black, normalised."""
    generator = torch.Generator().manual_seed(1)
    rows, columns = torch.meshgrid(torch.arange(160), torch.arange(160), indexing="ij")
    discs = torch.stack([((rows - 80) ** 2 + (columns - 70) ** 2) < radius**2 for radius in (50, 60, 40)]).unsqueeze(1)
    return normalise_slices(discs * (0.3 + 0.6 * torch.rand(3, 1, 160, 160, generator=generator)))


class Waits(TorchDispatchMode):
    """Notes what a GPU's values would be waited for."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masked = any(tensor.dtype == torch.bool for tensor in tree_leaves(args[1:2]) if isinstance(tensor, torch.Tensor))
        if func._schema.name in ("aten::nonzero", "aten::_local_scalar_dense") or (
            "aten::index" in func._schema.name and masked
        ):
            self.found.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def score(heads, dtype=None, drop_background=False):
    detector = build_detector("tiny").eval()
    with torch.inference_mode():
        anchors = detector.encode_noun("scan")
        if dtype is not None or drop_background:
            detector.prepare_inference(dtype or torch.float32, drop_background)
        return detector(heads, anchors)


def correlate(one, other):
    return np.corrcoef(one.flatten().numpy(), other.flatten().numpy())[0, 1]


def test_packed_float32_is_float32(heads):
    for found, wanted in zip(score(heads, torch.float32), score(heads), strict=True):
        assert_close(found, wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("dtype", "least"), [(torch.bfloat16, 0.999), (torch.int8, 0.995)])
@needs_onednn
def test_heatmaps_of_fewer_bits_are_almost_those_of_float32(heads, dtype, least):
    (found, scores), (wanted, full_scores) = score(heads, dtype), score(heads)
    assert correlate(found, wanted) > least
    assert found.dtype == scores.dtype == torch.float32
    assert_close(scores, full_scores, rtol=0, atol=0.02)
    assert not torch.equal(found, wanted)


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_a_prepared_towers_slice_scores_the_same_alone_and_in_company(heads, dtype):
    together, alone = score(heads, dtype)[0], score(heads[:1], dtype)[0]
    assert_close(alone, together[:1], rtol=0, atol=1e-3 if dtype == torch.float32 else 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prepared_tower_gives_its_first_weights_back(dtype):
    detector = build_detector("tiny").eval()
    full = sum(parameter.numel() for parameter in detector.tower.clip.visual.parameters())
    detector.prepare_inference(dtype)
    assert sum(parameter.numel() for parameter in detector.tower.clip.visual.parameters()) < full / 5
    with pytest.raises(ValueError, match="load it anew"):
        detector.prepare_inference(torch.float16)
    if has_onednn(dtype):
        with pytest.raises(TypeError, match="value-value attention is for training"):
            detector.encode_values(torch.zeros(1, 401, 128, dtype=dtype), torch.zeros(1, 128))


@pytest.mark.parametrize("direction", ["across_batch", "across_positions"])
def test_stage_1_sees_the_same_in_parts(monkeypatch, direction):
    detector = build_detector(TOY_TOWER, toy_state(), value_attention=direction).eval()
    images = torch.randn(5, 3, 20, 20, generator=torch.Generator().manual_seed(6))
    with torch.inference_mode():
        whole = detector.encode_value_image(images)
        monkeypatch.setattr(detector_module, "ROWS_OF_STAGE_ONE", 60)
        parts = detector.encode_value_image(images)
    for found, wanted in zip((*parts.levels, parts.detection), (*whole.levels, whole.detection), strict=True):
        assert_close(found, wanted, rtol=0, atol=1e-6)


@needs_onednn
def test_with_8_bits_a_slice_is_scored_alone_whatever_lies_beside_it(heads):
    bright = torch.cat([heads[:1], heads[1:2] * 9])
    assert_close(score(heads[:1], torch.int8)[0], score(bright, torch.int8)[0][:1], rtol=0, atol=1e-3)


def test_a_tower_that_found_no_memory_for_another_form_can_be_prepared_again(monkeypatch, heads):
    wanted, detector, made = score(heads, torch.bfloat16), build_detector("tiny").eval(), []

    def build(*arguments):
        made.append(arguments)
        if len(made) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Block(*arguments)

    with torch.inference_mode():
        anchors = detector.encode_noun("scan")
        monkeypatch.setattr(towers, "Block", build)
        with pytest.raises(torch.OutOfMemoryError):
            detector.prepare_inference(torch.bfloat16)
        found = detector.prepare_inference(torch.bfloat16)(heads, anchors)
    assert torch.equal(found[0], wanted[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
def test_towers_that_scale_their_layers_run_in_every_precision(dtype):
    if dtype == torch.int8 and not has_onednn():
        pytest.skip("needs an x86 processor and oneDNN")
    tower = TOY_TOWER | {"vision_cfg": TOY_TOWER["vision_cfg"] | {"ls_init_value": 0.1}}
    names = [f"visual.transformer.resblocks.{number}.{name}.gamma" for number in range(8) for name in ("ls_1", "ls_2")]
    detector = build_detector(tower, toy_state() | {name: torch.linspace(0.5, 0.9, 64) for name in names}).eval()
    images = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        wanted = detector.encode_image(images).detection
        found = detector.prepare_inference(dtype).encode_image(images).detection
    assert_close(found, wanted, rtol=0, atol=0.03)


def test_a_prepared_tower_stays_where_it_is():
    detector = build_detector(TOY_TOWER, toy_state()).eval().prepare_inference(torch.float32)
    assert detector.to("cpu") is detector
    with pytest.raises(ValueError, match="prepared on cpu and stays there; move it before"):
        detector.to("meta")
    assert {parameter.device.type for parameter in detector.parameters()} == {"cpu"}
    assert build_detector(TOY_TOWER, toy_state()).to("meta").device.type == "meta"


def test_8_bits_are_refused_on_another_device_than_a_cpu():
    detector = build_detector(TOY_TOWER, toy_state()).to("meta")
    with pytest.raises(InputError, match="precision 'int8' is for x86 processors"):
        detector.prepare_inference(torch.int8)


def test_a_processor_without_bf16_kernels_computes_in_bf16_nevertheless(heads, monkeypatch):
    exact = score(heads)[0]
    monkeypatch.setattr(detector_module, "has_onednn", lambda dtype=torch.float32: dtype != torch.bfloat16)
    monkeypatch.setattr(attention, "has_onednn", lambda dtype=torch.float32: dtype != torch.bfloat16)
    monkeypatch.setattr(attention, "LONG", 64)
    monkeypatch.setattr(attention, "attend_by_heads", None)
    assert np.corrcoef(score(heads, torch.bfloat16)[0].flatten(), exact.flatten())[0, 1] > 0.999


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("shift", [0.0, -60.0, 60.0, 300.0])
def test_attention_head_by_head_is_attention_however_large_its_products_are(dtype, tolerance, shift):
    generator = torch.Generator().manual_seed(2)
    query, key, value = (torch.randn(2, 4, 530, 16, generator=generator) for _ in range(3))
    query[..., 0], key[:, 1:, :, 0] = 4.0, shift  # all products of three heads of four are so much larger
    query, key, value = (part.to(dtype) for part in (query, key, value))
    wanted = torch.nn.functional.scaled_dot_product_attention(*(part.double() for part in (query, key, value)))
    with torch.no_grad():
        found = attend(query, key, value)
        scaled = attend(query / 4.0, key, value, scaled=True)
    assert found.shape == (2, 530, 64)
    assert torch.equal(found, scaled)
    if dtype == torch.float32 or shift == 0.0:  # bf16 cannot tell large products from each other
        assert_close(found.double(), wanted.transpose(1, 2).flatten(2), rtol=0, atol=tolerance)
    assert found.isfinite().all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)])
@pytest.mark.parametrize("shift", [0.0, 8.0, 60.0])
def test_gradients_of_attention_head_by_head_are_those_of_attention(dtype, tolerance, shift):
    generator = torch.Generator().manual_seed(2)
    query, key, value, given = (torch.randn(2, 4, 530, 16, generator=generator) for _ in range(4))
    query[..., 0], key[:, 1:, :, 0] = 4.0, shift  # all products of three heads of four are so much larger
    query, key, value = (part.to(dtype).requires_grad_() for part in (query, key, value))
    exact = [part.detach().double().requires_grad_() for part in (query, key, value)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*exact)
    wanted.backward(given.double())
    attend(query, key, value).backward(given.transpose(1, 2).flatten(2).to(dtype))
    if dtype == torch.float32 or shift == 0.0:  # bf16 cannot tell large products from each other
        for found, right in zip((query, key, value), exact, strict=True):
            assert (found.grad.double() - right.grad).norm() < tolerance * right.grad.norm()
    assert all(part.grad.isfinite().all() for part in (query, key, value))


@needs_onednn
def test_a_token_that_is_no_number_is_not_hidden():
    query, key, value = torch.randn(3, 1, 2, 530, 16, generator=torch.Generator().manual_seed(2))
    query[0, 0, 7, 3] = torch.nan
    with torch.no_grad():
        found = attend(query, key, value)
    assert found[0, 7, :16].isnan().all()
    assert found[0, 7, 16:].isfinite().all()


def test_gradients_pass_a_frozen_linear_map_and_leave_it_alone():
    generator = torch.Generator().manual_seed(3)
    weight, bias, tokens = (torch.randn(*shape, generator=generator) for shape in ((7, 5), (7,), (2, 3, 5)))
    tokens.requires_grad_()
    (PlainLinear(weight, bias)(tokens) ** 2).sum().backward()
    again = tokens.detach().double().requires_grad_()
    (torch.nn.functional.linear(again, weight.double(), bias.double()) ** 2).sum().backward()
    assert_close(tokens.grad.double(), again.grad, rtol=1e-4, atol=1e-4)
    assert weight.grad is None


def test_a_block_is_open_clips_own(monkeypatch):
    clip = build_detector(TOY_TOWER, toy_state()).tower.clip
    tokens = torch.randn(5, 26, 64, generator=torch.Generator().manual_seed(4))
    block = clip.visual.transformer.resblocks[0]
    monkeypatch.setattr(attention, "ROWS_AT_ONCE", 60)
    with torch.no_grad():
        assert_close(Block(block)(tokens), block(tokens), rtol=0, atol=1e-5)
        joined = torch.cat([tokens[:1, :9], tokens[1:2]], dim=1)
        found = Block(block)(joined, [9, 26])
        assert_close(found[:, :9], block(tokens[:1, :9]), rtol=0, atol=1e-5)
        assert_close(found[:, 9:], block(tokens[1:2]), rtol=0, atol=1e-5)
    with torch.enable_grad():
        assert_close(Block(block)(joined, [9, 26]), found, rtol=0, atol=1e-5)


def test_dropping_background_changes_little_where_adapters_know_what_to_look_for(heads):
    detector = build_detector(adapters="demo", preset="liver-ct").eval()
    with torch.inference_mode():
        anchors = detector.encode_noun("scan")
        wanted, _ = detector(heads, anchors)
        found, _ = detector.prepare_inference(torch.float32, drop_background=True)(heads, anchors)
    inside = (heads > heads.amin()).any(dim=1, keepdim=True)
    assert correlate(found[inside], wanted[inside]) > 0.8
    assert not torch.equal(found, wanted)


def test_dropping_background_changes_nothing_where_there_is_none():
    images = normalise_slices(torch.rand(2, 1, 160, 160, generator=torch.Generator().manual_seed(5)) * 0.5 + 0.2)
    for found, wanted in zip(score(images, drop_background=True), score(images), strict=True):
        assert_close(found, wanted, rtol=0, atol=1e-3)


def test_a_slice_with_dropped_background_scores_the_same_alone(heads):
    together, alone = score(heads, drop_background=True)[0], score(heads[1:2], drop_background=True)[0]
    assert_close(alone, together[1:2], rtol=0, atol=1e-3)


def test_dropped_background_is_looked_for_once_a_batch(heads):
    detector = build_detector("tiny").eval()
    with torch.inference_mode():
        detector.prepare_inference(torch.float32, drop_background=True)
        with Waits() as waits:
            detector.encode_image(heads)
    assert waits.found == ["aten::nonzero"]


def test_foreground_is_every_patch_with_something_in_it():
    images = torch.zeros(3, 1, 20, 20)
    images[0, 0, 5, 9] = 0.01
    images[1, 0, 16:, :4] = 1.0
    foreground = find_foreground(normalise_slices(images), 4)
    assert foreground[0].nonzero().flatten().tolist() == [1 * 5 + 2]
    assert foreground[1].nonzero().flatten().tolist() == [4 * 5]
    assert foreground[2].all()


def test_precisions_that_a_device_does_not_have_are_refused():
    with pytest.raises(InputError, match="precision 'fp16' needs a GPU"):
        choose_dtype("fp16", CPU)
    with pytest.raises(InputError, match="precision 'int8' is for x86 processors"):
        choose_dtype("int8", torch.device("cuda"))
    with pytest.raises(InputError, match="unknown precision 'int4'"):
        choose_dtype("int4", CPU)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((6, 1), torch.float32),
        ((7, 0), torch.float16),
        ((7, 5), torch.float16),
        ((8, 0), torch.bfloat16),
        ((8, 9), torch.bfloat16),
        ((9, 0), torch.bfloat16),
        ((12, 0), torch.bfloat16),
    ],
)
def test_a_gpu_computes_in_what_it_does_by_itself(capability, dtype):
    assert choose_gpu_dtype(capability) == dtype


@pytest.mark.parametrize("name", ["meta", "mps", "xpu", "cuda:7", "tpu", "cuda:-1"])
def test_a_device_that_cannot_be_used_is_refused_and_those_that_can_are_named(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=f"device '{name}'.*take auto, or what this machine has: cpu, cuda:0, cuda:1"):
        choose_device(name)


def test_convolutions_on_a_chosen_gpu_are_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert choose_device("cpu").type == "cpu"
    assert torch.backends.cudnn.allow_tf32
    assert [str(choose_device(name)) for name in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    assert not torch.backends.cudnn.allow_tf32


def test_large_tokens_in_fp16_are_mixed_without_passing_its_range():
    generator = torch.Generator().manual_seed(6)
    tokens, adapted = (300.0 * torch.randn(2, 5, 64, generator=generator) for _ in range(2))
    found = mix(tokens.half(), adapted.half(), 0.1)
    assert_close(found.float(), mix(tokens, adapted, 0.1), rtol=0, atol=1.0)
