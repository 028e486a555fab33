"""Training slices as tensors, and which of them are kept for validation."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from aaclip_med.data.index import Case, SplitName, read_index
from aaclip_med.data.sampling import check_leaks, name_patients, patient_of
from aaclip_med.data.slices import Slice, SliceStore
from aaclip_med.data.sources import read_source
from aaclip_med.data.synthesis import Synthesis
from aaclip_med.data.volumes import read_mask
from aaclip_med.errors import InputError
from aaclip_med.model.preprocess import choose_side, normalise_slices, resize_masks, resize_slices
from aaclip_med.presets import FidelityName, get_preset
from aaclip_med.training.augmentation import Augmentation
from aaclip_med.training.transplant import Transplant

Array = np.ndarray[Any, Any]
Rows = Sequence[Mapping[str, str]]

MARGIN = 1.4
"""A square is cut so many times larger first, so that what augmentation turns into it comes from the slice."""
VALIDATION_SHARE = 0.2
FEWEST_PATIENTS = 5
SYNTHESIS_STREAM = 1
TRANSPLANT_STREAM = 2
FRAME_STREAM = 3
"""Keep what is drawn for one purpose apart from what augmentation draws for the same slice."""


class SliceDataset(Dataset[dict[str, Any]]):
    """Slices of a store: ``image`` (3, S, S) CLIP-normalised, ``mask`` (1, S, S), ``label`` 0 or 1, ``noun``.

    With ``synthesis``, lesions are put into a slice with the chance ``synthetic_share``, before augmentation and on the slice's
    own grid: so they are as sharp as its anatomy, and resampled with it. They lie in the organ where its case names one. Mask
    and label follow them. With ``transplant``, some of the slices with lesions give them to another slice of the same class and
    preset; if there is one without any, to such a one.

    ``zoom``: slices are resized as ``preprocess.choose_side`` says; where that is more than ``image_size``, a square is cut out
    of them, mostly around a lesion if there is one.

    What is drawn depends on the seed, the epoch and the slice alone, so an epoch can be run again. ``draws``: so many
    epochs draw anew, those after them what these have drawn, so that images come again; None: all draw anew.
    """

    def __init__(
        self,
        store: SliceStore,
        slices: Sequence[Slice],
        image_size: int,
        fidelity: FidelityName,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        synthesis: Synthesis | None = None,
        synthetic_share: float = 0.5,
        transplant: Transplant | None = None,
        zoom: float = 1.0,
        draws: int | None = None,
    ) -> None:
        self.store = store
        self.slices = slices
        self.image_size = image_size
        self.fidelity = fidelity
        self.augmentation = augmentation
        self.seed = seed
        self.synthesis = synthesis
        self.synthetic_share = synthetic_share
        self.transplant = transplant
        self.zoom = zoom
        self.draws = draws
        self.hosts = _group_hosts(slices)
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        item = self.slices[position]
        picture, drawn = self.store.image(item), self.store.mask(item)
        draw = self.epoch if self.draws is None else (self.epoch - 1) % self.draws + 1  # epochs count from 1
        if self.synthesis is not None:
            rng = np.random.default_rng((self.seed, draw, position, SYNTHESIS_STREAM))
            if rng.random() < self.synthetic_share:
                picture, drawn = self.synthesis.apply_slice(picture, rng, self.store.organ(item))
        frame = np.random.default_rng((self.seed, draw, position, FRAME_STREAM))
        side = choose_side(picture.shape[-2], picture.shape[-1], self.image_size, self.zoom)
        image, mask = _resize(picture, drawn, side)
        if self.transplant is not None and item.label:
            rng = np.random.default_rng((self.seed, draw, position, TRANSPLANT_STREAM))
            if rng.random() < self.transplant.share:
                hosts = self.hosts[_kind(item)]
                host = hosts[int(rng.integers(len(hosts)))]
                place = _resize(self.store.image(host), self.store.mask(host), side)
                image, mask = self.transplant.apply(place, (image, mask), rng)
        image, mask = _cut_square(image, mask, min(side, round(MARGIN * self.image_size)), frame)
        if self.augmentation is not None:
            rng = np.random.default_rng((self.seed, draw, position))
            image, mask = self.augmentation.apply(image, mask, rng)
        image, mask = _cut_square(image, mask, self.image_size, frame)
        preset = get_preset(item.case.preset) if item.case.preset else self.store.preset
        return {
            "image": normalise_slices(image.expand(3, -1, -1).unsqueeze(0))[0],
            "mask": mask,
            "label": int(mask.any()),
            "noun": preset.noun_for(self.fidelity, item.case.class_name),
        }


def _kind(item: Slice) -> tuple[str, str | None]:
    """What a slice is of, as prompts call it: class and preset of its row."""
    return item.case.class_name, item.case.preset


def _group_hosts(slices: Sequence[Slice]) -> dict[tuple[str, str | None], list[Slice]]:
    """Of each kind the slices that lesions may be put into: those without a lesion, or all where there is none."""
    groups: dict[tuple[str, str | None], list[Slice]] = defaultdict(list)
    for item in slices:
        groups[_kind(item)].append(item)
    return {kind: [item for item in group if not item.label] or group for kind, group in groups.items()}


def _resize(picture: Array, drawn: Array, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A slice (1 or 3, H, W) as (1 or 3, side, side), and its mask (1, H, W) as (1, side, side)."""
    image = resize_slices(torch.from_numpy(picture).unsqueeze(0), side)
    return image[0], resize_masks(torch.from_numpy(drawn).unsqueeze(0), side)[0]


