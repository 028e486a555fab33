"""The pictures of a case: which slices, which way up, which code for which heat, within the budget."""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aaclip_med.batch.report.preview import (
    CODE_STEP,
    HEAT_SHARE,
    HEAT_SIDE,
    LEAST_KB,
    MOST_KB,
    SHOWN_CANDIDATES,
    _shrink,
    choose_budget,
    choose_scale,
    draw_preview,
)
from aaclip_med.data.volumes import Volume
from aaclip_med.presets import PlaneName, Preset, Window, get_preset
from aaclip_med.scoring.candidates import label_candidates
from batch.report_cases import HOT, SHAPE, SPACING, THRESHOLD, draw_picture, draw_volume, score


def preset_for(plane: PlaneName) -> Preset:
    return replace(get_preset("brain-mri"), plane=plane, window=Window("hu", 0.0, 1000.0))


def preview(volume: Volume, heat: np.ndarray, plane: PlaneName, budget_kb: int = 400, **options: Any) -> dict[str, Any]:
    case = score(volume, heat, plane, options.pop("p_value", 0.05))
    organ = options.pop("organ", None)
    content = draw_preview(volume, case, replace(preset_for(plane), **options), organ, THRESHOLD, budget_kb)
    return dict(json.loads(content))


def decode(picture: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))


def hot_place(content: dict[str, Any], number: int) -> tuple[float, float]:
    """The middle of what is at or above the threshold in a slice, from the left and from the top, as fractions."""
    heat = decode(next(one["heat"] for one in content["slices"] if one["number"] == number))
    codes = heat if heat.ndim == 2 else heat[..., 0]
    rows, columns = np.nonzero(codes >= CODE_STEP * content["scale"]["threshold"])
    return (columns.mean() + 0.5) / codes.shape[1], (rows.mean() + 0.5) / codes.shape[0]


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL", "ILP"])
@pytest.mark.parametrize(
    ("plane", "edges", "place"),
    [
        ("axial", "RLAP", (1 - 10 / 40, 1 - 39 / 50)),
        ("coronal", "RLSI", (1 - 10 / 40, 1 - 17 / 24)),
        ("sagittal", "APSI", (1 - 39 / 50, 1 - 17 / 24)),
    ],
)
def test_slices_are_in_radiological_orientation_however_the_file_lies(
    codes: str, plane: PlaneName, edges: str, place: tuple[float, float]
) -> None:
    content = preview(*draw_volume(codes), plane)
    assert "".join(content["edges"][edge] for edge in ("left", "right", "top", "bottom")) == edges
    found = content["candidates"][0]
    assert found["at"] == pytest.approx(place, abs=0.03)
    assert hot_place(content, found["slice"]) == pytest.approx(place, abs=0.03)
    grey = decode(next(one["grey"] for one in content["slices"] if one["number"] == found["slice"]))[..., 0]
    height, width = grey.shape
    assert grey[int(place[1] * height), int(place[0] * width)] > 200
    assert grey[int(place[1] * height), int((1 - place[0]) * width)] < 150


@pytest.mark.parametrize(("plane", "across", "down"), [("axial", 0, 1), ("coronal", 0, 2), ("sagittal", 1, 2)])
def test_pixels_are_square_in_mm(plane: PlaneName, across: int, down: int) -> None:
    content = preview(*draw_volume("PIR"), plane)
    width, height = content["size"]
    extent = [count * step for count, step in zip(SHAPE, SPACING, strict=True)]
    assert width / height == pytest.approx(extent[across] / extent[down], rel=0.03)
    assert width * content["pixel_mm"] == pytest.approx(extent[across], rel=0.03)


def test_a_plane_other_than_the_presets_is_told_from_the_axis_of_the_slices() -> None:
    volume, heat = draw_volume("PIR")
    content = json.loads(draw_preview(volume, score(volume, heat, "coronal"), preset_for("axial"), None, THRESHOLD, 100))
    assert content["plane"] == "coronal"
    assert content["edges"]["top"] == "S"


@pytest.mark.parametrize("colour", [False, True])
def test_pictures_are_as_stored(colour: bool) -> None:
    content = preview(*draw_picture(colour), "native")
    assert content["edges"] is None
    assert content["pixel_mm"] is None
    assert content["size"] == [90, 60]
    assert hot_place(content, 0) == pytest.approx((67.5 / 90, 15 / 60), abs=0.02)
    red, green, blue = decode(content["slices"][0]["grey"])[15, 67].astype(int)
    assert (red - blue > 100) == colour
    assert abs(red - green) < 10 or colour


def test_a_stack_cut_as_stored_has_no_letters_and_stored_pixels() -> None:
    content = preview(*draw_volume("RPS"), "native", window=Window("as_is"))
    assert content["edges"] is None
    assert content["size"] == [40, 50]


def test_outside_the_organ_pictures_are_black() -> None:
    volume, heat = draw_volume()
    organ = np.zeros(SHAPE, dtype=bool)
    organ[:20, :, 10:20] = True
    content = preview(volume, heat, "axial", organ=organ)
    shown = decode(content["slices"][16]["grey"])[..., 0]
    assert shown[:, :18].max() < 20 < 40 < shown[:, 22:38].min()  # the patient's left is right in the picture
    assert decode(content["slices"][2]["grey"])[..., 0].max() < 20


def test_cropped_slices_are_shown_as_the_detector_saw_them() -> None:
    volume, heat = draw_volume()
    volume.array[:, :25] = 0
    content = preview(volume, heat, "axial", crop=True)
    assert content["size"][1] < 35
    found = content["candidates"][0]
    assert hot_place(content, found["slice"]) == pytest.approx(found["at"], abs=0.12)


