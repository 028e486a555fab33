"""Parts that the bundle's configuration names: loaders, optimisers, schedules, the run itself."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import monai
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from aaclip_med.data.index import Case
from aaclip_med.data.writing import atomic_path, write_json
from aaclip_med.errors import InputError
from aaclip_med.model.build import build_detector
from aaclip_med.model.checkpoint import ZERO_SHOT, Checkpoint
from aaclip_med.model.detector import Detector
from aaclip_med.training.dataset import EpochSampler, SliceDataset, TrainingSlices
from aaclip_med.training.progress import StageProgress
from aaclip_med.training.recipes import StageRecipe

BETAS = (0.5, 0.999)


def track_cases(cases: Iterable[Case]) -> Iterable[Case]:
    """``cases`` with a progress bar on a terminal's error stream."""
    return tqdm(cases, desc="reading", unit="case", leave=False, file=sys.stderr)


def build_loader(
    dataset: SliceDataset, batch_size: int, workers: int = 0, seed: int = 0, recipe: StageRecipe | None = None
) -> DataLoader[dict[str, Any]]:
    """A loader that draws as ``recipe`` says, by seed and epoch alone; all slices in order where there is none."""
    sampler = EpochSampler(dataset, seed, recipe.count_slices(len(dataset)), recipe.lesion_share) if recipe else None
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=workers)


def build_optimizer(parameters: Iterable[nn.Parameter], learning_rate: float) -> Adam:
    """Adam with the paper's betas."""
    return Adam(parameters, lr=learning_rate, betas=BETAS)


def build_schedule(optimizer: Adam, recipe: StageRecipe) -> LambdaLR:
    """The recipe's schedule, to be stepped after each optimiser step."""
    return LambdaLR(optimizer, recipe.scale_rate)


class ScheduleSteps:
    """A handler that steps a schedule after each optimiser step and tells the sampler each epoch's number."""

    def __init__(self, scheduler: LambdaLR, loader: DataLoader[dict[str, Any]]) -> None:
        self.scheduler = scheduler
        self.loader = loader

    def attach(self, engine: Engine) -> None:
        """Hook into ``engine``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda _: self.scheduler.step())

    def _start_epoch(self, engine: Engine) -> None:
        sampler = self.loader.sampler
        if isinstance(sampler, EpochSampler):
            sampler.set_epoch(engine.state.epoch)


class Bar:
    """A progress bar over a whole stage: loss and time left."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def attach(self, engine: Engine) -> None:
        """Hook into ``engine``."""
        bar = ProgressBar(desc=self.stage, persist=True, file=sys.stderr)
        bar.attach(
            engine,
            event_name=Events.ITERATION_COMPLETED,
            closing_event_name=Events.EPOCH_COMPLETED,
            output_transform=lambda output: {"loss": output["loss"].item()},
        )


def announce_slices(slices: TrainingSlices) -> None:
    """Say on the error stream what there is to be said of the slices."""
    if slices.note:
        print(f"aaclip-med: {slices.note}", file=sys.stderr, flush=True)


def describe_settings(
    detector: Detector,
    index: str | Path,
    preset: str,
    precision: str,
    seed: int,
    augment: bool,
    schedule: Sequence[float],
    normal_only: bool = False,
    crop: bool = False,
) -> dict[str, Any]:
    """What a run may not change when it is taken up again."""
    return {
        "detector": _digest(str(detector.config.to_json())),
        "tower": detector.tower_hash,
        "index": _digest(Path(index).read_text(encoding="utf-8")),
        "preset": preset,
        "schedule": list(schedule),
        "precision": precision,
        "seed": seed,
        "augmentation": augment,
        "normal_only": normal_only,
        "crop": crop,
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_stage(trainer: Engine, progress: StageProgress) -> None:
    """Run a stage from where it was left; nothing where it is complete."""
    if not progress.resume(trainer):
        trainer.run()


def finish_run(
    output: str | Path,
    detector: Detector,
    stages: Sequence[StageProgress],
    slices: TrainingSlices,
    preset: str,
    provenance: dict[str, Any] | None = None,
) -> Path:
    """Write ``adapters.safetensors``, the best epoch's of the last stage, and ``training.json``; returns the first's path."""
    stages[-1].load_best()
    counts = {"train": len(slices.train), "validation": len(slices.validation), "validation_split": slices.split}
    story = {
        "stages": {
            stage.stage: {"best_epoch": stage.best_epoch, "best_score": stage.best_score, "epochs": stage.history}
            for stage in stages
        },
        "slices": counts,
        "settings": stages[-1].settings,
    }
    path = Path(output) / "adapters.safetensors"
    training = {**counts, "settings": stages[-1].settings}
    save_adapters(path, detector, preset, {"training": training, **(provenance or {})})
    write_json(Path(output) / "training.json", story)
    return path


def save_adapters(path: Path, detector: Detector, preset: str, provenance: dict[str, Any]) -> None:
    """The detector's adapters and configuration as one checkpoint file, whole or not at all."""
    content = Checkpoint(
        detector.config, detector.adapter_state(), detector.tower_hash, preset, provenance=provenance
    ).to_bytes()
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def build_trainable(device: torch.device, **options: Any) -> Detector:
    """``aaclip_med.build_detector`` with ``options``, on ``device``.

    Raises:
        InputError: the options make a zero-shot detector, which has nothing to train.
    """
    if options.get("adapters") == ZERO_SHOT:
        raise InputError("a zero-shot detector (adapters 'none') has nothing to train; leave the adapters out")
    return build_detector(**options).to(device)


def set_determinism(seed: int) -> None:
    """Seed what MONAI seeds, and ask torch for deterministic kernels where there are any."""
    monai.utils.set_determinism(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
