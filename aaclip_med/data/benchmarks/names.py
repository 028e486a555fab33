"""The words of the command line, in a module that imports nothing."""

from __future__ import annotations

FORMAT_NAMES = (
    "bmad-brain",
    "bmad-liver",
    "bmad-retina-resc",
    "bmad-retina-oct2017",
    "bmad-chest",
    "bmad-histopathology",
    "mvtec",
    "mpdd",
    "visa",
    "btad",
    "cvc-clinicdb",
    "cvc-colondb",
    "cvc-300",
    "kvasir",
    "msd",
    "bids",
)
"""Layouts that ``build_benchmark_index`` reads, as in ``FORMATS``."""

SOURCES = ("brats2021", "liver", "resc")
"""What ``convert`` reads."""

RECIPES = ("bmad", "corrected")
"""How ``convert`` makes slices."""