def test_a_long_scan_is_thinned_evenly_within_the_budget_and_keeps_its_peaks() -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 1000, (64, 64, 160)).astype(np.int16)
    heat = np.full(values.shape, 0.3, dtype=np.float32)
    for number in range(20):
        place = (5 + 13 * (number % 4), 5 + 10 * (number // 4), 7 * number + 3)
        heat[place[0] : place[0] + 2, place[1] : place[1] + 2, place[2] : place[2] + 4] = 0.9991 + 4e-5 * number
        heat[place] += 2e-5
    volume = Volume(values, np.diag([1.0, 1.0, 1.0, 1.0]), draw_volume()[0].path, None, values.shape, is_picture=False)
    case = score(volume, heat, "axial")
    content = draw_preview(volume, case, preset_for("axial"), None, THRESHOLD, 100)
    assert len(content) < 115_000
    numbers = [one["number"] for one in json.loads(content)["slices"]]
    assert numbers == sorted(numbers)
    assert max(np.diff([-1, *numbers, 160])) <= 22  # 17 of 26 are needed ones, which lie in the last 140
    assert 20 <= len(numbers) < 160
    needed = {case.peak_slice}
    for candidate in case.candidates[:SHOWN_CANDIDATES]:
        needed |= {candidate.first_slice, (candidate.first_slice + candidate.last_slice) // 2}
    assert len(needed) > SHOWN_CANDIDATES
    assert needed <= set(numbers)
    tiny = json.loads(draw_preview(volume, case, preset_for("axial"), None, THRESHOLD, 1))
    assert {one["number"] for one in tiny["slices"]} == needed
    assert tiny["count"] == tiny["scored"] == 160


def test_only_scored_slices_fill_the_preview() -> None:
    volume, heat = draw_volume()
    case = score(volume, heat, "axial")
    case = replace(case, slices=[8, 12, 16, 20], slice_scores=case.slice_scores[[8, 12, 16, 20]])
    content = json.loads(draw_preview(volume, case, preset_for("axial"), None, THRESHOLD, 400))
    assert {8, 12, 16, 20} <= {one["number"] for one in content["slices"]} <= {8, 12, 15, 16, 20}


def test_one_hot_voxel_survives_reduction() -> None:
    values = np.random.default_rng(5).integers(1, 1000, (1200, 900, 3)).astype(np.int16)
    heat = np.full(values.shape, 0.1, dtype=np.float32)
    heat[777, 501, 1] = HOT
    volume = Volume(values, np.eye(4), draw_volume()[0].path, None, values.shape, is_picture=False)
    content = preview(volume, heat, "axial", budget_kb=40)
    assert max(content["size"]) <= 768
    assert hot_place(content, 1) == pytest.approx((1 - 777.5 / 1200, 1 - 501.5 / 900), abs=0.01)


@settings(max_examples=200, deadline=None)
@given(
    threshold=st.floats(2.0**-20, 1.0 - 2.0**-20, width=32),
    heat=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20),
    calibrated=st.booleans(),
)
def test_a_code_reaches_the_thresholds_exactly_where_the_heat_does(
    threshold: float, heat: list[float], calibrated: bool
) -> None:
    scale = choose_scale(threshold, calibrated)
    values = np.array([*heat, threshold], dtype=np.float32)
    codes = scale.encode(values)
    assert ((codes >= scale.threshold) == (values >= np.float32(threshold))).all()
    assert (np.diff(codes[np.argsort(values)].astype(int)) >= 0).all()


def test_the_scale_of_a_run_does_not_depend_on_the_case() -> None:
    cold, hot = draw_volume(), draw_volume("LPS")
    hot[1][...] = np.maximum(hot[1], 0.9)
    assert preview(*cold, "axial")["scale"] == preview(*hot, "axial")["scale"]
    assert preview(*cold, "axial")["calibrated"]
    assert not preview(*cold, "axial", p_value=None)["calibrated"]


def test_many_candidates_do_not_fill_the_preview() -> None:
    volume, heat = draw_volume()
    heat[::3, ::3, ::3] = 0.9995
    assert len(label_candidates(heat, THRESHOLD, volume.affine, 2)[0]) > 500
    content = draw_preview(volume, score(volume, heat, "axial"), preset_for("axial"), None, THRESHOLD, 60)
    assert len(content) < 75_000


@pytest.mark.parametrize(("cases", "kb"), [(0, MOST_KB), (10, MOST_KB), (500, 120), (100_000, LEAST_KB)])
def test_the_budget_of_a_case_keeps_the_page_at_60_mb(cases: int, kb: int) -> None:
    assert choose_budget(cases) == kb


@pytest.mark.parametrize("length", [24, 64, 128, 240, 512])
def test_heat_that_shrinks_covers_all_it_stands_for_and_keeps_its_place(length: int) -> None:
    size = math.ceil(length * min(HEAT_SHARE, HEAT_SIDE / length))
    shifts = []
    for middle in range(2, length - 2):
        heat = np.zeros((length, 3), dtype=np.float32)
        heat[middle - 2 : middle + 3] = 1.0
        hot = np.flatnonzero(_shrink(heat, size, 3)[:, 0])
        first, end = hot[0] * length / size, (hot[-1] + 1) * length / size
        assert first <= middle - 2 + 1e-9
        assert end >= middle + 3 - 1e-9
        assert end - first < 5 + 2 * length / size
        shifts.append((first + end) / 2 - (middle + 0.5))
    assert abs(np.mean(shifts)) < 1e-6 * length
    assert np.abs(shifts).max() < length / size / 2 + 1e-9
