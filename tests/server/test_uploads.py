"""What comes in is not trusted."""

from __future__ import annotations

import gzip
import io
import json
import socket
import struct
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from server.conftest import MIB, OBLIQUE, Client, as_npy, await_it, draw_volume, encode

SMALL = as_npy(draw_volume())
ZEROS = np.zeros((4, 4, 4), np.int16)


def _npy_header(shape: tuple[int, ...], descr: str = "<i2") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _pickled() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([[[{"a": 1}]]], dtype=object), allow_pickle=True)
    return stream.getvalue()


def _nifti(shape: tuple[int, ...], dtype: type = np.int16, compress: bool = False, held: int = 1000) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header["vox_offset"], header["sform_code"], header["magic"] = 352, 1, b"n+1"
    content = header.binaryblock + bytes(4 + held)
    return gzip.compress(content) if compress else content


def _nrrd(*lines: str, data: bytes = bytes(128)) -> bytes:
    known = ["type: short", "dimension: 3", "sizes: 4 4 4", "encoding: raw", "endian: little"]
    replaced = {line.partition(":")[0] for line in lines}
    kept = [line for line in known if line.partition(":")[0] not in replaced]
    return ("\n".join(["NRRD0004", *kept, *lines]) + "\n\n").encode() + data


MALFORMED = {
    "empty.npy": b"",
    "empty.nii": b"",
    "empty.nii.gz": b"",
    "empty.nrrd": b"",
    "noise.npy": bytes(range(256)) * 8,
    "noise.nii": bytes(range(256)) * 8,
    "noise.nii.gz": bytes(range(256)) * 8,
    "noise.nrrd": bytes(range(256)) * 8,
    "pickle.npy": _pickled(),
    "flat.npy": as_npy(np.zeros((4, 4))),
    "four.npy": as_npy(np.zeros((4, 4, 4, 4))),
    "none.npy": as_npy(np.zeros((0, 4, 4))),
    "complex.npy": as_npy(np.zeros((4, 4, 4), np.complex64)),
    "text.npy": as_npy(np.zeros((4, 4, 4), "U3")),
    "bracket.npy": SMALL[:20].replace(b"'", b"(") + b"(" * 108 + SMALL[128:],
    "nested.npy": SMALL[:10] + b"(" * 117 + b"\n" + SMALL[128:],
    "short.npy": _npy_header((100, 100, 100)) + bytes(10),
    "negative.npy": _npy_header((-1, -4, 4)) + bytes(100),
    "short.nii": _nifti((100, 100, 100)),
    "short.nii.gz": _nifti((100, 100, 100), compress=True),
    "cut.nii.gz": gzip.compress(np.random.default_rng(0).bytes(4000))[:-30],
    "flat.nii": _nifti((4, 4)),
    "several.nii": _nifti((4, 4, 4, 3)),
    "colour.nii": _nifti((4, 4, 4)).replace(struct.pack("<hh", 4, 16), struct.pack("<hh", 128, 24)),
    "elsewhere.nrrd": _nrrd("data file: /etc/hostname"),
    "elsewhere again.nrrd": _nrrd("DataFile: ../other/volume.npy"),
    "list.nrrd": _nrrd("data file: LIST\n/etc/hostname"),
    "return.nrrd": _nrrd("content: a\rdata file: /etc/hostname"),
    "block.nrrd": _nrrd("type: block"),
    "words.nrrd": _nrrd("sizes: four 4 4"),
    "disagree.nrrd": _nrrd("sizes: 4 4"),
    "short.nrrd": _nrrd("sizes: 40 40 40"),
    "no ending": SMALL,
    "scan.dcm": SMALL,
    "scan.nhdr": SMALL,
    "..": SMALL,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_refused_with_a_reason_and_leaves_nothing(client: Client, name: str) -> None:
    before = sorted(client.service.scratch.iterdir())
    answer = client.submit(MALFORMED[name], name, ijk_to_ras=OBLIQUE.tolist())
    assert answer.status_code == 422, answer.text
    assert isinstance(answer.json()["detail"], str)
    assert str(client.service.scratch) not in answer.text
    assert sorted(client.service.scratch.iterdir()) == before


TOO_LARGE = {
    "declared.npy": _npy_header((4000, 4000, 4000)),
    "overflowing.npy": _npy_header((2**62, 2**62, 2**62)),
    "declared.nii": _nifti((4000, 4000, 4000)),
    "declared.nii.gz": _nifti((4000, 4000, 4000), compress=True),
    "bomb.nii.gz": _nifti((4, 4, 4), compress=True, held=400 * MIB),
    "real bomb.nii.gz": _nifti((500, 500, 500), compress=True, held=250 * MIB),
    "declared.nrrd": _nrrd("sizes: 4000 4000 4000", "encoding: gzip"),
    "upload.npy": as_npy(np.zeros((256, 256, 80), np.int16)),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_is_too_large_is_refused_before_it_takes_memory(client: Client, name: str) -> None:
    answer = client.submit(TOO_LARGE[name], name)
    assert answer.status_code == 413, answer.text
    assert "MiB" in answer.json()["detail"]


def test_an_upload_that_hides_its_size_is_cut_off(client: Client) -> None:
    sent = 0

    def body():
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="volume"; filename="a.npy"\r\n\r\n'
        for _ in range(12):
            sent += MIB
            yield bytes(MIB)
        yield b"\r\n--b--\r\n"

    answer = client.post("/v1/jobs", content=body(), headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413
    assert sent == 12 * MIB, "a client that is still sending hears the answer"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "nonsense",
        '{"volume": "/etc/passwd"}',
        '{"weights": "x"}',
        '{"device": "cpu"}',
        '{"organ": "../volume.npy"}',
        '{"stride": 0}',
        '{"stride": "1"}',
        '{"stride": 1e400}',
        '{"threshold": NaN}',
        '{"threshold": 2}',
        '{"minimum_ml": -1}',
        '{"plane": "diagonal"}',
        '{"ijk_to_ras": [[1]]}',
        '{"ijk_to_ras": [[0,0,0,0],[0,0,0,0],[0,0,0,0],[0,0,0,1]]}',
        '{"ijk_to_ras": [[1,0,0,1e300],[0,1,0,0],[0,0,1,0],[0,0,0,1]]}',
        "[" * 30000,
    ],
)
def test_a_request_with_unknown_keys_or_bad_values_is_refused(client: Client, text: str) -> None:
    answer = client.post("/v1/jobs", files={"volume": ("a.npy", SMALL)}, data={"request": text})
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"].startswith("request: ")


def test_a_form_without_a_volume_or_with_other_parts_is_refused(client: Client) -> None:
    good = {"request": json.dumps({"ijk_to_ras": OBLIQUE.tolist()})}
    file = ("a.npy", SMALL)
    for options in (
        {"files": {"organ": file}, "data": good},
        {"files": {"volume": file, "more": file}, "data": good},
        {"files": [("volume", file), ("volume", file)], "data": good},
        {"files": {"volume": file, "organ": file, "third": file}, "data": good},
        {"files": {"volume": file}},
        {"files": {"volume": file, "request": ("r.json", b"{}")}},
        {"data": {**good, "volume": "text"}, "files": {"organ": file}},
        {"data": good},
        {"json": {"volume": "a"}},
        {"content": b"--x", "headers": {"content-type": "multipart/form-data; boundary=y"}},
        {"content": b"--x", "headers": {"content-type": "multipart/form-data"}},
        {"content": b"--x\r\n\xff: \xfe\r\n\r\n", "headers": {"content-type": "multipart/form-data; boundary=x; charset=no"}},
    ):
        answer = client.post("/v1/jobs", **options)
        assert answer.status_code == 422, (options, answer.text)


def test_a_volume_that_only_reading_shows_to_be_bad_fails_its_job_in_words(client: Client, tmp_path: Path) -> None:
    holes = draw_volume().astype(np.float32)
    holes[3, 3, 3] = np.nan
    for ending in (".npy", ".nii.gz", ".nrrd"):
        job = client.submit(encode(holes, ending, tmp_path), f"x{ending}").json()["id"]
        status = client.wait(job)
        assert status["state"] == "failed"
        assert "NaN" in status["error"]
        assert "volume." in status["error"]
        assert str(client.service.scratch) not in status["error"]
        assert client.get(f"/v1/jobs/{job}/heatmap").status_code == 409
        assert not (client.service.scratch / job).exists()


@pytest.mark.parametrize("ending", [".npy", ".nii.gz", ".nrrd"])
def test_voxels_beyond_float32_fail_their_job_whatever_the_format(client: Client, tmp_path: Path, ending: str) -> None:
    scan = draw_volume().astype(np.float64)
    scan[3, 3, 3] = 1e300
    status = client.wait(client.submit(encode(scan, ending, tmp_path), f"x{ending}").json()["id"])
    assert status["state"] == "failed"
    assert f"volume{ending}: voxels that are too large for float32" in status["error"]


@pytest.mark.parametrize("ending", [".npy", ".nii.gz"])
def test_an_organ_mask_with_holes_of_nan_fails_its_job_whatever_the_format(client: Client, tmp_path: Path, ending: str) -> None:
    scan = draw_volume()
    organ = np.ones(scan.shape, np.float32)
    organ[3, 3, 3] = np.nan
    mask = (f"mask{ending}", encode(organ, ending, tmp_path))
    status = client.wait(client.submit(encode(scan, ending, tmp_path), f"x{ending}", organ=mask).json()["id"])
    assert status["state"] == "failed"
    assert "NaN" in status["error"]
    assert f"organ{ending}" in status["error"]


def test_a_slow_upload_blocks_nobody_and_a_broken_one_leaves_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aaclip_med.server.uploads.IDLE_SECONDS", 600.0)  # none is given up here, however busy the machine
    before = sorted(client.service.scratch.iterdir())
    slow = []
    for _ in range(20):
        connection = socket.create_connection(("127.0.0.1", client.base_url.port))
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: 100000\r\n\r\n--b\r\nContent-Disposition: form-data; name=volume; filename=a.npy\r\n\r\nabc"
        )
        slow.append(connection)
    await_it(lambda: client.service.uploads == 20)
    job = client.submit(SMALL).json()["id"]
    assert client.wait(job)["state"] == "done"
    assert client.service.uploads == 20
    for connection in slow:
        connection.close()
    client.delete(f"/v1/jobs/{job}")
    await_it(lambda: client.service.uploads == 0)
    assert sorted(client.service.scratch.iterdir()) == before


def test_memory_does_not_grow_with_a_bomb(client: Client) -> None:
    bomb = TOO_LARGE["bomb.nii.gz"]
    peaks = []

    def watch() -> None:
        while not over.is_set():
            fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            peaks.append(int(fields["VmRSS"].split()[0]))
            time.sleep(0.01)

    over = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    assert client.submit(bomb, "bomb.nii.gz").status_code == 413
    over.set()
    watcher.join()
    assert max(peaks) - min(peaks) < 64 * 1024
