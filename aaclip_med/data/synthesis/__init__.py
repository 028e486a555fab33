"""Synthetic lesions: something abnormal drawn into a normal scan, so that a detector can be trained on normal scans alone."""

from __future__ import annotations

from aaclip_med.data.synthesis.lesions import KINDS
from aaclip_med.data.synthesis.synthesis import Synthesis, Synthetic

__all__ = ["KINDS", "Synthesis", "Synthetic"]
