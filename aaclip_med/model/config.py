"""What a detector is made of, as plain data that travels in its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from aaclip_med.errors import InputError
from aaclip_med.presets import ABNORMAL_STATES, NORMAL_STATES, FidelityName

ActivationName = Literal["gelu", "quick_gelu", "as_trained"]
StageOneLevels = Literal["last", "all"]
ValueAttention = Literal["across_batch", "across_positions"]

DEFAULT_BACKBONE = "ViT-L-14-336"
DEFAULT_WEIGHTS = "openai"
DEFAULT_IMAGE_SIZE = 518
TINY = "tiny"

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Per-channel statistics of CLIP's training images (Radford et al. 2021), for values in [0, 1]."""

TINY_TOWER: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 160, "layers": 4, "width": 128, "head_width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 4},
    "quick_gelu": False,
}
"""The embedded tower, in open_clip's configuration format: for trying the software, not for patients."""

TINY_ADAPTERS: dict[str, Any] = {"image_adapters": 4, "text_adapters": 1, "image_mix": 0.5, "projection_relu": True}
"""What suits it: random blocks see little by themselves, so the adapters take a larger share, in every block."""


@dataclass(frozen=True)
class Fidelity:
    """Where the released program and the paper part (docs/adr/0002-fidelity.md).

    activation: ``gelu`` runs the towers with exact GELU whatever they were trained with; ``quick_gelu`` with
        x * sigmoid(1.702 x), OpenAI's own; ``as_trained`` takes what the configuration or the weights' tag says, and
        QuickGELU where neither does.
    stage_one_levels: the levels whose loss trains the text adapters, ``last`` or ``all``.
    value_attention: stage 1's value-value attention runs ``across_batch`` (at one position, over the images of a batch) or
        ``across_positions`` (over the positions of an image).
    """

    name: FidelityName
    activation: ActivationName
    stage_one_levels: StageOneLevels
    value_attention: ValueAttention

    @classmethod
    def named(
        cls,
        name: str,
        activation: str | None = None,
        stage_one_levels: str | None = None,
        value_attention: str | None = None,
    ) -> Fidelity:
        """The fidelity called ``reference`` or ``paper``, with any of its three options replaced by name.

        Raises:
            InputError: a name or an option is unknown.
        """
        if name not in FIDELITIES:
            raise InputError(f"unknown fidelity '{name}'; choose one of {', '.join(FIDELITIES)}")
        given = {
            "activation": (activation, ActivationName),
            "stage_one_levels": (stage_one_levels, StageOneLevels),
            "value_attention": (value_attention, ValueAttention),
        }
        changes: dict[str, Any] = {}
        for option, (value, choices) in given.items():
            if value is None:
                continue
            if value not in get_args(choices):
                raise InputError(f"unknown {option} '{value}'; choose one of {', '.join(get_args(choices))}")
            changes[option] = value
        return replace(FIDELITIES[name], **changes)


FIDELITIES: dict[str, Fidelity] = {
    "reference": Fidelity("reference", "gelu", "last", "across_batch"),
    "paper": Fidelity("paper", "as_trained", "all", "across_positions"),
}


@dataclass(frozen=True)
class DetectorConfig:
    """Everything but the weights themselves.

    backbone: an open_clip model name, ``tiny``, or a dictionary in open_clip's configuration format.
    weights: an open_clip tag, a file's path, or the text ``state dict`` where tensors were handed over.
    image_size: side of the square the slices are resized to, in pixels.
    levels: 1-based blocks of the vision tower whose tokens are projected; None: the quarters of its depth.
    text_adapters, image_adapters: how many blocks from the first are adapted; None: a quarter of the depth.
    text_mix, image_mix: the adapter's share in the mixed token.
    projection_relu: a LeakyReLU after the patch and detection projections (off in the published runs).
    """

    backbone: str | dict[str, Any] = DEFAULT_BACKBONE
    weights: str = DEFAULT_WEIGHTS
    image_size: int = DEFAULT_IMAGE_SIZE
    fidelity: Fidelity = field(default_factory=lambda: FIDELITIES["reference"])
    levels: tuple[int, ...] | None = None
    text_adapters: int | None = None
    image_adapters: int | None = None
    text_mix: float = 0.1
    image_mix: float = 0.1
    projection_relu: bool = False
    normal_states: tuple[str, ...] = NORMAL_STATES
    abnormal_states: tuple[str, ...] = ABNORMAL_STATES

    def to_json(self) -> dict[str, Any]:
        """Plain data, for a checkpoint's metadata."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["fidelity"] = {name: getattr(self.fidelity, name) for name in self.fidelity.__dataclass_fields__}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DetectorConfig:
        """The inverse of ``to_json``.

        Raises:
            InputError: a key is unknown or has a wrong form.
        """
        try:
            named = dict(values)
            named["fidelity"] = Fidelity.named(**named["fidelity"])
            for name in ("levels", "normal_states", "abnormal_states"):
                named[name] = tuple(named[name]) if named[name] is not None else None
            return cls(**named)
        except (TypeError, KeyError) as error:
            raise InputError(f"the detector's configuration cannot be read: {error}") from error
