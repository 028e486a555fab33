"""Medical Segmentation Decathlon (Antonelli et al., Nature Communications 2022): one task's folder with ``dataset.json``.

The published split has labels for training alone, so no case gets a split; ``index split`` makes one by patient.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aaclip_med.data.benchmarks.layouts import Layout, Listing, check_folder, misfit, number_rows
from aaclip_med.data.benchmarks.lesions import write_lesion_mask
from aaclip_med.data.index import Case, join
from aaclip_med.data.volumes import case_name, is_image_file, read_mask, read_volume
from aaclip_med.errors import InputError
from aaclip_med.presets import PRESETS

TREE = "dataset.json, whose 'training' lists {image: ./imagesTr/X.nii.gz, label: ./labelsTr/X.nii.gz}, and those files"
CLASS_NAMES = {"BRATS": "Brain"}
"""Class names by the ``name`` in dataset.json, where that is not the organ."""


def build_msd(
    folder: Path,
    lesion_labels: Sequence[int] | None = None,
    masks_folder: Path | None = None,
    class_name: str | None = None,
) -> Listing:
    """The labelled scans of one task. A case is abnormal if a voxel has one of the ``lesion_labels``.

    lesion_labels: the label values that are lesions (2 in Task03_Liver, where 1 is the liver). Their masks are derived
        and written to ``masks_folder``. Not needed where dataset.json knows of one label beside the background.
    class_name: default the ``name`` in dataset.json.

    Patients are the scans' names. Test scans, whose labels are not published, are passed over.

    Raises:
        InputError: another layout, a missing file, a scan that cannot be read (as those of several channels), labels of
            another geometry, unknown lesion labels, or none given where they are needed.
        OutputError: a derived mask cannot be written.
    """
    check_folder(folder, TREE)
    described = _read_description(folder)
    pairs: list[tuple[Path, Path]] = []
    problems: list[str] = []
    for number, entry in enumerate(described["training"], start=1):
        match entry:
            case {"image": str(scan_name), "label": str(labels_name)}:
                pair = (folder / scan_name, folder / labels_name)
                problems += [f"{path}: no such image" for path in pair if not (path.is_file() and is_image_file(path))]
                pairs.append(pair)
            case _:
                problems.append(f"training entry {number} is not {{image, label}}")
    if problems:
        raise misfit(folder / "dataset.json", join(problems), TREE)
    lesions = _choose_labels(folder, described, lesion_labels)
    if lesions is not None and masks_folder is None:
        raise InputError(
            f"{folder}: masks of labels {', '.join(map(str, lesions))} are derived; say where to with masks_folder"
        )
    name = class_name or CLASS_NAMES.get(described["name"], described["name"])
    preset = next((preset.name for preset in PRESETS.values() if preset.class_name == name), None)
    cases = []
    for image, labels in pairs:
        volume = read_volume(image)
        mask = labels
        if lesions is not None and masks_folder is not None:
            mask = masks_folder / f"{case_name(image)}_lesion.nii.gz"
            is_ill = write_lesion_mask(labels, volume, lesions, mask)
        else:
            is_ill = bool(read_mask(labels, volume).any())
        cases.append(Case(image, int(is_ill), name, mask, patient=case_name(image), preset=preset))
    unlabelled = tuple(folder / path for path in described.get("test", ()) if isinstance(path, str))
    return Listing(number_rows(cases), unlabelled)


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    try:
        described = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise misfit(folder, "no dataset.json in it", TREE) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); unpack the task again") from None
    match described:
        case {"training": [_, *_], "labels": {}, "name": str()}:
            return dict(described)
    raise misfit(path, "'name', 'labels' or a list 'training' with an entry is missing", TREE)


def _choose_labels(folder: Path, described: dict[str, Any], lesion_labels: Sequence[int] | None) -> list[int] | None:
    """The label values that are lesions, None for every value above 0."""
    known = {int(value): name for value, name in described["labels"].items() if value.isdigit() and int(value) > 0}
    named = ", ".join(f"{value} ({name})" for value, name in known.items())
    if lesion_labels is None:
        if len(known) > 1:
            raise InputError(f"{folder / 'dataset.json'}: labels {named}; say which are lesions with lesion_labels")
        return None
    unknown = [value for value in lesion_labels if value not in known]
    if unknown or not lesion_labels:
        raise InputError(f"{folder / 'dataset.json'}: no label {', '.join(map(str, unknown)) or 'chosen'}; there are {named}")
    return sorted(set(lesion_labels))


LAYOUTS = {
    "msd": Layout(
        "Medical Segmentation Decathlon, one task",
        TREE,
        "Antonelli et al. 2022, doi 10.1038/s41467-022-30695-9",
        build_msd,
        options=("class_name", "lesion_labels", "masks_folder"),
    )
}
