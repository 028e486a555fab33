"""BMAD, six medical sets of pictures (Bao et al., arXiv 2306.11876), as released by its authors.

``train/good``, and ``good`` and ``Ungood`` below ``valid`` and ``test``. Pictures lie in those folders or in ``img`` in
them, masks in ``label`` or ``anomaly_mask`` beside ``img``. Chest, Histopathology and OCT2017 have no masks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aaclip_med.data.benchmarks.layouts import Layout, Listing, check_folder, list_pictures, misfit, number_rows, pair_masks
from aaclip_med.data.index import Case, SplitName
from aaclip_med.data.volumes import case_name

SOURCE = "BMAD, arXiv 2306.11876"
MASK_FOLDERS = ("label", "anomaly_mask")
TREE = "train/good, {valid,test}/{good,Ungood}, each with its pictures"
TREE_WITH_MASKS = f"{TREE} in img, and {{valid,test}}/Ungood/{{label or anomaly_mask}} with masks of the same names"

_SPLITS: tuple[tuple[str, SplitName], ...] = (("train", "train"), ("valid", "val"), ("val", "val"), ("test", "test"))

FindPatient = Callable[[str, SplitName], str | None]


@dataclass(frozen=True)
class MedicalSet:
    """One of the six: the class name and preset of its cases, whether it has masks, who a picture is of.

    find_patient: from a picture's name and split to the patient, None where the name does not say.
    """

    class_name: str
    preset: str | None
    has_masks: bool
    find_patient: FindPatient

    def build(self, folder: Path, class_name: str | None = None) -> Listing:
        """The cases of ``folder``, the set's own folder. ``valid`` and ``train`` may be missing, ``test`` may not.

        Raises:
            InputError: another layout, an ``Ungood`` picture without its mask, or a mask without its picture.
        """
        tree = TREE_WITH_MASKS if self.has_masks else TREE
        check_folder(folder, tree)
        if not (folder / "test").is_dir():
            raise misfit(folder, "no folder 'test' in it", tree)
        cases: list[Case] = []
        for name, split in _SPLITS:
            if not (folder / name).is_dir():
                continue
            for kind in ("good",) if split == "train" else ("good", "Ungood"):
                label = int(kind == "Ungood")
                for image, mask in self._list_kind(folder / name / kind, label, tree).items():
                    patient = self.find_patient(case_name(image), split)
                    named = class_name or self.class_name
                    cases.append(Case(image, label, named, mask, patient=patient, split=split, preset=self.preset))
        return Listing(number_rows(cases))

    def _list_kind(self, folder: Path, label: int, tree: str) -> dict[Path, Path | None]:
        pictures = list_pictures(folder / "img" if (folder / "img").is_dir() else folder, tree)
        if not (label and self.has_masks):
            return dict.fromkeys(pictures)
        masks = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), None)
        if masks is None:
            raise misfit(folder, f"no folder {' or '.join(MASK_FOLDERS)} in it", tree)
        return dict(pair_masks(pictures, list_pictures(masks, tree)))


def _brain_patient(name: str, _: SplitName) -> str | None:
    """``00003_60`` and ``BraTS2021_00003_60`` are slice 60 of patient BraTS2021_00003."""
    match = re.fullmatch(r"(?:BraTS2021_)?(\d{5})_\d+", name)
    return f"BraTS2021_{match[1]}" if match else None


def _liver_patient(name: str, split: SplitName) -> str | None:
    """``<n>_<slice>``: patient n of BTCV in train, of LiTS elsewhere, who are different people under the same number."""
    match = re.fullmatch(r"(?:(BTCV|LiTS)_)?0*(\d+)_\d+", name)
    return f"{match[1] or ('BTCV' if split == 'train' else 'LiTS')}_{match[2]}" if match else None


def _resc_patient(name: str, _: SplitName) -> str | None:
    """The names that our own conversion gives, ``RESC_<patient>-<volume>_<number>``."""
    match = re.fullmatch(r"RESC_(.+)-\d+_\d+", name)
    return match[1] if match else None


def _oct2017_patient(name: str, _: SplitName) -> str | None:
    """``CNV-1016042-3`` is the third picture of patient 1016042 (Kermany et al. 2018)."""
    match = re.fullmatch(r"(?:CNV|DME|DRUSEN|NORMAL)-(\d+)-\d+", name)
    return match[1] if match else None


def _chest_patient(name: str, _: SplitName) -> str | None:
    """RSNA's pictures are named by the patient, a UUID, and each patient has one."""
    return name if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name) else None


def _no_patient(_: str, __: SplitName) -> str | None:
    """Camelyon16's patches are numbered: which slide one was cut from is not known."""
    return None


SETS = {
    "bmad-brain": MedicalSet("Brain", "brain-mri", True, _brain_patient),
    "bmad-liver": MedicalSet("Liver", "liver-ct", True, _liver_patient),
    "bmad-retina-resc": MedicalSet("Retina", "retinal-oct", True, _resc_patient),
    "bmad-retina-oct2017": MedicalSet("Retina_OCT2017", "retinal-oct", False, _oct2017_patient),
    "bmad-chest": MedicalSet("Chest", None, False, _chest_patient),
    "bmad-histopathology": MedicalSet("Histopathology", None, False, _no_patient),
}
"""The six sets by the names of their formats; class names as the index files of AA-CLIP have them, where they do."""

LAYOUTS = {
    name: Layout(
        f"BMAD {one.class_name}", TREE_WITH_MASKS if one.has_masks else TREE, SOURCE, one.build, options=("class_name",)
    )
    for name, one in SETS.items()
}
