"""Decoders that do what bad ones do; in a module that a reader's process can import."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aaclip_med.data.volumes import Volume


@dataclass(frozen=True)
class Ends:
    """A decoder that ends its process by ``number``, as one that runs into a bug in C does."""

    number: int

    def __call__(self) -> Volume:
        os.kill(os.getpid(), self.number)
        raise AssertionError


@dataclass(frozen=True)
class Devours:
    """A decoder that asks for 3 GB."""

    def __call__(self) -> Volume:
        return Volume(np.ones((3000, 1000, 1000)), np.eye(4), Path("x"), None, (1, 1, 1), False)
