"""Training as the MONAI bundle does it, for callers in Python."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from aaclip_med.errors import AaclipError
from aaclip_med.zoo.names import find_bundle


def train(overrides: dict[str, Any]) -> Path:
    """Run the bundle's ``training`` with ``overrides`` by name; returns the adapters file.

    Raises:
        AaclipError: what a part of the bundle raised, out of MONAI's wrapping.
    """
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
            **overrides,
        )
    try:
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except RuntimeError as error:
        # MONAI wraps what a part raised in RuntimeErrors of its own.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (AaclipError, KeyboardInterrupt, OSError, MemoryError)):
            if isinstance(cause, torch.OutOfMemoryError):
                raise MemoryError("out of memory on the GPU; take a smaller --image-batch-size or --image-size") from None
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None
    return Path(overrides["output_dir"]) / "adapters.safetensors"
