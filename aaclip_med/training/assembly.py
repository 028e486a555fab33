"""Parts that the bundle's configuration names: loaders, optimisers, schedules, the run itself."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import monai
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from aaclip_med.data.index import Case
from aaclip_med.data.writing import atomic_path, write_json
from aaclip_med.errors import CheckpointError, InputError
from aaclip_med.inference.network import save_network, wrap_network
from aaclip_med.inference.refinement import find_refinement
from aaclip_med.model.build import build_detector
from aaclip_med.model.checkpoint import ZERO_SHOT, Checkpoint, read_checkpoint, rename_weights
from aaclip_med.model.detector import Detector
from aaclip_med.model.weights import hash_state
from aaclip_med.training.augmentation import ROBUST
from aaclip_med.training.dataset import EpochSampler, SliceDataset, TrainingSlices, gather_slices
from aaclip_med.training.progress import StageProgress
from aaclip_med.training.ranks import check_agreement, find_rank, first_alone
from aaclip_med.training.recipes import StageRecipe
from aaclip_med.training.transplant import Transplant

ADAPTERS = "adapters.safetensors"
BETAS = (0.5, 0.999)
CPU = torch.device("cpu")
MOST_WORKERS = 8


def track_cases(cases: Iterable[Case]) -> Iterable[Case]:
    """``cases`` with a progress bar on a terminal's error stream."""
    return tqdm(cases, desc="reading", unit="case", leave=False, file=sys.stderr)


def build_dataset(
    data: object,
    slices: TrainingSlices,
    part: Literal["train", "validation"],
    detector: Detector,
    recipe: StageRecipe | None = None,
    refinement: str = "published",
    **options: Any,
) -> SliceDataset:
    """One part of ``slices`` for ``detector``; ``options`` as ``SliceDataset`` has them, and as ``recipe`` says.

    Squares are cut as large as the tiles that ``refinement`` (by name) will score.

    ``data`` is what ``slices`` was gathered from: MONAI's programs look for it here, and put their own rows in its place.
    """
    del data
    options["zoom"] = find_refinement(refinement).zoom
    if recipe is not None and recipe.lesion_share is not None:
        options["synthetic_share"] = recipe.lesion_share
    if recipe is not None and recipe.robust and options.get("augmentation") is not None:
        options["augmentation"] = ROBUST
        options["transplant"] = Transplant() if options.get("synthesis") is None else None
    config = detector.config
    return SliceDataset(slices.store, getattr(slices, part), config.image_size, config.fidelity.name, **options)


def build_slices(output_dir: str | Path, cache_dir: str | Path | None = None, **options: Any) -> TrainingSlices:
    """``gather_slices`` with a bar and a word on the error stream; the cache is ``output_dir/cache`` unless it is named."""
    with first_alone():
        slices = gather_slices(cache=Path(cache_dir or Path(output_dir) / "cache"), track=track_cases, **options)
    if slices.note and not find_rank()[0]:
        print(f"aaclip-med: {slices.note}", file=sys.stderr, flush=True)
    return slices


def choose_workers(device: torch.device, cores: int | None = None) -> int:
    """Processes that read slices ahead where nobody says how many: none for a CPU, which they would take from the towers."""
    cores = os.cpu_count() or 1 if cores is None else cores
    return min(MOST_WORKERS, cores // 2 // find_rank()[1]) if device.type == "cuda" else 0


def build_loader(
    dataset: SliceDataset,
    batch_size: int,
    workers: int | None = None,
    seed: int = 0,
    recipe: StageRecipe | None = None,
    device: torch.device = CPU,
) -> DataLoader[dict[str, Any]]:
    """A loader that draws as ``recipe`` says, by seed and epoch alone; all slices in order where there is none.

    ``workers`` None: see ``choose_workers``. For a GPU batches lie in pinned memory, from which they are copied while it works.
    """
    workers = choose_workers(device) if workers is None else workers
    sampler = None
    if recipe is not None:
        sampler = EpochSampler(dataset, seed, recipe.count_slices(len(dataset), batch_size), recipe.lesion_share, *find_rank())
    pinned = device.type == "cuda"
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=workers, pin_memory=pinned)


def build_optimizer(parameters: Iterable[nn.Parameter], learning_rate: float, recipe: StageRecipe | None = None) -> Adam:
    """Adam with the paper's betas; gradients are shortened as ``recipe`` says."""
    optimizer = Adam(parameters, lr=learning_rate, betas=BETAS)
    if recipe is not None and recipe.largest_gradient:
        largest = recipe.largest_gradient

        def shorten(optimizer: Optimizer, *_: Any) -> None:
            clip_grad_norm_([parameter for group in optimizer.param_groups for parameter in group["params"]], largest)

        optimizer.register_step_pre_hook(shorten)
    return optimizer


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
    """A progress bar over a whole stage: loss and time left. ``every``: the steps after which the loss is fetched again."""

    def __init__(self, stage: str, every: int = 1) -> None:
        self.stage = stage
        self.every = every
        self._step = 0
        self._shown = {"loss": float("nan")}

    def attach(self, engine: Engine) -> None:
        """Hook into ``engine``."""
        bar = ProgressBar(desc=self.stage, persist=True, file=sys.stderr)
        bar.attach(
            engine,
            event_name=Events.ITERATION_COMPLETED,
            closing_event_name=Events.EPOCH_COMPLETED,
            output_transform=self._show,
        )

    def _show(self, output: dict[str, Any]) -> dict[str, float]:
        if self._step % self.every == 0:
            self._shown = {"loss": output["loss"].item()}
        self._step += 1
        return self._shown


