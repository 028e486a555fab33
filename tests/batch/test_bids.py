"""A BIDS derivatives tree: names, geometry, sidecars, and the same tree whatever the order."""

from __future__ import annotations

import csv
import json
import re
from datetime import datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aaclip_med.batch.account import Account
from aaclip_med.batch.bids import BidsTree, find_entities, refuse_foreign
from aaclip_med.cli.main import main
from aaclip_med.data.sources import find_sources
from aaclip_med.data.volumes import Volume
from aaclip_med.errors import InputError
from aaclip_med.inference.case import ScoredCase
from aaclip_med.scoring.candidates import label_candidates

from .test_dicom_objects import find_source, save_tilted

OBLIQUE = np.array([[-1.9, 0.2, 0.3, 40.0], [0.2, 1.9, 0.5, -50.0], [0.1, -0.4, 4.0, 10.0], [0.0, 0.0, 0.0, 1.0]])
ACCOUNT = Account(0.5, "set by hand", False, True, "brain-mri", "1.2.3", "ab" * 32, datetime(2026, 3, 4))
NAME = re.compile(r"(sub-[A-Za-z0-9]+)(_ses-[A-Za-z0-9]+)?(_[a-z]+-[A-Za-z0-9]+)*_(probseg|dseg|mask)\.(nii\.gz|json|tsv)")


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(4, 5, 6), OBLIQUE), path)
    return path


def draw_case(volume: Volume) -> ScoredCase:
    heat = np.zeros(volume.array.shape, dtype=np.float32)
    heat[1:3, 1, 2] = 0.75
    heat[0, 4, -1] = 0.875
    candidates, labels = label_candidates(heat, ACCOUNT.threshold, volume.affine, 2)
    slices = heat.max(axis=(0, 1))
    return ScoredCase(
        heatmap=heat,
        axis=2,
        slices=list(range(len(slices))),
        slice_scores=slices,
        detection=slices,
        score=0.875,
        p_value=None,
        percentile=None,
        candidates=candidates,
        labels=labels,
    )


def add_all(tree: BidsTree, folder: Path, backwards: bool = False) -> list[Path]:
    written = []
    for source in sorted(find_sources([folder]).sources, key=lambda source: source.name, reverse=backwards):
        volume = source.read()
        written += tree.add_case(source.name, source.path, volume, draw_case(volume))
    return [*written, *tree.write_participants()]


