"""Look-alikes of published sets, large enough to learn from: pictures and masks of 24 x 24 pixels, a lesion a bright square."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def save_picture(path: Path, rng: np.random.Generator, lesion: tuple[int, int] | None = None) -> np.ndarray:
    """A picture of noise on grey, brighter where the lesion's square begins; returns its mask."""
    array = rng.normal(90, 15, (24, 24))
    mask = np.zeros((24, 24), dtype=np.uint8)
    if lesion is not None:
        row, column = lesion
        mask[row : row + 7, column : column + 7] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(array + 0.4 * mask, 0, 255).astype(np.uint8)).save(path)
    return mask


def save_pair(image: Path, mask: Path, rng: np.random.Generator) -> None:
    drawn = save_picture(image, rng, (int(rng.integers(2, 15)), int(rng.integers(2, 15))))
    mask.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn).save(mask)


def draw_bmad(folder: Path, seed: int, prefix: str = "") -> None:
    """BMAD's layout: a picture a patient."""
    rng = np.random.default_rng(seed)
    number = 0
    for part, count in (("train", 4), ("valid", 3), ("test", 2)):
        for _ in range(count):
            number += 1
            save_picture(folder / part / "good" / "img" / f"{prefix}{number:05d}_60.png", rng)
            if part != "train":
                number += 1
                name = f"{prefix}{number:05d}_60.png"
                save_pair(folder / part / "Ungood" / "img" / name, folder / part / "Ungood" / "label" / name, rng)


def draw_objects(folder: Path, *classes: str) -> None:
    """MVTec's layout, in which VisA is passed on as well; in test each class has 3 normal pictures and 3 with a defect."""
    rng = np.random.default_rng(9)
    for name in classes:
        save_picture(folder / name / "train" / "good" / "000.png", rng)
        for number in range(3):
            save_picture(folder / name / "test" / "good" / f"{number}.png", rng)
            mask = folder / name / "ground_truth" / "bad" / f"{number}_mask.png"
            save_pair(folder / name / "test" / "bad" / f"{number}.png", mask, rng)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two organs of BMAD and VisA with two classes; the polyps and the other sets are missing."""
    folder = tmp_path_factory.mktemp("data")
    draw_bmad(folder / "BMAD" / "Brain", 0)
    draw_bmad(folder / "Retina_RESC", 1)
    draw_objects(folder / "VisA", "candle", "pcb1")
    return folder