def describe_settings(
    detector: Detector,
    slices: TrainingSlices,
    preset: str,
    orthogonality_weight: float,
    precision: torch.dtype,
    seed: int,
    augment: bool,
    schedule: Sequence[float],
    normal_only: bool = False,
    crop: bool = False,
    refinement: str = "published",
    replaced_by: str | Path | None = None,
    text_draws: int | None = None,
) -> dict[str, Any]:
    """What a run may not change when it is taken up again; ``detector`` as it is before the first step.

    ``replaced_by``: the folder of a run whose result takes the place of the adapters it begins with, as in a packed bundle.
    Where that has happened, what counts is what the run began with.
    """
    begun = hash_state(detector.adapter_state())
    result = _read_result(Path(replaced_by) / ADAPTERS) if replaced_by is not None else None
    if result is not None and result.digest == begun:
        begun = result.provenance.get("training", {}).get("settings", {}).get("adapters", begun)  # older files do not say it
    settings = {
        "detector": _digest(str(detector.config.to_json())),
        "tower": detector.tower_hash,
        "adapters": begun[:16],
        "index": slices.digest[:16],
        "preset": preset,
        "orthogonality_weight": orthogonality_weight,
        "schedule": list(schedule),
        "precision": str(precision),
        "seed": seed,
        "augmentation": augment,
        "normal_only": normal_only,
        "crop": crop,
        "refinement": refinement,
    }
    return settings if text_draws is None else settings | {"text_draws": text_draws}


def _read_result(path: Path) -> Checkpoint | None:
    """What a run has written to ``path``; None where there is nothing yet, or nothing whole."""
    try:
        return read_checkpoint(path)
    except CheckpointError:
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_stage(trainer: Engine, progress: StageProgress) -> None:
    """Run a stage from where it was left, saving each epoch after its other handlers; nothing where it is complete.

    Raises:
        RuntimeError: the ranks have come to different adapters.
    """
    progress.attach(trainer)
    if not progress.resume(trainer):
        trainer.run()
    check_agreement(progress.detector.adapter_state(), f"the adapters after stage '{progress.stage}'")


def finish_run(
    output: str | Path,
    detector: Detector,
    stages: Sequence[StageProgress],
    slices: TrainingSlices,
    preset: str,
    provenance: dict[str, Any] | None = None,
    models_dir: str | Path | None = None,
    adapters: str | Path | None = None,
) -> Path:
    """Write ``adapters.safetensors``, what the last stage ended with, and ``training.json``; returns the first's path.

    A file that has these adapters already is left as it is, since it may have been calibrated: to repeat a run changes nothing.
    ``models_dir``: a bundle's folder of models, which gets the adapters as well, and ``model.pt``, the network's state dict.
    ``adapters``: those the run began with; weights that lie beside them are named from where the new ones lie.
    """
    stages[-1].load_best()
    counts = {"train": len(slices.train), "validation": len(slices.validation), "validation_split": slices.split}
    story = {
        "stages": {stage.stage: stage.describe() for stage in stages},
        "slices": counts,
        "settings": stages[-1].settings,
    }
    path = Path(output) / ADAPTERS
    if find_rank()[0]:
        return path
    training = {**counts, "settings": stages[-1].settings}
    content = {"training": training, **{name: value for name, value in (provenance or {}).items() if value}}
    save_adapters(path, detector, preset, content, adapters)
    write_json(Path(output) / "training.json", story)
    if models_dir is not None:
        Path(models_dir).mkdir(parents=True, exist_ok=True)
        save_adapters(Path(models_dir) / ADAPTERS, detector, preset, content, adapters)
        refinement = find_refinement(None, content.get("refinement"))
        save_network(Path(models_dir) / "model.pt", wrap_network(detector, preset, refinement))
    return path


def save_adapters(
    path: Path, detector: Detector, preset: str, provenance: dict[str, Any], source: str | Path | None = None
) -> None:
    """The detector's adapters and configuration as one checkpoint file, whole or not at all; ``source``: what they began as.

    Nothing is written where the file has them.
    """
    config = rename_weights(detector.config, source, path)
    content = Checkpoint(config, detector.adapter_state(), detector.tower_hash, preset, provenance=provenance)
    held = _read_result(path)
    if held is not None and held.digest == content.digest:
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.to_bytes())


def mark_provenance(demo: str | None, normal_only: bool, crop: bool, refinement: str = "published") -> dict[str, Any]:
    """How the adapters come to be, and how scoring refines maps, by name; ``demo``: the command that makes demonstrations."""
    marks = {"demo": True, "command": demo, "data": "drawn phantoms"} if demo else {}
    return marks | {"normal_only": normal_only, "crop": crop, "refinement": find_refinement(refinement).to_json()}


def build_trainable(device: torch.device, **options: Any) -> Detector:
    """``aaclip_med.build_detector`` with ``options``, on ``device``.

    Raises:
        InputError: the options make a zero-shot detector, which has nothing to train.
    """
    if options.get("adapters") == ZERO_SHOT:
        raise InputError("a zero-shot detector (adapters 'none') has nothing to train; leave the adapters out")
    return build_detector(**options).to(device)


def share_network(network: nn.Module, device: torch.device) -> DistributedDataParallel:
    """``network`` for several ranks. Both stages keep all adapters trainable, and each uses its own: the others are unused."""
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=devices, find_unused_parameters=True)


def set_determinism(seed: int) -> None:
    """Seed what MONAI seeds, and ask torch for deterministic kernels where there are any."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts, and is deterministic with it
    monai.utils.set_determinism(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
