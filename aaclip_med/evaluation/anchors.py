"""Class knowledge: whether prompts of different organs stay apart once the text adapters have learned what abnormal means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch.nn import functional

from aaclip_med.data.writing import atomic_path
from aaclip_med.model.detector import Detector
from aaclip_med.presets import PRESETS, build_prompts

Array = np.ndarray[Any, Any]

ORGANS = tuple(preset.noun for preset in PRESETS.values())


@dataclass(frozen=True)
class PromptCloud:
    """Prompts in the shared space. points: (N, E), unit; organs: (N,) numbers of the nouns; abnormal: (N,) bool."""

    points: Array
    organs: Array
    abnormal: Array

    def name_organs(self) -> float:
        """The share of prompts that lie nearest to their own organ's other prompts of the same state (leave one out)."""
        right = 0
        for number, point in enumerate(self.points):
            others = (self.abnormal == self.abnormal[number]) & (np.arange(len(self.points)) != number)
            centres = [self.points[others & (self.organs == organ)].mean(axis=0) for organ in np.unique(self.organs)]
            nearness = [float(point @ centre / np.linalg.norm(centre)) for centre in centres]
            right += int(np.unique(self.organs)[int(np.argmax(nearness))] == self.organs[number])
        return right / len(self.points)

    def compare_organs(self) -> float:
        """The mean cosine of the anchors of different organs, of the same state: 1 where all organs are the same."""
        cosines = []
        for state in (False, True):
            chosen = [self.points[(self.organs == organ) & (self.abnormal == state)] for organ in np.unique(self.organs)]
            anchors = np.stack([points.mean(axis=0) / np.linalg.norm(points.mean(axis=0)) for points in chosen])
            cosines.append((anchors @ anchors.T)[~np.eye(len(anchors), dtype=bool)].mean())
        return float(np.mean(cosines))

    def compare_states(self) -> float:
        """The mean cosine of an organ's normal with its abnormal anchor: 1 where the two say the same."""
        cosines = []
        for organ in np.unique(self.organs):
            normal, abnormal = (
                self.points[(self.organs == organ) & (self.abnormal == state)].mean(0) for state in (False, True)
            )
            cosines.append(float(normal @ abnormal / np.linalg.norm(normal) / np.linalg.norm(abnormal)))
        return float(np.mean(cosines))


@torch.no_grad()
def embed_prompts(detector: Detector, nouns: Sequence[str] = ORGANS) -> PromptCloud:
    """Every prompt of every noun, through the detector's text tower and adapters."""
    points, organs, abnormal = [], [], []
    for number, noun in enumerate(nouns):
        for state, prompts in enumerate(build_prompts(noun, detector.config.normal_states, detector.config.abnormal_states)):
            tokens = open_clip.tokenize(prompts, detector.tower.clip.context_length).to(detector.device)
            points.append(functional.normalize(detector.encode_text(tokens), dim=-1).float().cpu().numpy())
            organs += [number] * len(prompts)
            abnormal += [bool(state)] * len(prompts)
    return PromptCloud(np.concatenate(points), np.array(organs), np.array(abnormal))


def draw_anchors(path: str | Path, clouds: dict[str, PromptCloud], tower: PromptCloud, nouns: Sequence[str] = ORGANS) -> None:
    """One panel a cloud, all along the two principal axes of all: a colour an organ, discs normal, crosses abnormal; PNG.

    ``clouds`` lie in one space; ``tower``: the prompts in the tower's own, of which the figures alone are shown.
    """
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(4.2 * len(clouds), 4.6), layout="constrained")
    together = np.concatenate([cloud.points for cloud in clouds.values()])
    centre = together.mean(axis=0)
    axes = np.linalg.svd(together - centre, full_matrices=False)[2][:2].T
    panels = canvas.subplots(1, len(clouds), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (title, cloud) in zip(panels, clouds.items(), strict=True):
        flat = (cloud.points - centre) @ axes
        for organ, noun in enumerate(nouns):
            for state, marker in ((False, "o"), (True, "x")):
                chosen = (cloud.organs == organ) & (cloud.abnormal == state)
                label = f"{noun}, {'abnormal' if state else 'normal'}"
                panel.scatter(flat[chosen, 0], flat[chosen, 1], marker=marker, color=f"C{organ}", s=28, label=label, alpha=0.8)
        panel.set_title(f"{title}\n{_describe(cloud)}", fontsize=8)
        panel.set_xticks([])
        panel.set_yticks([])
    panels[0].legend(fontsize=6)
    canvas.suptitle(f"tower without adapters: {_describe(tower)}", fontsize=8)
    with atomic_path(path) as temporary:
        canvas.savefig(temporary, dpi=120, format="png")


def _describe(cloud: PromptCloud) -> str:
    return (
        f"nearest organ right {cloud.name_organs():.0%}; cosines: organs {cloud.compare_organs():.3f}, "
        f"states {cloud.compare_states():.3f}"
    )
