"""One volume scored for another program: 3D Slicer's child process and the server's worker do the same job.

A job is a folder: ``request.json`` and the volume go in, ``heatmap.npy`` and ``result.json`` come out, whole or not at all.
``python -m aaclip_med.inference.job FOLDER`` runs one and prints JSON lines: ``{"progress": 0.5, "message": "scoring"}``,
last ``{"done": true}`` or ``{"error": "what to do"}``. Exit codes are the command line's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from aaclip_med.data.slices import read_organ
from aaclip_med.data.volumes import Volume, check_voxels, read_volume, to_native
from aaclip_med.data.writing import atomic_path, write_json
from aaclip_med.errors import AaclipError, InputError
from aaclip_med.inference.case import choose_threshold, score_case
from aaclip_med.inference.cutting import Cutting, check_calibrated_alike
from aaclip_med.inference.predictor import Predictor, load_predictor
from aaclip_med.inference.provenance import describe_run
from aaclip_med.scoring.operating import THRESHOLDS

Array = np.ndarray[Any, Any]
Tell = Callable[[float, str], None]


@dataclass(frozen=True)
class JobRequest:
    """What is asked for.

    volume: the file's name in the job's folder: ``.npy`` (K, J, I) with ``ijk_to_ras``, or a file that ``read_volume`` takes.
    ijk_to_ras: (4, 4), voxel index (I, J, K) to RAS mm, row by row. organ: an organ mask, as ``volume``; a ``.npy`` lies on the
    volume's grid. preset None: the adapters' own. threshold None: the default for calibrated or uncalibrated scores.
    batch_size None: by the device.
    """

    volume: str
    adapters: str = "demo"
    preset: str | None = None
    backbone: str | None = None
    weights: str | None = None
    plane: str | None = None
    ijk_to_ras: list[list[float]] | None = None
    organ: str | None = None
    threshold: float | None = None
    minimum_ml: float = 0.0
    stride: int = 1
    device: str = "auto"
    precision: str = "float32"
    batch_size: int | None = None
    drop_background: bool = False

    @classmethod
    def from_json(cls, values: object) -> JobRequest:
        """The request in a JSON object.

        Raises:
            InputError: it is no object, or a key is unknown, missing or of the wrong kind.
        """
        if not isinstance(values, dict):
            raise InputError("the request is not a JSON object")
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown or not isinstance(values.get("volume"), str):
            raise InputError(
                f"the request has unknown keys ({', '.join(unknown)})" if unknown else "the request names no volume"
            )
        return cls(**values)


def load_job_predictor(request: JobRequest) -> Predictor:
    """The predictor a request asks for; a worker keeps it for the next one."""
    return load_predictor(
        request.adapters,
        request.preset,
        request.backbone,
        request.weights,
        device=request.device,
        precision=request.precision,
        batch_size=request.batch_size,
        drop_background=request.drop_background,
    )


def run_job(folder: Path, request: JobRequest, predictor: Predictor, tell: Tell) -> None:
    """Score the job's volume; ``tell`` hears how far it is, and what it raises ends the job.

    ``heatmap.npy`` is float32 (K, J, I) on the volume's own grid. ``result.json`` holds the score, its p-value, the candidates
    (RAS mm, voxel indices I, J, K), the slices' scores, ijk_to_ras (4, 4), the run's account, and what thresholds did to the
    calibration's normal volumes (null where that was not counted).

    Raises:
        InputError: the volume or the request cannot be used.
        OutputError: the results cannot be written.
    """
    tell(0.0, "reading")
    volume = _read(folder, request.volume, request.ijk_to_ras)
    organ = _read_organ(folder, request.organ, volume) if request.organ else None
    check_calibrated_alike(predictor, request.plane, organ is not None)
    threshold = choose_threshold(predictor, request.threshold)
    cutting = Cutting(plane=request.plane, stride=request.stride)
    case = score_case(
        volume, predictor, cutting, organ, threshold, request.minimum_ml, lambda share: tell(0.05 + 0.9 * share, "scoring")
    )
    tell(0.97, "writing")
    with atomic_path(folder / "heatmap.npy") as path, path.open("wb") as file:
        np.save(file, np.ascontiguousarray(case.heatmap.T))
    write_json(
        folder / "result.json",
        {
            "score": case.score,
            "p_value": case.p_value,
            "threshold": threshold,
            "axis": case.axis,
            "candidates": [asdict(candidate) for candidate in case.candidates],
            "slices": [
                {"slice": number, "score": float(score)} for number, score in zip(case.slices, case.slice_scores, strict=True)
            ],
            "ijk_to_ras": volume.affine,
            "run": describe_run(predictor),
            "operating": _describe_operating(predictor),
        },
    )
    tell(1.0, "done")


def _describe_operating(predictor: Predictor) -> dict[str, Any] | None:
    table = predictor.calibration.operating if predictor.calibration else None
    if table is None:
        return None
    return {
        "volumes": len(table.peaks),
        "minimum_ml": table.minimum_ml,
        "thresholds": list(THRESHOLDS),
        "candidates": list(table.false_positives),
    }


def _read(folder: Path, name: str, ijk_to_ras: list[list[float]] | None) -> Volume:
    path = folder / name
    if path.parent != folder:
        raise InputError(f"volume '{name}': a plain file name is needed")
    if path.suffix != ".npy":
        return read_volume(path)
    affine = np.asarray(ijk_to_ras, dtype=np.float64) if ijk_to_ras is not None else np.zeros(())
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{name}: an array needs ijk_to_ras, a regular 4x4 matrix of finite numbers")
    array = to_native(Path(name), _load_array(path))
    check_voxels(Path(name), array)
    array = np.ascontiguousarray(array.T)
    return Volume(array, affine, Path(name), None, array.shape, is_picture=False)


def _read_organ(folder: Path, name: str, like: Volume) -> Array:
    path = folder / name
    if path.parent != folder:
        raise InputError(f"organ '{name}': a plain file name is needed")
    if path.suffix != ".npy":
        return read_organ(path, like)
    given = _load_array(path)
    check_voxels(name, given, allow_blank=True)
    organ = np.ascontiguousarray(given.T) > 0
    if organ.shape != like.array.shape:
        raise InputError(f"the organ mask's shape is {organ.shape}, the volume's {like.array.shape} (I, J, K)")
    if not organ.any():
        raise InputError("the organ mask is empty; nothing is left to score")
    return organ


def _load_array(path: Path) -> Array:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path.name}: not a readable .npy array ({error})") from None
    if array.ndim != 3 or 0 in array.shape or array.dtype.kind not in "biuf":
        raise InputError(f"{path.name}: an array of {array.ndim} axes and type {array.dtype}; 3 axes of numbers are needed")
    return array  # type: ignore[no-any-return]


def main(arguments: list[str]) -> int:
    """Run the job in the folder named; returns the exit code."""
    folder = Path(arguments[0])

    def say(**values: Any) -> None:
        print(json.dumps(values), flush=True)

    try:
        request = JobRequest.from_json(json.loads((folder / "request.json").read_text(encoding="utf-8")))
        say(progress=0.0, message="loading the model")
        run_job(folder, request, load_job_predictor(request), lambda share, message: say(progress=share, message=message))
    except AaclipError as error:
        say(error=str(error))
        return error.exit_code
    except MemoryError as error:
        say(error=str(error) or "out of memory")
        return 2
    except (OSError, ValueError, TypeError) as error:
        say(error=f"the job cannot be run: {error}")
        return 1
    say(done=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
