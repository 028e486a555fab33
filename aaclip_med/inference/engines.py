"""ONNX Runtime in the place of torch: a predictor's network, exported once and kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch

from aaclip_med import __version__
from aaclip_med.data.writing import prepare_output_folder
from aaclip_med.errors import InputError
from aaclip_med.inference.exporting import describe_export, export_network
from aaclip_med.inference.network import build_network
from aaclip_med.inference.predictor import Predictor
from aaclip_med.model.onnx_engine import OnnxEngine
from aaclip_med.model.weights import hash_state


def load_engine(predictor: Predictor, folder: str | Path | None = None) -> OnnxEngine:
    """The engine that computes what ``predictor`` does in float32. Its file is kept in ``folder``, by content.

    ``folder`` None: ``aaclip-med/onnx`` in ``XDG_CACHE_HOME``, else in ``~/.cache``. The first call exports, and takes long.

    Raises:
        InputError: the packages for it are not installed, or the predictor is zero-shot, drops background or has
            another precision than float32.
        OutputError: the folder cannot be written to.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = prepare_output_folder(folder or Path(cache) / "aaclip-med" / "onnx")
    if predictor.drop_background:
        raise InputError("engine 'onnx' shows the tower every patch; leave --drop-background out, or take the engine 'local'")
    if predictor.dtype != torch.float32:
        precision = str(predictor.dtype).removeprefix("torch.")
        raise InputError(f"engine 'onnx' computes in float32, not {precision}; take --precision float32 or the engine 'local'")
    network = build_network(predictor)
    settings = (predictor.detector.config.to_json(), predictor.refinement.to_json(), predictor.domain)
    tensors = network.state_dict() | {f"bank.{number}": level for number, level in enumerate(predictor.bank or ())}
    about = (__version__, torch.__version__, predictor.detector.tower_hash, *map(str, settings), hash_state(tensors))
    key = hashlib.sha256("|".join(about).encode()).hexdigest()[:24]
    path = folder / f"{key}.onnx"
    if not path.is_file():
        export_network(network, "onnx", path, describe_export(predictor))
    return OnnxEngine(path, str(predictor.device))
