"""Scans as MONAI's transforms want them, read as every other entry point reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import ImageReader, MetaTensor
from monai.transforms import LoadImaged

from aaclip_med.data.sources import find_sources, read_source
from aaclip_med.data.volumes import Volume

PICTURE = "is_picture"


class VolumeReader(ImageReader):  # type: ignore[misc]
    """A reader for ``LoadImage``: files and DICOM folders by ``data.sources.read_source``, on the scan's own grid.

    Arrays are (I, J, K), a colour picture's (W, H, 1, 3); a picture's values are in [0, 1]. The affine goes to RAS mm.
    """

    def __init__(self, **options: Any) -> None:
        del options

    def verify_suffix(self, filename: Sequence[str | Path] | str | Path) -> bool:
        """Any file may be tried."""
        del filename
        return True

    def read(self, data: Sequence[str | Path] | str | Path, **options: Any) -> Volume:
        """The volume of one path.

        Raises:
            InputError: it cannot be used.
        """
        del options
        if not isinstance(data, (str, Path)):
            (data,) = data
        return read_source(Path(data))

    def get_data(self, volume: Volume) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        """The array, float32, and what MONAI wants to know of it."""
        array = volume.array.astype(np.float32)
        if volume.is_picture and np.issubdtype(volume.array.dtype, np.unsignedinteger):
            array /= np.float32(np.iinfo(volume.array.dtype).max)
        return array, {
            "affine": volume.affine,
            "original_affine": volume.affine,
            "spatial_shape": np.array(volume.array.shape[:3]),
            "original_channel_dim": -1 if array.ndim == 4 else float("nan"),
            "space": "RAS",
            PICTURE: volume.is_picture,
        }


class LoadVolumed(LoadImaged):  # type: ignore[misc]
    """``LoadImaged`` by ``VolumeReader`` alone: what that refuses is not tried with another reader. Channels come first."""

    def __init__(self, keys: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, ensure_channel_first=True, allow_missing_keys=allow_missing_keys)
        self._loader.readers = [VolumeReader()]


def list_scans(folder: str | Path) -> list[dict[str, str]]:
    """The scans among files and folders as a data list: ``image`` is the path of each; without damaged DICOM series.

    Raises:
        InputError: there is none.
    """
    return [{"image": str(source.path)} for source in find_sources([folder]).sources if source.is_sound]


def to_volumes(images: torch.Tensor) -> list[Volume]:
    """A batch (B, 1 or 3, I, J, K) that ``VolumeReader`` began as volumes; a plain tensor has voxels of 1 mm."""
    affines = images.affine if isinstance(images, MetaTensor) else torch.eye(4)
    meta = images.meta if isinstance(images, MetaTensor) else {}
    pictures = np.broadcast_to(np.asarray(meta.get(PICTURE, False)), len(images))
    affines = np.broadcast_to(np.asarray(affines, dtype=np.float64), (len(images), 4, 4))
    volumes = []
    for image, affine, is_picture in zip(images, affines, pictures, strict=True):
        channels = np.asarray(image.detach().cpu(), dtype=np.float32)
        array = channels[0] if len(channels) == 1 else np.moveaxis(channels, 0, -1)
        volumes.append(Volume(array, affine, Path("image"), None, array.shape[:3], bool(is_picture)))
    return volumes
