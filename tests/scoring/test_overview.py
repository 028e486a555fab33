"""The overview picture, as a reader would check it."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from aaclip_med.errors import InputError
from aaclip_med.scoring.overview import OverviewCase, build_overview

FOOTER = "The heat says how unusual a voxel looks beside normal cases; it is no diagnosis. " * 3


def build_case(name="case", shape=(64, 48), row_mm=1.0, column_mm=1.0, masked=True, caption="score 0.9\np = 0.02\nlesion"):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    heat = np.exp(-((rows - shape[0] / 3) ** 2 + (columns - shape[1] / 2) ** 2) / 60).astype(np.float32)
    image = np.full(shape, 0.4, dtype=np.float32)
    return OverviewCase(name, 17, image, heat, heat > 0.5 if masked else None, row_mm, column_mm, caption)


def texts_of(figure: Figure) -> list:
    return [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]


@pytest.mark.parametrize("count", [1, 4])
def test_no_two_texts_overlap_and_none_leaves_the_page(count):
    cases = [
        build_case("a_long_case_name_without_a_space_" * 3 + "$x$", (20, 200), caption="a long caption " * 8),
        build_case("flat", (30, 300), masked=False),
        build_case("tall", (300, 30)),
        build_case("retina"),
    ][:count]
    figure = build_overview(cases, "A title that is long enough to be wrapped over two lines of the page " * 2, FOOTER)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in texts_of(figure)]
    boxes += [axes.get_tightbbox() for axes in figure.axes]
    for one, other in combinations(boxes, 2):
        assert not one.padded(-1).overlaps(other.padded(-1))
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1


def test_every_row_says_which_case_which_slice_and_what_it_scored():
    figure = build_overview([build_case("patient_7"), build_case("patient_8")], "Validation", "No diagnosis.")
    said = "\n".join(text.get_text() for text in texts_of(figure))
    for words in (
        "Validation",
        "patient_7",
        "patient_8",
        "slice 17",
        "score 0.9",
        "p = 0.02",
        "lesion",
        "No diagnosis.",
    ):
        assert words in said


def test_the_legend_names_the_outline_only_where_there_is_one():
    (legend,) = build_overview([build_case(), build_case(masked=False)], "t", "f").legends
    assert [text.get_text() for text in legend.get_texts()] == ["outline of the reference lesion"]
    assert build_overview([build_case(masked=False)], "t", "f").legends == []
    empty = OverviewCase("c", 0, np.zeros((8, 8)), np.zeros((8, 8)), np.zeros((8, 8)), 1, 1, "normal")
    assert build_overview([empty], "t", "f").legends == []


def test_the_colour_bar_spans_the_scale_that_was_asked_for():
    bar = build_overview([build_case()], "t", "f", vmin=0.9, vmax=0.999, heat_label="fraction").axes[-1]
    assert bar.get_ylim() == pytest.approx((0.9, 0.999))
    assert bar.get_ylabel() == "fraction"


def test_pixels_are_drawn_at_their_size_in_millimetres():
    figure = build_overview([build_case(shape=(40, 80), row_mm=3.0, column_mm=1.0)], "t", "f")
    figure.canvas.draw()
    box = figure.axes[0].get_window_extent()
    assert box.height / box.width == pytest.approx(40 * 3 / 80, rel=0.02)


def test_the_heat_shows_on_the_second_panel_and_leaves_cold_pixels_grey(tmp_path: Path):
    build_overview([build_case(masked=False)], "t", "f").savefig(tmp_path / "overview.png")
    pixels = np.asarray(Image.open(tmp_path / "overview.png").convert("RGB")).astype(int)
    figure = build_overview([build_case(masked=False)], "t", "f")
    figure.canvas.draw()

    def colour_at(panel: int, row: float, column: float) -> np.ndarray:
        x, y = figure.axes[panel].transData.transform((column, row))
        return pixels[round(pixels.shape[0] - y), round(x)]

    grey = np.full(3, round(0.4 * 255))
    assert colour_at(0, 64 / 3, 24) == pytest.approx(grey, abs=2)
    assert colour_at(1, 60, 4) == pytest.approx(grey, abs=2)
    red, _, blue = colour_at(1, 64 / 3, 24)
    assert red > 180
    assert red - blue > 40


def test_the_same_cases_give_the_same_file(tmp_path: Path):
    for name in ("a.png", "b.png"):
        build_overview([build_case()], "t", "f").savefig(tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_what_cannot_be_drawn_is_refused():
    odd = OverviewCase("odd", 0, np.zeros((8, 8)), np.zeros((8, 9)), None, 1, 1, "")
    flat = OverviewCase("flat", 0, np.zeros((8, 8)), np.zeros((8, 8)), None, 0, 1, "")
    for cases, message in (
        ([], "1 to 100"),
        ([odd], "case odd"),
        ([flat], "case flat"),
        ([build_case()] * 101, "got 101"),
    ):
        with pytest.raises(InputError, match=message):
            build_overview(cases, "t", "f")
    with pytest.raises(InputError, match="vmin < vmax"):
        build_overview([build_case()], "t", "f", vmin=1.0, vmax=1.0)
