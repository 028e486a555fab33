"""State dicts without the parts of a module that never change."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn


def leave_out(module: nn.Module, is_left_out: Callable[[str], bool]) -> None:
    """Keep the tensors whose names ``is_left_out`` accepts out of ``module.state_dict()``; a strict load does without them."""
    module.register_state_dict_post_hook(partial(_drop, is_left_out))  # type: ignore[no-untyped-call]
    module.register_load_state_dict_pre_hook(partial(_keep, is_left_out))  # type: ignore[no-untyped-call]


def _drop(is_left_out: Callable[[str], bool], module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    del module, metadata
    for name in [name for name in state if name.startswith(prefix) and is_left_out(name[len(prefix) :])]:
        del state[name]


def _keep(is_left_out: Callable[[str], bool], module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    del rest
    passing = {
        f"{path}.{name}" if path else name for path, part in module.named_modules() for name in part._non_persistent_buffers_set
    }
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_left_out(name) and name not in passing:
            state.setdefault(prefix + name, tensor.detach())
