"""Procedural pictures with captions, drawn on the fly: what ``pretrain_tiny.py`` learns from.

A picture is a square with sides of 1, rows downwards; a window of it is drawn, ``WINDOW`` of ``SIDE`` pixels. It shows a
texture, bands, blobs or, as in a scan, ovals within ovals on black. Most have one local defect. Nothing here is taken from the
package's phantoms, its synthetic lesions or any real image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

SIDE, WINDOW, PATCH = 160, 80, 8
GRID, SPAN = SIDE // PATCH, WINDOW // PATCH
"""Patches along a picture and along a window."""

SCENES = ("a plain texture", "layered bands", "scattered blobs", "nested ovals")
SHARES = (0.2, 0.15, 0.2, 0.45)
TEXTURES = ("smooth", "grainy", "cloudy", "striped", "checked", "ridged")
DEFECTS = ("bright spot", "dark spot", "ring", "mottled patch", "blank patch", "striped patch", "bulge")
ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")
NOUNS = ("scan", "picture", "slice", "surface", "photo")
ABNORMAL = (
    *("a damaged {}", "a broken {}", "a {} with flaw", "a {} with defect", "a {} with damage"),
    *("an abnormal {}", "a {} with a lesion"),
)
NORMAL = ("a {}", "the {}", "a normal {}", "{}")
NESTED = SCENES.index("nested ovals")
BULGE = DEFECTS.index("bulge")
OVALS = 7


class Pictures(NamedTuple):
    """A batch of windows.

    images: (B, 1, WINDOW, WINDOW) in [0, 1]. masks: (B, 1, WINDOW, WINDOW) of 0 and 1, the defect. patches: (B, SPAN**2), the
    window's patches among the picture's, row by row from 0. defects: (B,), the kind, -1 where there is none. captions: of the
    whole; of the defect, or where there is none of one that is not there; of what is around.
    """

    images: torch.Tensor
    masks: torch.Tensor
    patches: torch.Tensor
    defects: torch.Tensor
    captions: list[str]
    defect_captions: list[str]
    around_captions: list[str]


def draw_pictures(count: int, rng: np.random.Generator) -> Pictures:
    """``count`` windows, all chance from ``rng``."""
    scenes, textures = rng.choice(len(SCENES), count, p=SHARES), rng.integers(len(TEXTURES), size=count)
    defects = np.where(rng.random(count) < 0.65, rng.integers(len(DEFECTS), size=count), -1)
    radii = np.exp(rng.uniform(math.log(0.025), math.log(0.13), count))
    ovals = _lay_ovals(scenes, rng)
    centres = np.where(
        (scenes == NESTED)[:, None],
        ovals[:, 0, :2] + 0.75 * ovals[:, 0, 2:4] * _draw_in_disc(count, rng),
        rng.uniform(0.1, 0.9, (count, 2)),
    ).clip(0.04, 0.96)
    low = np.ceil(np.clip(centres * GRID - SPAN + 1, 0, GRID - SPAN)).astype(int)
    high = np.floor(np.clip(centres * GRID - 1, 0, GRID - SPAN)).astype(int)
    corners = rng.integers(low, np.maximum(low, high) + 1)
    steps = np.arange(SPAN)
    patches = (corners[:, 0, None, None] + steps[:, None]) * GRID + corners[:, 1, None, None] + steps

    within = (torch.arange(WINDOW) + 0.5) / SIDE
    start = _tensor(corners * PATCH / SIDE)
    rows = (start[:, 0, None, None] + within[:, None]).expand(-1, WINDOW, WINDOW)
    columns = (start[:, 1, None, None] + within).expand(-1, WINDOW, WINDOW)
    noises = {cells: _draw_noise(count, cells, rng) for cells in (4, 8, 16, 32, 48)}
    shape = _shape_defect(rows, columns, centres, radii, noises[8], rng)
    inside = torch.clamp((1.0 - shape) * _column(rng.uniform(2.5, 12.0, count)) + 0.5, 0.0, 1.0) * _column(defects >= 0)
    pull = _column(rng.uniform(0.35, 0.75, count) * (defects == BULGE)) * (1.0 - shape.clamp(max=1.0) ** 2) ** 2
    moved = [c - pull * (c - _column(at)) for c, at in zip((rows, columns), centres.T, strict=True)]

    texture = _weave(textures, moved, noises, rng)
    scene, body = _paint_scene(scenes, moved, ovals, noises, rng)
    strength = rng.uniform(0.03, 0.14, count)
    clean = scene + _column(strength) * texture * body
    drawn = _paint_defect(clean, scene, body, shape, inside, defects, moved, noises, strength, rng)
    images = _shift_tones(drawn, body, noises, rng)
    masks = (inside > 0.5).float()
    return Pictures(
        images[:, None],
        masks[:, None],
        torch.from_numpy(patches.reshape(count, -1)),
        torch.from_numpy(defects),
        *_describe(scenes, textures, defects, radii, centres, strength, rng),
    )


def _lay_ovals(scenes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Row, column, half axes, angle, level and opacity of each picture's ovals, in the order of painting: (B, OVALS, 7)."""
    count = len(scenes)
    free = np.concatenate(
        [
            rng.uniform(0.0, 1.0, (count, OVALS, 2)),
            rng.uniform(0.04, 0.22, (count, OVALS, 2)),
            rng.uniform(0, math.pi, (count, OVALS, 1)),
            rng.uniform(0.15, 0.9, (count, OVALS, 1)),
            rng.uniform(0.0, 1.0, (count, OVALS, 1)) < 0.7,
        ],
        axis=2,
    )
    nested = free.copy()
    middle = rng.uniform(0.42, 0.58, (count, 1, 2))
    outer = rng.uniform(0.28, 0.5, (count, 1, 2))
    shares = np.sort(rng.uniform(0.55, 0.97, (count, 2, 1)), axis=1)[:, ::-1]
    nested[:, 0, :2], nested[:, 0, 2:4] = middle[:, 0], outer[:, 0]
    nested[:, 1:3, :2], nested[:, 1:3, 2:4] = middle, outer * shares
    nested[:, :3, 4], nested[:, :3, 6] = rng.uniform(-0.1, 0.1, (count, 1)), 1.0
    nested[:, 3:, :2] = middle + outer * rng.uniform(-0.5, 0.5, (count, OVALS - 3, 2))
    nested[:, 3:, 2:4] *= 0.6
    ovals = np.where((scenes == NESTED)[:, None, None], nested, free)
    ovals[scenes < SCENES.index("scattered blobs"), :, 6] = 0.0
    return ovals


