"""Phantoms: drawn brain MR, liver CT and retinal OCT scans with lesions, to try the software without patients' data.

They are drawings, made of smooth noise and simple shapes. They look enough like scans to exercise reading, geometry,
training, calibration and reports. They are not anatomy to learn from, and a figure measured on them says nothing about
real disease.
"""

from __future__ import annotations

from aaclip_med.data.phantoms.phantom import PHANTOM_PRESETS, Phantom, make_phantom
from aaclip_med.data.phantoms.sets import PhantomSet, write_phantom_set

__all__ = ["PHANTOM_PRESETS", "Phantom", "PhantomSet", "make_phantom", "write_phantom_set"]
