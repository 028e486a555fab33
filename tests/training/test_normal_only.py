"""Training on normal scans alone, from the index to the adapters."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from aaclip_med.cli.main import main
from aaclip_med.data.index import read_index
from aaclip_med.data.slices import cut_case
from aaclip_med.data.synthesis import Synthesis
from aaclip_med.errors import InputError
from aaclip_med.model.checkpoint import read_checkpoint
from aaclip_med.model.preprocess import resize_masks
from aaclip_med.presets import get_preset
from aaclip_med.training.augmentation import Augmentation
from aaclip_med.training.bundle import train
from aaclip_med.training.dataset import EpochSampler, SliceDataset, gather_slices
from aaclip_med.training.montage import draw_tiles

ARGUMENTS = ["--preset", "brain-mri", "--backbone", "tiny", "--image-size", "40", "--text-epochs", "1", "--image-epochs", "2"]


def write_head(path: Path, seed: int) -> None:
    """A round head (28, 30, 8) with smooth texture."""
    rng = np.random.default_rng(seed)
    i, j, k = np.indices((28, 30, 8))
    head = ((i - 14) ** 2 + (j - 15) ** 2) < 144
    array = np.where(head, 300 + 60 * np.sin(i / 3 + seed) * np.cos(j / 4 + k) + 10 * rng.standard_normal(head.shape), 0)
    nib.save(nib.Nifti1Image(array.astype(np.int16), np.diag([2.0, 2.0, 4.0, 1.0])), path)


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six normal volumes without masks and an abnormal one; ``normal.jsonl`` and ``mixed.jsonl``."""
    folder = tmp_path_factory.mktemp("normals")
    rows: list[dict[str, object]] = []
    for number in range(7):
        write_head(folder / f"head_{number}.nii.gz", number)
        rows.append({"image_path": f"head_{number}.nii.gz", "label": int(number == 6), "class_name": "Brain"})
    mask = np.zeros((28, 30, 8), np.uint8)
    mask[10:16, 10:16, 2:5] = 1
    nib.save(nib.Nifti1Image(mask, np.diag([2.0, 2.0, 4.0, 1.0])), folder / "mask.nii.gz")
    write_rows(folder / "normal.jsonl", rows[:6])
    write_rows(folder / "mixed.jsonl", [*rows[:6], rows[6] | {"mask_path": "mask.nii.gz"}])
    return folder


