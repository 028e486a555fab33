"""The rows of one case in the tables, and what each column says."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from aaclip_med.data.volumes import Volume
from aaclip_med.inference.case import ScoredCase
from aaclip_med.scoring.candidates import Candidate

Row = dict[str, Any]
Record = dict[str, Any]
Kind = Literal["text", "number", "count", "flag"]


class Column(NamedTuple):
    """A column of a table: its name, what its values are, its unit, what it says."""

    name: str
    kind: Kind
    unit: str
    meaning: str


CASE = Column("case", "text", "", "name of the case: its file's, or the series' modality, number and hash")
CALIBRATED = Column("calibrated", "flag", "", "whether scores are fractions of normal voxels; else the model's own probability")
DEMONSTRATION = Column("demonstration", "flag", "", "whether the adapters are the demonstration's, which know no patients")
VOXEL = "voxel index"

VOLUMES = (
    CASE,
    Column("score", "number", "0 to 1", "heat of the three highest slice scores, averaged in log odds"),
    Column("p_value", "number", "0 to 1", "conformal: for a normal case the chance of p <= a is at most a; empty uncalibrated"),
    Column("percentile", "number", "%", "share of the calibration's normal volumes that score lower; empty uncalibrated"),
    Column("candidates", "count", "", "connected regions at or above the threshold"),
    Column("candidates_ml", "number", "mL", "their volume together"),
    Column("peak_slice", "count", VOXEL, "slice with the highest score, along the axis of the slices"),
    Column("slices", "count", "", "slices scored"),
    Column("spacing_mm", "text", "mm", "distance of voxel centres along the array's axes I, J, K"),
    Column("orientation", "text", "", "where I, J, K point to: R or L, A or P, S or I"),
    Column("threshold", "number", "0 to 1", "heat at which a candidate begins"),
    Column("operating_point", "text", "", "how the threshold was chosen"),
    Column("preset", "text", "", "the task"),
    Column("model", "text", "", "first 12 digits of the SHA-256 of the adapters file"),
    CALIBRATED,
    DEMONSTRATION,
    Column("status", "text", "", "ok or failed"),
    Column("flags", "text", "", "what was wrong with the scan and put right, and outputs that could not be written"),
    Column("error", "text", "", "why the case failed"),
)
SLICES = (
    CASE,
    Column("slice", "count", VOXEL, "along the axis of the slices"),
    Column("score", "number", "0 to 1", "highest heat of the model's map, before enlarging; refined: smoothed over neighbours"),
    Column("detection_score", "number", "0 to 1", "the model's detection head; empty where planes were fused"),
    CALIBRATED,
    DEMONSTRATION,
)
LESIONS = (
    CASE,
    Column("lesion", "count", "", "1 for the highest peak; its voxels' value in the label map"),
    *(Column(f"{axis}_ras_mm", "number", "mm", "centroid in RAS, voxels weighted alike") for axis in "xyz"),
    *(Column(axis, "number", VOXEL, "centroid") for axis in "ijk"),
    *(Column(f"{axis}_first", "count", VOXEL, "bounding box, inclusive") for axis in "ijk"),
    *(Column(f"{axis}_last", "count", VOXEL, "bounding box, inclusive") for axis in "ijk"),
    Column("volume_ml", "number", "mL", "voxels times a voxel's volume"),
    Column("peak", "number", "0 to 1", "highest heat"),
    Column("mean", "number", "0 to 1", "mean heat"),
    Column("first_slice", "count", VOXEL, "along the axis of the slices, inclusive"),
    Column("last_slice", "count", VOXEL, "along the axis of the slices, inclusive"),
    Column("voxels", "count", "", "its size"),
    CALIBRATED,
    DEMONSTRATION,
)
INPUTS = (
    CASE,
    Column("input", "text", "", "where the case was read from; keep this table to yourself where paths name patients"),
    Column("reading_s", "number", "s", "reading and windowing"),
    Column("writing_s", "number", "s", "candidates and outputs"),
)


def describe_case(name: str, volume: Volume, case: ScoredCase, marks: Row) -> Record:
    """The rows of a case that was scored: ``volume``, ``slices``, ``lesions``. ``marks`` hold for all of them."""
    return {
        "volume": {
            "case": name,
            "score": case.score,
            "p_value": case.p_value,
            "percentile": case.percentile,
            "candidates": len(case.candidates),
            "candidates_ml": float(sum(candidate.volume_ml for candidate in case.candidates)),
            "peak_slice": case.peak_slice,
            "slices": len(case.slices),
            "spacing_mm": "x".join(f"{step:.3g}" for step in volume.spacing),
            "orientation": volume.orientation,
            "status": "ok",
            **marks,
        },
        "slices": [
            {"case": name, "slice": number, "score": float(score), "detection_score": float(detection), **marks}
            for number, score, detection in zip(case.slices, case.slice_scores, case.detection, strict=True)
        ],
        "lesions": [_list_candidate(name, candidate) | marks for candidate in case.candidates],
    }


def describe_failure(name: str, error: str, marks: Row) -> Record:
    """The row of a case that could not be scored."""
    return {"volume": {"case": name, "status": "failed", "error": error, **marks}, "slices": [], "lesions": []}


def _list_candidate(name: str, candidate: Candidate) -> Row:
    row: Row = {"case": name, "lesion": candidate.id}
    row |= {f"{axis}_ras_mm": value for axis, value in zip("xyz", candidate.centroid_ras, strict=True)}
    row |= dict(zip("ijk", candidate.centroid_voxel, strict=True))
    row |= {f"{axis}_first": index for axis, index in zip("ijk", candidate.lowest_voxel, strict=True)}
    row |= {f"{axis}_last": index for axis, index in zip("ijk", candidate.highest_voxel, strict=True)}
    names = ("volume_ml", "peak", "mean", "first_slice", "last_slice", "voxels")
    return row | {column: getattr(candidate, column) for column in names}
