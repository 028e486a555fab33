"""What each command does, in the library's own words."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aaclip_med.cli.benchmarking import run_index_import
from aaclip_med.cli.main import NONE_DONE, SOME_FAILED
from aaclip_med.data.agreement import check_agreement
from aaclip_med.data.index import Case, read_index, write_index
from aaclip_med.data.pairs import build_index
from aaclip_med.data.sampling import check_copies, check_leaks, few_shot, name_patients, split_by_patient
from aaclip_med.data.writing import prepare_output_folder
from aaclip_med.errors import InputError
from aaclip_med.presets import Window


def run_train(options: argparse.Namespace) -> int:
    """Both stages."""
    from aaclip_med.training.bundle import train

    if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1:
        raise InputError(
            "train is one process, and torchrun started several; run the bundle with its multi_gpu_train.yaml there"
        )
    read_index(options.index)
    prepare_output_folder(options.out)
    names = (
        "preset", "backbone", "weights", "image_size", "adapters", "fidelity", "activation", "stage_one_levels",
        "value_attention", "text_epochs", "image_epochs", "text_batch_size", "image_batch_size", "seed", "workers", "device",
        "precision", "cache_dir", "refinement", "feature_cache", "text_draws",
    )  # fmt: skip
    overrides: dict[str, Any] = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    overrides |= {"index": options.index, "output_dir": options.out, "augment": not options.no_augmentation}
    overrides |= {"normal_only": options.normal_only, "crop": options.crop, "checkpointing": options.checkpointing}
    print(train(overrides, options.tracking))
    return 0


def run_montage(options: argparse.Namespace) -> int:
    """A picture of synthetic lesions."""
    from aaclip_med.presets import get_preset
    from aaclip_med.training.montage import draw_montage, draw_tiles

    cases = read_index(options.index)
    prepare_output_folder(Path(options.out).absolute().parent)
    preset = get_preset(options.preset)
    tiles = draw_tiles(cases, preset, options.count, options.seed, track=track)
    draw_montage(options.out, tiles, f"{preset.title}: normal slices, and the same with synthetic lesions")
    print(options.out)
    return 0


def run_index(options: argparse.Namespace) -> int:
    """Index files."""
    if options.action == "import":
        return run_index_import(options)
    if options.action == "build":
        cases = build_index(
            options.folder,
            options.preset,
            unlabelled_are_normal=options.unlabelled_are_normal,
            patient_pattern=options.patient_pattern,
        )
    else:
        cases = read_split(options)
    if options.action == "few-shot":
        cases = few_shot(cases, options.shots, options.seed)
    elif options.action == "split":
        cases = split_by_patient(cases, tuple(options.fractions), options.seed)
    if options.action in ("check", "split"):
        check_leaks(name_patients([case for case in cases if case.split]))
        check_copies(cases)
    if options.action == "check":
        check_agreement(cases, options.quick, track)
    if options.action != "check":
        prepare_output_folder(Path(options.out).absolute().parent)
        write_index(cases, options.out)
    print(_summarise(cases))
    if options.action == "build":
        how = "as the pattern finds them" if options.patient_pattern else "told by names and folders"
        print(f"{len({case.patient for case in cases})} patients, {how}")
    return 0


def run_demo(options: argparse.Namespace) -> int:
    """The embedded demonstration."""
    from aaclip_med.demo import run_demo as run
    from aaclip_med.presets import PRESETS

    presets = list(PRESETS) if options.preset == "all" else [options.preset]
    results = run(presets, options.out, seed=options.seed)
    names = ("pixel_auroc", "image_auroc", "volume_auroc", "intensity_pixel_auroc", "intensity_image_auroc")
    print(f"{'':12}" + "".join(f"{name:>23}" for name in names))
    for preset in presets:
        print(f"{preset:12}" + "".join(f"{results[preset][name]:23.3f}" for name in names))
    print(f"{results['note']}\nsee {options.out}")
    return 0


def make_cutting(options: argparse.Namespace) -> Any:
    """How cases are cut. Refuses options that are no use to any case before one is read."""
    from aaclip_med.data.fusion import ALL_PLANES
    from aaclip_med.inference.cutting import Cutting

    mask = Path(options.mask) if options.mask else None
    if mask is not None and not mask.exists():
        raise InputError(f"{mask}: no such organ mask or folder of masks")
    slices = tuple(options.slices) if getattr(options, "slices", None) else None
    if slices is not None and not 0 <= slices[0] <= slices[1]:
        raise InputError(f"--slices {slices[0]} {slices[1]}: first and last, counted from 0")
    if slices is not None and options.plane == ALL_PLANES:
        raise InputError(f"--slices {slices[0]} {slices[1]}: plane 'all' is for whole volumes; name one plane")
    spacing = tuple(options.spacing) if getattr(options, "spacing", None) else None
    if spacing is not None and not all(0 < step < float("inf") for step in spacing):
        raise InputError(f"--spacing {' '.join(f'{step:g}' for step in spacing)}: three positive numbers, in mm")
    stride = getattr(options, "stride", 1)
    if stride < 1:
        raise InputError(f"--stride {stride}: take 1 or more")
    volume = getattr(options, "volume", None)
    if volume is not None and volume < 0:
        raise InputError(f"--volume {volume}: volumes are counted from 0")
    minimum_ml = getattr(options, "minimum_ml", 0.0)
    if not 0 <= minimum_ml < float("inf"):
        raise InputError(f"--minimum-ml {minimum_ml:g}: take 0 or more, a finite number of millilitres")
    return Cutting(options.plane, slices, stride, mask, volume, spacing)


def _window(options: argparse.Namespace) -> Window | None:
    """The window asked for; None: the preset's.

    Raises:
        InputError: it is empty, or percentiles are not from 0 to 100.
    """
    if (limits := getattr(options, "window", None)) is not None:
        low, high = limits
        if not -math.inf < low < high < math.inf:
            raise InputError(f"--window {low:g} {high:g}: two numbers, the second above the first")
        return Window("hu", low, high)
    if (limits := getattr(options, "percentiles", None)) is not None:
        low, high = limits
        if not 0 <= low < high <= 100:
            raise InputError(f"--percentiles {low:g} {high:g}: two numbers from 0 to 100, the second above the first")
        return Window("percentile", low, high)
    return None


def judge(failed: int, done: int) -> int:
    """The exit code of a run over cases."""
    if not failed:
        return 0
    return SOME_FAILED if done else NONE_DONE


def read_split(options: argparse.Namespace) -> list[Case]:
    """The index's rows; those of ``--split`` where it was given."""
    split = getattr(options, "split", None)
    cases = [case for case in read_index(options.index) if split in (None, case.split)]
    if not cases:
        raise InputError(f"{options.index}: no row of split '{split}'")
    return cases


def load(options: argparse.Namespace, calibrated: bool = True) -> Any:
    from aaclip_med.inference.predictor import load_predictor

    return load_predictor(**load_options(options), calibrated=calibrated)


def load_options(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of ``load_predictor``."""
    names = ("adapters", "preset", "backbone", "weights", "image_size", "fidelity", "device", "precision", "batch_size")
    chosen = {name: getattr(options, name) for name in names}
    return chosen | {
        "domain": getattr(options, "domain", "medical"),
        "window": _window(options),
        "crop": getattr(options, "crop", None),
        "refinement": options.refinement,
        "drop_background": options.drop_background,
    }


def track(cases: Sequence[Any]) -> Any:
    return tqdm(cases, unit="case", file=sys.stderr)


def list_options(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name not in ("command", "inputs", "out")}


def _summarise(cases: Sequence[Case]) -> str:
    abnormal = sum(case.label for case in cases)
    splits = {split: sum(case.split == split for case in cases) for split in ("train", "val", "test")}
    parts = ", ".join(f"{count} {split}" for split, count in splits.items() if count)
    return f"{len(cases)} cases: {len(cases) - abnormal} normal, {abnormal} abnormal" + (f" ({parts})" if parts else "")
