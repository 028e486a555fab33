"""BMAD's slices from the volumes that they were made of."""

from __future__ import annotations

from aaclip_med.data.conversion.bmad import FRACTIONS, ConversionSummary, convert

__all__ = ["FRACTIONS", "ConversionSummary", "convert"]
