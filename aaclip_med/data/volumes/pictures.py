"""Pictures, with Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aaclip_med.data.volumes.checks import explain_unreadable
from aaclip_med.data.volumes.volume import LPS_TO_RAS, Volume
from aaclip_med.errors import InputError


def read_picture(path: Path) -> Volume:
    """One picture of one page.

    Raises:
        InputError: as ``read_volume``.
    """
    with explain_unreadable(path, "picture", SyntaxError, Image.DecompressionBombError), Image.open(path) as image:
        pages = getattr(image, "n_frames", 1)
        if pages > 1:
            raise InputError(f"{path}: {pages} pages in one picture; save each page as a file of its own")
        array = _picture_array(path, image)
    array = array.swapaxes(0, 1)[:, :, None]
    return Volume(array, LPS_TO_RAS.copy(), path, None, tuple(array.shape[:3]), is_picture=True)


def _picture_array(path: Path, image: Image.Image) -> np.ndarray[Any, Any]:
    """(H, W) or (H, W, 3). Transparency is dropped and a picture's EXIF rotation is not applied."""
    if image.mode in ("1", "L", "F"):
        return np.array(image)
    if image.mode == "LA":
        return np.array(image.convert("L"))
    if image.mode.startswith("I"):
        array = np.array(image)
        if array.min() < 0 or array.max() > np.iinfo(np.uint16).max:
            raise InputError(f"{path}: grey values {array.min()} to {array.max()}; save it with 8 or 16 bits")
        return array.astype(np.uint16)
    return np.array(image.convert("RGB"))
