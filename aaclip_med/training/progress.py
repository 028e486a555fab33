"""What a run keeps on disk while it goes on, so that it can be killed at any moment and go on."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from aaclip_med.data.writing import atomic_path
from aaclip_med.errors import CheckpointError, InputError
from aaclip_med.model.detector import Detector
from aaclip_med.training.ranks import find_rank, wait_for_all
from aaclip_med.training.validation import rank_epoch

COLLAPSE = 0.2
"""Epochs differ by less, as long as something is learned; what saturates the anchors loses more, and learns nothing further."""


class StageProgress:
    """A MONAI handler that writes ``<stage>_last.pt`` and ``<stage>_best.pt`` after each epoch, whole or not at all.

    Everything random depends on the seed and the epoch, so the adapters, the optimiser, the schedule and the epoch are all
    there is to remember. Of several ranks the first writes. A run killed anywhere repeats the epoch it was in and ends with
    the same numbers.

    The stage ends with the epoch that validation liked best, and while it has liked none with the last one; or, with
    ``averaged_from`` above 0, with the mean of the adapters after each epoch past that share of them (stochastic weight
    averaging, Izmailov et al., UAI 2018). One that validation likes less than the best by more than ``COLLAPSE`` has unlearned
    all, and is left out of the mean, as are those after it that are not validated.
    """

    def __init__(
        self,
        folder: str | Path,
        stage: str,
        detector: Detector,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        evaluator: Engine | None,
        settings: dict[str, Any],
        averaged_from: float = 0.0,
    ) -> None:
        self.last = Path(folder) / f"{stage}_last.pt"
        self.best = Path(folder) / f"{stage}_best.pt"
        self.stage = stage
        self.detector = detector
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.evaluator = evaluator
        self.settings = settings
        self.averaged_from = averaged_from
        self.mean: dict[str, torch.Tensor] = {}  # double, on the CPU
        self.averaged: list[int] = []
        self.best_score = math.nan
        self.best_epoch = 0
        self.latest_score = math.nan
        self.history: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Save after each epoch; attach it after the validation handler."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def save(self, engine: SupervisedTrainer) -> None:
        """Write the epoch that has just ended, and what the stage would end with where that has changed."""
        validated = self.evaluator is not None and self.evaluator.state.epoch == engine.state.epoch
        metrics = dict(self.evaluator.state.metrics) if self.evaluator is not None and validated else {}
        score = rank_epoch(metrics)
        if validated:
            self.latest_score = score
        loss = engine.state.output["loss"].item()
        self.history.append({"epoch": engine.state.epoch, "loss": loss, **metrics})
        adapters = self.detector.adapter_state()
        better = score > self.best_score or math.isnan(self.best_score)
        if better:
            self.best_score, self.best_epoch = score, engine.state.epoch
        averaging = self.averaged_from and engine.state.epoch > int(self.averaged_from * engine.state.max_epochs)
        if averaging and not self.latest_score < self.best_score - COLLAPSE:
            self._average(adapters, engine.state.epoch)
            kept = {name: value.to(adapters[name].dtype) for name, value in self.mean.items()}
            self._write(self.best, {"adapters": kept})
        elif better:
            self._write(self.best, {"adapters": adapters})
        self._write(
            self.last,
            {
                "adapters": adapters,
                "mean": self.mean,
                "averaged": self.averaged,
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "scaler": engine.scaler.state_dict() if engine.scaler else {},
                "iteration": engine.state.iteration,
                "epoch": engine.state.epoch,
                "best_score": self.best_score,
                "best_epoch": self.best_epoch,
                "latest_score": self.latest_score,
                "history": self.history,
                "settings": self.settings,
            },
        )

    def _average(self, adapters: dict[str, torch.Tensor], epoch: int) -> None:
        """Take ``epoch`` into the mean."""
        self.averaged = [*self.averaged, epoch]
        values = {name: value.double().cpu() for name, value in adapters.items()}
        self.mean = {name: value + (values[name] - value) / len(self.averaged) for name, value in (self.mean or values).items()}

    def describe(self) -> dict[str, Any]:
        """What the stage ended with, and every epoch's figures."""
        ended: dict[str, Any] = {"best_epoch": self.best_epoch, "best_score": self.best_score}
        if self.mean:
            ended = {"averaged_epochs": self.averaged}
        return {**ended, "epochs": self.history}

    def resume(self, engine: SupervisedTrainer) -> bool:
        """Take up the last epoch written, if there is one; True when the stage is already complete.

        Raises:
            InputError: the folder holds a run with other settings.
            CheckpointError: the file is damaged.
        """
        if not self.last.is_file():
            return False
        try:
            return self._take_up(self._read(self.last), engine)
        except KeyError as error:
            raise CheckpointError(f"{self.last}: has no {error}; delete it to start this stage again") from error

    def _take_up(self, stored: dict[str, Any], engine: SupervisedTrainer) -> bool:
        if stored["settings"] != self.settings:
            changed = sorted(key for key in self.settings if stored["settings"].get(key) != self.settings[key])
            raise InputError(
                f"{self.last.parent} holds a run with other settings ({', '.join(changed) or 'fewer of them'}); choose another "
                "--out, or delete that folder"
            )
        self._load_adapters(stored)
        self.optimizer.load_state_dict(stored["optimizer"])
        self.scheduler.load_state_dict(stored["scheduler"])
        if engine.scaler:
            engine.scaler.load_state_dict(stored["scaler"])
        self.best_score, self.best_epoch = stored["best_score"], stored["best_epoch"]
        self.latest_score = stored["latest_score"]
        self.history, self.mean, self.averaged = stored["history"], stored["mean"], stored["averaged"]
        engine.state.epoch, engine.state.iteration = stored["epoch"], stored["iteration"]
        return bool(stored["epoch"] >= engine.state.max_epochs)

    def load_best(self) -> None:
        """Put the adapters that the stage ends with into the detector, on every rank."""
        wait_for_all()
        self._load_adapters(self._read(self.best))

    def _load_adapters(self, stored: dict[str, Any]) -> None:
        self.detector.load_state_dict({**self.detector.state_dict(), **stored["adapters"]})

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        if find_rank()[0]:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            torch.save(content, temporary)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{path}: cannot be read; delete it to start this stage again") from error
        return stored
