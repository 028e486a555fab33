"""Figures on the validation slices after each epoch."""

from __future__ import annotations

import math

import numpy as np
import torch
from ignite.metrics import Metric
from monai.utils.enums import CommonKeys as Keys

from aaclip_med.model.similarity import sum_levels
from aaclip_med.scoring.curve import BinnedCurve
from aaclip_med.scoring.metrics import auroc
from aaclip_med.training.stages import StagePrediction


class ValidationFigure(Metric):  # type: ignore[misc]
    """Pixel or image AUROC of the test-time maps; NaN where the validation slices have one class only.

    ``figure``: ``pixel_auroc`` or ``image_auroc`` (the map's maximum as the image's score).
    """

    def __init__(self, figure: str) -> None:
        self.figure = figure
        super().__init__(output_transform=lambda output: (output[Keys.PRED], output[Keys.LABEL]))

    def reset(self) -> None:
        """Forget the last epoch."""
        self._curve = BinnedCurve()
        self._maxima: list[float] = []
        self._labels: list[int] = []

    def update(self, output: tuple[StagePrediction, dict[str, torch.Tensor]]) -> None:
        """Add a batch."""
        prediction, target = output
        size = target["mask"].shape[-1]
        maps = sum_levels(prediction.levels, prediction.anchors, size) / len(prediction.levels)
        if self.figure == "pixel_auroc":
            self._curve.add(maps.cpu().numpy(), target["mask"].cpu().numpy() > 0)
        else:
            self._maxima += maps.flatten(1).amax(dim=1).tolist()
            self._labels += target["label"].tolist()

    def compute(self) -> float:
        """The figure, as a fraction."""
        if self.figure == "pixel_auroc":
            return self._curve.auroc().value
        return auroc(np.array(self._labels), np.array(self._maxima)).value


def rank_epoch(metrics: dict[str, float]) -> float:
    """What epochs are chosen by: the mean of the figures that are defined; NaN when none is."""
    defined = [value for value in metrics.values() if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
