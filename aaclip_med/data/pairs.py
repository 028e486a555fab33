"""Scans and the masks that belong to them, in a folder of one's own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from aaclip_med.data.dicom import looks_like_dicom
from aaclip_med.data.index import Case, join
from aaclip_med.data.patients import find_patients
from aaclip_med.data.scans import MASK_FOLDERS, MASK_SUFFIXES, mask_stem
from aaclip_med.data.sources import is_result, read_source
from aaclip_med.data.volumes import ENDINGS, case_name, find_images, is_image_file, read_mask, walk_files
from aaclip_med.errors import InputError
from aaclip_med.presets import get_preset


def build_index(
    folder: str | Path,
    preset_name: str,
    mask_suffixes: Sequence[str] = MASK_SUFFIXES,
    unlabelled_are_normal: bool = False,
    patient_pattern: str | None = None,
) -> list[Case]:
    """Make the cases of a folder of scans and masks. A scan is abnormal (1) if its mask has a voxel above 0, else 0.

    A scan is an image file, or a folder with one DICOM series, whose name stands for a file's.

    Masks are found in one of two ways. If ``folder`` holds ``images`` with ``masks`` or ``labels``, or ``imagesTr``
    with ``labelsTr``: by the same name there. Otherwise by suffix in the scan's own folder: ``X_mask`` belongs to
    ``X``, or else to the only scan named ``X_something``. ``patient``: see ``data.patients.find_patients``.

    Raises:
        InputError: no images, a scan without a mask (unless ``unlabelled_are_normal``) or with several, a mask without a scan
            or with several, a mask of another geometry, an unreadable file, a pattern that does not match, patients that names
            and folders do not tell.
    """
    folder = Path(folder)
    class_name = get_preset(preset_name).class_name
    siblings = next(((a, b) for a, b in MASK_FOLDERS if (folder / a).is_dir() and (folder / b).is_dir()), None)
    if siblings:
        pairs = _pair_folders(folder / siblings[0], folder / siblings[1])
    else:
        pairs = _pair_suffixes(_list_scans(folder), tuple(suffix.lower() for suffix in mask_suffixes))
    bare = [image for image, mask in pairs.items() if mask is None]
    if bare and not unlabelled_are_normal:
        raise InputError(
            join([f"{image}: no mask; add one, or take such scans for normal with --unlabelled-are-normal" for image in bare])
        )
    patients = find_patients(list(pairs), folder, patient_pattern)
    return [
        Case(
            image,
            label=int(mask is not None and read_mask(mask, read_source(image)).any()),
            class_name=class_name,
            mask_path=mask,
            patient=patient,
            preset=preset_name,
            row=row,
        )
        for row, ((image, mask), patient) in enumerate(zip(pairs.items(), patients, strict=True), start=1)
    ]


def _list_scans(folder: Path) -> list[Path]:
    """Image files, and folders in which DICOM files lie, to the bottom; what a run left there is passed over.

    Raises:
        InputError: there is neither, or DICOM files lie in ``folder`` itself.
    """
    files = [file for file in walk_files(folder) if file.is_file() and not is_result(file, [folder])]
    images = [file for file in files if is_image_file(file)]
    series = {file.parent for file in set(files).difference(images) if looks_like_dicom(file)}
    if not images and not series:
        raise InputError(f"{folder}: no scan in this folder; DICOM, or {', '.join(ENDINGS)}")
    if folder in series:
        raise InputError(f"{folder}: DICOM files right in it; put each series into a folder of its own, named as its mask")
    return sorted(series) + find_images(images)


def _pair_folders(images: Path, masks: Path) -> dict[Path, Path | None]:
    scans: dict[Path, list[Path]] = defaultdict(list)
    for image in _list_scans(images):
        scans[image.parent.relative_to(images) / case_name(image)].append(image)
    owners = {mask: scans.get(mask.parent.relative_to(masks) / case_name(mask), []) for mask in find_images([masks])}
    return _pair([image for alike in scans.values() for image in alike], owners, f"no image of this name in {images}")


def _pair_suffixes(files: Sequence[Path], suffixes: tuple[str, ...]) -> dict[Path, Path | None]:
    stems = {file: mask_stem(case_name(file), suffixes) for file in files}
    images = [file for file in files if stems[file] is None]
    owners = {}
    for mask, stem in stems.items():
        if stem is not None:
            beside = [image for image in images if image.parent == mask.parent]
            owners[mask] = [image for image in beside if case_name(image) == stem] or [
                image for image in beside if case_name(image).rpartition("_")[0] == stem
            ]
    return _pair(images, owners, "this mask belongs to no scan; name it after its scan")


def _pair(images: Sequence[Path], owners: Mapping[Path, Sequence[Path]], lost: str) -> dict[Path, Path | None]:
    """Each image with its mask. ``owners``: the images each mask could belong to; ``lost``: what to say where there is none."""
    pairs: dict[Path, Path | None] = dict.fromkeys(images)
    problems = []
    for mask, own in owners.items():
        if not own:
            problems.append(f"{mask}: {lost}")
        elif len(own) > 1:
            names = ", ".join(image.name for image in own)
            problems.append(f"{mask}: this mask could belong to {names}; name it after its scan")
        elif pairs[own[0]] is not None:
            problems.append(f"{mask}: {own[0].name} has another mask, {pairs[own[0]]}; keep one")
        else:
            pairs[own[0]] = mask
    if problems:
        raise InputError(join(problems))
    return pairs
