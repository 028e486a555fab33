"""Thresholds with a known cost on normal volumes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aaclip_med.errors import InputError
from aaclip_med.scoring.candidates import label_candidates
from aaclip_med.scoring.operating import THRESHOLDS, OperatingBuilder, OperatingTable, count_candidates


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.001, 0.3), st.sampled_from([0.0, 0.002, 0.01]))
def test_candidates_are_counted_as_they_are_found(seed: int, crowding: float, minimum_ml: float) -> None:
    heat = np.random.default_rng(seed).random((9, 11, 7)).astype(np.float32) ** np.float32(crowding)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    found = [len(label_candidates(heat, threshold, affine, 2, minimum_ml)[0]) for threshold in THRESHOLDS]
    assert count_candidates(heat, THRESHOLDS, 0.002, minimum_ml) == found


def test_the_threshold_for_false_positives_is_the_lowest_from_which_on_there_are_no_more() -> None:
    counts = np.full(len(THRESHOLDS), 0.0)
    counts[:6] = 1, 1, 9, 4, 2, 0.5  # one region at first, which then falls apart
    table = OperatingTable(0.0, tuple(counts), (0.9,))
    assert table.for_false_positives(2) == THRESHOLDS[4]
    assert table.for_false_positives(1) == THRESHOLDS[5]
    assert table.for_false_positives(100) == THRESHOLDS[0]
    with pytest.raises(InputError, match="take 0 or more"):
        table.for_false_positives(-1)
    with pytest.raises(InputError, match=r"fewest are 3; raise --minimum-ml"):
        OperatingTable(0.0, (3.0,) * len(THRESHOLDS), (0.9,)).for_false_positives(2)


def test_a_conformal_level_is_kept_by_new_normal_volumes() -> None:
    rng = np.random.default_rng(0)
    reached = []
    for _ in range(4000):
        peaks = rng.random(19).astype(np.float32)
        threshold = OperatingTable(0.0, (0.0,) * len(THRESHOLDS), tuple(np.sort(peaks).tolist())).for_level(0.1)
        reached.append(np.float32(rng.random()) >= threshold)
    assert np.mean(reached) == pytest.approx(0.1, abs=0.02)  # 4 standard errors


def test_a_level_that_the_calibration_is_too_small_for_is_refused_with_what_it_needs() -> None:
    table = OperatingTable(0.0, (0.0,) * len(THRESHOLDS), tuple(np.linspace(0.5, 0.9, 18).tolist()))
    with pytest.raises(InputError, match="needs 19 normal volumes to calibrate with; there are 18"):
        table.for_level(0.05)
    assert table.for_level(0.06) > 0.9
    with pytest.raises(InputError, match="between 0 and 1"):
        table.for_level(1.0)


def test_a_table_survives_json_and_a_damaged_one_is_refused() -> None:
    builder = OperatingBuilder(0.01)
    for seed in range(3):
        builder.add(np.random.default_rng(seed).random((8, 9, 5)).astype(np.float32) ** np.float32(0.01), 0.004)
    table = builder.build()
    stored = json.loads(json.dumps(table.to_json()))
    assert OperatingTable.from_json(stored, "x") == table
    for damage in ({"peaks": "none"}, {"false_positives": [1.0]}, {"minimum_ml": None}):
        with pytest.raises(InputError, match="calibrate again"):
            OperatingTable.from_json(stored | damage, "x")
