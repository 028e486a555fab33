"""Training as the MONAI bundle does it, for callers in Python."""

from __future__ import annotations

import copy
import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS

from aaclip_med.errors import AaclipError, InputError
from aaclip_med.zoo.failures import find_cause
from aaclip_med.zoo.names import find_bundle


def describe_tracking(run_name: str) -> dict[str, Any]:
    """MONAI's settings of tracking by MLflow, with stage 1 beside stage 2 in the one run.

    Raises:
        InputError: MLflow is not installed.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise InputError("tracking 'mlflow' needs mlflow; install aaclip-med[mlflow]")
    settings = copy.deepcopy(DEFAULT_MLFLOW_SETTINGS)
    names, handlers = settings["handlers_id"], settings["configs"]
    handlers["trainer"]["output_transform"] = "$lambda output: output['loss']"
    names["text_trainer"] = {"id": "text#trainer", "handlers": "text#handlers"}
    names["text_validator"] = {"id": "text#evaluator", "handlers": "text#val_handlers"}
    handlers["text_trainer"] = handlers["trainer"] | {"tag_name": "text_loss", "close_on_complete": False}
    handlers["text_validator"] = handlers["validator"] | {"_disabled_": "@is_not_rank0"}
    handlers["trainer"] = handlers["trainer"] | {"tag_name": "image_loss"}
    handlers["experiment_name"], handlers["run_name"] = "aaclip-med", run_name
    return dict(settings)


def train(overrides: dict[str, Any], tracking: str | None = None) -> Path:
    """Run the bundle's ``training`` with ``overrides`` by name; returns the adapters file. ``tracking``: ``mlflow`` or None.

    MLflow's records go to ``mlruns.db`` in the output folder, or where ``MLFLOW_TRACKING_URI`` says.

    Raises:
        InputError: the tracking cannot be had.
        AaclipError: what a part of the bundle raised, out of MONAI's wrapping.
    """
    settings = describe_tracking(Path(overrides["output_dir"]).resolve().name) if tracking else None
    configs = find_bundle() / "configs"
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="parsing config_file")
        workflow = ConfigWorkflow(
            config_file=str(configs / "train.yaml"),
            meta_file=str(configs / "metadata.json"),
            logging_file=False,
            run_id="training",
            workflow_type="train",
            tracking=settings,
            **overrides,
        )
    try:
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except RuntimeError as error:
        cause = find_cause(error, AaclipError, OSError, MemoryError, torch.OutOfMemoryError)
        if isinstance(cause, torch.OutOfMemoryError):
            raise MemoryError("out of memory on the GPU; take a smaller --image-batch-size or --image-size") from None
        if cause is None:
            raise
        raise cause from None
    return Path(overrides["output_dir"]) / "adapters.safetensors"
