"""Cases scored in batches that go over their borders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aaclip_med.data.index import Case, read_index
from aaclip_med.data.slices import cut_case
from aaclip_med.errors import InputError
from aaclip_med.evaluation.views import View, score_cases
from aaclip_med.inference.cutting import Cutting
from aaclip_med.inference.predictor import Predictor


@pytest.fixture(scope="module")
def mixed(heads: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """Pictures, grey and in colour, a volume among them, and one after the volume that is none at all."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(5):
        shape = (30, 34, 3) if number == 3 else (30, 34)
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(folder / f"{number}.png")
        rows.append({"image_path": f"{number}.png", "label": 0, "class_name": "Brain"})
    rows.insert(2, {"image_path": str(heads / "head_1.nii.gz"), "label": 1, "class_name": "Brain"})
    (folder / "broken.png").write_bytes(b"no picture")
    rows.insert(3, {"image_path": "broken.png", "label": 0, "class_name": "Brain"})
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_index(folder / "index.jsonl")


def test_scores_are_those_of_each_case_alone_and_come_in_order(mixed: list[Case], demo_predictor: Predictor) -> None:
    found = list(score_cases(mixed, demo_predictor, Cutting()))
    assert [case.image_path for case, _ in found] == [case.image_path for case in mixed]
    for case, view in found:
        if case.name == "broken":
            assert isinstance(view, InputError)
            continue
        assert isinstance(view, View)
        alone = demo_predictor.score_cut(cut_case(case, demo_predictor.preset))
        np.testing.assert_allclose(view.maps, alone.log_odds, atol=1e-5)
        np.testing.assert_allclose(view.detection, alone.detection, atol=1e-6)


def test_pictures_share_a_batch(mixed: list[Case], demo_predictor: Predictor) -> None:
    batches: list[int] = []
    adapter = demo_predictor.detector.image_adapter.det_proj
    hook = adapter.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    try:
        pictures = [case for case in mixed if case.image_path.suffix == ".png"]
        assert len(list(score_cases(pictures, demo_predictor, Cutting()))) == 6
    finally:
        hook.remove()
    assert len(batches) == len(set(range(0, 5, batches[0])))


def test_a_stride_is_scored_across_cases_as_by_itself(mixed: list[Case], demo_predictor: Predictor) -> None:
    for case, view in score_cases(mixed, demo_predictor, Cutting(stride=2)):
        if isinstance(view, View):
            cut = cut_case(case, demo_predictor.preset)
            heatmap = demo_predictor.predict(cut, 2).heatmap
            np.testing.assert_allclose(view.maps, cut.plan.cut(heatmap)[view.numbers], atol=1e-5)
            assert view.maps.shape == cut.images[cut.used].shape[:3]


def test_the_industrial_protocol_refuses_a_stride(mixed: list[Case], demo_predictor: Predictor) -> None:
    predictor = Predictor(demo_predictor.detector, demo_predictor.preset, domain="industrial")
    with pytest.raises(InputError, match="leave out the stride"):
        next(score_cases(mixed, predictor, Cutting(stride=2)))
