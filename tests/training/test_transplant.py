"""Lesions that are put into other slices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aaclip_med.training.augmentation import ROBUST
from aaclip_med.training.transplant import Transplant

SIDE = 64


def a_body(level: float) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return level * (((rows - 32) ** 2 + (columns - 32) ** 2) < 26**2).float()[None]


def a_donor(contrast: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 28:38, 30:40] = 1
    return a_body(0.4) + contrast * mask, mask


@pytest.mark.parametrize("seed", range(6))
def test_a_lesion_takes_on_the_brightness_of_its_new_place(seed: int) -> None:
    host = (a_body(0.6), torch.zeros(1, SIDE, SIDE))
    even = Transplant(scale=(0.8, 1.2), strength=(1.0, 1.0))
    image, mask = even.apply(host, a_donor(), np.random.default_rng(seed))
    changed = (image - host[0]).abs() > 1e-3
    inside = mask.bool()
    assert inside.any()
    assert not (changed & (host[0] == 0)).any()
    assert image[inside].median() == pytest.approx(0.9, abs=0.02)
    assert (changed & ~inside).sum() < 60, "little changes beside the mask: the soft edge"


def test_the_same_draw_gives_the_same_lesion_and_inputs_stay_as_they_are() -> None:
    host, donor = (a_body(0.6), torch.zeros(1, SIDE, SIDE)), a_donor()
    before = [part.clone() for part in (*host, *donor)]
    first, again, other = (Transplant().apply(host, donor, np.random.default_rng(seed)) for seed in (1, 1, 2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first[0], other[0])
    for part, kept in zip((*host, *donor), before, strict=True):
        assert torch.equal(part, kept)


def test_where_nothing_can_be_moved_the_donor_comes_back() -> None:
    nothing, donor = torch.zeros(1, SIDE, SIDE), a_donor()
    assert Transplant().apply((nothing, nothing), donor, np.random.default_rng(0))[0] is donor[0]
    healthy = (a_body(0.4), nothing)
    assert Transplant().apply((a_body(0.6), nothing), healthy, np.random.default_rng(0))[0] is healthy[0]


@pytest.mark.parametrize("channels", [1, 3])
def test_shifted_tones_leave_the_background_and_the_range(channels: int) -> None:
    image = a_body(0.7).expand(channels, -1, -1)
    mask = a_donor()[1]
    seen = set()
    for seed in range(8):
        moved, _ = ROBUST.apply(image, mask, np.random.default_rng(seed))
        assert moved.min() >= 0
        assert moved.max() <= 1
        assert (moved == 0).any()
        seen.add(round(float(moved[:, 32, 32].mean()), 3))
    assert len(seen) > 4
