"""``aaclip-med protocol``. Imports nothing heavy before it runs."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from aaclip_med.cli.options import FIDELITIES, add_hardware, read_count

NAMES = ("clip", "clip_surgery", "few_shot", "leave_one_organ_out", "linear_projection", "normal_only", "zero_shot")


def add_protocol(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``protocol`` to the commands of ``aaclip-med``."""
    command = commands.add_parser("protocol", help="a published experiment, from the sets on disk to its table")
    command.add_argument("name", metavar="NAME", help=f"{', '.join(NAMES)}; or a YAML file of your own")
    command.add_argument(
        "--data", required=True, metavar="DIR", help="holds the sets; docs/protocols.md says under which names"
    )
    command.add_argument("--out", required=True, metavar="DIR", help="gets table.md, .csv and .json; run again to go on")
    command.add_argument("--shots", nargs="+", metavar="K", help="numbers or 'full' (default: the protocol's)")
    command.add_argument("--seeds", type=read_count, nargs="+", metavar="N", help="default: the protocol's")
    group = command.add_argument_group("model")
    group.add_argument("--backbone", default="ViT-L-14-336", help="an open_clip ViT (default ViT-L-14-336), or 'tiny'")
    group.add_argument("--weights", help="the tower's weights, a tag or a file")
    group.add_argument("--image-size", type=int, metavar="PIXELS", help="default 518 for ViT-L-14-336, else the tower's own")
    group.add_argument("--fidelity", choices=FIDELITIES, help="default: the protocol's")
    add_hardware(group, "float32", "float32, of scoring; training takes its own")
    group.add_argument("--batch-size", type=int, default=16, metavar="N", help="slices scored at once (default 16)")
    training = command.add_argument_group("training")
    for name in ("text-epochs", "image-epochs", "text-batch-size", "image-batch-size", "workers"):
        training.add_argument(f"--{name}", type=int, metavar="N")
    training.add_argument("--no-augmentation", action="store_true")


def run_protocol(options: argparse.Namespace) -> int:
    """Run what is on disk, and print the table."""
    from dataclasses import replace
    from pathlib import Path

    from aaclip_med.cli.commands import judge
    from aaclip_med.cli.main import NONE_DONE
    from aaclip_med.errors import InputError
    from aaclip_med.protocols.config import check_shots, read_protocol
    from aaclip_med.protocols.run import Machine
    from aaclip_med.protocols.run import run_protocol as run
    from aaclip_med.training.settings import check_settings

    protocol = read_protocol(options.name)
    if not Path(options.data).is_dir():
        raise InputError(f"{options.data}: no such folder of sets")
    if options.shots:
        protocol = replace(protocol, shots=check_shots(options.shots))
    if options.seeds:
        protocol = replace(protocol, seeds=tuple(dict.fromkeys(options.seeds)))
    if options.fidelity:
        protocol = replace(protocol, fidelity=options.fidelity)
    names = ("text_epochs", "image_epochs", "text_batch_size", "image_batch_size", "workers")
    training: dict[str, Any] = {name: value for name in names if (value := getattr(options, name)) is not None}
    check_settings(training)
    if options.no_augmentation:
        training["augment"] = False
    kept = ("backbone", "weights", "image_size", "device", "precision", "batch_size")
    machine = Machine(**{name: getattr(options, name) for name in kept}, training=training)
    outcomes = run(protocol, options.data, options.out, machine, _say)
    print((Path(options.out) / "table.md").read_text(encoding="utf-8"), end="")
    done = sum(bool(one.classes) for one in outcomes)
    return judge(sum(one.is_faulty for one in outcomes), done) if done else NONE_DONE


def _say(text: str) -> None:
    print(f"aaclip-med: {text}", file=sys.stderr, flush=True)
