"""Scoring of many files: heatmaps, tables and the run's own account."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aaclip_med.batch.ledger import Ledger, Record, lock_folder
from aaclip_med.data.slices import read_organ
from aaclip_med.data.sources import Found, Source
from aaclip_med.data.volumes import Volume
from aaclip_med.data.writing import prepare_output_folder, write_csv, write_heatmap, write_json
from aaclip_med.errors import AaclipError, OutputError
from aaclip_med.inference.case import ScoredCase, choose_threshold, score_case
from aaclip_med.inference.cutting import Cutting, check_calibrated_alike
from aaclip_med.inference.predictor import Predictor
from aaclip_med.inference.provenance import describe_run
from aaclip_med.scoring.candidates import Candidate

VOLUME_COLUMNS = (
    "case", "score", "p_value", "candidates", "candidates_ml", "peak_slice", "slices", "spacing_mm", "orientation",
    "preset", "calibrated", "demonstration", "seconds", "status", "error",
)  # fmt: skip
SLICE_COLUMNS = ("case", "slice", "score", "detection_score", "calibrated", "demonstration")
LESION_COLUMNS = (
    "case", "lesion", "x_ras_mm", "y_ras_mm", "z_ras_mm", "i", "j", "k", "volume_ml", "peak", "mean", "first_slice",
    "last_slice", "voxels", "calibrated", "demonstration",
)  # fmt: skip

Track = Callable[[Sequence[Any]], Iterable[Any]]


@dataclass
class FolderResult:
    """The tables' rows, and how many cases failed."""

    volumes: list[dict[str, Any]] = field(default_factory=list)
    slices: list[dict[str, Any]] = field(default_factory=list)
    lesions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Cases without a heatmap."""
        return sum(row["status"] != "ok" for row in self.volumes)


def score_sources(
    found: Found,
    predictor: Predictor,
    out: str | Path,
    cutting: Cutting | None = None,
    threshold: float | None = None,
    minimum_ml: float = 0.0,
    settings: dict[str, Any] | None = None,
    track: Track = iter,
    overwrite: bool = False,
) -> FolderResult:
    """Score what ``data.sources.find_sources`` found.

    ``out`` gets ``heatmaps/``, ``volumes.csv``, ``slices.csv``, ``lesions.csv``, ``run.json``. A case that cannot be scored
    gets a row with its error and does not stop the rest. A run that was cut off is finished by the same call; with other
    settings the folder is refused unless ``overwrite`` starts it again.

    Raises:
        InputError: ``out`` holds another run or one is at work there, or the calibration was made on other cuts.
        OutputError: the folder cannot be written to.
    """
    cutting = cutting or Cutting()
    check_calibrated_alike(predictor, cutting.plane, cutting.masks is not None)
    out = prepare_output_folder(out)
    prepare_output_folder(out / "heatmaps")
    threshold = choose_threshold(predictor, threshold)
    started = time.time()
    result = FolderResult()
    with lock_folder(out):
        ledger = Ledger(out, _describe_settings(predictor, cutting, threshold, minimum_ml), overwrite)
        for source in track(found.sources):
            record = _take_up(source, predictor, out, cutting, threshold, minimum_ml, ledger)
            result.volumes.append(record["volume"])
            result.slices += record["slices"]
            result.lesions += record["lesions"]
        write_csv(out / "volumes.csv", VOLUME_COLUMNS, result.volumes)
        write_csv(out / "slices.csv", SLICE_COLUMNS, result.slices)
        write_csv(out / "lesions.csv", LESION_COLUMNS, result.lesions)
        account = {
            "cases": [row | {"input": str(source.path)} for row, source in zip(result.volumes, found.sources, strict=True)],
            "passed_over": [{"path": str(item.path), "reason": item.reason} for item in found.passed_over],
            "failed": result.failed,
            "seconds": round(time.time() - started, 2),
        }
        chosen = {"threshold": threshold, "minimum_ml": minimum_ml, "options": settings or {}}
        write_json(out / "run.json", describe_run(predictor) | chosen | account)
    return result


def _take_up(
    source: Source,
    predictor: Predictor,
    out: Path,
    cutting: Cutting,
    threshold: float,
    minimum_ml: float,
    ledger: Ledger,
) -> Record:
    """The rows of one case, scored now or by an earlier run; where it cannot be scored, one row with the reason."""
    clock = time.perf_counter()
    marks = {"calibrated": predictor.calibration is not None, "demonstration": predictor.is_demo}
    row: dict[str, Any] = {"case": source.name, "preset": predictor.preset.name, **marks}
    try:
        organ_path = cutting.find_organ(source.name)
        kept = ledger.find(source, organ_path)
        if kept is not None:
            return kept
        volume = source.read()
        organ = read_organ(organ_path, volume) if organ_path else None
        case = score_case(volume, predictor, cutting, organ, threshold, minimum_ml)
        write_heatmap(out / "heatmaps" / f"{source.name}_heatmap.nii.gz", case.heatmap, volume, f"aaclip-med {predictor.note}")
    except OutputError:
        raise
    except (AaclipError, MemoryError) as error:
        return {"volume": row | {"status": "failed", "error": str(error) or "out of memory"}, "slices": [], "lesions": []}
    seconds = round(time.perf_counter() - clock, 3)
    record = {
        "volume": row | _describe(volume, case) | {"seconds": seconds, "status": "ok"},
        "slices": [
            {"case": source.name, "slice": number, "score": float(score), "detection_score": float(detection), **marks}
            for number, score, detection in zip(case.slices, case.slice_scores, case.detection, strict=True)
        ],
        "lesions": [_list_candidate(source.name, candidate) | marks for candidate in case.candidates],
    }
    ledger.keep(source, organ_path, record)
    return record


def _describe_settings(predictor: Predictor, cutting: Cutting, threshold: float, minimum_ml: float) -> Record:
    """What may not change while a folder is scored."""
    return {
        "adapters": predictor.checkpoint.digest if predictor.checkpoint else None,
        "tower": predictor.detector.tower_hash,
        "detector": predictor.detector.config.to_json(),
        "preset": asdict(predictor.preset),
        "precision": str(predictor.dtype),
        "cutting": asdict(cutting),
        "threshold": threshold,
        "minimum_ml": minimum_ml,
    }


def _describe(volume: Volume, case: ScoredCase) -> dict[str, Any]:
    return {
        "score": case.score,
        "p_value": case.p_value,
        "candidates": len(case.candidates),
        "candidates_ml": float(sum(candidate.volume_ml for candidate in case.candidates)),
        "peak_slice": case.peak_slice,
        "slices": len(case.slices),
        "spacing_mm": "x".join(f"{step:.3g}" for step in volume.spacing),
        "orientation": volume.orientation,
    }


def _list_candidate(name: str, candidate: Candidate) -> dict[str, Any]:
    x, y, z = candidate.centroid_ras
    i, j, k = candidate.centroid_voxel
    return {
        "case": name,
        "lesion": candidate.id,
        "x_ras_mm": x,
        "y_ras_mm": y,
        "z_ras_mm": z,
        "i": i,
        "j": j,
        "k": k,
        "volume_ml": candidate.volume_ml,
        "peak": candidate.peak,
        "mean": candidate.mean,
        "first_slice": candidate.first_slice,
        "last_slice": candidate.last_slice,
        "voxels": candidate.voxels,
    }
