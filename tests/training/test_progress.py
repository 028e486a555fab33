"""Which epoch becomes the adapters."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from torch.optim.lr_scheduler import LambdaLR

from aaclip_med import build_detector
from aaclip_med.training.progress import StageProgress


def run(scores: list[float], settled: float, folder: Path) -> StageProgress:
    """A stage whose validation gives ``scores``, one an epoch; the first adapter weight is the epoch's number."""
    detector = build_detector("tiny", image_size=40)
    weight = detector.image_adapter.layer_adapters[0].fc[0].weight
    optimizer = torch.optim.Adam(detector.image_adapter.parameters())
    trainer, evaluator = Engine(lambda *_: {"loss": torch.zeros(())}), Engine(lambda *_: None)
    trainer.scaler = None
    progress = StageProgress(folder, "image", detector, optimizer, LambdaLR(optimizer, lambda _: 1.0), evaluator, {}, settled)

    def validate(engine: Engine) -> None:
        evaluator.state.metrics = {"pixel_auroc": scores[engine.state.epoch - 1]}
        with torch.no_grad():
            weight[0, 0] = engine.state.epoch

    trainer.add_event_handler("EPOCH_COMPLETED", validate)
    progress.attach(trainer)
    trainer.run([0], max_epochs=len(scores))
    progress.load_best()
    assert weight[0, 0] == progress.best_epoch
    return progress


@pytest.mark.parametrize(
    ("scores", "settled", "best"),
    [
        ([0.9, 0.5, 0.7, 0.8], 0.0, 1),
        ([0.9, 0.5, 0.7, 0.8], 0.5, 4),
        ([0.9, 0.5, 0.7, 0.6], 0.5, 3),
        ([0.9, 0.7, 0.7, 0.7], 0.5, 3),
        ([0.9, 0.8, 0.7, 0.6], 1.0, 4),
        ([math.nan, math.nan, math.nan], 0.0, 3),
    ],
)
def test_the_best_epoch_is_the_highest_once_the_run_has_settled(
    scores: list[float], settled: float, best: int, tmp_path: Path
) -> None:
    assert run(scores, settled, tmp_path).best_epoch == best
