"""Results as a BIDS derivatives tree (Brain Imaging Data Structure 1.10, "Derivatives").

A scan with a BIDS name (``sub-01_ses-2_T1w.nii.gz``) keeps its entities; any other becomes a subject of its own, named by
its case. A name follows from the case's own name and path alone, so shards and runs taken up again agree.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aaclip_med.batch.account import PROGRAM, Account
from aaclip_med.data.volumes import Volume, case_name
from aaclip_med.data.writing import atomic_path, write_file, write_heatmap, write_json, write_nifti
from aaclip_med.errors import InputError
from aaclip_med.inference.case import ScoredCase

VERSION = "1.10.0"
TREE_FILES = (
    *("dataset_description.json", "README.md", ".bidsignore"),
    *("descriptions.tsv", "participants.tsv", "participants.json"),
)
"""What lies beside the subjects."""
_ENTITIES = ("sub", "ses", "task", "acq", "ce", "rec", "run", "echo", "part", "space", "chunk", "res")
"""Those that the schema allows in the names of an ``anat`` segmentation, in its order."""
_NAME = re.compile(r"sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*_[A-Za-z0-9]+")
_PLAIN_SUFFIX = "T1w"
_IGNORED = ("/*.csv", "/*.parquet", "/*.html", "/*.log", "/*.jsonl", "/run*.json", "/columns.json", "/dicom")
"""What else a run writes into the same folder."""
_LESIONS = {
    "volume": {"Description": "Voxels times a voxel's volume", "Units": "mL"},
    "peak": {"Description": "Highest heat"},
    "mean": {"Description": "Mean heat"},
    "x": {"Description": "Centroid, to the right (RAS)", "Units": "mm"},
    "y": {"Description": "Centroid, to the front (RAS)", "Units": "mm"},
    "z": {"Description": "Centroid, upwards (RAS)", "Units": "mm"},
}
_PARTICIPANTS = {
    "scans": {"Description": "Volumes that were scored"},
    "score": {"Description": "Highest score of its volumes, 0 to 1"},
    "candidates": {"Description": "Lesion candidates in all its volumes"},
}


def refuse_foreign(root: Path) -> None:
    """Keep a data set that somebody else made, as the scans' own, from getting the files of a tree.

    Raises:
        InputError: ``root`` has such a file, and is no tree of this program.
    """
    try:
        described = json.loads((root / "dataset_description.json").read_text(encoding="utf-8"))
        if PROGRAM in [maker["Name"] for maker in described["GeneratedBy"]]:
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no description, or none of ours
    held = next((root / name for name in TREE_FILES if (root / name).exists()), None)
    if held is not None:
        place = root / "derivatives" / PROGRAM
        raise InputError(f"{held}: not of this program, and would be replaced; choose another --out, such as {place}")


class BidsTree:
    """Derivatives in the folder ``root``: what the whole set says is written at once, then one case after another."""

    def __init__(self, root: Path, account: Account, source_root: Path | None = None) -> None:
        """``source_root``: the BIDS data set the scans are from, to which derivatives then point.

        Raises:
            OutputError: the folder cannot be written to.
        """
        self.root = root
        self.account = account
        self.source_root = source_root
        made_by = f"{account.preset}, {account.purpose}; heat: {account.scale}; {account.operating_point}"
        description: dict[str, Any] = {
            "Name": "AA-CLIP lesion candidates",
            "BIDSVersion": VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": PROGRAM, "Version": account.version, "Description": made_by}],
        }
        if source_root is not None:
            link = Path(os.path.relpath(source_root, root)).as_posix()
            description |= {"SourceDatasets": [{"URL": link}], "DatasetLinks": {"source": link}}
        write_json(root / "dataset_description.json", description)
        _write_text(root / "README.md", f"# AA-CLIP lesion candidates\n\nMade by {PROGRAM} {account.version} for {made_by}.\n")
        _write_text(root / ".bidsignore", "".join(f"{pattern}\n" for pattern in _IGNORED))
        _write_table(root / "descriptions.tsv", ("desc_id", "description"), [("desc-lesions", _describe_lesions(account))])

    def add_case(self, name: str, path: Path, volume: Volume, case: ScoredCase) -> list[Path]:
        """Write heatmap, label map, mask and the candidates' table of one case, each whole or not at all; the files written.

        Raises:
            InputError: another case already has the same BIDS name.
            OutputError: a file cannot be written.
        """
        entities = find_entities(name, path)
        folder = self.root / f"sub-{entities['sub']}"
        folder = folder / f"ses-{entities['ses']}" / "anat" if "ses" in entities else folder / "anat"
        folder.mkdir(parents=True, exist_ok=True)
        stem = "_".join(f"{entity}-{entities[entity]}" for entity in _ENTITIES if entity in entities)
        heatmap = folder / f"{stem}_label-lesion_probseg.nii.gz"
        self._refuse_another(heatmap, name, path)
        labels, mask = folder / f"{stem}_desc-lesions_dseg.nii.gz", folder / f"{stem}_desc-lesions_mask.nii.gz"
        sidecar = self._describe(name, path, entities, case)
        write_json(
            _beside(heatmap, ".json"),
            {"Description": f"Anomaly heat of each voxel, 0 to 1: {self.account.scale}", "LabelMap": {"lesion": 1}} | sidecar,
        )
        write_heatmap(heatmap, case.heatmap, volume, f"{PROGRAM} {self.account.scale}")
        write_json(_beside(labels, ".json"), {"Description": _describe_lesions(self.account)} | sidecar | _LESIONS)
        write_nifti(labels, case.labels, volume, self.account.operating_point)
        _write_table(_beside(labels, ".tsv"), ("index", "name", *_LESIONS), _list_lesions(case))
        write_json(_beside(mask, ".json"), {"Description": "Voxels of all lesion candidates", "Type": "Lesion"} | sidecar)
        write_nifti(mask, (case.labels > 0).astype(np.uint8), volume, self.account.operating_point)
        return [
            *(file for image in (heatmap, labels, mask) for file in (image, _beside(image, ".json"))),
            _beside(labels, ".tsv"),
        ]

    def write_participants(self) -> list[Path]:
        """Write the table of the subjects that are in the tree, whichever run or shard put them there; the files written.

        Raises:
            OutputError: a file cannot be written.
        """
        rows = []
        for folder in sorted(self.root.glob("sub-*")):
            scans = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.rglob("*_probseg.json"))]
            if scans:
                score = max(scan["Score"] for scan in scans)
                rows.append((folder.name, len(scans), f"{score:.6g}", sum(scan["Candidates"] for scan in scans)))
        table = self.root / "participants.tsv"
        _write_table(table, ("participant_id", *_PARTICIPANTS), rows)
        write_json(_beside(table, ".json"), _PARTICIPANTS)
        return [table, _beside(table, ".json")]

    def _describe(self, name: str, path: Path, entities: Mapping[str, str], case: ScoredCase) -> dict[str, Any]:
        """What every sidecar of a case says."""
        account = self.account
        sidecar: dict[str, Any] = {
            "Case": name,
            "Manual": False,
            "Threshold": account.threshold,
            "OperatingPoint": account.operating_point,
            "Calibrated": account.calibrated,
            "Demonstration": account.demonstration,
            "Preset": account.preset,
            "Model": account.model,
            "Score": case.score,
            "PValue": case.p_value,
            "Candidates": len(case.candidates),
        }
        if "res" in entities:
            sidecar["Resolution"] = "That of the scan"
        if source := self._refer(path):
            sidecar |= {"Sources": [source], "SpatialReference": source}
        elif "space" in entities:
            sidecar["SpatialReference"] = path.name
        return sidecar

    def _refer(self, path: Path) -> str | None:
        """The scan as a BIDS URI; None where it is not in the data set the derivatives point to."""
        if self.source_root is None or not path.resolve().is_relative_to(self.source_root.resolve()):
            return None
        return f"bids:source:{path.resolve().relative_to(self.source_root.resolve()).as_posix()}"

    def _refuse_another(self, heatmap: Path, name: str, path: Path) -> None:
        sidecar = _beside(heatmap, ".json")
        if sidecar.is_file() and (other := json.loads(sidecar.read_text(encoding="utf-8")).get("Case")) != name:
            raise InputError(f"{path}: its BIDS name {heatmap.name} is that of case '{other}' as well; rename one of the scans")


def find_entities(name: str, path: Path) -> dict[str, str]:
    """Entities of the outputs' names.

    Of a BIDS name, those that a segmentation may have are kept. The others, and a suffix other than T1w, are told in
    ``acq``, so that several scans of one session stay apart. Any other case is a subject: letters and digits of its name,
    with eight digits of a hash where it has other characters.
    """
    if name == case_name(path) and _NAME.fullmatch(name):
        *pairs, suffix = name.split("_")
        given = [(key, label) for key, _, label in (pair.partition("-") for pair in pairs)]
        entities = dict(given)
        if len(entities) == len(given):
            others = "".join(key + label for key, label in given if key not in _ENTITIES)
            acquisition = entities.get("acq", "") + others + (suffix if suffix != _PLAIN_SUFFIX else "")
            kept = {key: label for key, label in given if key in _ENTITIES}
            return kept | ({"acq": acquisition} if acquisition else {})
    plain = re.sub(r"[^A-Za-z0-9]", "", name)
    return {"sub": plain if plain == name else plain[:100] + hashlib.sha256(name.encode()).hexdigest()[:8]}


def _describe_lesions(account: Account) -> str:
    return f"Lesion candidates: connected voxels with {account.operating_point}"


def _list_lesions(case: ScoredCase) -> list[Sequence[object]]:
    """The label map's values, the background's first, as a table without rows is not valid."""
    rows: list[Sequence[object]] = [(0, "Background", *["n/a"] * 6)]
    for one in case.candidates:
        numbers = (one.volume_ml, one.peak, one.mean, *one.centroid_ras)
        rows.append((one.id, f"Lesion candidate {one.id}", *(f"{number:.6g}" for number in numbers)))
    return rows


def _beside(image: Path, ending: str) -> Path:
    return image.with_name(image.name.removesuffix(".nii.gz").removesuffix(".tsv") + ending)


def _write_text(path: Path, content: str) -> None:
    write_file(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter="\t", lineterminator="\n").writerows([columns, *rows])
