"""RESC: OCT scans as folders of B-scans, and beside them folders of label pictures.

The set has been handed on under several names of folders and files, so these are looked for: see ``RESC_TREE``.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from aaclip_med.data.benchmarks.layouts import misfit, subfolders
from aaclip_med.data.conversion.scans import Array, Scan, Slices, binarise, is_marked
from aaclip_med.data.index import SplitName
from aaclip_med.data.volumes import case_name
from aaclip_med.errors import InputError

IMAGE_FOLDERS = ("original_images", "original_image", "original", "images", "image", "img", "oct", "oct_images")
LABEL_FOLDERS = ("label_images", "label_image", "labels", "label", "masks", "mask", "groundtruth", "ground_truth", "gt")
RESC_TREE = (
    "original_images/<scan>/<number>.png beside label_images/<scan>/<number>.png, at any depth (also images, img, oct; labels, "
    "masks, gt; <scan>_<anything> for labels; .bmp, .tif; <anything>_<number>)"
)

_PICTURES = (".png", ".bmp", ".tif", ".tiff")


def find_resc(folder: Path) -> list[Scan]:
    """The OCT scans of RESC below ``folder``. The patient is the scan's name up to its first underscore.

    Names of scans hold dates; they are replaced by ``RESC_<patient>-<number>``.

    Raises:
        InputError: there is none, or one has no folder of label pictures, or two.
    """
    found = []
    for images in _find_image_folders(folder):
        beside = [place for place in subfolders(images.parent) if place.name.lower() in LABEL_FOLDERS]
        if len(beside) != 1:
            what = f"{len(beside)} folders of labels beside it ({', '.join(place.name for place in beside)}); keep one"
            raise misfit(images, what if beside else f"no folder of labels beside it ({', '.join(LABEL_FOLDERS)})", RESC_TREE)
        scans = subfolders(images)
        if not scans:  # the B-scans themselves
            found.append((images.parent.name, images, beside[0]))
        found += [(scan.name, scan, _find_labels(scan, beside[0])) for scan in scans]
    if not found:
        raise misfit(folder, f"no folder of B-scans in it ({', '.join(IMAGE_FOLDERS)})", RESC_TREE)
    by_patient: dict[str, list[tuple[Path, Path]]] = defaultdict(list)
    for name, scan, labels in sorted(found):
        by_patient[name.partition("_")[0] or name].append((scan, labels))
    return [
        Scan(f"RESC_{patient}-{number}", patient, scan, labels)
        for patient, pairs in by_patient.items()
        for number, (scan, labels) in enumerate(pairs, start=1)
    ]


def cut_retina(scan: Scan, recipe: str, _: SplitName) -> Slices:
    """The B-scans of an OCT scan as they are, in 8 bits; every label above 0 is oedema or fluid.

    Raises:
        InputError: a picture cannot be read, has no label picture or one of another size, or B-scans differ in size.
    """
    labels = _number_b_scans(scan.labels)
    b_scans = _number_b_scans(scan.image)
    pictures: list[Array] = []
    masks: list[Array] = []
    for number, path in sorted(b_scans.items()):
        if number not in labels:
            raise InputError(f"{path}: no label picture {number} in {scan.labels}; the layout should be {RESC_TREE}")
        picture, mask = _read_grey(path), _read_grey(labels[number])
        if picture.shape != mask.shape or (pictures and picture.shape != pictures[0].shape):
            raise InputError(
                f"{path}: {picture.shape[0]} x {picture.shape[1]} pixels, its label picture {mask.shape[0]} x {mask.shape[1]}, "
                f"the first B-scan {(pictures or [picture])[0].shape}; they must be the same"
            )
        pictures.append(picture)
        masks.append(mask)
    stack = np.stack(masks)
    shown = stack if recipe == "bmad" else binarise(stack > 0)
    return Slices(sorted(b_scans), np.stack(pictures), shown, is_marked(stack > 0), None)


def _find_image_folders(folder: Path) -> list[Path]:
    """The outermost folders of that name below ``folder``, and ``folder`` itself if it has the name."""
    if folder.name.lower() in IMAGE_FOLDERS and any(place.name.lower() in LABEL_FOLDERS for place in subfolders(folder.parent)):
        return [folder]
    found = []
    for place, names, _files in os.walk(folder):
        inner = [name for name in sorted(names) if name.lower() in IMAGE_FOLDERS]
        found += [Path(place) / name for name in inner]
        names[:] = [name for name in sorted(names) if name not in inner and not name.startswith(".")]
    return found


def _find_labels(scan: Path, folder: Path) -> Path:
    """The folder of the scan's labels: of its name, else of its name and something more."""
    named = [place for place in subfolders(folder) if place.name == scan.name]
    longer = [place for place in subfolders(folder) if re.fullmatch(re.escape(scan.name) + r"[^0-9A-Za-z].*", place.name)]
    found = named or longer
    if len(found) != 1:
        more = f": {', '.join(place.name for place in found)}; keep one" if found else ""
        raise misfit(scan, f"{len(found) or 'no'} folder of its labels in {folder}{more}", RESC_TREE)
    return found[0]


def _number_b_scans(folder: Path) -> dict[int, Path]:
    """The pictures right in ``folder`` by the number at the end of their names."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = re.search(r"(\d+)$", case_name(path))
        if path.suffix.lower() not in _PICTURES or path.name.startswith(".") or match is None:
            continue
        number = int(match[1])
        if number in found:
            raise InputError(f"{path}: {found[number].name} has the same number; keep one")
        found[number] = path
    if not found:
        raise misfit(folder, "no picture <number>.png in it", RESC_TREE)
    return found


def _read_grey(path: Path) -> Array:
    """(H, W) uint8."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as a picture ({error}); unpack it again") from None
