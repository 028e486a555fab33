"""The ``aaclip-med`` command. Imports nothing heavy before it knows what to do."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import TypeAlias

from aaclip_med import __version__
from aaclip_med.cli.ablating import add_ablate
from aaclip_med.cli.benchmarking import add_convert, add_index_import
from aaclip_med.cli.calibrating import add_calibrate
from aaclip_med.cli.evaluating import add_evaluate
from aaclip_med.cli.exporting import add_export, add_pack
from aaclip_med.cli.options import FIDELITIES, REFINEMENTS, TRAINED_PRECISIONS, add_hardware, add_split, read_count
from aaclip_med.cli.protocols import add_protocol
from aaclip_med.cli.scoring import add_score
from aaclip_med.cli.serving import add_serve
from aaclip_med.cli.synthesising import add_synthesise
from aaclip_med.errors import AaclipError, InputError, OutputError
from aaclip_med.presets import PRESETS

NONE_DONE = 1
SOME_FAILED = 3
INTERRUPTED = 130
ROOMS = {
    "score": "scoring",
    "calibrate": "calibrating",
    "evaluate": "evaluating",
    "protocol": "protocols",
    "convert": "benchmarking",
    "serve": "serving",
    "inspect": "inspection",
    "synthesise": "synthesising",
    "ablate": "ablating",
    "export": "exporting",
    "pack": "exporting",
}
"""Commands that are not in ``cli.commands``, and the module that has each."""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="aaclip-med",
        description="Heatmaps of what looks abnormal in medical volumes and pictures. For research, not for clinical use.",
        epilog="exit codes: 0 done, 3 some cases failed, 1 none done or nothing can be written, 2 bad input or option",
    )
    parser.add_argument("--version", action="version", version=f"aaclip-med {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_score(commands)
    _add_train(commands)
    _add_montage(commands)
    add_synthesise(commands)
    add_calibrate(commands)
    add_evaluate(commands)
    add_ablate(commands)
    add_protocol(commands)
    _add_index(commands)
    add_convert(commands)
    _add_inspect(commands)
    add_serve(commands)
    add_export(commands)
    add_pack(commands)
    _add_demo(commands)
    _describe(commands)
    return parser


def _describe(commands: Commands) -> None:
    """Each command's own help begins with its line in the list of commands."""
    for listed in commands._get_subactions():
        command = commands.choices[listed.dest]
        command.description = listed.help
        for action in command._actions:
            if isinstance(action, argparse._SubParsersAction):
                _describe(action)


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_inspect(commands: Commands) -> None:
    command = commands.add_parser("inspect", help="what DICOM series there are and what is wrong with them; reads headers only")
    command.add_argument("inputs", nargs="+", metavar="PATH")
    command.add_argument("--json", action="store_true", help="as JSON")


def _add_train(commands: Commands) -> None:
    command = commands.add_parser("train", help="both stages, through the MONAI bundle; run it again to go on after a crash")
    command.add_argument("--index", required=True, metavar="JSONL", help="cases with masks")
    command.add_argument("--out", required=True, metavar="DIR", help="gets adapters.safetensors")
    command.add_argument("--preset", choices=PRESETS, required=True)
    command.add_argument("--backbone", help="an open_clip ViT, or 'tiny' (default: that of --adapters, else ViT-L-14-336)")
    command.add_argument("--weights", help="an open_clip tag, a file or hf:// (default: openai; tiny has its own)")
    command.add_argument("--image-size", type=int, metavar="PIXELS", help="default 518 for ViT-L-14-336, else the tower's own")
    command.add_argument("--adapters", help="adapters to start from (default: fresh ones)")
    command.add_argument("--fidelity", choices=FIDELITIES, help="default: that of --adapters, else reference")
    command.add_argument("--refinement", choices=REFINEMENTS, help="stored for scoring; default published, best for tiny")
    command.add_argument("--activation", choices=("gelu", "quick_gelu", "as_trained"), help="default: as the fidelity says")
    command.add_argument("--stage-one-levels", choices=("last", "all"), help="default: as the fidelity says")
    command.add_argument(
        "--value-attention", choices=("across_batch", "across_positions"), help="default: as the fidelity says"
    )
    command.add_argument("--text-epochs", type=int, metavar="N")
    command.add_argument("--image-epochs", type=int, metavar="N")
    command.add_argument("--text-batch-size", type=int, metavar="N")
    command.add_argument("--image-batch-size", type=int, metavar="N")
    command.add_argument("--cache-dir", metavar="DIR", help="where cut slices are kept, shared by runs (default OUT/cache)")
    command.add_argument(
        "--feature-cache", metavar="DIR", help="stage 1 keeps the frozen tower's view of images that come again there"
    )
    command.add_argument(
        "--text-draws",
        type=int,
        metavar="N",
        help="stage 1 draws augmentation in N epochs and shows the same again, for --feature-cache (default: in each)",
    )
    command.add_argument("--checkpointing", action="store_true", help="stage 2 takes less memory and about a third more time")
    command.add_argument("--crop", action="store_true", help="cut slices down to the foreground")
    command.add_argument("--no-augmentation", action="store_true")
    command.add_argument(
        "--normal-only", action="store_true", help="use the normal rows alone and draw synthetic lesions into their slices"
    )
    command.add_argument("--seed", type=read_count, default=0)
    command.add_argument("--workers", type=read_count, metavar="N", help="loader processes (default: half the cores for a GPU)")
    command.add_argument("--tracking", choices=("mlflow",), help="curves go to MLflow too (default: TensorBoard alone)")
    add_hardware(command.add_argument_group("hardware"), None, "float32; paper auto, tiny float32", TRAINED_PRECISIONS)


