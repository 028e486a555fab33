"""``--drop-background``: it does what it says by every way of scoring, and is said in the run's account."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from aaclip_med.cli.main import main
from aaclip_med.data.volumes import read_volume
from aaclip_med.errors import InputError
from aaclip_med.evaluation.baselines import strip_adapters
from aaclip_med.inference.engines import load_engine
from aaclip_med.inference.job import JobRequest, load_job_predictor
from aaclip_med.inference.predictor import load_predictor

DEMO = ["--adapters", "demo", "--preset", "liver-ct", "--progress", "none"]


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A disc with texture on air, in HU."""
    i, j, k = np.indices((60, 60, 4))
    inside = (i - 30) ** 2 + (j - 28) ** 2 < 300
    array = np.where(inside, 60 + 80 * np.sin(i / 3) * np.cos(j / 4 + k), -1000)
    path = tmp_path_factory.mktemp("scans") / "scan.nii.gz"
    nib.save(nib.Nifti1Image(array.astype(np.int16), np.eye(4)), path)
    return path


@pytest.mark.parametrize("refinement", ["published", "best"])
def test_the_background_is_as_low_as_the_lowest_patch_and_the_rest_is_scored(scan, refinement):
    heat = {}
    for dropped in (False, True):
        predictor = load_predictor("demo", "liver-ct", refinement=refinement, drop_background=dropped)
        heat[dropped] = predictor.predict_volume(read_volume(scan)).heatmap
    inside = np.asarray(nib.load(scan).dataobj) > -1000
    assert np.isfinite(heat[True]).all()
    assert np.corrcoef(heat[True][inside], heat[False][inside])[0, 1] > 0.8
    assert not np.array_equal(heat[True], heat[False])
    corner = heat[True][:5, :5]
    assert corner.max() < np.percentile(heat[True][inside], 25)


def test_a_run_says_so_and_is_not_mixed_with_one_that_keeps_it(scan, tmp_path, capsys):
    assert main(["score", str(scan), *DEMO, "--out", str(tmp_path / "out"), "--drop-background"]) == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["drop_background"] is True
    assert main(["score", str(scan), *DEMO, "--out", str(tmp_path / "out")]) == 2
    assert "drop_background" in capsys.readouterr().err


def test_the_untrained_baseline_is_judged_alike(scan):
    predictor = load_predictor("demo", "liver-ct", refinement="published", drop_background=True)
    untrained = strip_adapters(predictor)
    heat = untrained.predict_volume(read_volume(scan)).heatmap
    assert untrained.drop_background
    assert np.isfinite(heat).all()
    assert heat[:5, :5].max() < np.percentile(heat[np.asarray(nib.load(scan).dataobj) > -1000], 25)


def test_onnx_runtime_refuses_it():
    with pytest.raises(InputError, match="leave --drop-background out"):
        load_engine(load_predictor("demo", "liver-ct", drop_background=True))


def test_a_job_may_ask_for_it():
    request = JobRequest.from_json({"volume": "scan.nii.gz", "preset": "liver-ct", "drop_background": True})
    assert load_job_predictor(request).drop_background
