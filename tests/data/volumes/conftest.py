"""How a volume is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aaclip_med.data.volumes import read_volume
from aaclip_med.errors import InputError


def refusal(path: Path, read: Callable[[Path], object] = read_volume) -> str:
    """The one line with which ``path`` is refused."""
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message
