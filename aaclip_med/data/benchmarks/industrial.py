"""Industrial sets, for comparison with published figures: MVTec AD, MPDD, BTAD and VisA.

MVTec AD (Bergmann et al., CVPR 2019) and MPDD (Jezek et al. 2021) share a layout; BTAD (Mishra et al. 2021) has it with
``ok`` and ``ko``; VisA (Zou et al., ECCV 2022) has its own, and is often passed on in MVTec's. Each picture is an object
of its own, so no patient is set.
"""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

from aaclip_med.data.benchmarks.layouts import (
    Layout,
    Listing,
    check_folder,
    list_pictures,
    misfit,
    number_rows,
    pair_masks,
    subfolders,
)
from aaclip_med.data.index import Case, SplitName, join
from aaclip_med.data.volumes import is_image_file
from aaclip_med.errors import InputError

MVTEC_TREE = "<class>/train/good, <class>/test/<good or defect>, <class>/ground_truth/<defect>/<name>_mask.png"
BTAD_TREE = "<class>/train/ok, <class>/test/{ok,ko}, <class>/ground_truth/ko/<name>.png"
VISA_TREE = "split_csv/1cls.csv and <class>/Data/{Images,Masks}, or " + MVTEC_TREE
VISA_COLUMNS = ("object", "split", "label", "image", "mask")


def build_by_class(folder: Path, good: str, tree: str) -> Listing:
    """MVTec's layout, a folder a class; ``folder`` may also be the folder of one class.

    good: what the folders of pictures without a defect are called. A mask is named ``<name>_mask`` or ``<name>``.

    Raises:
        InputError: another layout, a defect's picture without a mask or a mask without a picture.
    """
    check_folder(folder, tree)
    classes = [folder] if (folder / "test").is_dir() else [one for one in subfolders(folder) if (one / "test").is_dir()]
    if not classes:
        raise misfit(folder, "no folder <class>/test in it", tree)
    cases: list[Case] = []
    for one in classes:
        name = one.resolve().name
        cases += [Case(image, 0, name, split="train") for image in list_pictures(one / "train" / good, tree)]
        kinds = subfolders(one / "test")
        if not kinds:
            raise misfit(one / "test", f"no folder {good} and none of a defect in it", tree)
        for kind in kinds:
            images = list_pictures(kind, tree)
            if kind.name == good:
                cases += [Case(image, 0, name, split="test") for image in images]
                continue
            masks = pair_masks(images, list_pictures(one / "ground_truth" / kind.name, tree))
            cases += [Case(image, 1, name, mask, split="test") for image, mask in masks.items()]
    return Listing(number_rows(cases))


def build_visa(folder: Path) -> Listing:
    """VisA as published, by its one-class split ``split_csv/1cls.csv``; or in MVTec's layout, where there is no such file.

    Raises:
        InputError: another layout, a table without its columns, files that it names and that are not there, a row that is
            neither normal nor anomaly, or neither train nor test, an anomaly without a mask.
    """
    check_folder(folder, VISA_TREE)
    table = folder / "split_csv" / "1cls.csv"
    if table.is_file():
        return _read_visa_table(table, folder)
    if any((one / "Data").is_dir() for one in subfolders(folder)):
        raise misfit(folder, "folders <class>/Data, but no table split_csv/1cls.csv that says which is for training", VISA_TREE)
    return build_by_class(folder, "good", VISA_TREE)


def _read_visa_table(table: Path, folder: Path) -> Listing:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: cannot be read as CSV ({error}); download it again") from None
    missing = [column for column in VISA_COLUMNS if not rows or column not in rows[0]]
    if missing:
        raise InputError(
            f"{table}: no column {', '.join(missing)}; it should have {', '.join(VISA_COLUMNS)} and a row a picture"
        )
    cases: list[Case] = []
    problems: list[str] = []
    splits: dict[str, SplitName] = {"train": "train", "test": "test"}
    for line, row in enumerate(rows, start=2):
        split = splits.get(row["split"])
        label = {"normal": 0, "anomaly": 1}.get(row["label"])
        image = folder / (row["image"] or "")
        mask = folder / row["mask"] if row["mask"] else None
        if split is None or label is None or not row["object"]:
            named = f"object '{row['object']}', split '{row['split']}', label '{row['label']}'"
            problems.append(f"{table}:{line}: {named}; a class, train or test, normal or anomaly are known")
        elif label and mask is None:
            problems.append(f"{table}:{line}: an anomaly without a mask")
        else:
            gone = [path for path in (image, mask) if path and not (path.is_file() and is_image_file(path))]
            problems += [f"{table}:{line}: {path}: no such image" for path in gone]
            cases.append(Case(image, label, row["object"], mask if label else None, split=split))
    if problems:
        raise InputError(f"{join(problems)}; the layout should be {VISA_TREE}")
    return Listing(number_rows(cases))


LAYOUTS = {
    "mvtec": Layout(
        "MVTec AD", MVTEC_TREE, "Bergmann et al., CVPR 2019", partial(build_by_class, good="good", tree=MVTEC_TREE)
    ),
    "mpdd": Layout("MPDD", MVTEC_TREE, "Jezek et al., ICUMT 2021", partial(build_by_class, good="good", tree=MVTEC_TREE)),
    "visa": Layout("VisA", VISA_TREE, "Zou et al., ECCV 2022", build_visa),
    "btad": Layout("BTAD", BTAD_TREE, "Mishra et al., ISIE 2021", partial(build_by_class, good="ok", tree=BTAD_TREE)),
}
