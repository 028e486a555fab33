from __future__ import annotations

import json

import pytest

from aaclip_med.cli.inspection import print_series

from .conftest import SECONDARY, SaveSeries, SaveSlice


def test_the_table_has_one_line_for_each_series_and_its_problems(
    save_series: SaveSeries, save_slice: SaveSlice, capsys: pytest.CaptureFixture
) -> None:
    paths = [*save_series(), save_slice("b", SOPClassUID=SECONDARY, SeriesInstanceUID="1.9", ImagePositionPatient=None)]
    assert print_series(paths, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["series", "description", "shape", "spacing", "mm", "plane", "volumes", "files", "status"]
    ok = next(line for line in lines if line.endswith("ok"))
    assert "7 x 6 x 5" in ok
    assert "0.7 x 0.9 x 2" in ok
    assert "oblique" in ok
    assert any(line.startswith("    refused: a secondary capture") for line in lines)
    assert max(map(len, lines)) <= 120


def test_json_says_the_same(save_series: SaveSeries, capsys: pytest.CaptureFixture) -> None:
    paths = save_series(positions=(0, 2, 4, 8, 10))
    assert print_series(paths, as_json=True) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["shape"] == [7, 6, 5]
    assert record["spacing_mm"] == [0, 0, 0]
    assert record["volumes"] == 1
    assert record["files"] == sorted(map(str, paths))
    assert "1 slice missing" in record["refused"]
