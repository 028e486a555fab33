from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aaclip_med.data.planes import plan_volume
from aaclip_med.data.volumes import read_volume
from aaclip_med.data.writing import (
    atomic_path,
    prepare_output_folder,
    write_csv,
    write_file,
    write_heatmap,
    write_json,
)
from aaclip_med.errors import OutputError
from aaclip_med.presets import PLANES, PlaneName

from .conftest import GEOMETRIES, SaveScan, make_affine, make_scan, write_scan


def write_and_load(path: Path, heatmap: np.ndarray, scan: Path) -> nib.Nifti1Image:
    write_heatmap(path, heatmap, read_volume(scan))
    return nib.load(path)


def stored_header(path: Path) -> nib.Nifti1Header:
    """The header as it is on disk, before nibabel takes anything out of it."""
    with nib.openers.ImageOpener(path) as stream:
        return nib.Nifti1Header.from_fileobj(stream, check=False)


# --- heatmaps ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    codes=st.sampled_from(["RAS", "LPS", "LAS", "PIR", "SLA", "AIL"]),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    angles=st.tuples(*[st.floats(-25.0, 25.0)] * 3),
    origin=st.tuples(*[st.floats(-500.0, 500.0)] * 3),
    plane=st.sampled_from(PLANES),
    name=st.sampled_from(["scan.nii.gz", "scan.nrrd", "scan.mha"]),
    voxel=st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 6)),
)
def test_a_marked_voxel_comes_back_at_the_same_point(
    tmp_path: Path,
    codes: str,
    spacing: tuple[float, float, float],
    angles: tuple[float, float, float],
    origin: tuple[float, float, float],
    plane: PlaneName,
    name: str,
    voxel: tuple[int, int, int],
) -> None:
    affine = make_affine(codes, spacing, angles, origin)
    scan = np.zeros((5, 6, 7), np.float32)
    scan[voxel] = 1
    volume = read_volume(write_scan(tmp_path / name, scan, affine))
    plan = plan_volume(volume, plane)
    heatmap = plan.paste(np.ascontiguousarray(plan.cut(volume.array)) * 0.5)
    write_heatmap(tmp_path / "heatmap.nii.gz", heatmap, volume)
    written = nib.load(tmp_path / "heatmap.nii.gz")
    marked = np.argwhere(written.get_fdata() == 0.5)
    assert marked.tolist() == [list(voxel)]
    np.testing.assert_allclose(written.affine @ (*marked[0], 1), affine @ (*voxel, 1), atol=1e-3)
    itk_point = sitk.ReadImage(str(tmp_path / "heatmap.nii.gz")).TransformIndexToPhysicalPoint(voxel)
    np.testing.assert_allclose(itk_point * np.array([-1, -1, 1]), (affine @ (*voxel, 1))[:3], atol=2e-3)


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii", "scan.nrrd", "scan.mha"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_heatmap_has_the_values_and_the_grid_of_its_scan(save: SaveScan, tmp_path: Path, name: str, geometry: str) -> None:
    heatmap = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
    written = write_and_load(tmp_path / "h.nii.gz", heatmap, save(name, affine=GEOMETRIES[geometry]))
    assert written.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(written.dataobj), heatmap)
    np.testing.assert_allclose(written.affine, GEOMETRIES[geometry], atol=1e-4)
    assert written.header.get_xyzt_units()[0] in ("mm", "unknown")
    stored = stored_header(tmp_path / "h.nii.gz")
    assert (stored["scl_slope"], stored["scl_inter"]) == (1, 0)


