"""The fused loss against the losses written out on full-size probabilities."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch.nn import functional
from torch.testing import assert_close

from aaclip_med.training.losses import contrast_patches, enlarge, segmentation_loss


def write_out(contrasts, mask):
    """Two enlarged maps a level, a softmax, and MONAI's Dice loss."""
    dice, total = DiceLoss(smooth_nr=1.0, smooth_dr=1.0), 0.0
    for contrast in contrasts:
        logits = torch.stack([torch.zeros_like(contrast), contrast], dim=1)
        logits = functional.interpolate(logits, size=mask.shape[-2:], mode="bilinear", align_corners=True)
        probabilities = logits.softmax(dim=1)
        target = torch.cat([1.0 - mask, mask], dim=1).clamp(1e-5, 1.0 - 1e-5)
        likelihood = (target * probabilities).sum(dim=1) + 1e-5
        total = total - ((1.0 - likelihood) ** 2 * likelihood.log()).mean()
        total = total + dice(probabilities[:, :1], 1.0 - mask) + dice(probabilities[:, 1:], mask)
    return total


def draw(dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    contrasts = 3.0 * torch.randn(3, 2, 5, 5, generator=generator, dtype=dtype)
    mask = torch.zeros(2, 1, 19, 19, dtype=dtype)
    mask[0, 0, 3:9, 5:12] = 1.0
    return contrasts.requires_grad_(), mask


def test_the_fused_loss_and_its_gradient_are_those_written_out():
    contrasts, mask = draw()
    loss, wanted = segmentation_loss(list(contrasts), mask), write_out(contrasts, mask)
    assert_close(loss, wanted, rtol=1e-10, atol=0)
    (found,) = torch.autograd.grad(3.0 * loss, contrasts)
    (expected,) = torch.autograd.grad(3.0 * wanted, contrasts)
    assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_the_loss_stays_finite_where_probabilities_are_0_and_1():
    contrasts, mask = draw(torch.float32)
    loss = segmentation_loss([contrast * 1e4 for contrast in contrasts], mask)
    loss.backward()
    assert loss.isfinite()
    assert contrasts.grad.isfinite().all()


def test_enlarging_is_torchs_own():
    contrasts, _ = draw()
    wanted = functional.interpolate(contrasts, size=(19, 19), mode="bilinear", align_corners=True)
    assert_close(enlarge(contrasts, 19), wanted)


def test_a_patchs_contrast_is_its_abnormal_minus_its_normal_logit():
    generator = torch.Generator().manual_seed(8)
    patches, anchors = (torch.randn(*shape, generator=generator) for shape in ((2, 9, 4), (2, 4, 2)))
    logits = 100.0 * patches @ anchors
    assert_close(contrast_patches(patches, anchors), (logits[..., 1] - logits[..., 0]).view(2, 3, 3), rtol=1e-4, atol=1e-3)
