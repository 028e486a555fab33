"""Arrays that may be larger than memory: the system keeps them in a file that vanishes with them, and pages them in and out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

Array = np.ndarray[Any, Any]

SHARE = 16
"""An array of more than one part in this many of the machine's memory goes into a file."""
SLAB_BYTES = 64 * 2**20
"""What is worked on at once where a whole array would be too much."""


_allowed: int | None = None


def limit_memory(size: int) -> None:
    """Let this process take ``size`` bytes for the machine's memory."""
    global _allowed
    _allowed = size


def count_memory() -> int:
    """Bytes of memory of this machine, or that this process may use; 16 GiB where the system does not say."""
    if _allowed is not None:
        return _allowed
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 16 * 2**30


def is_large(size: int) -> bool:
    """Whether ``size`` bytes had better not be held in memory."""
    return size > count_memory() // SHARE


def make_array(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """A new array, all 0. A large one lies in a file in the system's temporary folder (``TMPDIR``).

    Raises:
        OSError: there is no room for the file.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if not is_large(size):
        return np.zeros(shape, dtype=dtype)
    with tempfile.TemporaryFile() as file:
        made: Array = np.memmap(file, dtype=dtype, mode="w+", shape=shape)
        return made


def make_array_like(array: Array, dtype: DTypeLike) -> Array:
    """A new array, all 0, of the shape of ``array`` and with its axes in the same order in memory."""
    order = np.argsort([-abs(stride) for stride in array.strides], kind="stable").tolist()
    made = make_array(tuple(array.shape[axis] for axis in order), dtype)
    turned: Array = made.transpose(np.argsort(order).tolist())
    return turned


def split_slabs(array: Array) -> Iterator[tuple[slice, ...]]:
    """Indices of parts of about ``SLAB_BYTES`` that lie together in memory, and together are the whole array."""
    axis = int(np.argmax(np.abs(array.strides)))
    length = array.shape[axis]
    step = max(1, SLAB_BYTES * length // max(1, array.nbytes))
    for start in range(0, length, step):
        yield (*[slice(None)] * axis, slice(start, min(length, start + step)))