@pytest.mark.parametrize(("qform_code", "sform_code"), [(1, 2), (1, 0), (0, 4), (0, 0), (3, 1)])
def test_both_matrices_of_a_nifti_and_their_codes_are_kept(tmp_path: Path, qform_code: int, sform_code: int) -> None:
    image = nib.Nifti1Image(make_scan(), None)
    image.header.set_zooms((0.8, 1.1, 3.3))
    image.set_qform(GEOMETRIES["oblique"] if qform_code else None, code=qform_code)
    image.set_sform(make_affine("LPI", (0.8, 1.1, 3.3), (12, -17, 23), (1, 2, 3)) if sform_code else None, sform_code)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "scan.nii.gz")
    write_and_load(tmp_path / "h.nii.gz", np.ones((5, 6, 7), np.float32), tmp_path / "scan.nii.gz")
    before, after = stored_header(tmp_path / "scan.nii.gz"), stored_header(tmp_path / "h.nii.gz")
    for name in ("qform_code", "sform_code", "pixdim", "xyzt_units", "srow_x", "srow_y", "srow_z", "dim"):
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_a_big_endian_scan_keeps_its_geometry(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nib.save(nib.Nifti1Image(make_scan(), GEOMETRIES["oblique"], header), tmp_path / "scan.nii.gz")
    written = write_and_load(tmp_path / "h.nii.gz", np.ones((5, 6, 7), np.float32), tmp_path / "scan.nii.gz")
    np.testing.assert_allclose(written.affine, GEOMETRIES["oblique"], atol=1e-4)
    assert np.asarray(written.dataobj).max() == 1


def test_a_nifti_2_scan_keeps_its_geometry(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(make_scan(), GEOMETRIES["oblique"]), tmp_path / "scan.nii.gz")
    written = write_and_load(tmp_path / "h.nii.gz", np.ones((5, 6, 7), np.float32), tmp_path / "scan.nii.gz")
    np.testing.assert_allclose(written.affine, GEOMETRIES["oblique"], atol=1e-9)


def test_trailing_axes_of_the_scan_are_kept(save: SaveScan, tmp_path: Path) -> None:
    scan = save("scan.nii.gz", make_scan((5, 6, 7, 1)))
    written = write_and_load(tmp_path / "h.nii.gz", np.ones((5, 6, 7), np.float32), scan)
    assert written.shape == (5, 6, 7, 1)


def test_nothing_of_the_patient_is_taken_over(tmp_path: Path) -> None:
    image = nib.Nifti1Image(make_scan(), np.eye(4))
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[name] = b"DOE^JOHN"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JOHN"))
    nib.save(image, tmp_path / "scan.nii.gz")
    write_heatmap(tmp_path / "h.nii", np.ones((5, 6, 7), np.float32), read_volume(tmp_path / "scan.nii.gz"))
    assert b"DOE" not in (tmp_path / "h.nii").read_bytes()


@pytest.mark.parametrize("name", ["scan.nrrd", "scan.mha", "slice.png"])
def test_a_scan_without_a_nifti_header_gives_a_scanner_sform_in_mm(save: SaveScan, tmp_path: Path, name: str) -> None:
    scan = save(name, np.arange(30, dtype=np.uint8).reshape(5, 6) if name.endswith("png") else None)
    shape = read_volume(scan).array.shape
    header = write_and_load(tmp_path / "h.nii.gz", np.ones(shape, np.float32), scan).header
    assert header["sform_code"] == 1
    assert header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(header.get_sform(), read_volume(scan).affine, atol=1e-5)


def test_a_colour_picture_gets_a_heatmap_of_one_slice(save: SaveScan, tmp_path: Path) -> None:
    scan = save("slice.png", np.arange(90, dtype=np.uint8).reshape(5, 6, 3))
    assert write_and_load(tmp_path / "h.nii.gz", np.ones((5, 6, 1), np.float32), scan).shape == (5, 6, 1)


def test_the_same_heatmap_gives_the_same_bytes(save: SaveScan, tmp_path: Path) -> None:
    volume = read_volume(save("scan.nii.gz"))
    for name in ("1/h.nii.gz", "2/h.nii.gz"):
        (tmp_path / name).parent.mkdir()
        write_heatmap(tmp_path / name, np.ones((5, 6, 7), np.float32), volume)
    assert (tmp_path / "1/h.nii.gz").read_bytes() == (tmp_path / "2/h.nii.gz").read_bytes()


def test_a_heatmap_of_another_shape_is_not_written(save: SaveScan, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shape"):
        write_heatmap(tmp_path / "h.nii.gz", np.ones((5, 6, 8), np.float32), read_volume(save("scan.nii.gz")))


# --- whole or not at all -------------------------------------------------------------------------------------------


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith("table.csv")
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert files_in(tmp_path) == ["table.csv"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_after_any_failure_the_old_file_stays_and_the_temporary_one_is_gone(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_file(target, fail)
    assert target.read_text() == "old"
    assert files_in(tmp_path) == ["table.csv"]


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    def fill(temporary: Path) -> None:
        temporary.symlink_to("/dev/full")
        with temporary.open("w") as stream:
            stream.write("x" * 100_000)

    with pytest.raises(OutputError) as caught:
        write_file(tmp_path / "table.csv", fill)
    expected = f"cannot write {tmp_path / 'table.csv'}: No space left on device; free space or choose another --out"
    assert str(caught.value) == expected
    assert files_in(tmp_path) == []


FILL_DISK = """
import resource, sys
import numpy as np
from pathlib import Path
from aaclip_med.data.volumes import read_volume
from aaclip_med.data.writing import write_csv, write_heatmap, write_json
from aaclip_med.errors import OutputError

folder = Path(sys.argv[1])
volume = read_volume(folder / "scan.nii.gz")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
noise = np.random.default_rng(0).random(volume.array.shape, dtype=np.float32)
for write in (
    lambda: write_heatmap(folder / "h.nii.gz", noise, volume),
    lambda: write_csv(folder / "t.csv", ["a"], [{"a": n} for n in range(100_000)]),
    lambda: write_json(folder / "t.json", list(range(100_000))),
):
    try:
        write()
    except OutputError as error:
        print(error)
"""


def test_a_write_cut_short_leaves_nothing_behind(save: SaveScan, tmp_path: Path) -> None:
    save("scan.nii.gz", make_scan((20, 20, 20)))
    run = subprocess.run(
        [sys.executable, "-c", FILL_DISK, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.splitlines() == [
        f"cannot write {tmp_path / name}: File too large; free space or choose another --out"
        for name in ("h.nii.gz", "t.csv", "t.json")
    ]
    assert run.stderr == ""
    assert files_in(tmp_path) == ["scan.nii.gz"]


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*t\.json: No such file or directory; choose another --out"):
        write_json(tmp_path / "gone" / "t.json", {})


def test_a_folder_in_the_files_place_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "t.json").mkdir()
    with pytest.raises(OutputError, match="directory"):
        write_json(tmp_path / "t.json", {})
    assert files_in(tmp_path) == ["t.json"]


# --- tables --------------------------------------------------------------------------------------------------------


def test_a_table_has_six_digits_and_empty_cells_for_nothing(tmp_path: Path) -> None:
    rows = [
        {"case": "a, b", "score": 1 / 3, "ml": np.float32(1234.5678), "count": np.int64(1234567), "ok": True},
        {"case": "é", "score": math.nan, "ml": None, "count": 0},
    ]
    write_csv(tmp_path / "t.csv", ["case", "score", "ml", "count", "ok"], rows)
    assert (tmp_path / "t.csv").read_text("utf-8") == ('case,score,ml,count,ok\n"a, b",0.333333,1234.57,1234567,True\né,,,0,\n')


def test_json_has_null_for_nan_and_takes_numpy(tmp_path: Path) -> None:
    content = {
        "nan": math.nan,
        "inf": np.float64("inf"),
        "half": np.float32(0.5),
        "count": np.int64(3),
        "flag": np.bool_(True),
        "grid": np.array([[1.0, np.nan], [2.0, 3.0]]),
        "pair": (1, Path("a/b")),
        "nested": [{"name": "é", "score": float("-inf")}],
    }
    write_json(tmp_path / "t.json", content)
    text = (tmp_path / "t.json").read_text("utf-8")
    assert "é" in text
    assert text.endswith("}\n")
    assert json.loads(text) == {
        "nan": None,
        "inf": None,
        "half": 0.5,
        "count": 3,
        "flag": True,
        "grid": [[1.0, None], [2.0, 3.0]],
        "pair": [1, "a/b"],
        "nested": [{"name": "é", "score": None}],
    }


# --- the output folder ---------------------------------------------------------------------------------------------


def test_an_output_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = prepare_output_folder(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert files_in(folder) == []
    assert prepare_output_folder(folder) == folder


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(OutputError, match="a file is in its place"):
            prepare_output_folder(path)


def test_a_folder_that_takes_no_files_is_refused() -> None:
    with pytest.raises(OutputError, match=r"cannot write /proc/.*; choose another --out"):
        prepare_output_folder("/proc/aaclip")
    with pytest.raises(OutputError, match="cannot write /proc"):
        prepare_output_folder("/proc")
