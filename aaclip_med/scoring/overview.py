"""The overview picture: one row per case, the slice beside the same slice under its heatmap."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from aaclip_med.errors import InputError
from aaclip_med.scoring.colours import HEAT_COLOURS, OUTLINE_COLOUR

MOST_CASES = 100
DPI = 110
FULL_ALPHA = 0.8
"""Opacity of the hottest pixel; it falls to 0 with the heat, so that the slice stays visible."""

# The layout, in inches; every part has a place of its own, so nothing can overlap.
MARGIN, GAP = 0.25, 0.12
TEXT_WIDTH, PANEL_WIDTH, BAR_SPACE, BAR_WIDTH = 2.3, 3.2, 1.2, 0.16
LEAST_PANEL, MOST_PANEL = 0.8, 4.2
LINE = 0.17
TEXT_COLUMNS = 31


@dataclass(frozen=True)
class OverviewCase:
    """One row of the overview.

    Attributes:
        name: the case.
        slice_index: number of the slice along its volume's slice axis.
        image: (H, W) grey slice in [0, 1], rows downwards as displayed.
        heat: (H, W) heatmap of the slice.
        mask: (H, W) reference lesion, anything but zero; None where there is none.
        row_mm: distance between rows, mm.
        column_mm: distance between columns, mm.
        caption: what to say about the case (score, p-value, label), in lines; long lines are wrapped.
    """

    name: str
    slice_index: int
    image: NDArray[np.floating]
    heat: NDArray[np.floating]
    mask: NDArray[np.generic] | None
    row_mm: float
    column_mm: float
    caption: str


def build_overview(
    cases: Sequence[OverviewCase],
    title: str,
    footer: str,
    vmin: float = 0.0,
    vmax: float = 1.0,
    heat_label: str = "anomaly score",
) -> Figure:
    """The overview, ready for ``savefig``. No pyplot state is touched.

    Args:
        cases: the rows, 1 to 100.
        title: heading.
        footer: sentence below the rows, such as what the scores do not mean.
        vmin: heat shown as the scale's lower end, fully transparent.
        vmax: heat shown as the scale's upper end.
        heat_label: what the colour bar measures.

    Raises:
        InputError: there are no cases or too many, shapes do not fit, or the scale is empty.
    """
    _check(cases, vmin, vmax)
    labels = [_wrap_label(case) for case in cases]
    heights = [
        max(_panel_height(case), LINE * (len(name) + len(rows) + 1)) for case, (name, rows) in zip(cases, labels, strict=True)
    ]
    width = 2 * MARGIN + TEXT_WIDTH + 2 * PANEL_WIDTH + 2 * GAP + BAR_SPACE
    title_rows, footer_rows = textwrap.wrap(title, 78), textwrap.wrap(footer, 125)
    outlined = any(case.mask is not None and bool(np.any(case.mask)) for case in cases)

    above = MARGIN + 1.5 * LINE * len(title_rows) + 2.2 * LINE
    below = MARGIN + LINE * len(footer_rows) + (2.2 * LINE if outlined else LINE)
    rows_height = sum(heights) + GAP * (len(cases) - 1)
    height = above + rows_height + below
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, size: float, va: str = "top", **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text, fontsize=size, va=va, parse_math=False, linespacing=1.3, **style)

    scale = Normalize(vmin, vmax, clip=True)
    first, second = MARGIN + TEXT_WIDTH, MARGIN + TEXT_WIDTH + PANEL_WIDTH + GAP
    write(MARGIN, MARGIN, "\n".join(title_rows), 13, weight="bold")
    for x, heading in ((first, "slice"), (second, "slice with heatmap")):
        write(x + PANEL_WIDTH / 2, above - 0.5 * LINE, heading, 9, va="baseline", ha="center", color="0.35")

    top = above
    for case, (name, rows), row_height in zip(cases, labels, heights, strict=True):
        write(MARGIN, top, "\n".join(name), 9, weight="bold")
        write(MARGIN, top + LINE * len(name), "\n".join(rows), 9)
        for x, heated in ((first, False), (second, True)):
            place = (x / width, 1 - (top + row_height) / height, PANEL_WIDTH / width, row_height / height)
            _draw_panel(figure.add_axes(place), case, scale if heated else None)
        top += row_height + GAP

    bar_height = min(rows_height, 4.0)
    bar_left, bar_bottom = second + PANEL_WIDTH + 0.15, above + bar_height
    bar = figure.add_axes((bar_left / width, 1 - bar_bottom / height, BAR_WIDTH / width, bar_height / height))
    figure.colorbar(ScalarMappable(scale, HEAT_COLOURS), cax=bar)
    bar.set_ylabel(textwrap.fill(heat_label, max(8, int(13 * bar_height))), fontsize=9, parse_math=False)
    bar.tick_params(labelsize=8)

    footer_top = above + rows_height + LINE
    if outlined:
        line = Line2D([], [], color=OUTLINE_COLOUR, linewidth=1.5, label="outline of the reference lesion")
        corner = (first / width, 1 - footer_top / height)
        figure.legend(handles=[line], loc="upper left", bbox_to_anchor=corner, fontsize=9, frameon=False, borderaxespad=0)
        footer_top += 1.4 * LINE
    write(MARGIN, footer_top, "\n".join(footer_rows), 9, color="0.25")
    return figure


def _draw_panel(axes: Axes, case: OverviewCase, scale: Normalize | None) -> None:
    aspect = case.row_mm / case.column_mm
    axes.imshow(case.image, cmap="gray", vmin=0, vmax=1, aspect=aspect, interpolation="nearest")
    if scale is not None:
        share = np.asarray(scale(case.heat), dtype=np.float64)
        colours = colormaps[HEAT_COLOURS](share)
        colours[..., 3] = FULL_ALPHA * share
        axes.imshow(colours, aspect=aspect, interpolation="nearest")
    if scale is not None and case.mask is not None and np.any(case.mask):
        # Padded, so that a lesion touching the border still has a closed outline.
        lesion = np.pad(case.mask.astype(bool).astype(np.float64), 1)
        rows, columns = (np.arange(-1, size - 1) for size in lesion.shape)
        axes.contour(columns, rows, lesion, levels=[0.5], colors=OUTLINE_COLOUR, linewidths=1.2)
        axes.set_xlim(-0.5, case.image.shape[1] - 0.5)
        axes.set_ylim(case.image.shape[0] - 0.5, -0.5)
    axes.set_axis_off()


def _panel_height(case: OverviewCase) -> float:
    rows, columns = case.image.shape
    return float(np.clip(PANEL_WIDTH * rows * case.row_mm / (columns * case.column_mm), LEAST_PANEL, MOST_PANEL))


def _wrap_label(case: OverviewCase) -> tuple[list[str], list[str]]:
    """The text beside the pictures: the rows of the name, and the rows of slice number and caption."""
    rows = [f"slice {case.slice_index}"]
    for line in case.caption.splitlines():
        rows += textwrap.wrap(line, TEXT_COLUMNS)
    return textwrap.wrap(case.name, TEXT_COLUMNS - 5), rows


def _check(cases: Sequence[OverviewCase], vmin: float, vmax: float) -> None:
    if not 1 <= len(cases) <= MOST_CASES:
        raise InputError(f"an overview shows 1 to {MOST_CASES} cases; got {len(cases)}")
    if not vmin < vmax:
        raise InputError(f"the colour scale needs vmin < vmax; got vmin={vmin}, vmax={vmax}")
    for case in cases:
        parts = [case.image, case.heat] + ([] if case.mask is None else [case.mask])
        shapes = [np.shape(part) for part in parts]
        if len(shapes[0]) != 2 or len(set(shapes)) > 1:
            raise InputError(f"case {case.name}: slice, heatmap and mask must share one (H, W) shape; got {shapes}")
        if not (case.row_mm > 0 and case.column_mm > 0):
            raise InputError(f"case {case.name}: pixel size must be above 0 mm; got {case.row_mm} by {case.column_mm}")
