"""``train --tracking mlflow``: both stages' curves are in one run of a database beside the adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

from aaclip_med.cli.main import main
from tests.cli.conftest import study  # noqa: F401


@pytest.mark.filterwarnings("ignore")
def test_one_run_holds_the_curves_of_both_stages(
    study: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = tmp_path / "brain"
    command = ["train", "--preset", "brain-mri", "--backbone", "tiny", "--image-size", "40", "--text-epochs", "1"]
    command += ["--image-epochs", "2", "--index", str(study / "train.jsonl"), "--out", str(out), "--tracking", "mlflow"]
    assert main(command) == 0
    client = mlflow.MlflowClient(f"sqlite:///{out}/mlruns.db")
    (run,) = client.search_runs(client.get_experiment_by_name("aaclip-med").experiment_id)
    assert run.info.run_name == "brain"
    assert run.info.status == "FINISHED"
    assert {"text_loss", "image_loss", "pixel_auroc", "image_auroc"} <= run.data.metrics.keys()
    assert [point.step for point in client.get_metric_history(run.info.run_id, "image_loss")] == [1, 2, 3, 4, 5, 6]
