"""How results were made: what every output that leaves the run says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

PROGRAM = "aaclip-med"


@dataclass(frozen=True)
class Account:
    """The run, in the words of its outputs. Holds no name of a patient or file.

    threshold: the heat at which a candidate begins; meaning: how it was chosen. calibrated: whether a heat is the fraction of
    normal voxels below it, else the model's own probability. demonstration: the adapters are the demonstration's.
    preset: the task's name. version: of this program. model: hash of the weights that scored. made: when the run began, the
    same for every case and after every resumption. settings: whatever else changes results, as text.
    """

    threshold: float
    meaning: str
    calibrated: bool
    demonstration: bool
    preset: str
    version: str
    model: str
    made: datetime
    settings: str = ""

    @property
    def scale(self) -> str:
        """What a heat is."""
        return "fraction of normal voxels below" if self.calibrated else "uncalibrated model probability"

    @property
    def purpose(self) -> str:
        """What the results are for."""
        return "demonstration only" if self.demonstration else "research only"

    @property
    def operating_point(self) -> str:
        """The threshold and what it means."""
        return f"heat >= {self.threshold:.6g}: {self.meaning}"

    def parameters(self) -> dict[str, Any]:
        """The account as names and values."""
        return {
            "threshold": self.threshold,
            "operating point": self.meaning,
            "scale": self.scale,
            "calibrated": self.calibrated,
            "demonstration": self.demonstration,
            "preset": self.preset,
            "model": self.model,
        }
