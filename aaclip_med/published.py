"""Figures as published, quoted beside ours and never measured here."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """Fractions, and what they were published for."""

    pixel_auroc: float
    pixel_ap: float
    image_auroc: float
    image_ap: float
    what: str = "AA-CLIP on BMAD's test set, released log, trained on VisA, full-shot"


BY_SET = {
    "brain": Published(0.9572, 0.4491, 0.7926, 0.9441),
    "liver": Published(0.9792, 0.1287, 0.6878, 0.5772),
    "retina": Published(0.9531, 0.5684, 0.8182, 0.8180),
}
"""By the sets' names, the test sets of BMAD."""


class Average(NamedTuple):
    """What was published, and fractions averaged over the paper's sets."""

    what: str
    pixel_auroc: float
    image_auroc: float


AVERAGES = {
    "clip": Average("CLIP without adapters", 0.503, 0.693),
    "plain": Average("a plain adapter, not residual", 0.489, 0.534),
    "residual": Average("a residual adapter", 0.913, 0.807),
    "text": Average("a residual and a text adapter", 0.921, 0.826),
    "full": Average("the whole method", 0.927, 0.833),
}
"""AA-CLIP's ablation (CVPR 2025); ``full`` adds the disentangling to ``text``."""