def list_files(root: Path) -> dict[str, bytes]:
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two scans of one session, a scan of another subject, and one without a BIDS name."""
    for name in ("sub-01/ses-2/anat/sub-01_ses-2_T1w", "sub-01/ses-2/anat/sub-01_ses-2_run-1_FLAIR", "sub-02/anat/sub-02_T1w"):
        save(tmp_path / "study" / f"{name}.nii.gz")
    save(tmp_path / "study" / "head 7.nii.gz")
    return tmp_path / "study"


def test_a_tree_has_the_files_of_every_case_and_of_the_set(study: Path, tmp_path: Path) -> None:
    root = tmp_path / "out"
    root.mkdir()
    add_all(BidsTree(root, ACCOUNT), study)
    files = list_files(root)
    session = "sub-01/ses-2/anat/sub-01_ses-2"
    for stem in (session, f"{session}_acq-FLAIR_run-1", "sub-02/anat/sub-02"):
        assert {f"{stem}_label-lesion_probseg.nii.gz", f"{stem}_label-lesion_probseg.json"} <= files.keys()
        assert {f"{stem}_desc-lesions_{kind}" for kind in ("dseg.nii.gz", "dseg.json", "dseg.tsv")} <= files.keys()
        assert {f"{stem}_desc-lesions_{kind}" for kind in ("mask.nii.gz", "mask.json")} <= files.keys()
    below = [name for name in files if name.startswith("sub-")]
    assert len(below) == 4 * 7
    assert all(NAME.fullmatch(Path(name).name) for name in below)
    description = json.loads(files["dataset_description.json"])
    assert (description["DatasetType"], description["GeneratedBy"][0]["Version"]) == ("derivative", "1.2.3")
    assert "heat >= 0.5: set by hand" in description["GeneratedBy"][0]["Description"]
    assert [row["desc_id"] for row in read_table(root / "descriptions.tsv")] == ["desc-lesions"]
    participants = {row["participant_id"]: row for row in read_table(root / "participants.tsv")}
    assert participants.keys() == {name.split("/")[0] for name in below}
    assert participants["sub-01"] == {"participant_id": "sub-01", "scans": "2", "score": "0.875", "candidates": "4"}


@pytest.mark.parametrize("name", ["dataset_description.json", "README.md", "participants.tsv"])
def test_the_scans_own_data_set_is_not_written_over(study: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (study / name).write_text('{"Name": "scans", "BIDSVersion": "1.10.0"}', encoding="utf-8")
    before = list_files(study)
    command = [
        "score",
        str(study),
        "--adapters",
        "demo",
        "--preset",
        "brain-mri",
        "--device",
        "cpu",
        "--bids",
        "--out",
        str(study),
    ]
    assert main(command) == 2
    assert f"{study / name}: not of this program" in capsys.readouterr().err
    assert {name: content for name, content in list_files(study).items() if not name.startswith(".lock")} == before
    refuse_foreign(study / "derivatives")
    (study / name).unlink()
    BidsTree(study, ACCOUNT)
    refuse_foreign(study)


def test_images_lie_on_the_scan_and_hold_heat_labels_and_mask(study: Path, tmp_path: Path) -> None:
    (source,) = find_sources([study / "sub-02"]).sources
    case = draw_case(source.read())
    files = BidsTree(tmp_path, ACCOUNT).add_case(source.name, source.path, source.read(), case)
    images = {file.name.split("_")[-1].split(".")[0]: nib.load(file) for file in files if file.name.endswith(".nii.gz")}
    for kind, expected in (("probseg", case.heatmap), ("dseg", case.labels), ("mask", case.labels > 0)):
        np.testing.assert_array_equal(np.asarray(images[kind].dataobj), expected)
        np.testing.assert_allclose(images[kind].affine, nib.load(source.path).affine, atol=1e-6)
    assert np.issubdtype(images["dseg"].get_data_dtype(), np.integer)


def test_a_straightened_series_has_images_of_its_own_shape(tmp_path: Path) -> None:
    source, volume = find_source(save_tilted(tmp_path / "scan"))
    case = draw_case(volume)
    files = BidsTree(tmp_path, ACCOUNT).add_case(source.name, source.path, volume, case)
    assert volume.array.shape != volume.stored_shape
    np.testing.assert_array_equal(np.asarray(nib.load(files[0]).dataobj), case.heatmap)
    np.testing.assert_allclose(nib.load(files[0]).affine, volume.affine, atol=1e-5)


def test_sidecars_and_tables_say_what_there_is_and_how_it_was_made(study: Path, tmp_path: Path) -> None:
    add_all(BidsTree(tmp_path, ACCOUNT), study / "sub-02")
    stem = tmp_path / "sub-02" / "anat" / "sub-02"
    rows = read_table(stem.with_name("sub-02_desc-lesions_dseg.tsv"))
    assert [(row["index"], row["name"]) for row in rows] == [
        ("0", "Background"), ("1", "Lesion candidate 1"), ("2", "Lesion candidate 2"),
    ]  # fmt: skip
    assert [row["peak"] for row in rows] == ["n/a", "0.875", "0.75"]
    sidecars = [json.loads(file.read_text()) for file in sorted(stem.parent.glob("*.json"))]
    assert len(sidecars) == 3
    for sidecar in sidecars:
        assert sidecar["Threshold"] == 0.5
        assert sidecar["OperatingPoint"] == "heat >= 0.5: set by hand"
        assert (sidecar["Calibrated"], sidecar["Demonstration"]) == (False, True)
    labels = next(sidecar for sidecar in sidecars if "volume" in sidecar)
    assert labels.keys() >= rows[0].keys() - {"index", "name"}  # these two are the standard's own
    assert labels["volume"]["Units"] == "mL"


def test_the_tree_is_the_same_in_any_order_in_shards_and_again(study: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    add_all(BidsTree(tmp_path / "one", ACCOUNT), study)
    BidsTree(tmp_path / "other", ACCOUNT)
    add_all(BidsTree(tmp_path / "other", ACCOUNT), study / "sub-02")
    add_all(BidsTree(tmp_path / "other", ACCOUNT), study, backwards=True)
    assert list_files(tmp_path / "one") == list_files(tmp_path / "other")


def test_derivatives_point_to_the_scans_of_the_set_they_are_from(study: Path) -> None:
    root = study / "derivatives"
    root.mkdir()
    tree = BidsTree(root, ACCOUNT, study)
    scan = study / "sub-02" / "anat" / "sub-02_T1w.nii.gz"
    (source,) = find_sources([scan]).sources
    tree.add_case(source.name, source.path, source.read(), draw_case(source.read()))
    assert json.loads((root / "dataset_description.json").read_text())["DatasetLinks"] == {"source": ".."}
    sidecar = json.loads((root / "sub-02" / "anat" / "sub-02_label-lesion_probseg.json").read_text())
    assert sidecar["Sources"] == ["bids:source:sub-02/anat/sub-02_T1w.nii.gz"]


@pytest.mark.parametrize(
    ("file", "stem"),
    [
        ("sub-01_ses-2_T1w", "sub-01 ses-2"),
        ("sub-01_acq-hi_run-2_T2w", "sub-01 acq-hiT2w run-2"),
        ("sub-01_inv-1_part-mag_MP2RAGE", "sub-01 part-mag acq-inv1MP2RAGE"),
        ("sub-01_T1w_brain", "sub-sub01T1wbrainfe390069"),
        ("head1", "sub-head1"),
    ],
)
def test_bids_names_keep_their_entities(file: str, stem: str) -> None:
    entities = find_entities(file, Path(f"{file}.nii.gz"))
    assert " ".join(f"{key}-{label}" for key, label in entities.items()) == stem


@given(st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=8, unique=True))
def test_other_names_become_subjects_of_letters_and_digits_no_two_alike(names: list[str]) -> None:
    labels = [find_entities(name, Path("folder"))["sub"] for name in names]
    assert all(re.fullmatch(r"[A-Za-z0-9]+", label) for label in labels)
    assert len(set(labels)) == len(names)


def test_two_scans_of_one_bids_name_are_refused_and_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    tree = BidsTree(tmp_path / "out", ACCOUNT)
    first, second = save(tmp_path / "sub-1_FLAIR.nii.gz"), save(tmp_path / "sub-1_acq-FLAIR_T1w.nii.gz")
    (one,), (other,) = find_sources([first]).sources, find_sources([second]).sources
    tree.add_case(one.name, one.path, one.read(), draw_case(one.read()))
    before = list_files(tmp_path / "out")
    with pytest.raises(InputError, match="is that of case 'sub-1_FLAIR' as well"):
        tree.add_case(other.name, other.path, other.read(), draw_case(other.read()))
    assert list_files(tmp_path / "out") == before
