"""The number of slices at once where nobody says."""

from __future__ import annotations

import pytest
import torch

from aaclip_med import build_detector
from aaclip_med.inference.memory import choose_batch_size, fit_batch
from aaclip_med.inference.predictor import Predictor
from aaclip_med.model.attention import ROWS_AT_ONCE
from aaclip_med.presets import get_preset

GIB = 2**30


@pytest.fixture(scope="module")
def detector():
    return build_detector("tiny")


def test_a_cpu_takes_as_many_slices_as_it_computes_at_once(detector):
    tokens = detector.tower.grid[0] * detector.tower.grid[1] + 1
    count = choose_batch_size(detector, torch.device("cpu"))
    assert count * tokens <= ROWS_AT_ONCE < (count + 1) * tokens
    assert Predictor(detector, get_preset("brain-mri"), device="cpu").batch_size == count
    assert Predictor(detector, get_preset("brain-mri"), device="cpu", batch_size=3).batch_size == 3


def test_a_gpu_takes_halves_of_thirty_two_until_half_of_its_free_memory_holds_them(detector):
    counts = [fit_batch(free, detector) for free in (80 * GIB, GIB, GIB // 4, GIB // 16, GIB // 64, 0)]
    assert counts[0] == 32
    assert counts[-1] == 1
    assert counts == sorted(counts, reverse=True)
    assert {*counts} <= {1, 2, 4, 8, 16, 32}
    assert len({*counts}) > 2


def test_the_least_memory_for_a_batch_is_twice_what_its_slices_take(detector):
    least = next(free for free in range(2**20, 2**31, 2**20) if fit_batch(free, detector) == 32)
    half = next(free for free in range(2**20, 2**31, 2**20) if fit_batch(free, detector) == 16)
    assert least / half == pytest.approx(2.0, rel=0.05)


def test_memory_that_torch_keeps_for_itself_is_free(detector, monkeypatch):
    gpu = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (GIB // 64, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: GIB)
    counts = []
    for kept in (GIB, 60 * GIB):
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device, kept=kept: kept)
        counts.append(choose_batch_size(detector, gpu))
    assert counts == [fit_batch(GIB // 64, detector), 32]
