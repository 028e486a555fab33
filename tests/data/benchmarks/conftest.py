"""Look-alikes of published sets: a few tiny pictures and volumes in the same folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DrawPictures = Callable[..., None]


@pytest.fixture
def draw(tmp_path: Path) -> DrawPictures:
    """Draw pictures below the test's folder, no two alike: ``draw("test/good", "1.png", "2.png")``."""
    rng = np.random.default_rng(0)

    def draw_pictures(folder: str, *names: str, under: Iterable[str] = ("",)) -> None:
        for top in under:
            for name in names:
                path = tmp_path / top / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (6, 5), dtype=np.uint8)).save(path)

    return draw_pictures
