"""Lesion heatmaps without lesion labels: AA-CLIP for medical volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "build_detector"]

if TYPE_CHECKING:
    from aaclip_med.model.build import build_detector


def __getattr__(name: str) -> Any:
    """Import torch only when the model is asked for, so that ``aaclip-med --help`` stays quick."""
    if name == "build_detector":
        from aaclip_med.model.build import build_detector

        return build_detector
    raise AttributeError(f"module 'aaclip_med' has no attribute '{name}'")
