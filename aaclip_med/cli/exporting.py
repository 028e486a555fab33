"""``aaclip-med export`` and ``aaclip-med pack``: the model for other runtimes, and as a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from aaclip_med.presets import PRESETS

FORMATS = ("torchscript", "onnx", "torch-export")


def add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The parser of ``export``."""
    command = commands.add_parser("export", help="the model as TorchScript, ONNX or torch.export, checked against torch")
    command.add_argument("--format", choices=FORMATS, required=True)
    command.add_argument("--out", required=True, metavar="FILE", help="ends in .ts, .onnx or .pt2")
    _add_model(command)


def add_pack(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The parser of ``pack``."""
    command = commands.add_parser("pack", help="a self-contained MONAI bundle, for MONAI Label and the model zoo")
    command.add_argument("--out", required=True, metavar="DIR", help="a new folder; its name is the bundle's")
    command.add_argument("--with-weights", action="store_true", help="put the tower's weights into the bundle as well")
    _add_model(command)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--adapters", required=True, help="an adapters.safetensors, or 'demo'")
    command.add_argument("--preset", choices=PRESETS, help="the task (default: the one the adapters were trained for)")
    command.add_argument("--weights", help="the tower's weights, a tag or a file (default: those the adapters name)")


def run_export(options: argparse.Namespace) -> int:
    """One file."""
    from aaclip_med.data.writing import prepare_output_folder
    from aaclip_med.inference.exporting import describe_export, export_network
    from aaclip_med.inference.network import build_network
    from aaclip_med.inference.predictor import load_predictor

    prepare_output_folder(Path(options.out).absolute().parent)
    model = {"weights": options.weights, "device": "cpu"}
    predictor = load_predictor(options.adapters, options.preset, **model)
    difference = export_network(build_network(predictor), options.format, options.out, describe_export(predictor))
    print(f"{options.out}: differs from torch by at most {difference:.1e}; {predictor.note}")
    return 0


def run_pack(options: argparse.Namespace) -> int:
    """One folder."""
    from aaclip_med.zoo.packing import pack_bundle

    print(pack_bundle(options.adapters, options.out, options.preset, options.weights, options.with_weights))
    return 0