def _add_montage(commands: Commands) -> None:
    command = commands.add_parser("montage", help="a picture of the synthetic lesions that train --normal-only draws")
    command.add_argument("--index", required=True, metavar="JSONL", help="its normal rows are shown")
    command.add_argument("--preset", choices=PRESETS, required=True)
    command.add_argument("--out", required=True, metavar="PNG")
    command.add_argument("--count", type=int, default=12, metavar="N", help="slices shown (default 12)")
    command.add_argument("--seed", type=read_count, default=0)


def _add_index(commands: Commands) -> None:
    index = commands.add_parser("index", help="make, check, sample and split index files")
    actions = index.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="from a folder of volumes with masks")
    build.add_argument("folder")
    build.add_argument("--preset", choices=PRESETS, required=True)
    build.add_argument("--unlabelled-are-normal", action="store_true", help="take images without a mask for normal")
    build.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="its one group is the patient, in the path below FOLDER or the file's name (default: the name; the folder, where "
        "names come again in several)",
    )
    add_index_import(actions)
    check = actions.add_parser("check", help="read every row and its masks and say what is wrong")
    check.add_argument("--quick", action="store_true", help="read no mask, but for its header")
    few = actions.add_parser("few-shot", help="k normal and k abnormal cases of each class")
    few.add_argument("--shots", type=int, required=True, metavar="K")
    add_split(few)
    split = actions.add_parser("split", help="train, val and test by patient")
    split.add_argument("--fractions", type=float, nargs=3, default=(0.7, 0.15, 0.15), metavar=("TRAIN", "VAL", "TEST"))
    for action in (check, few, split):
        action.add_argument("index", metavar="JSONL")
    for action in (few, split):
        action.add_argument("--seed", type=read_count, default=0)
    for action in (build, few, split):
        action.add_argument("--out", required=True, metavar="JSONL")


def _add_demo(commands: Commands) -> None:
    command = commands.add_parser("demo", help="draw phantoms, train, calibrate, score, evaluate; offline, in minutes")
    command.add_argument("--out", required=True, metavar="DIR")
    command.add_argument("--preset", choices=(*PRESETS, "all"), default="brain-mri", help="default brain-mri")
    command.add_argument("--seed", type=read_count, default=7)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = build_parser().parse_args(arguments)
    try:
        _refuse_empty(options)
        room = importlib.import_module(f"aaclip_med.cli.{ROOMS.get(options.command, 'commands')}")
        return int(getattr(room, f"run_{options.command}")(options))
    except AaclipError as error:
        return _complain(str(error), error.exit_code)
    except OSError as error:
        return _complain(f"{error.filename or 'a file'}: {error.strerror or error}", OutputError.exit_code)
    except MemoryError as error:
        return _complain(str(error) or "out of memory; take a smaller --batch-size or --image-size", 2)
    except KeyboardInterrupt:
        return _complain("interrupted; a training run goes on when started again", INTERRUPTED)


def _refuse_empty(options: argparse.Namespace) -> None:
    """An empty path would be the current folder: what a script's unset variable leaves.

    Raises:
        InputError: an argument is empty.
    """
    for name, given in vars(options).items():
        if "" in (given if isinstance(given, list | tuple) else (given,)):
            raise InputError(f"an empty argument ({name.replace('_', '-')}); name a file or a folder")


def _complain(message: str, code: int) -> int:
    print(f"aaclip-med: {' '.join(message.split())}", file=sys.stderr)
    return code


def run() -> None:
    """Entry point of the installed command and of ``python -m aaclip_med``."""
    os.environ.setdefault("KMP_WARNINGS", "0")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as the error stream's: a path that is no UTF-8 ends no run
    sys.exit(main())
