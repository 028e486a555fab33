"""What a run's account says of the program and the model it was made with."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from aaclip_med import __version__
from aaclip_med.inference.predictor import Predictor


def describe_run(predictor: Predictor) -> dict[str, Any]:
    """Versions, hashes and settings of a predictor, for a run's account. Holds no names."""
    packages = ("torch", "open_clip_torch", "monai", "nibabel", "SimpleITK", "numpy")
    checkpoint = predictor.checkpoint
    return {
        "aaclip_med": __version__,
        "note": predictor.note,
        "calibrated": predictor.calibration is not None,
        "calibration_caveat": predictor.calibration.caveat if predictor.calibration else "not calibrated: no p-values",
        "demonstration": predictor.is_demo,
        "preset": predictor.preset.name,
        "detector": predictor.detector.config.to_json(),
        "adapted": predictor.detector.adapted,
        "refinement": predictor.refinement.to_json(),
        "tower_hash": predictor.detector.tower_hash,
        "adapters_hash": checkpoint.digest if checkpoint else None,
        "provenance": checkpoint.provenance if checkpoint else None,
        "device": str(predictor.device),
        "drop_background": predictor.drop_background,
        "precision": str(predictor.dtype).removeprefix("torch."),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }
