"""The adapters a server offers, by name: clients never name a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aaclip_med.errors import InputError
from aaclip_med.model.checkpoint import DEMO, find_checkpoint, read_checkpoint
from aaclip_med.presets import PRESETS


@dataclass(frozen=True)
class Offer:
    """Adapters that clients may name. preset None: the file names none, so clients have to. hash: the tensors' SHA-256."""

    name: str
    adapters: str
    preset: str | None
    hash: str
    calibrated: bool
    demonstration: bool


def list_offers(adapters: Sequence[tuple[str, str]]) -> list[Offer]:
    """What (name, file) pairs offer, in their order; of none, and of the file ``demo``, the demonstration of every preset.

    Raises:
        CheckpointError: a file is missing, damaged or none of ours.
    """
    offers = []
    for name, file in adapters or ((DEMO, DEMO),):
        for preset in PRESETS if file == DEMO else (None,):
            checkpoint = read_checkpoint(find_checkpoint(file, preset))
            calibrated = checkpoint.calibration is not None
            offers.append(Offer(name, file, preset or checkpoint.preset, checkpoint.digest, calibrated, checkpoint.is_demo))
    return offers


def choose_offer(offers: Sequence[Offer], name: str | None, preset: str | None) -> tuple[str, str]:
    """The file and the preset for a name (None: the default's) and a preset (None: the first offered under that name).

    Raises:
        InputError: nothing is offered under the name, or not for the preset.
    """
    name = name or offers[0].name
    named = [offer for offer in offers if offer.name == name]
    if not named:
        raise InputError("no such adapters; GET /v1/models lists those offered")
    for offer in named:
        chosen = preset or offer.preset
        if chosen is not None and offer.preset in (None, chosen):
            return offer.adapters, chosen
    if preset is None:
        raise InputError("these adapters name no preset; say which")
    raise InputError(f"these adapters are for {', '.join(str(offer.preset) for offer in named)}, not for {preset}")
