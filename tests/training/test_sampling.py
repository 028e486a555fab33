"""Which slices are trained on, and which an epoch draws."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from aaclip_med.cli.main import main
from aaclip_med.data.index import Case
from aaclip_med.data.slices import SliceStore
from aaclip_med.data.synthesis import Synthesis
from aaclip_med.errors import InputError
from aaclip_med.presets import get_preset
from aaclip_med.training.assembly import build_loader, choose_workers
from aaclip_med.training.augmentation import ROBUST
from aaclip_med.training.dataset import EpochSampler, SliceDataset, gather_slices
from aaclip_med.training.recipes import StageRecipe
from aaclip_med.training.transplant import Transplant


@pytest.fixture
def dataset(tmp_path: Path) -> SliceDataset:
    """Twelve pictures, three of them with a lesion, one of them blank."""
    cases = []
    for number in range(12):
        picture = np.full((20, 20), 10, np.uint8)
        if number:
            picture[5:9, 5:9] = 200
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
        mask = None
        if number >= 9:
            mask = tmp_path / f"{number}_mask.png"
            Image.fromarray((picture > 100).astype(np.uint8) * 255).save(mask)
        cases.append(Case(tmp_path / f"{number}.png", int(mask is not None), "Brain", mask))
    store = SliceStore(cases, get_preset("brain-mri"), tmp_path / "cache")
    return SliceDataset(store, store.slices, 20, "reference")


def draw(sampler: EpochSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_a_blank_picture_is_a_slice_like_any_other(dataset: SliceDataset) -> None:
    assert len(dataset) == 12
    assert dataset[0]["label"] == 0


def test_without_a_share_every_slice_comes_once(dataset: SliceDataset) -> None:
    assert sorted(draw(EpochSampler(dataset), 1)) == list(range(12))


def test_a_share_of_the_slices_drawn_shows_lesions_and_none_is_favoured(dataset: SliceDataset) -> None:
    drawn = draw(EpochSampler(dataset, lesion_share=0.75), 1)
    counts = Counter(drawn)
    assert len(drawn) == 12
    assert [counts[number] for number in (9, 10, 11)] == [3, 3, 3]
    assert max(counts[number] for number in range(9)) == 1


def test_an_epoch_is_the_same_each_time_and_unlike_the_next(dataset: SliceDataset) -> None:
    one, other = EpochSampler(dataset, seed=3, lesion_share=0.5), EpochSampler(dataset, seed=3, lesion_share=0.5)
    assert draw(one, 4) == draw(other, 4) != draw(one, 5)


@pytest.mark.parametrize(
    "options", [{"augmentation": ROBUST}, {"synthesis": Synthesis()}, {"transplant": Transplant(1.0, fewest=1)}, {"zoom": 2.0}]
)
def test_as_many_epochs_as_named_draw_anew_and_those_after_them_draw_the_same(
    dataset: SliceDataset, options: dict[str, Any]
) -> None:
    def show(epochs: Iterable[int], draws: int | None) -> list[torch.Tensor]:
        shown = SliceDataset(dataset.store, dataset.slices, 20, "reference", draws=draws, **options)
        pictures = []
        for epoch in epochs:
            shown.epoch = epoch
            pictures.append(torch.stack([shown[position]["image"] for position in range(len(shown))]))
        return pictures

    unlimited, limited = show(range(1, 6), None), show(range(1, 6), 2)
    assert not torch.equal(unlimited[0], unlimited[1])
    for epoch, drawn_in in enumerate([1, 2, 1, 2, 1], start=1):
        assert torch.equal(limited[epoch - 1], unlimited[drawn_in - 1])


def test_a_share_is_left_aside_where_all_slices_are_of_one_kind(dataset: SliceDataset) -> None:
    dataset.slices = [item for item in dataset.slices if not item.label]
    assert sorted(draw(EpochSampler(dataset, lesion_share=0.75), 1)) == list(range(9))


def test_processes_that_read_ahead_draw_the_same_batches(dataset: SliceDataset) -> None:
    recipe = StageRecipe(learning_rate=1e-3, batch_size=4, epochs=2, lesion_share=0.5)
    dataset.augmentation, dataset.transplant = ROBUST, Transplant(fewest=5)
    drawn = []
    for workers in (0, 2):
        loader = build_loader(dataset, 4, workers, seed=5, recipe=recipe)
        for epoch in (1, 2):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            drawn.append(list(loader))
    for alone, ahead in zip(drawn[:2], drawn[2:], strict=True):
        assert len(alone) == 3
        for one, other in zip(alone, ahead, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in ("image", "mask", "label"))
            assert one["noun"] == other["noun"]
    assert not torch.equal(drawn[0][0]["image"], drawn[1][0]["image"])


def test_slices_are_read_ahead_for_a_gpu_and_into_pinned_memory(dataset: SliceDataset) -> None:
    gpu, cpu = torch.device("cuda:0"), torch.device("cpu")
    assert [choose_workers(gpu, cores) for cores in (1, 6, 64)] == [0, 3, 8]
    assert choose_workers(cpu, 64) == 0
    assert build_loader(dataset, 4, device=gpu).pin_memory
    assert not build_loader(dataset, 4, device=cpu).pin_memory
    assert build_loader(dataset, 4, workers=0, device=gpu).num_workers == 0


def test_a_lesion_is_moved_within_its_own_class(tmp_path: Path) -> None:
    cases = []
    for name, grey in (("Brain", 40), ("Liver", 90)):
        for number in range(4):
            image, mask = tmp_path / f"{name}{number}.png", tmp_path / f"{name}{number}_mask.png"
            picture = np.full((40, 40), grey, np.uint8)
            picture[5:15, 5:15] = 150
            Image.fromarray(picture).save(image)
            Image.fromarray((picture > 100).astype(np.uint8) * 255).save(mask)
            is_ill = number == 0 or name == "Liver"
            cases.append(Case(image, int(is_ill), name, mask if is_ill else None))
    store = SliceStore(cases, get_preset("brain-mri"), tmp_path / "cache")
    dataset = SliceDataset(store, store.slices, 40, "reference", transplant=Transplant(share=1.0))
    corners: dict[str, set[float]] = {"Brain": set(), "Liver": set()}
    for dataset.epoch in range(8):
        for number, item in enumerate(store.slices):
            corners[item.case.class_name].add(round(float(dataset[number]["image"][0, -1, -1]), 3))
    assert len(corners["Brain"]) == len(corners["Liver"]) == 1
    assert corners["Brain"] != corners["Liver"]


def write_study(folder: Path, splits: list[str | None]) -> Path:
    """Patients p0, p1... with a scan t1 and a lesion each, in the given splits; returns the index."""
    rows = []
    for number, split in enumerate(splits):
        (folder / f"p{number}").mkdir()
        scan = np.random.default_rng(number).integers(0, 90, (8, 9, 3), dtype=np.int16)
        mask = np.zeros(scan.shape, np.uint8)
        mask[2:4, 2:4, 1] = 1
        for name, array in (("t1", scan), ("mask", mask)):
            nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 3.0, 1.0])), folder / f"p{number}" / f"{name}.nii.gz")
        row = {"image_path": f"p{number}/t1.nii.gz", "label": 1, "class_name": "Brain", "mask_path": f"p{number}/mask.nii.gz"}
        rows.append(row | ({"split": split} if split else {}))
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "index.jsonl"


def test_scans_of_one_name_are_of_as_many_patients_as_index_check_counts(tmp_path: Path) -> None:
    index = write_study(tmp_path, ["train", "val", "test"])
    assert main(["index", "check", str(index)]) == 0
    slices = gather_slices(index, "brain-mri", tmp_path / "cache")
    assert [{item.case.patient for item in part} for part in (slices.train, slices.validation)] == [{"p0"}, {"p1"}]


def test_a_fifth_of_the_patients_that_folders_tell_is_kept_for_validation(tmp_path: Path) -> None:
    slices = gather_slices(write_study(tmp_path, [None] * 5), "brain-mri", tmp_path / "cache")
    assert slices.split == "1 of 5 patients"
    assert len(slices.train) == 4 * len(slices.validation) == 12


@pytest.mark.parametrize("splits", [["train", "test"], [None, "test"], [None, "val"]])
def test_a_patient_who_is_tested_or_validated_on_is_not_trained_on(splits: list[str | None], tmp_path: Path) -> None:
    index = write_study(tmp_path, splits)
    rows = [json.loads(line) | {"patient": "p"} for line in index.read_text().splitlines()]
    index.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=f"patient p is in train and {splits[1]}; keep each patient in one split"):
        gather_slices(index, "brain-mri", tmp_path / "cache")


def test_rows_that_prompts_call_otherwise_are_other_rows(tmp_path: Path) -> None:
    index = write_study(tmp_path, ["train", "val"])
    rows = [json.loads(line) for line in index.read_text().splitlines()]
    digests = []
    for changes in ({}, {"class_name": "Liver"}, {"preset": "liver-ct"}):
        index.write_text("".join(json.dumps(row | changes) + "\n" for row in rows))
        digests.append(gather_slices(index, "brain-mri", tmp_path / "cache").digest)
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("tested", "is_part"),
    [([2, 2], True), ([1, 2], False), ([0, 2], False), (None, False)],
    ids=["beside", "over", "around", "all"],
)
def test_a_part_of_a_scan_may_be_tested_where_other_slices_of_it_are_trained_on(
    tested: list[int] | None, is_part: bool, tmp_path: Path
) -> None:
    row = json.loads(write_study(tmp_path, [None]).read_text())
    rows = [row | {"slices": [0, 1], "split": "train"}, row | {"slices": tested, "split": "test"}]
    (tmp_path / "parted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["index", "check", str(tmp_path / "parted.jsonl")]) == (0 if is_part else 2)
    if is_part:
        assert len(gather_slices(tmp_path / "parted.jsonl", "brain-mri", tmp_path / "cache").train) > 0
    else:
        with pytest.raises(InputError, match="train and test; keep each patient in one split"):
            gather_slices(tmp_path / "parted.jsonl", "brain-mri", tmp_path / "cache")


def test_rows_of_a_list_need_no_paths_that_tell_the_patient(tmp_path: Path) -> None:
    write_study(tmp_path, [None] * 2)
    rows = [{"image": f"{tmp_path}/p{n}/t1.nii.gz", "label": f"{tmp_path}/p{n}/mask.nii.gz"} for n in (0, 1)]
    Path(shutil.copytree(tmp_path / "p0", tmp_path / "t1"), "t1.nii.gz").rename(tmp_path / "t1.nii.gz")
    rows.append({"image": f"{tmp_path}/t1.nii.gz", "label": f"{tmp_path}/t1/mask.nii.gz"})
    assert len(gather_slices(rows, "brain-mri", tmp_path / "cache").store.slices) == 9
