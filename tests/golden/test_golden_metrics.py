"""The released AA-CLIP's evaluation figures, from its own seeded inputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from aaclip_med.scoring.curve import BinnedCurve
from aaclip_med.scoring.metrics import evaluate_reference

HERE = Path(__file__).parent
RELEASED_NAMES = {
    "pixel AUC": "pixel_auroc",
    "pixel AP": "pixel_ap",
    "image AUC": "image_auroc",
    "image AP": "image_ap",
}


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    with np.load(HERE / "golden_small.npz") as stored:
        return {key.split("/")[1]: stored[key] for key in stored.files if key.startswith("metrics/")}


@pytest.mark.parametrize("domain", ["medical", "industrial"])
def test_every_figure_is_the_released_programs(inputs, domain):
    released = json.loads((HERE / "golden_small.json").read_text())[f"metrics_{domain}"]
    figures = evaluate_reference(
        inputs["pixel_preds"], inputs["pixel_label"], inputs["image_preds"], inputs["image_label"], domain
    )
    assert released.keys() - {"class name"} == RELEASED_NAMES.keys()
    for released_name, name in RELEASED_NAMES.items():
        assert figures[name].reason is None
        assert round(100 * figures[name].value, 2) == pytest.approx(released[released_name], rel=1e-5)


def test_the_pixel_figures_are_scikit_learns_on_the_raw_maps(inputs):
    figures = evaluate_reference(
        inputs["pixel_preds"], inputs["pixel_label"], inputs["image_preds"], inputs["image_label"], "medical"
    )
    truth, scores = inputs["pixel_label"].ravel(), inputs["pixel_preds"].ravel()
    assert figures["pixel_auroc"].value == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    assert figures["pixel_ap"].value == pytest.approx(average_precision_score(truth, scores), abs=1e-9)


def test_the_streaming_figures_are_the_released_programs_too(inputs):
    curve = BinnedCurve()
    for scores, mask in zip(inputs["pixel_preds"], inputs["pixel_label"][:, 0], strict=True):
        curve.add(scores, mask)
    assert round(100 * curve.auroc().value, 2) == 81.28
    assert round(100 * curve.average_precision().value, 2) == 44.30
