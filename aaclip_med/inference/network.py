"""The network that goes into bundles and exports: a detector with its noun and its calibration built in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aaclip_med.data.writing import write_file
from aaclip_med.errors import InputError
from aaclip_med.inference.cutting import NETWORK_PARTS, check_calibrated_alike
from aaclip_med.inference.predictor import Predictor, load_predictor
from aaclip_med.inference.refinement import PUBLISHED, Refinement, find_refinement
from aaclip_med.model.detector import Detector
from aaclip_med.model.heatmap import LOG_ODDS_LIMIT, Finish, HeatmapNetwork, Scale
from aaclip_med.model.similarity import Domain
from aaclip_med.presets import get_preset
from aaclip_med.scoring.calibration import Calibration

STEPS = 8001
"""Points of a scale's table, a hundredth apart; a sigmoid is off by 1e-6 between them."""


def sample_scale(calibration: Calibration | None) -> Scale:
    """The scale of the outputs as a table: the fraction of normal voxels below, or the model's own probability."""
    grid = np.linspace(-LOG_ODDS_LIMIT, LOG_ODDS_LIMIT, STEPS)
    if calibration is None:
        return Scale(grid.tolist(), (1.0 / (1.0 + np.exp(-grid))).tolist())
    grid = np.unique(np.concatenate([grid, calibration.knot_scores]).astype(np.float32))
    return Scale(grid.tolist(), calibration.fraction_below(grid).tolist())


def describe_finish(refinement: Refinement, domain: Domain = "medical") -> Finish:
    """What a network does to the patches' log odds.

    Raises:
        InputError: the refinement takes more than one look at a slice.
    """
    rest = replace(refinement, sigma=None, sharpen=0, foreground=False, level_weights=None, bank_weight=0.0)
    rest = replace(rest, reach=0.0, fuse=0.0)  # what is done around a network
    if rest != PUBLISHED:
        raise InputError(
            "a network takes one look at a slice: blur, sharpening, foreground, level weights and a bank are all the "
            "refinement it knows"
        )
    return Finish(
        *refinement.choose_blur(domain),
        refinement.sharpen,
        refinement.foreground,
        refinement.level_weights or (),
        refinement.bank_weight,
    )


def build_network(predictor: Predictor) -> HeatmapNetwork:
    """What ``predictor`` computes for a picture, as one network on its device, in evaluation mode.

    Raises:
        InputError: maps are refined by what takes several looks at a slice, or were calibrated with another image size or
            refinement, or without background.
    """
    check_calibrated_alike(predictor, None, False, NETWORK_PARTS)
    scale = sample_scale(predictor.calibration)
    finish = describe_finish(predictor.refinement, predictor.domain)
    network = HeatmapNetwork(predictor.detector, predictor.anchors, scale, finish, predictor.bank)
    return network.to(predictor.device).eval()


def load_network(adapters: str | Path, preset: str | None = None, **options: Any) -> HeatmapNetwork:
    """``build_network`` of ``load_predictor``; on the CPU unless ``device`` is named.

    Raises:
        InputError, WeightsError, CheckpointError: as ``load_predictor``.
    """
    return build_network(load_predictor(adapters, preset, **{"device": "cpu", **options}))


def wrap_network(detector: Detector, preset: str, refinement: str | Refinement = PUBLISHED) -> HeatmapNetwork:
    """``detector`` while it trains, uncalibrated; both share their parameters. ``refinement``: whole or by name."""
    with torch.no_grad():
        anchors = detector.encode_noun(get_preset(preset).noun_for(detector.config.fidelity.name))
    finish = describe_finish(find_refinement(refinement))
    return HeatmapNetwork(detector, anchors, sample_scale(None), finish).to(detector.device)


def save_network(path: Path, network: HeatmapNetwork) -> None:
    """The network's state dict as a torch file, as ``CheckpointLoader`` and MONAI Label read it.

    Raises:
        OutputError: the file cannot be written.
    """
    state = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
    write_file(path, lambda temporary: torch.save(state, temporary))
