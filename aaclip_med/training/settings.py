"""Which values the settings of the bundle's ``train.yaml`` may have."""

from __future__ import annotations

import math
from collections.abc import Mapping

from aaclip_med.errors import InputError
from aaclip_med.zoo.names import find_workflow

LARGEST_SEED = 2**32 - 1
"""NumPy's."""
RANGES = {
    **dict.fromkeys(("text_epochs", "image_epochs", "text_batch_size", "image_batch_size"), (1, None)),
    **dict.fromkeys(("validation_batch_size", "val_interval", "text_draws"), (1, None)),
    "workers": (0, None),
    "seed": (0, LARGEST_SEED),
}
OPTIONAL = ("workers", "text_draws")
"""May be None."""
RATES = ("text_learning_rate", "image_learning_rate")


def check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """Refuse what is no whole number of ``least`` or more, and ``most`` or less.

    Raises:
        InputError: ``value`` is none.
    """
    if type(value) is not int or value < least or (most is not None and value > most):
        raise InputError(f"{name} {value!r}: take a whole number from {least}{'' if most is None else f' to {most}'}")


def check_settings(settings: Mapping[str, object]) -> None:
    """Refuse what no training can be done with, of ``settings`` by name; what a configuration computes is passed over.

    Raises:
        InputError: a setting has such a value.
    """
    settings = {name: value for name, value in settings.items() if not (isinstance(value, str) and value[:1] in ("$", "@"))}
    for name, (least, most) in RANGES.items():
        if name in settings and not (name in OPTIONAL and settings[name] is None):
            check_whole(name, settings[name], least, most)
    for name in RATES:
        rate = settings.get(name, 0.0)
        if type(rate) not in (int, float) or not 0 <= rate < math.inf:  # type: ignore[operator]
            raise InputError(f"{name} {rate!r}: take a number, such as 0.0005")
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
