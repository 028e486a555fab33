"""A case's pictures for the report page: a few slices with their heat, small enough that hundreds fit into one file."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import aff2axcodes
from PIL import Image

from aaclip_med.data.planes import SlicePlan, plan_volume
from aaclip_med.data.slices import CutCase, cut_volume
from aaclip_med.data.volumes import Volume
from aaclip_med.inference.case import ScoredCase
from aaclip_med.presets import PLANES, PlaneName, Preset
from aaclip_med.scoring.candidates import Candidate

Array = np.ndarray[Any, Any]

VERSION = 1
"""Of what a preview holds; the page shows no other."""

LISTED_CANDIDATES = 50
SHOWN_CANDIDATES = 8
"""So many candidates, hottest first, have the slice of their peak and their middle slice in the preview at any budget."""

QUALITIES = ((768, 85), (512, 85), (512, 70), (384, 65), (320, 60), (256, 50), (192, 50), (160, 45), (128, 45), (96, 45))
"""Longest side in pixels and WebP quality of a picture: the first that leaves room for ``WANTED_SLICES`` is taken."""
WANTED_SLICES = 24
HEAT_SHARE, HEAT_SIDE = 0.6, 96
"""Side of the heat's picture over the grey one's, and at most: a map has about 40 patches across, and is drawn enlarged."""

HEAT_CODES = 64
CODE_STEP = 4
CALIBRATED_SCALE = (1.0, 6.0)
UNCALIBRATED_SCALE = (-4.0, 4.0)
"""Lowest and highest heat that is told apart, as log10(heat / (1 - heat)): 0.9 to 0.999999, and 0.0001 to 0.9999."""

PAGE_KB = 60_000
LEAST_KB, MOST_KB = 12, 400


@dataclass(frozen=True)
class HeatScale:
    """How heat in [0, 1] becomes codes 0 to 63, even in log odds to base 10.

    Code c >= 1 stands for log odds of at least ``low + (c - 1) * step``, code 0 for all below. The threshold of candidates is
    the lower end of code ``threshold``, so a voxel's code reaches that exactly where its heat reaches the threshold.
    """

    low: float
    step: float
    threshold: int

    def encode(self, heat: Array) -> Array:
        """Codes (...) uint8 of heat (...) in [0, 1]."""
        above = np.floor((log_odds(heat) - self._at_threshold) / self.step + 1e-9) + self.threshold
        return np.clip(above, 0, HEAT_CODES - 1).astype(np.uint8)  # type: ignore[no-any-return]

    @property
    def _at_threshold(self) -> float:
        return self.low + (self.threshold - 1) * self.step


def choose_scale(threshold: float, calibrated: bool) -> HeatScale:
    """The scale of a run: the same for all its cases, so that colours compare."""
    low, high = CALIBRATED_SCALE if calibrated else UNCALIBRATED_SCALE
    begin = float(log_odds(np.asarray(threshold, dtype=np.float32)))
    low, high = min(low, begin), max(high, begin + 1.0)
    step = (high - low) / (HEAT_CODES - 1)
    code = 1 + round((begin - low) / step)
    return HeatScale(begin - (code - 1) * step, step, code)


def choose_budget(cases: int) -> int:
    """Kilobytes a case so that a page of ``cases`` stays below about 60 MB, but never below 12 nor above 400."""
    return max(LEAST_KB, min(MOST_KB, PAGE_KB // max(cases, 1)))


def draw_preview(
    volume: Volume, case: ScoredCase, preset: Preset, organ: Array | None, threshold: float, budget_kb: int
) -> bytes:
    """The pictures of one case, as JSON in UTF-8 with WebP pictures in base64.

    Slices are those that the detector saw: windowed, confined to ``organ`` (I, J, K) bool, cropped where the preset crops.
    They are turned for the eye as in ``data.planes`` and have square pixels; in the plane ``native`` (OCT, pictures) they are
    as stored, pixel for pixel. Heat shrinks by its maximum, so that no hot voxel is lost. Where ``budget_kb`` kilobytes do
    not hold all scored slices, pictures become smaller and then fewer, with gaps as small as can be. The peak slice, and
    the slice of the peak and the middle slice of each of the first 8 candidates are always there, whatever they take.

    Raises:
        InputError: as ``cut_volume``.
    """
    plane = _find_plane(volume, case.axis, preset)
    cut = cut_volume(volume, preset, plane, None, organ)
    candidates = case.candidates[:LISTED_CANDIDATES]
    peaks = [_find_voxel(volume, candidate) for candidate in candidates]
    needed = _list_needed(case, [peak[case.axis] for peak in peaks])
    painter = _Painter(cut, case, choose_scale(threshold, case.p_value is not None), plane == "native")
    budget = budget_kb * 1000
    wanted = min(len(case.slices), max(WANTED_SLICES, len(needed) + 8))
    fitting = (look for look in QUALITIES if _size(painter.paint(case.peak_slice, *look)) * wanted <= budget)
    side, quality = next(fitting, QUALITIES[-1])
    slices: dict[int, dict[str, Any]] = {}
    spent = 0
    for number in itertools.chain(needed, _fill_gaps(case.slices, needed)):
        pictures = painter.paint(number, side, quality)
        spent += _size(pictures)
        if spent > budget and number not in needed:
            break
        slices[number] = pictures
    scores = dict(zip(case.slices, painter.scale.encode(case.slice_scores).tolist(), strict=True))
    content = {
        "version": VERSION,
        "plane": plane,
        "size": painter.picture_size(side),
        "pixel_mm": painter.pixel_mm(side),
        "edges": None if plane == "native" else _name_edges(volume, cut.plan),
        "count": volume.array.shape[case.axis],
        "scored": len(case.slices),
        "calibrated": case.p_value is not None,
        "scale": {"low": painter.scale.low, "step": painter.scale.step, "threshold": painter.scale.threshold},
        "slices": [{"number": number, "score": scores.get(number, 0), **slices[number]} for number in sorted(slices)],
        "candidates": [
            {"id": candidate.id, "slice": peak[case.axis], "at": painter.locate(peak)}
            for candidate, peak in zip(candidates, peaks, strict=True)
        ],
    }
    return json.dumps(content, separators=(",", ":")).encode()


class _Painter:
    """One case's slices as pictures of any size."""

    def __init__(self, cut: CutCase, case: ScoredCase, scale: HeatScale, as_stored: bool) -> None:
        self.cut = cut
        self.heat = cut.crop(cut.plan.cut(case.heatmap))
        self.scale = scale
        row_mm, column_mm, _ = cut.plan.pixel_spacing(cut.volume.spacing)
        self.pixel = (1.0, 1.0) if as_stored else (row_mm, column_mm)
        self.has_mm = not as_stored

    def picture_size(self, side: int) -> tuple[int, int]:
        """(width, height) in square pixels, none of them smaller than the slice's own."""
        rows, columns = self.cut.images.shape[1:3]
        height, width = rows * self.pixel[0], columns * self.pixel[1]
        step = max(max(height, width) / side, min(self.pixel))
        return max(1, round(width / step)), max(1, round(height / step))

    def pixel_mm(self, side: int) -> float | None:
        """Side of a picture's pixel in mm; None where it is not known."""
        width, height = self.picture_size(side)
        rows, columns = self.cut.images.shape[1:3]
        return max(rows * self.pixel[0], columns * self.pixel[1]) / max(width, height) if self.has_mm else None

    def paint(self, number: int, side: int, quality: int) -> dict[str, Any]:
        """The pictures of slice ``number``: ``grey`` or colour, and ``heat``, empty where no heat is on the scale."""
        width, height = self.picture_size(side)
        levels = np.round(self.cut.images[number] * 255.0).astype(np.uint8)
        grey = Image.fromarray(levels).resize((width, height), Image.Resampling.LANCZOS)
        share = min(HEAT_SHARE, HEAT_SIDE / max(width, height))
        heat = _shrink(self.heat[number], math.ceil(height * share), math.ceil(width * share))
        codes = self.scale.encode(heat)
        hot = _encode(Image.fromarray(codes * np.uint8(CODE_STEP)), lossless=True, quality=50) if codes.any() else ""
        return {"grey": _encode(grey, quality=quality), "heat": hot}

    def locate(self, voxel: tuple[int, int, int]) -> tuple[float, float]:
        """Where the centre of a voxel lies in the picture, from the left and from the top, as fractions."""
        plan = self.cut.plan
        _, rows, columns = plan.stack_shape
        row = rows - 1 - voxel[plan.row_axis] if plan.flip_rows else voxel[plan.row_axis]
        column = columns - 1 - voxel[plan.column_axis] if plan.flip_columns else voxel[plan.column_axis]
        top, bottom, left, right = self.cut.box or (0, rows, 0, columns)
        return round((column + 0.5 - left) / (right - left), 4), round((row + 0.5 - top) / (bottom - top), 4)


