"""A client of MONAI's federated learning trains one round with the bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject


@pytest.mark.filterwarnings("ignore")
def test_one_round_gives_the_change_of_the_image_adapters_and_figures(packed: Path, study: Path, tmp_path: Path) -> None:
    settings = {"index": str(study / "train.jsonl"), "output_dir": str(tmp_path), "models_dir": None, "device": "cpu"}
    client = MonaiAlgo(
        bundle_root=str(packed),
        config_train_filename="configs/train.yaml",
        config_evaluate_filename="configs/train.yaml",
        train_kwargs=dict(settings),
        eval_kwargs=dict(settings),
    )
    client.initialize(extra={ExtraItems.CLIENT_NAME: "one"})
    shared = {name: tensor.clone() for name, tensor in client.trainer.network.state_dict().items()}
    assert shared
    assert all(name.startswith("detector.image_adapter.") for name in shared)
    client.train(ExchangeObject(weights=shared))
    change = client.get_weights().weights
    assert change.keys() == shared.keys()
    assert any(torch.count_nonzero(tensor) for tensor in change.values())
    updated = {name: shared[name] + change[name] for name in shared}
    figures = client.evaluate(ExchangeObject(weights=updated)).metrics
    assert set(figures) == {"pixel_auroc", "image_auroc"}
    client.finalize()
