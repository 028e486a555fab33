"""Which values the settings of the bundle's ``train.yaml`` may have."""

from __future__ import annotations

from collections.abc import Mapping

from aaclip_med.errors import InputError
from aaclip_med.zoo.names import find_workflow


def check_settings(settings: Mapping[str, object]) -> None:
    """Refuse what no training can be done with, of ``settings`` by name.

    Raises:
        InputError: a setting has such a value.
    """
    if settings.get("precision") == "int8":
        raise InputError("precision 'int8' is for scoring; train in auto, float32, bf16 or fp16")


def check_bundle() -> None:
    """``check_settings`` of the workflow that is being set up, before anything is computed from them.

    Raises:
        InputError: as there.
    """
    workflow = find_workflow()
    if workflow is not None:
        check_settings(workflow.parser.config)