def _cut_square(
    image: torch.Tensor, mask: torch.Tensor, size: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A square of ``size`` pixels of image (C, S, S) and mask (1, S, S): the image itself where it has no more.

    It holds a pixel of the lesion, or, for a quarter of the draws and where there is none, of the body.
    """
    room = image.shape[-1] - size
    if room == 0:
        return image, mask
    lesion = rng.random() >= 0.25 and bool(mask.any())
    points = torch.nonzero(mask[0] if lesion else image.amax(dim=0) > 0)
    point = points[int(rng.integers(len(points)))].numpy() if len(points) else rng.integers(0, image.shape[-1], 2)
    top, left = np.clip(point - rng.integers(0, size, 2), 0, room)
    return image[:, top : top + size, left : left + size], mask[:, top : top + size, left : left + size]


class EpochSampler(Sampler[int]):
    """``length`` slices (default: as many as there are), drawn anew by the seed and the epoch.

    ``lesion_share``: the share of them that show a lesion; each kind is gone through before any of it comes again. None, or
    where the dataset has one kind only: slices as they come, without repetition.

    Of several ``ranks`` (processes) each takes its own part of the draw; batches of N slices on two ranks are together the
    batch of 2 N on one. So that all have as many, the draw begins again at its end.
    """

    def __init__(
        self,
        dataset: SliceDataset,
        seed: int = 0,
        length: int | None = None,
        lesion_share: float | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.dataset = dataset
        self.rank = rank
        self.ranks = ranks
        self.seed = seed
        self.length = len(dataset) if length is None else length
        labels = np.array([item.label for item in dataset.slices], dtype=bool)
        self.kinds = [np.flatnonzero(labels), np.flatnonzero(~labels)]
        if lesion_share is None or not all(len(kind) for kind in self.kinds):
            self.kinds = [np.arange(len(dataset))]
            self.counts = [self.length]
        else:
            lesions = round(self.length * lesion_share)
            self.counts = [lesions, self.length - lesions]

    def set_epoch(self, epoch: int) -> None:
        """The epoch to draw next, counted from 1."""
        self.dataset.epoch = epoch

    def __len__(self) -> int:
        return -(-self.length // self.ranks)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.dataset.epoch))
        drawn = []
        for kind, count in zip(self.kinds, self.counts, strict=True):
            rounds = -(-count // len(kind))
            drawn.append(np.concatenate([rng.permutation(kind) for _ in range(rounds)] or [kind[:0]])[:count])
        order = rng.permutation(np.concatenate(drawn))
        return iter(np.resize(order, len(self) * self.ranks)[self.rank :: self.ranks].tolist())


@dataclass(frozen=True)
class TrainingSlices:
    """A store and its two parts. ``split`` says in words how validation was chosen, ``note`` what else the user should know."""

    store: SliceStore
    train: list[Slice]
    validation: list[Slice]
    split: str
    note: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of what is trained and validated on, by content and by what prompts call it: a study that was moved is the
        same.
        """
        parts = [
            [[item.folder.name, item.number, item.label, item.case.class_name, item.case.preset] for item in part]
            for part in (self.train, self.validation)
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def gather_slices(
    index: str | Path | Rows,
    preset: str,
    cache: str | Path,
    seed: int = 0,
    track: Callable[[Iterable[Case]], Iterable[Case]] = iter,
    normal_only: bool = False,
    crop: bool = False,
    own_validation: Rows | None = None,
    root: str | Path | None = None,
) -> TrainingSlices:
    """Read an index for training. Rows of the test split are left out, and with ``normal_only`` all abnormal rows.

    ``index``: an index file, whose relative paths start at ``root`` (default: its folder), or a list of dictionaries with
    ``image`` and ``label``, the paths of a scan and its lesion mask, as MONAI Label has them; ``own_validation`` is then such
    a list too. ``crop``: slices are cut down to the foreground.

    Validation slices are the rows of split ``val``. Without such rows a fifth of the patients is kept for it, drawn by
    ``seed``; of fewer than five patients, a block of slices of each volume with a gap beside it. An index's rows without
    ``patient`` get one, see ``name_patients``; those of a list go by their file names.

    Raises:
        InputError: the index or a case is faulty, a patient is in two splits (test among them, see ``check_leaks``; rows
            without one are trained on) or cannot be told, or no lesion (``normal_only``: no normal slice) is left to train on.
    """
    if isinstance(index, (str, Path)):
        name = str(index)
        cases = name_patients(read_index(index, root))
    else:
        name = f"the list of {len(index)} rows"
        cases = [*_list_cases(index, preset, "train"), *_list_cases(own_validation or [], preset, "val")]
    check_leaks([replace(case, split=case.split or "train") for case in cases])
    cases = [case for case in cases if case.split != "test"]
    note = ""
    if normal_only:
        abnormal = sum(case.label for case in cases)
        cases = [case for case in cases if not case.label]
        if not cases:
            raise InputError(f"{name}: no normal row (label 0) to train on; add normal scans, or train without --normal-only")
        note = f"lesions are drawn into {len(cases)} normal cases; {abnormal} abnormal ones are left out"
    store = SliceStore(cases, replace(get_preset(preset), crop=crop), Path(cache), track)
    slices = [item for item in store.slices if not (normal_only and item.label)]
    patients = sorted({patient_of(case) for case in cases})
    if any(case.split == "val" for case in cases):
        train = [item for item in slices if item.case.split != "val"]
        validation = [item for item in slices if item.case.split == "val"]
        split = "the index's own val rows"
    elif len(patients) >= FEWEST_PATIENTS:
        kept = _draw_patients(slices, seed)
        train = [item for item in slices if patient_of(item.case) not in kept]
        validation = [item for item in slices if patient_of(item.case) in kept]
        split = f"{len(kept)} of {len(patients)} patients"
    else:
        train, validation = _hold_blocks(slices, middle=normal_only)
        split = f"a block of slices of each volume, with a gap: only {len(patients)} patients"
    if normal_only and not train:
        raise InputError(f"{name}: every normal case is kept for validation; add normal scans to train on")
    if not normal_only and not any(item.label for item in train):
        raise InputError(f"{name}: no slice with a lesion is left to train on; add abnormal cases with masks")
    return TrainingSlices(store, train, validation, split, note)


def _list_cases(rows: Rows, preset: str, split: SplitName) -> list[Case]:
    """A case for each row; it is abnormal if its mask has a voxel above 0."""
    cases = []
    for number, row in enumerate(rows, start=1):
        if not {"image", "label"} <= row.keys():
            raise InputError(f"row {number} has {', '.join(sorted(row)) or 'nothing'}; it needs image and label, two paths")
        image, mask = Path(row["image"]), Path(row["label"])
        label = int(read_mask(mask, read_source(image)).any())
        cases.append(Case(image, label, get_preset(preset).class_name, mask, split=split, row=number))
    return cases


def _draw_patients(slices: Sequence[Slice], seed: int) -> set[str]:
    """A fifth of the patients with lesions and a fifth of those without."""
    abnormal: dict[str, bool] = defaultdict(bool)
    for item in slices:
        abnormal[patient_of(item.case)] |= bool(item.label)
    rng = np.random.default_rng(seed)
    kept: set[str] = set()
    for kind in (True, False):
        group = sorted(patient for patient, has_lesion in abnormal.items() if has_lesion is kind)
        count = round(len(group) * VALIDATION_SHARE) if len(group) > 1 else 0
        kept |= {group[i] for i in rng.permutation(len(group))[:count]}
    return kept or {min(abnormal)}


def _hold_blocks(slices: Sequence[Slice], middle: bool = False) -> tuple[list[Slice], list[Slice]]:
    """Of each volume a fifth of its slices in a row: the middle ones, or those whose share of lesions is nearest its own."""
    volumes: dict[Path, list[Slice]] = defaultdict(list)
    for item in slices:
        volumes[item.folder].append(item)
    train, validation = [], []
    for items in volumes.values():
        items = sorted(items, key=lambda item: item.number)
        size, gap = round(len(items) * VALIDATION_SHARE), max(1, len(items) // 40)
        labels = np.array([item.label for item in items], dtype=float)
        if size == 0:
            train += items
            continue
        shares = np.convolve(labels, np.ones(size) / size, mode="valid")
        start = (len(items) - size) // 2 if middle else int(np.abs(shares - labels.mean()).argmin())
        validation += items[start : start + size]
        train += items[: max(0, start - gap)] + items[start + size + gap :]
    return train, validation