@pytest.fixture(scope="module")
def run(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the normal rows."""
    out = tmp_path_factory.mktemp("run")
    assert main(["train", *ARGUMENTS, "--normal-only", "--index", str(study / "normal.jsonl"), "--out", str(out)]) == 0
    return out


def test_an_index_without_an_abnormal_row_trains_and_chooses_an_epoch(run: Path) -> None:
    story = json.loads((run / "training.json").read_text())
    assert story["settings"]["normal_only"] is True
    assert all(np.isfinite(epoch["pixel_auroc"]) for epoch in story["stages"]["image"]["epochs"])
    assert read_checkpoint(run / "adapters.safetensors").provenance["normal_only"] is True


def test_two_runs_give_the_same_adapters(run: Path, study: Path, tmp_path: Path) -> None:
    assert main(["train", *ARGUMENTS, "--normal-only", "--index", str(study / "normal.jsonl"), "--out", str(tmp_path)]) == 0
    one, other = (safe_open(folder / "adapters.safetensors", "np") for folder in (run, tmp_path))
    assert set(one.keys()) == set(other.keys())
    assert all(np.array_equal(one.get_tensor(name), other.get_tensor(name)) for name in one.keys())  # noqa: SIM118


def test_a_run_is_not_taken_up_with_the_other_setting(run: Path, study: Path) -> None:
    overrides = {"preset": "brain-mri", "backbone": "tiny", "image_size": 40, "text_epochs": 1, "image_epochs": 2}
    with pytest.raises(InputError, match="no slice with a lesion"):
        train(overrides | {"index": str(study / "normal.jsonl"), "output_dir": str(run)})
    with pytest.raises(InputError, match=r"other settings.*normal_only"):
        train(overrides | {"index": str(study / "mixed.jsonl"), "output_dir": str(run)})


def test_abnormal_rows_are_left_out_and_said_to_be(study: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", *ARGUMENTS, "--normal-only", "--index", str(study / "mixed.jsonl"), "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert capfd.readouterr().err.count("6 normal cases; 1 abnormal ones are left out") == 1


def test_no_slice_of_an_abnormal_case_is_used(study: Path, tmp_path: Path) -> None:
    slices = gather_slices(study / "mixed.jsonl", "brain-mri", tmp_path, normal_only=True)
    assert {item.case.label for item in slices.train + slices.validation} == {0}
    assert slices.train
    assert slices.validation


def test_few_patients_give_the_middle_of_each_volume_to_validation(study: Path, tmp_path: Path) -> None:
    rows = [{"image_path": str(study / "head_0.nii.gz"), "label": 0, "class_name": "Brain"}]
    slices = gather_slices(write_rows(tmp_path / "one.jsonl", rows), "brain-mri", tmp_path / "cache", normal_only=True)
    assert [item.number for item in slices.validation] == [3, 4]
    assert [item.number for item in slices.train] == [0, 1, 6, 7]


def test_an_index_without_a_normal_row_is_refused(study: Path, tmp_path: Path) -> None:
    rows = [{"image_path": str(study / "head_6.nii.gz"), "label": 1, "class_name": "Brain"}]
    with pytest.raises(InputError, match="no normal row"):
        gather_slices(write_rows(tmp_path / "ill.jsonl", rows), "brain-mri", tmp_path / "cache", normal_only=True)


@pytest.fixture
def dataset(study: Path, tmp_path: Path) -> SliceDataset:
    slices = gather_slices(study / "normal.jsonl", "brain-mri", tmp_path, normal_only=True)
    return SliceDataset(slices.store, slices.train, 40, "reference", Augmentation(), 3, Synthesis(), 0.5)


def test_about_half_of_the_slices_show_a_lesion_and_the_label_says_so(dataset: SliceDataset) -> None:
    items = [dataset[position] for position in range(len(dataset))]
    assert all(item["label"] == int(item["mask"].any()) for item in items)
    assert 0.25 < np.mean([item["label"] for item in items]) < 0.75


def test_what_is_drawn_depends_on_seed_epoch_and_position_alone(dataset: SliceDataset) -> None:
    dataset.epoch = 2
    forwards = [dataset[position] for position in range(12)]
    backwards = [dataset[position] for position in reversed(range(12))][::-1]
    assert all(
        (a["image"] == b["image"]).all() and (a["mask"] == b["mask"]).all() for a, b in zip(forwards, backwards, strict=True)
    )
    dataset.epoch = 3
    others = [dataset[position] for position in range(12)]
    assert any((a["mask"] != b["mask"]).any() for a, b in zip(forwards, others, strict=True))


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 1)])
def test_the_share_says_how_many_slices_get_a_lesion(dataset: SliceDataset, share: float, expected: int) -> None:
    dataset.synthetic_share, dataset.augmentation = share, None
    assert {dataset[position]["label"] for position in range(12)} == {expected}


@pytest.fixture
def organ_index(study: Path, tmp_path: Path) -> Path:
    """A head and the mask of an organ in its left half, slices 2 to 5."""
    organ = np.zeros((28, 30, 8), np.uint8)
    organ[4:15, 6:24, 2:6] = 1
    nib.save(nib.Nifti1Image(organ, np.diag([2.0, 2.0, 4.0, 1.0])), tmp_path / "organ.nii.gz")
    row = {"image_path": str(study / "head_0.nii.gz"), "label": 0, "class_name": "Brain", "organ_path": "organ.nii.gz"}
    return write_rows(tmp_path / "organ.jsonl", [row])


@pytest.mark.parametrize("crop", [False, True])
def test_synthetic_lesions_of_training_lie_in_the_organ(organ_index: Path, tmp_path: Path, crop: bool) -> None:
    slices = gather_slices(organ_index, "brain-mri", tmp_path / "cache", normal_only=True, crop=crop)
    items = slices.train + slices.validation
    dataset = SliceDataset(slices.store, items, 40, "reference", None, 3, Synthesis(fewest=20), 1.0)
    assert {item.number for item in items} <= {2, 3, 4, 5}
    lesions = 0
    for dataset.epoch in range(12):
        for position, item in enumerate(items):
            organ = slices.store.organ(item)
            assert organ is not None
            mask = np.asarray(resize_masks(torch.from_numpy(organ[None, None].astype(np.float32)), dataset.image_size)[0])
            drawn = np.asarray(dataset[position]["mask"])
            lesions += int(drawn.any())
            assert not drawn[mask == 0].any()
    assert lesions > 12


def test_the_montage_shows_lesions_in_the_organ(organ_index: Path) -> None:
    tiles = draw_tiles(read_index(organ_index), get_preset("brain-mri"), 6, 0, Synthesis(fewest=20))
    assert len(tiles) == 6
    cut = cut_case(read_index(organ_index)[0], get_preset("brain-mri"))
    assert cut.organ is not None
    for tile in tiles:
        organ = cut.organ[int(tile.name.rpartition(" ")[2])]
        assert tile.after.mask.any()
        assert not tile.after.mask[~organ].any()


def test_an_epoch_draws_every_slice_once_though_the_recipe_names_a_share(dataset: SliceDataset) -> None:
    assert sorted(EpochSampler(dataset, lesion_share=0.75)) == list(range(len(dataset)))


def test_the_montage_is_a_picture_and_the_same_for_the_same_seed(study: Path, tmp_path: Path) -> None:
    arguments = ["montage", "--index", str(study / "mixed.jsonl"), "--preset", "brain-mri", "--count", "4", "--out"]
    for name, seed in (("one", "1"), ("same", "1"), ("other", "2")):
        assert main([*arguments, str(tmp_path / f"{name}.png"), "--seed", seed]) == 0
    one, same, other = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("one", "same", "other"))
    assert np.array_equal(one, same)
    assert one.shape != other.shape or not np.array_equal(one, other)


def test_a_montage_needs_a_normal_case_and_a_count_that_fits(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = write_rows(
        tmp_path / "ill.jsonl", [{"image_path": str(study / "head_6.nii.gz"), "label": 1, "class_name": "Brain"}]
    )
    arguments = ["montage", "--preset", "brain-mri", "--out", str(tmp_path / "montage.png"), "--index"]
    assert main([*arguments, str(index)]) == 2
    assert "no normal row" in capsys.readouterr().err
    assert main([*arguments, str(study / "normal.jsonl"), "--count", "0"]) == 2
    assert "1 to 60" in capsys.readouterr().err
    assert not (tmp_path / "montage.png").exists()