def _paint_scene(
    scenes: np.ndarray, at: list[torch.Tensor], ovals: np.ndarray, noises: dict[int, torch.Tensor], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The smooth picture (B, H, W) and its body, 1 where there is something."""
    count = len(scenes)
    rows, columns = (c + _column(rng.uniform(0, 0.03, count)) * noises[cells] for c, cells in zip(at, (4, 8), strict=True))
    level = _column(rng.uniform(0.2, 0.8, count))
    slope = rng.uniform(0.2, 1.0, (2, count)) * rng.uniform(2, 9, count)
    layers = _column(slope[0]) * rows + _column(slope[1]) * columns * _column(rng.choice([-0.3, 0.0, 0.3], count))
    palette = _tensor(rng.uniform(0.1, 0.9, (count, 16)))
    bands = palette.gather(1, (layers.floor().long() % 16).flatten(1)).view_as(layers)
    picture = torch.where(_column(scenes == SCENES.index("layered bands")) > 0, bands, level.expand_as(bands))
    nested = _column(scenes == NESTED)
    picture = picture * (1 - nested)
    body = (1 - nested).expand_as(picture)
    sharpness = _column(rng.uniform(6, 30, count))
    for number in range(OVALS):
        row, column, high, wide, angle, grey, opacity = (_column(part) for part in ovals[:, number].T)
        up, across = rows - row, columns - column
        radius = torch.hypot((up * angle.cos() + across * angle.sin()) / high, (across * angle.cos() - up * angle.sin()) / wide)
        cover = torch.clamp((1 - radius) * sharpness + 0.5, 0, 1) * opacity
        picture = picture + cover * (grey - picture)
        body = torch.maximum(body, cover) if number == 0 else body
    return picture, body


def _weave(
    textures: np.ndarray, at: list[torch.Tensor], noises: dict[int, torch.Tensor], rng: np.random.Generator
) -> torch.Tensor:
    """Each picture's texture (B, H, W), about 0, of variance about 1."""
    count = len(textures)
    waves = _draw_waves(at, rng.uniform(12, 40, count), noises[8], rng)
    crossed = _draw_waves(at, rng.uniform(12, 30, count), noises[4], rng)
    kinds = (noises[4], noises[48], noises[16], waves, waves * crossed, 2 * noises[16].abs() - 1)
    woven = torch.stack([kind.expand_as(waves) for kind in kinds])
    return woven[torch.from_numpy(textures), torch.arange(count)]


def _paint_defect(
    clean: torch.Tensor,
    scene: torch.Tensor,
    body: torch.Tensor,
    shape: torch.Tensor,
    inside: torch.Tensor,
    defects: np.ndarray,
    at: list[torch.Tensor],
    noises: dict[int, torch.Tensor],
    strength: np.ndarray,
    rng: np.random.Generator,
) -> torch.Tensor:
    """The picture with its defect; a bulge is in it already."""
    count = len(defects)
    step = _column(rng.uniform(0.12, 0.45, count))
    own = _column(rng.uniform(0.3, 1.0, count)) * (clean - scene)
    mottle, stripes = noises[32], _draw_waves(at, rng.uniform(20, 45, count), noises[8], rng)
    rim = torch.exp(-(((shape - 0.8) / 0.2) ** 2))
    contrast = step * 0.5 + _column(strength)
    changed = torch.stack(
        [
            scene + step + own,
            scene - step + own,
            scene + own + step * _column(rng.choice([-1.0, 1.0], count)) * (2 * rim - 0.7),
            scene + contrast * mottle,
            (scene * inside).sum((1, 2), keepdim=True).div(inside.sum((1, 2), keepdim=True) + 1e-6).expand_as(scene),
            scene + contrast * stripes,
            clean,
        ]
    )
    chosen = changed[torch.from_numpy(np.maximum(defects, 0)), torch.arange(count)]
    return clean + inside * body * (chosen - clean)


def _shift_tones(
    pictures: torch.Tensor, body: torch.Tensor, noises: dict[int, torch.Tensor], rng: np.random.Generator
) -> torch.Tensor:
    """Strong changes of tone: negatives, gamma, gain, shading, noise. In [0, 1]."""
    count = len(pictures)
    shown = pictures.clamp(0.0, 1.0)
    shown = torch.where(_column(rng.random(count) < 0.3) > 0, body * (1 - shown), shown)
    shown = shown.clamp(min=1e-4) ** _column(np.exp(rng.uniform(-0.7, 0.7, count)))
    shown = shown * _column(rng.uniform(0.5, 1.3, count)) + _column(rng.uniform(0.0, 0.2, count) * (rng.random(count) < 0.3))
    shown = shown * torch.exp(_column(rng.uniform(0.0, 0.2, count)) * noises[4])
    noise = _tensor(rng.standard_normal(shown.shape, dtype=np.float32))
    return (shown + _column(rng.uniform(0.0, 0.05, count)) * noise).clamp(0.0, 1.0)


def _shape_defect(
    rows: torch.Tensor,
    columns: torch.Tensor,
    centres: np.ndarray,
    radii: np.ndarray,
    noise: torch.Tensor,
    rng: np.random.Generator,
) -> torch.Tensor:
    """The distance from the defect's centre, 1 on its uneven edge: (B, H, W)."""
    count = len(radii)
    stretch, angle = np.exp(rng.uniform(-0.4, 0.4, count)), rng.uniform(0, math.pi, count)
    up, across = rows - _column(centres[:, 0]), columns - _column(centres[:, 1])
    turned = up * _column(np.cos(angle)) + across * _column(np.sin(angle))
    other = across * _column(np.cos(angle)) - up * _column(np.sin(angle))
    distance = torch.hypot(turned / _column(radii * stretch), other / _column(radii / stretch))
    return distance * (1 + _column(rng.uniform(0, 0.25, count)) * noise.clamp(-2, 2))


def _describe(
    scenes: np.ndarray,
    textures: np.ndarray,
    defects: np.ndarray,
    radii: np.ndarray,
    centres: np.ndarray,
    strength: np.ndarray,
    rng: np.random.Generator,
) -> tuple[list[str], list[str], list[str]]:
    """Captions of the whole, of the defect (without one, of one that is not there), and of what is around."""
    wholes, spots, arounds = [], [], []
    for scene, texture, defect, radius, centre, amount in zip(scenes, textures, defects, radii, centres, strength, strict=True):
        noun = NOUNS[rng.integers(len(NOUNS))]
        row, column = ROWS[min(2, int(centre[0] * 3))], COLUMNS[min(2, int(centre[1] * 3))]
        woven = f"{'strong' if amount > 0.085 else 'faint'} {TEXTURES[texture]} texture"
        normal = NORMAL[rng.integers(len(NORMAL))].format(noun)
        plain = f"{SCENES[scene]} with {woven}"
        size = "small" if radius < 0.045 else "medium" if radius < 0.08 else "large"
        named = f"{size} {DEFECTS[defect if defect >= 0 else rng.integers(len(DEFECTS))]}"
        abnormal = ABNORMAL[rng.integers(len(ABNORMAL))].format(noun)
        state, phrase = (abnormal, f", a {named} in the {row} {column}") if defect >= 0 else (normal, "")
        lead = "a photo of " if rng.random() < 0.5 else ""
        wholes.append(f"{lead}{state if rng.random() < 0.7 else noun}, {plain}{phrase}.")
        spots.append(f"{lead}{f'{abnormal}, {named}, {row} {column}' if rng.random() < 0.7 else abnormal}.")
        arounds.append(f"{lead}{f'{normal}, {plain}' if rng.random() < 0.7 else normal}.")
    return wholes, spots, arounds


def _draw_noise(count: int, cells: int, rng: np.random.Generator) -> torch.Tensor:
    """Smooth noise (B, H, W), of variance 1, with ``cells`` independent values along a window."""
    coarse = _tensor(rng.standard_normal((count, 1, cells + 1, cells + 1), dtype=np.float32))
    fine = functional.interpolate(coarse, size=(WINDOW, WINDOW), mode="bilinear", align_corners=True)[:, 0]
    return fine / fine.std(dim=(1, 2), keepdim=True)


def _draw_waves(at: list[torch.Tensor], waves: np.ndarray, bend: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Stripes (B, H, W), ``waves`` along a picture, a little bent, of variance 1."""
    count = len(waves)
    angle, phase = rng.uniform(0, math.pi, count), rng.uniform(0, 2 * math.pi, count)
    along = at[0] * _column(np.cos(angle)) + at[1] * _column(np.sin(angle))
    return math.sqrt(2) * torch.sin(2 * math.pi * along * _column(waves) + _column(phase) + 0.4 * bend)


def _draw_in_disc(count: int, rng: np.random.Generator) -> np.ndarray:
    angle, radius = rng.uniform(0, 2 * math.pi, count), np.sqrt(rng.random(count))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _column(values: np.ndarray) -> torch.Tensor:
    """(B,) to (B, 1, 1)."""
    return _tensor(values)[:, None, None]


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
