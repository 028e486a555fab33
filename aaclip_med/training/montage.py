"""A picture of what training on normal scans learns from: slices beside the same slices with synthetic lesions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aaclip_med.data.index import Case
from aaclip_med.data.slices import cut_case
from aaclip_med.data.synthesis import Synthesis, Synthetic
from aaclip_med.data.writing import atomic_path
from aaclip_med.errors import InputError
from aaclip_med.presets import Preset
from aaclip_med.scoring.colours import OUTLINE_COLOUR

MOST_TILES = 60
DPI = 110
PAIRS_A_ROW = 3
PANEL = 2.3
"""Side of a panel, inches."""
CAPTION, HEADING = 0.42, 0.35
TRIES = 10


@dataclass(frozen=True)
class Tile:
    """A slice (C, H, W) in [0, 1] and the same with lesions."""

    name: str
    before: np.ndarray[Any, Any]
    after: Synthetic


def draw_tiles(
    cases: Sequence[Case],
    preset: Preset,
    count: int,
    seed: int,
    synthesis: Synthesis | None = None,
    track: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> list[Tile]:
    """``count`` slices of the normal cases, drawn by ``seed``, with lesions in them. A slice that takes none is passed over.

    Raises:
        InputError: ``count`` is not 1 to 60, no case is normal, one cannot be read, or the slices take no lesion.
    """
    if not 1 <= count <= MOST_TILES:
        raise InputError(f"{count} slices; a montage shows 1 to {MOST_TILES}")
    normal = [case for case in cases if not case.label]
    if not normal:
        raise InputError("the index has no normal row (label 0) to put lesions into; add normal scans")
    synthesis = synthesis or Synthesis()
    order = np.random.default_rng(seed).permutation(len(normal))
    tiles = []
    for number in track(range(count)):
        case = normal[order[number % len(order)]]
        cut = cut_case(case, preset)
        rng = np.random.default_rng((seed, number))
        for _ in range(TRIES):
            chosen = cut.used[rng.integers(len(cut.used))]
            picture = np.asarray(cut.images[chosen], dtype=np.float32)
            before = picture[None] if picture.ndim == 2 else np.moveaxis(picture, -1, 0)
            after = synthesis.draw(before, rng, (1.0, 1.0), None if cut.organ is None else cut.organ[chosen])
            if after.names:
                tiles.append(Tile(f"{case.name}, slice {chosen}", before, after))
                break
    if not tiles:
        raise InputError("no slice of the normal cases took a lesion: they show too little of the body")
    return tiles


def draw_montage(path: str | Path, tiles: Sequence[Tile], title: str) -> None:
    """Write ``tiles`` as a PNG file, whole or not at all: each slice stretched to a square, as the model sees it.

    Raises:
        OutputError: the file cannot be written.
    """
    rows = math.ceil(len(tiles) / PAIRS_A_ROW)
    columns = min(len(tiles), PAIRS_A_ROW)
    width, height = 2 * PANEL * columns, HEADING + rows * (PANEL + CAPTION)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.05 / width, 1 - 0.08 / height, title, fontsize=10, weight="bold", va="top", parse_math=False)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, PAIRS_A_ROW)
        left, bottom = 2 * PANEL * column, height - HEADING - (row + 1) * (PANEL + CAPTION)
        for side, values in enumerate((tile.before, tile.after.values)):
            place = ((left + side * PANEL + 0.03) / width, bottom / height, (PANEL - 0.06) / width, PANEL / height)
            axes = figure.add_axes(place)
            axes.imshow(np.moveaxis(values, 0, -1).squeeze(), cmap="gray", vmin=0, vmax=1, aspect="auto")
            if side:
                _outline(axes, tile.after.mask)
            axes.set_axis_off()
        caption = f"{tile.name}\n{', '.join(tile.after.names)}"
        figure.text((left + 0.05) / width, (bottom + PANEL) / height, caption, fontsize=6.5, va="bottom", parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _outline(axes: Axes, mask: np.ndarray[Any, Any]) -> None:
    padded = np.pad(mask.astype(float), 1)
    rows, columns = (np.arange(-1, size - 1) for size in padded.shape)
    axes.contour(columns, rows, padded, levels=[0.5], colors=OUTLINE_COLOUR, linewidths=0.7)
    axes.set_xlim(-0.5, mask.shape[1] - 0.5)
    axes.set_ylim(mask.shape[0] - 0.5, -0.5)
