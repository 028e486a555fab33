"""From the upload to the heatmap."""

from __future__ import annotations

import io
import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from aaclip_med.data.volumes import read_volume
from aaclip_med.inference.job import JobRequest, load_job_predictor, run_job
from aaclip_med.inference.predictor import Predictor
from server.conftest import OBLIQUE, Client, as_npy, await_it, draw_volume, encode


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_job_predictor(JobRequest("", "demo", "brain-mri", device="cpu"))


def _read_npy(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.load(io.BytesIO(answer.content))


@pytest.mark.parametrize("ending", [".npy", ".nii", ".nii.gz", ".nrrd"])
def test_a_heatmap_is_what_run_job_gives_and_lies_where_the_volume_lies(
    client: Client, predictor: Predictor, tmp_path: Path, ending: str
) -> None:
    content = encode(draw_volume(), ending, tmp_path)
    answer = client.submit(content, f"x{ending.upper() if ending == '.nrrd' else ending}", threshold=0.5)
    assert answer.status_code == 202, answer.text
    job = answer.json()["id"]
    assert client.wait(job) == {
        "id": job, "state": "done", "progress": 1.0, "message": "done", "error": None, "position": None
    }  # fmt: skip
    matrix = OBLIQUE.tolist() if ending == ".npy" else None
    request = JobRequest(f"volume{ending}", "demo", "brain-mri", threshold=0.5, ijk_to_ras=matrix, device="cpu")
    run_job(tmp_path, request, predictor, lambda _share, _message: None)

    expected = np.load(tmp_path / "heatmap.npy")
    heatmap = _read_npy(client.get(f"/v1/jobs/{job}/heatmap"))
    assert heatmap.dtype == np.float32
    assert heatmap.shape == (12, 24, 20)
    np.testing.assert_array_equal(heatmap, expected)
    ours, theirs = client.get(f"/v1/jobs/{job}/result").json(), json.loads((tmp_path / "result.json").read_text())
    assert ours == theirs
    np.testing.assert_allclose(ours["ijk_to_ras"], OBLIQUE, atol=1e-5)
    for form in ("nii.gz", "nrrd"):
        (tmp_path / f"map.{form}").write_bytes(client.get(f"/v1/jobs/{job}/heatmap", params={"format": form}).content)
        back = read_volume(tmp_path / f"map.{form}")
        np.testing.assert_array_equal(back.array.T, expected)
        np.testing.assert_allclose(back.affine, OBLIQUE, atol=1e-4)


def test_a_nifti_heatmap_keeps_the_forms_and_codes_of_its_scan(client: Client, tmp_path: Path) -> None:
    scan = nib.Nifti1Image(draw_volume()[..., None], OBLIQUE)
    scan.set_qform(np.diag([2.0, 2.0, 3.0, 1.0]), code=2)
    scan.set_sform(OBLIQUE, code=3)
    nib.save(scan, tmp_path / "scan.nii.gz")
    job = client.submit((tmp_path / "scan.nii.gz").read_bytes(), "scan.nii.gz").json()["id"]
    assert client.wait(job)["state"] == "done"
    (tmp_path / "map.nii.gz").write_bytes(client.get(f"/v1/jobs/{job}/heatmap?format=nii.gz").content)
    heatmap = nib.load(tmp_path / "map.nii.gz")
    assert heatmap.shape == (20, 24, 12, 1)
    assert (int(heatmap.header["qform_code"]), int(heatmap.header["sform_code"])) == (2, 3)
    np.testing.assert_allclose(heatmap.get_qform(), scan.get_qform(), atol=1e-5)
    assert b"DEMONSTRATION" in heatmap.header["descrip"].item()


def test_another_cut_than_the_calibrations_is_refused_in_words(client: Client) -> None:
    job = client.submit(as_npy(draw_volume()), plane="coronal").json()["id"]
    status = client.wait(job)
    assert status["state"] == "failed"
    assert "calibrated" in status["error"]


def test_progress_arrives_by_events_and_by_polling(client: Client) -> None:
    job = client.submit_slow()
    events: list[tuple[str, dict]] = []

    def listen() -> None:
        with client.stream("GET", f"/v1/jobs/{job}/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            lines = list(stream.iter_lines())
        events.extend(
            (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
            for name, data in itertools.pairwise(lines)
            if name.startswith("event: ")
        )

    thread = threading.Thread(target=listen)
    thread.start()
    polled = set()
    while (status := client.status(job))["state"] not in ("done", "failed"):
        polled.add(status["progress"])
        time.sleep(0.05)
    thread.join(30)
    shares = [status["progress"] for _, status in events]
    assert {name for name, _ in events} == {"status"}
    assert shares == sorted(shares)
    assert len(set(shares)) >= 3
    assert len(polled) >= 3
    assert events[-1][1] == client.status(job)
    assert events[-1][1]["state"] == "done"


def test_a_listener_that_leaves_is_forgotten_and_its_job_goes_on(client: Client) -> None:
    job = client.submit_slow()
    with client.stream("GET", f"/v1/jobs/{job}/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: status"
        assert client.get("/v1/health").json()["listeners"] == 1
    await_it(lambda: client.get("/v1/health").json()["listeners"] == 0, 10)
    assert client.wait(job)["state"] == "done"


def test_a_client_that_never_comes_back_costs_nobody_else(client: Client) -> None:
    with Client(str(client.base_url), client.service) as other:
        left = other.submit(as_npy(draw_volume())).json()["id"]
    assert client.wait(left)["state"] == "done"


def test_a_full_queue_says_when_to_come_back_and_a_waiting_job_can_be_cancelled(client: Client) -> None:
    small = as_npy(draw_volume())
    running = client.submit_slow()
    client.wait(running, "running")
    waiting = [client.submit(small).json() for _ in range(4)]
    assert [job["position"] for job in waiting] == [1, 2, 3, 4]
    refused = client.submit(small)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert client.get(f"/v1/jobs/{waiting[0]['id']}/heatmap").status_code == 409
    assert client.get(f"/v1/jobs/{waiting[0]['id']}/result").status_code == 409

    assert client.delete(f"/v1/jobs/{waiting[1]['id']}").status_code == 204
    assert client.status(waiting[1]["id"])["state"] == "cancelled"
    assert client.status(waiting[2]["id"])["position"] == 2
    assert not (client.service.scratch / waiting[1]["id"]).exists()
    assert client.submit(small).status_code == 202
    for number in (0, 2, 3):
        assert client.wait(waiting[number]["id"])["state"] == "done"
    assert client.status(running)["state"] == "done"


def test_a_finished_job_is_forgotten_on_demand_and_its_upload_goes_at_once(client: Client) -> None:
    job = client.submit(as_npy(draw_volume())).json()["id"]
    client.wait(job)
    folder = client.service.scratch / job
    assert sorted(path.name for path in folder.iterdir()) == ["heatmap.npy", "result.json"]
    assert client.delete(f"/v1/jobs/{job}").status_code == 204
    assert client.get(f"/v1/jobs/{job}").status_code == 404
    assert client.delete(f"/v1/jobs/{job}").status_code == 404
    assert not folder.exists()


def test_thirty_two_clients_at_once_all_get_their_own_result(client: Client) -> None:
    address = str(client.base_url)
    refusals = []

    def work(number: int) -> bool:
        volume = as_npy(draw_volume((20, 24, 4), number))
        with Client(address, client.service) as one:
            while (answer := one.submit(volume)).status_code == 429:
                refusals.append(answer.headers["retry-after"])
                time.sleep(min(float(answer.headers["retry-after"]), 0.3))
            job = answer.json()["id"]
            assert one.wait(job)["state"] == "done"
            heatmap = _read_npy(one.get(f"/v1/jobs/{job}/heatmap"))
            return heatmap.shape == (4, 24, 20) and one.delete(f"/v1/jobs/{job}").status_code == 204

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(work, range(32)))
    assert refusals
    assert client.get("/v1/health").json()["queued"] == 0


def test_models_are_listed_and_unknown_or_wrong_ones_refused(client: Client) -> None:
    listed = client.get("/v1/models").json()
    assert listed["default"] == "demo"
    assert {model["preset"] for model in listed["models"]} == {"brain-mri", "liver-ct", "retinal-oct"}
    assert all(model["calibrated"] and model["demonstration"] and len(model["hash"]) == 64 for model in listed["models"])
    volume = as_npy(draw_volume())
    for name in ("other", "/etc/passwd", "../demo", "none"):
        assert client.submit(volume, adapters=name).status_code == 422
    assert client.submit(volume, preset="heart").status_code == 422
    assert client.get("/v1/version").json()["limits"]["queue"] == 4


def test_a_nrrd_heatmap_has_scalar_voxels_in_scanner_space(client: Client, tmp_path: Path) -> None:
    job = client.submit(as_npy(draw_volume())).json()["id"]
    client.wait(job)
    (tmp_path / "map.nrrd").write_bytes(client.get(f"/v1/jobs/{job}/heatmap?format=nrrd").content)
    image = sitk.ReadImage(str(tmp_path / "map.nrrd"))
    assert image.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_allclose(image.GetOrigin(), OBLIQUE[:3, 3] * [-1, -1, 1], atol=1e-6)
