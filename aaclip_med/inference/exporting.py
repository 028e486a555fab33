"""A heatmap network as a file for other runtimes: TorchScript, ONNX, ``torch.export``."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from aaclip_med.data.writing import atomic_path
from aaclip_med.errors import InputError, OutputError
from aaclip_med.inference.predictor import Predictor
from aaclip_med.inference.provenance import describe_run
from aaclip_med.model.heatmap import HeatmapNetwork
from aaclip_med.model.onnx_engine import OnnxEngine

FormatName = Literal["torchscript", "onnx", "torch-export"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)
ENDINGS = {"torchscript": (".ts", ".pt"), "onnx": (".onnx",), "torch-export": (".pt2",)}
ABOUT = "aaclip_med.json"
OUTPUTS = ("heatmap", "log_odds", "detection")
TOLERANCE = 1e-4
LARGEST_SIDE = 16384
EXAMPLE = (2, 3, 96, 112)
"""A batch to trace with; batch and sides are dynamic, and all differ so that none is taken for another."""
TRIALS = ((1, 3, 61, 200), (3, 3, 160, 97))
"""Batches to check with, in heat."""


class Outputs(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] to heatmap (B, 1, H, W) in [0, 1], log odds (B, S, S) and detection (B,)."""

    def __init__(self, network: HeatmapNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """All that is known of the pictures."""
        log_odds, detection = self.network.score(image)
        return self.network.enlarge(log_odds, image), log_odds, detection


def export_network(network: HeatmapNetwork, form: FormatName, path: str | Path, about: dict[str, Any]) -> float:
    """Write ``network`` to ``path`` in ``form`` with ``about`` in it; returns the largest difference in heat from torch's own.

    TorchScript is made by script and gives the heatmap; the other two give ``Outputs``. Batch and sides are dynamic.

    Raises:
        InputError: the file's ending does not suit the form, or packages for it are not installed.
        OutputError: the file cannot be written, or computes something else.
    """
    path = Path(path)
    if path.suffix not in ENDINGS[form]:
        raise InputError(f"{path}: format '{form}' needs a name that ends in {' or '.join(ENDINGS[form])}")
    network = network.eval()
    write, run = _FORMS[form]
    with _quiet(), torch.no_grad(), atomic_path(path) as temporary:
        write(network, temporary, json.dumps(about))
        difference = _compare(network, run(temporary))
        if difference > TOLERANCE:
            raise OutputError(
                f"{path}: the exported network differs from torch by {difference:.2g}; update torch, export again"
            )
    return difference


def describe_export(predictor: Predictor) -> dict[str, Any]:
    """What an exported file says of itself."""
    return {"inputs": "image (B, C, H, W), windowed to [0, 1]", "outputs": list(OUTPUTS)} | describe_run(predictor)


def _write_torchscript(network: HeatmapNetwork, path: Path, about: str) -> None:
    torch.jit.script(network).save(str(path), _extra_files={ABOUT: about})  # type: ignore[no-untyped-call]


def _write_program(network: HeatmapNetwork, path: Path, about: str) -> None:
    program = torch.export.export(Outputs(network), (_draw(network, EXAMPLE),), dynamic_shapes=_shapes())
    torch.export.save(program, path, extra_files={ABOUT: about})


def _write_onnx(network: HeatmapNetwork, path: Path, about: str) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ModuleNotFoundError as error:
        raise InputError(f"ONNX needs {error.name}; install aaclip-med[onnx]") from None
    program = torch.onnx.export(
        Outputs(network),
        (_draw(network, EXAMPLE),),
        dynamo=True,
        dynamic_shapes=_shapes(),
        input_names=["image"],
        output_names=list(OUTPUTS),
        verbose=False,
    )
    assert program is not None  # only the old exporter returns nothing
    model = program.model_proto
    onnx.helper.set_model_props(model, {ABOUT: about})
    onnx.save(model, path)


def _run_torchscript(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    return torch.jit.load(str(path))  # type: ignore[no-untyped-call, no-any-return]


def _run_program(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    program = torch.export.load(path).module()
    return lambda images: program(images)[0]


def _run_onnx(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    return OnnxEngine(path).draw


_FORMS: dict[FormatName, tuple[Callable[..., None], Callable[[Path], Callable[[torch.Tensor], torch.Tensor]]]] = {
    "torchscript": (_write_torchscript, _run_torchscript),
    "onnx": (_write_onnx, _run_onnx),
    "torch-export": (_write_program, _run_program),
}


def _compare(network: HeatmapNetwork, exported: Callable[[torch.Tensor], torch.Tensor]) -> float:
    batches = [_draw(network, shape) for shape in TRIALS]
    return max(float((exported(batch).cpu() - network(batch).cpu()).abs().max()) for batch in batches)


def _draw(network: HeatmapNetwork, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(next(network.parameters()).device)


def _shapes() -> tuple[dict[int, Any]]:
    sides = {axis: torch.export.Dim(name, min=2, max=LARGEST_SIDE) for axis, name in ((2, "height"), (3, "width"))}
    return ({0: torch.export.Dim("batch", min=1, max=LARGEST_SIDE), **sides},)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters talk of themselves; nothing of it is for the user."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
