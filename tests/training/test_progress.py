"""Which epoch becomes the adapters."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from torch.optim.lr_scheduler import LambdaLR

from aaclip_med import build_detector
from aaclip_med.errors import CheckpointError
from aaclip_med.training.progress import StageProgress


def run(
    scores: list[float], averaged_from: float, folder: Path, until: int | None = None, interval: int = 1
) -> tuple[StageProgress, float]:
    """A stage whose validation, each ``interval`` epochs, gives ``scores``, one an epoch, and the first adapter weight that it
    ends with; after epoch n that is n squared. ``until``: it is killed after that epoch.
    """
    detector = build_detector("tiny", image_size=40)
    weight = detector.image_adapter.layer_adapters[0].fc[0].weight
    optimizer = torch.optim.Adam(detector.image_adapter.parameters())
    trainer, evaluator = Engine(lambda *_: {"loss": torch.zeros(())}), Engine(lambda *_: None)
    trainer.scaler = None
    schedule = LambdaLR(optimizer, lambda _: 1.0)
    progress = StageProgress(folder, "image", detector, optimizer, schedule, evaluator, {}, averaged_from)

    def validate(engine: Engine) -> None:
        if engine.state.epoch % interval == 0:
            evaluator.state.epoch = engine.state.epoch
            evaluator.state.metrics = {"pixel_auroc": scores[engine.state.epoch - 1]}
        with torch.no_grad():
            weight[0, 0] = engine.state.epoch**2

    def die(engine: Engine) -> None:
        if engine.state.epoch == until:
            engine.terminate()

    trainer.add_event_handler("EPOCH_COMPLETED", validate)
    progress.attach(trainer)
    trainer.add_event_handler("EPOCH_COMPLETED", die)
    trainer.state.max_epochs = len(scores)
    trainer.state.epoch_length = 1
    if not progress.resume(trainer):
        trainer.run([0], max_epochs=len(scores))
    progress.load_best()
    return progress, float(weight.detach()[0, 0])


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.9, 0.5, 0.7, 0.8], 1),
        ([0.5, 0.9, 0.7, 0.8], 2),
        ([0.7, 0.9, 0.9, 0.8], 2),
        ([math.nan, math.nan, math.nan], 3),
        ([0.9, math.nan, 0.7, 0.6], 1),
        ([math.nan, 0.6, math.nan], 2),
    ],
)
def test_a_stage_ends_with_the_epoch_that_validation_likes_best(scores: list[float], best: int, tmp_path: Path) -> None:
    progress, weight = run(scores, 0.0, tmp_path)
    assert progress.best_epoch == best
    assert weight == best**2
    assert progress.describe()["best_score"] is progress.best_score


@pytest.mark.parametrize("until", [None, 1, 2, 3, 4])
def test_a_stage_that_is_validated_now_and_then_keeps_the_best_validated_epoch_killed_or_not(
    until: int | None, tmp_path: Path
) -> None:
    scores = [math.nan, 0.9, math.nan, 0.7, math.nan]
    if until is not None:
        run(scores, 0.0, tmp_path, until, interval=2)
    progress, weight = run(scores, 0.0, tmp_path, interval=2)
    assert (progress.best_epoch, weight) == (2, 4)
    assert [epoch.get("pixel_auroc") for epoch in progress.describe()["epochs"]] == [None, 0.9, None, 0.7, None]


@pytest.mark.parametrize("until", [None, 3, 4, 5, 6])
@pytest.mark.parametrize(
    ("scores", "epochs"), [([0.9, 0.6, 0.8], [3, 6]), ([0.9, 0.8, 0.5], [3, 4, 5]), ([0.9, 0.6, 0.5], [3])]
)
def test_an_epoch_that_is_not_validated_is_averaged_as_the_validated_one_before_it_killed_or_not(
    scores: list[float], epochs: list[int], until: int | None, tmp_path: Path
) -> None:
    every = [score for score in scores for _ in range(2)]
    if until is not None:
        run(every, 0.4, tmp_path, until, interval=2)
    progress, weight = run(every, 0.4, tmp_path, interval=2)
    assert progress.describe()["averaged_epochs"] == epochs
    assert weight == pytest.approx(sum(epoch**2 for epoch in epochs) / len(epochs))


@pytest.mark.parametrize(("averaged_from", "epochs"), [(0.5, [3, 4]), (0.3, [2, 3, 4]), (0.25, [2, 3, 4]), (0.99, [4])])
@pytest.mark.parametrize("until", [None, 1, 3])
def test_a_stage_that_averages_ends_with_the_mean_of_its_last_epochs_whatever_validation_says_killed_or_not(
    averaged_from: float, epochs: list[int], until: int | None, tmp_path: Path
) -> None:
    scores = [0.9, 0.99, 0.82, 0.88]
    if until is not None:
        run(scores, averaged_from, tmp_path, until)
    progress, weight = run(scores, averaged_from, tmp_path)
    assert weight == pytest.approx(sum(epoch**2 for epoch in epochs) / len(epochs))
    assert progress.describe()["averaged_epochs"] == epochs
    assert [epoch["epoch"] for epoch in progress.describe()["epochs"]] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no zip at all", "cannot be read"), ({"adapters": {}}, "has no 'settings'"), ({"settings": {}}, "has no 'adapters'")],
)
def test_a_damaged_file_of_the_last_epoch_is_refused_by_its_name(content: object, message: str, tmp_path: Path) -> None:
    progress, _ = run([0.9, 0.8], 0.0, tmp_path)
    if isinstance(content, bytes):
        progress.last.write_bytes(content)
    else:
        torch.save(content, progress.last)
    with pytest.raises(CheckpointError, match=rf"{progress.last.name}: {message}.*; delete it to start this stage again"):
        run([0.9, 0.8], 0.0, tmp_path)


@pytest.mark.parametrize("until", [None, 3, 4])
@pytest.mark.parametrize(
    ("scores", "epochs"), [([0.9, 0.8, 0.5, 0.9], [4]), ([0.9, 0.8, 0.8, 0.5], [3]), ([0.8, 0.9, 0.5, 0.5], [])]
)
def test_an_epoch_that_has_unlearned_all_is_not_averaged_killed_or_not(
    scores: list[float], epochs: list[int], until: int | None, tmp_path: Path
) -> None:
    if until is not None:
        run(scores, 0.5, tmp_path, until)
    progress, weight = run(scores, 0.5, tmp_path)
    assert weight == (epochs[0] if epochs else progress.best_epoch) ** 2
    assert progress.describe().get("averaged_epochs", []) == epochs
    assert progress.describe().get("best_epoch") == (None if epochs else 2)


@pytest.mark.parametrize(("scores", "best"), [([0.9, 0.8, 0.7, 0.6], 1), ([0.8, 0.9, 0.7, 0.6], 2)])
def test_the_best_epoch_is_kept_until_the_averaged_ones_come(scores: list[float], best: int, tmp_path: Path) -> None:
    progress, weight = run(scores, 0.5, tmp_path, until=2)
    assert not progress.mean
    assert weight == best**2
