"""The ``calibrate`` command: all that is learned once the adapters are trained."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aaclip_med.cli.options import add_cutting, add_model, add_split

if TYPE_CHECKING:
    from aaclip_med.data.index import Case


def add_calibrate(commands: Any) -> None:
    """Its options."""
    command = commands.add_parser("calibrate", help="learn from normal cases what is usual; stored in the adapters file")
    command.add_argument(
        "--index",
        required=True,
        metavar="JSONL",
        help="its normal rows are used; none may have been trained on, and rows of split train are refused unless --split "
        "train asks for them",
    )
    add_split(command)
    add_cutting(command, reading=False)
    command.add_argument(
        "--minimum-ml", type=float, default=0.0, metavar="ML", help="smallest candidate that operating points count (default 0)"
    )
    command.add_argument("--out", metavar="FILE", help="default: the adapters file itself")
    group = command.add_argument_group("learned before, and stored with it; of other patients than the calibration's")
    group.add_argument(
        "--bank",
        metavar="JSONL",
        help="keep normal patches of its rows (of split train, where it has splits): what is unlike them scores higher",
    )
    group.add_argument("--bank-weight", type=float, metavar="W", help="log odds for a patch unlike all of them (default 10)")
    group.add_argument("--bank-size", type=int, metavar="N", help="patches of each level (default 2000)")
    group.add_argument(
        "--level-weights",
        metavar="JSONL",
        help="weigh the tower's levels by what finds the lesions of its rows (of split val, where it has splits)",
    )
    add_model(command)


def run_calibrate(options: argparse.Namespace) -> int:
    """Bank, level weights, calibration; stored."""
    from aaclip_med.cli.commands import load, make_cutting, read_split, track
    from aaclip_med.data.writing import prepare_output_folder
    from aaclip_med.errors import InputError
    from aaclip_med.inference.calibrating import calibrate, keep_apart, refuse_lessons, require_checkpoint, store_calibration
    from aaclip_med.model.checkpoint import find_checkpoint

    cases = read_split(options)
    if options.split != "train":
        refuse_lessons(cases)
    if options.bank is None and (options.bank_weight is not None or options.bank_size is not None):
        raise InputError("--bank-weight and --bank-size are of a bank; say with --bank which rows it is made of")
    bank_rows = _choose_rows(options.bank, "train") if options.bank else []
    level_rows = _choose_rows(options.level_weights, "val") if options.level_weights else []
    normal = [case for case in cases if case.label == 0]
    keep_apart(normal, [*bank_rows, *level_rows])
    keep_apart(bank_rows, level_rows)
    cutting = make_cutting(options)
    cutting.check_names([*normal, *bank_rows, *level_rows])
    path = options.out or (None if options.adapters in ("demo", "none") else find_checkpoint(options.adapters, options.preset))
    if path is None:
        raise InputError(f"adapters '{options.adapters}' cannot be written to; say where with --out FILE")
    if Path(path).is_dir():
        raise InputError(f"{path}: a folder; say with --out FILE where the calibrated adapters go")
    prepare_output_folder(Path(path).absolute().parent)
    predictor = load(options, calibrated=False)
    require_checkpoint(predictor)
    lessons = _learn(predictor, bank_rows, level_rows, cutting, options)
    calibration, scale = calibrate(cases, predictor, track, cutting, options.minimum_ml)
    store_calibration(predictor, calibration, path, scale, options.adapters, lessons)
    print(f"calibrated on {calibration.n_volumes} normal volumes, {calibration.n_voxels:,} voxels: {path}")
    if calibration.caveat:
        print(f"note: {calibration.caveat}")
    return 0


def _learn(
    predictor: Any, bank_rows: Sequence[Case], level_rows: Sequence[Case], cutting: Any, options: argparse.Namespace
) -> dict[str, Any]:
    """Let the predictor score with what the rows teach; returns what the provenance says of it."""
    from dataclasses import asdict, replace

    from aaclip_med.cli.commands import track
    from aaclip_med.inference.bank import BANK_SIZE, BANK_WEIGHT, add_bank, collect_bank
    from aaclip_med.inference.levels import learn_levels
    from aaclip_med.model.weights import hash_state

    lessons: dict[str, Any] = {}
    if bank_rows:
        size = BANK_SIZE if options.bank_size is None else options.bank_size
        bank = collect_bank(bank_rows, predictor, track, cutting, size)
        add_bank(predictor, bank, BANK_WEIGHT if options.bank_weight is None else options.bank_weight)
        digest = hash_state({str(number): level for number, level in enumerate(bank)})
        lessons["bank"] = {"cases": len(bank_rows), "patches": [len(level) for level in bank], "hash": digest}
        print(f"bank of {len(bank[0])} normal patches a level, of {len(bank_rows)} cases")
    if level_rows:
        found = learn_levels(level_rows, predictor, track, cutting)
        predictor.refine(replace(predictor.refinement, level_weights=found.weights), predictor.bank)
        lessons["level_weights"] = {"cases": len(level_rows), **asdict(found)}
        weights = ", ".join(f"{weight:.2f}" for weight in found.weights)
        print(f"level weights {weights}: pixel AP {found.pixel_ap:.4f} on their rows, {found.equal_pixel_ap:.4f} if equal")
    return lessons


def _choose_rows(index: str, split: str) -> list[Case]:
    """The rows of ``split``; all of them, where none names a split."""
    from aaclip_med.data.index import read_index
    from aaclip_med.errors import InputError

    cases = read_index(index)
    chosen = [case for case in cases if case.split == split] if any(case.split for case in cases) else cases
    if not chosen:
        raise InputError(f"{index}: no row of split '{split}'")
    return chosen