def _find_plane(volume: Volume, axis: int, preset: Preset) -> PlaneName:
    """The plane that the slices were cut in: the preset's, else the first whose slices are counted along ``axis``."""
    planes = [preset.plane, *(plane for plane in PLANES if plane != preset.plane)]
    if volume.is_picture:
        return "native"
    return next(plane for plane in planes if plan_volume(volume, plane).axis == axis)


def _find_voxel(volume: Volume, candidate: Candidate) -> tuple[int, int, int]:
    """The voxel of a candidate's peak."""
    i, j, k, _ = np.rint(np.linalg.solve(volume.affine, (*candidate.peak_ras, 1.0))).astype(int).tolist()
    return i, j, k


def _list_needed(case: ScoredCase, peaks: Sequence[int]) -> list[int]:
    """The slices that a preview never lacks, most wanted first."""
    shown = list(zip(case.candidates, peaks, strict=False))[:SHOWN_CANDIDATES]
    middles = [(candidate.first_slice + candidate.last_slice) // 2 for candidate, _ in shown]
    return list(dict.fromkeys([case.peak_slice, *(peak for _, peak in shown), *middles]))


def _fill_gaps(numbers: Sequence[int], kept: Sequence[int]) -> Iterator[int]:
    """The other ``numbers``, each time the one that lies farthest from all that are kept so far."""
    places = np.asarray(numbers)
    distance = np.abs(places[:, None] - np.asarray(kept)).min(axis=1)
    while distance.any():
        farthest = int(places[distance.argmax()])
        yield farthest
        distance = np.minimum(distance, np.abs(places - farthest))


def _shrink(heat: Array, height: int, width: int) -> Array:
    """(H, W) -> at most (height, width), each pixel the maximum of all that it covers, the shared ones at its edges too.

    So heat grows by less than a pixel to either side alike, and keeps its place.
    """
    for axis, size in ((0, height), (1, width)):
        length = heat.shape[axis]
        if size < length:
            pixels = np.arange(size)
            first, last = pixels * length // size, -(-(pixels + 1) * length // size) - 1
            covered = np.minimum(first[:, None] + np.arange((last - first).max() + 1), last[:, None])
            heat = np.take(heat, covered, axis=axis).max(axis=axis + 1)
    return heat


def _name_edges(volume: Volume, plan: SlicePlan) -> dict[str, str]:
    """The letters (R, L, A, P, S, I) of the nearest directions at the picture's left, right, top and bottom edge."""
    opposite = dict(zip("RLAPSI", "LRPAIS", strict=True))
    codes = aff2axcodes(volume.affine)
    down, right = codes[plan.row_axis], codes[plan.column_axis]
    down = opposite[down] if plan.flip_rows else down
    right = opposite[right] if plan.flip_columns else right
    return {"left": opposite[right], "right": right, "top": opposite[down], "bottom": down}


def log_odds(heat: Array) -> Array:
    """To base 10, of heat kept within what float32 tells from 0 and 1."""
    share = np.clip(np.asarray(heat, dtype=np.float64), 1e-8, 1.0 - 2.0**-25)
    return np.log10(share / (1.0 - share))


def _encode(image: Image.Image, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", **options)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _size(pictures: dict[str, Any]) -> int:
    return len(pictures["grey"]) + len(pictures["heat"])
