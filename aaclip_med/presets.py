"""The tasks: how an organ is cut, windowed and named. Imported by every entry point; needs no torch.

A preset says what the model is shown (plane, window) and what it is told (noun, prompt states). Prompt states and
templates are those of AA-CLIP (CVPR 2025); its released program calls brain, liver and retina alike "scan".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aaclip_med.errors import InputError

PlaneName = Literal["axial", "coronal", "sagittal", "native"]
FidelityName = Literal["reference", "paper"]

PLANES: tuple[PlaneName, ...] = ("axial", "coronal", "sagittal", "native")

NORMAL_STATES = ("{}", "a {}", "the {}")
ABNORMAL_STATES = ("a damaged {}", "a broken {}", "a {} with flaw", "a {} with defect", "a {} with damage")
TEMPLATES = ("{}.", "a photo of {}.")

REFERENCE_NOUNS = {
    "Brain": "scan",
    "Liver": "scan",
    "Retina": "scan",
}
"""The nouns of the released program for the organs of the presets, by the class names of its index files."""

POLYPS = ("Colon_clinicDB", "Colon_colonDB", "Colon_cvc300", "Colon_Kvasir")
MVTEC = (
    *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile"),
    *("toothbrush", "transistor", "wood", "zipper"),
)
VISA = (
    *("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2", "pcb1", "pcb2", "pcb3", "pcb4"),
    "pipe_fryum",
)
MPDD = ("bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes")
BTAD = ("01", "02", "03")
PICTURE_NOUNS = (
    dict.fromkeys(POLYPS, "colon endoscopy image")
    | {name: name.replace("_", " ") for name in (*MVTEC, *VISA, *MPDD)}
    | {"chewinggum": "chewing gum", "macaroni1": "macaroni", "macaroni2": "macaroni"}
    | dict.fromkeys(("pcb1", "pcb2", "pcb3", "pcb4"), "printed circuit board")
    | {f"bracket_{colour}": f"{colour} bracket" for colour in ("black", "brown", "white")}
    | dict.fromkeys(BTAD, "industrial product")
)
"""What classes that no preset has are called, whatever the fidelity. Polyps as in the released program, which describes the
industrial classes more closely than these plain names do.
"""


@dataclass(frozen=True)
class Window:
    """How voxel values become [0, 1].

    kind ``hu``: ``low`` and ``high`` are Hounsfield units. ``percentile``: they are percentiles (0-100) of the
    foreground, the voxels above the background level, which is the median of the voxels not above the volume's mean.
    ``as_is``: the full range of the stored type, or of 8 or 16 bits by the largest value (no ``low``, no ``high``).
    """

    kind: Literal["hu", "percentile", "as_is"]
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class Preset:
    """One task. ``class_name`` is the organ as index files name it; ``noun`` is how the text tower hears of it. ``crop``:
    slices are cut down to the volume's foreground.
    """

    name: str
    title: str
    modality: str
    class_name: str
    noun: str
    plane: PlaneName
    window: Window
    crop: bool = False
    normal_states: tuple[str, ...] = field(default=NORMAL_STATES)
    abnormal_states: tuple[str, ...] = field(default=ABNORMAL_STATES)

    def noun_for(self, fidelity: FidelityName, class_name: str | None = None) -> str:
        """The noun to put into the prompts: the released program's own under ``reference``, ours under ``paper``."""
        name = class_name or self.class_name
        if name in PICTURE_NOUNS:
            return PICTURE_NOUNS[name]
        if fidelity == "reference":
            return REFERENCE_NOUNS.get(name, REFERENCE_NOUNS[self.class_name])
        return self.noun


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("brain-mri", "Brain MRI", "MR", "Brain", "brain MRI", "axial", Window("percentile", 0.5, 99.5)),
        Preset("liver-ct", "Liver CT", "CT", "Liver", "liver CT", "axial", Window("hu", -200.0, 250.0)),
        Preset("retinal-oct", "Retinal OCT", "OPT", "Retina", "retinal OCT", "native", Window("as_is")),
    )
}
"""Every preset by name."""


def get_preset(name: str) -> Preset:
    """The preset called ``name``.

    Raises:
        InputError: no preset has that name.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise InputError(f"unknown preset '{name}'; choose one of {', '.join(PRESETS)}") from None


def build_prompts(
    noun: str,
    normal_states: tuple[str, ...] = NORMAL_STATES,
    abnormal_states: tuple[str, ...] = ABNORMAL_STATES,
) -> tuple[list[str], list[str]]:
    """The prompt ensembles for ``noun``: (normal, abnormal), each state in each template, states outermost."""
    normal = [template.format(state.format(noun)) for state in normal_states for template in TEMPLATES]
    abnormal = [template.format(state.format(noun)) for state in abnormal_states for template in TEMPLATES]
    return normal, abnormal
