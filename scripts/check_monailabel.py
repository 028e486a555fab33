"""Start MONAI Label on drawn studies with a packed bundle; ask it for /info, /infer and /train. Run by check_monailabel.sh."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import requests

NAME = "aaclip_brain_mri"
PORT = 8497
URL = f"http://127.0.0.1:{PORT}"
TURN, TILT = 0.3, 0.2
SPACING = (1.9, 1.8, 4.0)


def build_oblique() -> np.ndarray[Any, Any]:
    """Voxels to RAS mm: turned and tilted, without shear, which ITK could not write."""
    turn = np.array([[np.cos(TURN), -np.sin(TURN), 0], [np.sin(TURN), np.cos(TURN), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ tilt @ np.diag([-SPACING[0], SPACING[1], SPACING[2]])
    affine[:3, 3] = (40.0, -50.0, 10.0)
    return affine


OBLIQUE = build_oblique()
SEGMENTS = {"likelihood low": 1, "likelihood medium": 2, "likelihood high": 3}
PATIENCE = 300.0


def draw_studies(folder: Path, masks: Path) -> list[str]:
    """Six oblique heads (28, 30, 8), every second one with a bright lesion; their masks lie elsewhere."""
    names = []
    folder.mkdir(parents=True)
    masks.mkdir(parents=True, exist_ok=True)
    for number in range(6):
        rng = np.random.default_rng(number)
        i, j, _ = np.indices((28, 30, 8))
        head = ((i - 14) ** 2 + (j - 15) ** 2) < 144
        mask = np.zeros(head.shape, dtype=np.uint8)
        if number % 2:
            mask[9:16, 11:18, 2:5] = 1
        array = np.where(head, 300 + 40 * rng.standard_normal(head.shape), 0) + 400.0 * mask
        names.append(f"head_{number}")
        nib.save(nib.Nifti1Image(array.astype(np.int16), OBLIQUE), folder / f"{names[-1]}.nii.gz")
        nib.save(nib.Nifti1Image(mask, OBLIQUE), masks / f"{names[-1]}.nii.gz")
    return names


def wait_for_server(server: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The server's /info as soon as it answers."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}; see its log")
        try:
            return dict(requests.get(f"{URL}/info/", timeout=60).json())
        except requests.ConnectionError:
            time.sleep(1.0)
    raise SystemExit("the server does not answer")


def infer(image: str, threshold: float) -> np.ndarray[Any, Any]:
    """The segments (I, J, K) of an image; their geometry is checked."""
    answer = requests.post(
        f"{URL}/infer/{NAME}",
        params={"image": image, "output": "image"},
        data={"params": f'{{"threshold": {threshold}, "device": "cpu"}}'},
        timeout=PATIENCE,
    )
    answer.raise_for_status()
    with tempfile.NamedTemporaryFile(suffix=".nii.gz") as file:
        file.write(answer.content)
        file.flush()
        mask = nib.load(file.name)
        array = np.asarray(mask.dataobj)
    assert array.shape == (28, 30, 8), array.shape
    assert np.issubdtype(array.dtype, np.integer) or (array == array.round()).all(), array.dtype
    assert set(np.unique(array)) <= {0, 1, 2, 3}, np.unique(array)
    np.testing.assert_allclose(mask.affine, OBLIQUE, atol=1e-3)
    return array


def train(names: list[str], masks: Path) -> None:
    """Give every study its mask, train one epoch, and wait for the end."""
    for name in names:
        with (masks / f"{name}.nii.gz").open("rb") as file:
            answer = requests.put(
                f"{URL}/datastore/label", params={"image": name, "tag": "final"}, files={"label": file}, timeout=60
            )
            answer.raise_for_status()
    settings = {"model": NAME, "max_epochs": 1, "val_split": 0.34, "device": "cpu", "multi_gpu": False}
    requests.post(f"{URL}/train/{NAME}", json=settings, timeout=60).raise_for_status()
    end = time.monotonic() + PATIENCE
    status: dict[str, Any] = {}
    while time.monotonic() < end:
        time.sleep(2.0)
        answer = requests.get(f"{URL}/train/", params={"all": True}, timeout=60)
        if answer.status_code == requests.codes.ok:
            status = answer.json()
            entries = status if isinstance(status, list) else list(status.values())
            flat = [
                entry for item in entries for entry in (item if isinstance(item, list) else [item]) if isinstance(entry, dict)
            ]
            if flat and all(entry.get("status") in ("DONE", "ERROR") for entry in flat):
                assert all(entry["status"] == "DONE" for entry in flat), flat
                return
    raise SystemExit(f"training has not ended: {status}")


def main(folder: Path) -> None:
    """The whole check."""
    model = folder / "apps" / "monaibundle" / "model"
    model.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "aaclip_med", "pack", "--adapters", "demo", "--preset", "brain-mri"]
    subprocess.run([*command, "--out", str(model / NAME), "--with-weights"], check=True)
    names = draw_studies(folder / "studies", folder / "masks")
    log = (folder / "server.log").open("wb")
    server = subprocess.Popen(
        [
            *(str(Path(sys.executable).parent / "monailabel"), "start_server", "--app", str(folder / "apps" / "monaibundle")),
            *("--studies", str(folder / "studies"), "--port", str(PORT), "--host", "127.0.0.1"),
            *("--conf", "models", NAME, "--conf", "sam2", "false"),
        ],
        stdout=log,
        stderr=subprocess.STDOUT,
        env=os.environ | {"BUNDLE_DOWNLOAD_SRC": "ngc"},
        cwd=folder,
    )
    try:
        about = wait_for_server(server)
        assert about["models"][NAME]["labels"] == SEGMENTS, about["models"]
        assert "threshold" in about["models"][NAME]["config"], about["models"][NAME]["config"]
        assert NAME in about["trainers"], about["trainers"]
        print("/info: segments, threshold and trainer are there")
        low, high = infer("head_1", 0.01), infer("head_1", 0.9999)
        assert (low > 0).sum() > (high > 0).sum(), "the threshold changes nothing"
        print(f"/infer: geometry kept; {int((low > 0).sum())} voxels at threshold 0.01, {int((high > 0).sum())} at 0.9999")
        before = (model / NAME / "models" / "model.pt").read_bytes()
        train(names, folder / "masks")
        assert (model / NAME / "models" / "model.pt").read_bytes() != before, "training changed no model"
        print("/train: done, the model is another")
        infer("head_1", 0.5)
        print("/infer after training: geometry kept")
    finally:
        server.terminate()
        server.wait(timeout=60)
        log.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
