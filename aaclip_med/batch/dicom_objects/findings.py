"""Candidates as segments: one each, the weakest of very many together in the last."""

from __future__ import annotations

from dataclasses import dataclass

from aaclip_med.scoring.candidates import Candidate

MOST_SEGMENTS = 50
"""A viewer lists segments one by one, and highdicom takes 0.1 s for each and its measurements."""


@dataclass(frozen=True)
class Finding:
    """What is one segment and one group of measurements.

    number: of the segment, from 1. candidates: by falling peak, one except in the last finding of very many.
    """

    number: int
    candidates: tuple[Candidate, ...]

    @property
    def label(self) -> str:
        """In words."""
        if len(self.candidates) == 1:
            return f"Lesion candidate {self.number}"
        return f"Lesion candidates {self.number} to {self.number + len(self.candidates) - 1}"

    @property
    def volume_ml(self) -> float:
        """Of all of them, millilitres."""
        return sum(candidate.volume_ml for candidate in self.candidates)

    @property
    def mean(self) -> float:
        """Mean heat of all voxels."""
        return sum(one.mean * one.voxels for one in self.candidates) / sum(one.voxels for one in self.candidates)

    @property
    def first(self) -> Candidate:
        """The one with the highest peak."""
        return self.candidates[0]


def list_findings(candidates: list[Candidate]) -> list[Finding]:
    """One finding a candidate, in their order, and at most ``MOST_SEGMENTS``."""
    alone = len(candidates) if len(candidates) <= MOST_SEGMENTS else MOST_SEGMENTS - 1
    findings = [Finding(number, (candidate,)) for number, candidate in enumerate(candidates[:alone], start=1)]
    return findings + ([Finding(alone + 1, tuple(candidates[alone:]))] if candidates[alone:] else [])
