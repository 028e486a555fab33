"""Drawn OCT B-scans of the macula: vitreous, retinal layers with a fovea, choroid, shadows of vessels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from aaclip_med.data.phantoms.fields import Field, Grid, cover, paint, smooth_field
from aaclip_med.data.phantoms.lesions import Lesion, Run, drop_slivers, mottle, plan_lesions

KINDS = ("cyst", "druse", "foci", "disruption", "thickening")

_LAYERS = (
    (0.00, 0.72),  # nerve fibre layer
    (0.13, 0.52),  # ganglion cells, inner plexiform
    (0.38, 0.40),  # inner nuclear
    (0.48, 0.52),  # outer plexiform
    (0.57, 0.38),  # outer nuclear
    (0.80, 0.46),  # external limiting membrane, myoid
    (0.85, 0.78),  # ellipsoid zone
    (0.90, 0.45),  # outer segments
    (0.94, 0.96),  # pigment epithelium
)
"""Where each layer starts, as a fraction of the retina's thickness from its inner surface, and its reflectivity."""
_PIT_SHARE = 0.57  # the layers that start above this fraction give way in the foveal pit


@dataclass(frozen=True)
class Surfaces:
    """Depths in mm from the top of the picture, each (W, 1, B).

    ``inner`` is the retina's surface, ``pigment`` the underside of its pigment epithelium, ``bruch`` Bruch's membrane
    (the two differ where a druse lies between them), ``sclera`` the end of the choroid.
    """

    inner: Field
    pigment: Field
    bruch: Field
    sclera: Field


def retina_grid(rng: np.random.Generator) -> Grid:
    """192 columns x 128 depths x 12 B-scans of about 0.03 x 0.007 x 0.25 mm; axes run right, into the eye, superior."""
    spacing = (rng.uniform(0.027, 0.033), rng.uniform(0.0068, 0.0076), rng.uniform(0.22, 0.3))
    return Grid((192, 128, 12), spacing, (0.0, 128 * spacing[1] / 2, 0.0))


def draw_surfaces(rng: np.random.Generator, grid: Grid) -> Surfaces:
    """The surfaces of a healthy retina: a tilted bowl, with a foveal pit near the middle or off the scan."""
    x, _, b = grid.axes()
    flat = Grid((grid.shape[0], 1, grid.shape[2]), grid.spacing)
    bowl = rng.uniform(-0.002, 0.006) * x**2 + rng.uniform(-0.008, 0.008) * x + rng.uniform(-0.01, 0.01) * b
    bruch = 128 * grid.spacing[1] * rng.uniform(0.58, 0.68) + bowl + smooth_field(rng, flat, (1.6, 1.0, 1.5), 0.006)
    pit = (rng.uniform(-1.3, 1.3), rng.uniform(-1.5, 1.5))
    away = ((x - pit[0]) / rng.uniform(0.45, 0.7)) ** 2 + ((b - pit[1]) / rng.uniform(0.5, 0.7)) ** 2
    thick = rng.uniform(0.27, 0.34) * (1 - rng.uniform(0.35, 0.5) * np.exp(-away))
    thick = thick * (1 + 0.12 * np.exp(-((np.sqrt(away) - 1.9) ** 2))) + rng.uniform(-0.01, 0.01) * x
    thick = thick + smooth_field(rng, flat, (1.0, 1.0, 1.2), 0.004)
    sclera = bruch + rng.uniform(0.16, 0.28) + smooth_field(rng, flat, (1.2, 1.0, 1.0), 0.012)
    return Surfaces(bruch - thick, bruch, bruch, sclera)


def draw_eye(
    rng: np.random.Generator, ill: np.random.Generator | None, grid: Grid, turn: int
) -> tuple[Field, NDArray[np.bool_], list[Lesion]]:
    """The speckle-free B-scans: (reflectivity, mask of retina and what lies behind it, lesions).

    Lesions come from ``ill``, the first of kind number ``turn``; none where it is None.
    """
    surfaces = draw_surfaces(rng, grid)
    y = np.broadcast_to(grid.axes()[1], grid.shape)
    lesions: list[Lesion] = []
    if ill is not None:
        lesions, surfaces = _bend(ill, grid, surfaces, y, turn)
    image = _draw_layers(rng, grid, surfaces, y)
    if ill is not None:
        _draw_lesions(ill, grid, image, lesions, surfaces, y)
    _draw_shadows(rng, grid, image, surfaces, y)
    return image, y > surfaces.inner, lesions


def _draw_layers(rng: np.random.Generator, grid: Grid, surfaces: Surfaces, y: Field) -> Field:
    edge = 1.2 * grid.spacing[1]
    thick = np.maximum(surfaces.pigment - surfaces.inner, 0.03)
    share = (y - surfaces.inner) / thick
    pit = np.clip((0.3 - thick) / 0.15, 0, 1)
    image = np.full(grid.shape, rng.uniform(0.05, 0.1))
    for start, value in _LAYERS:
        begin = start * (1 - 0.75 * pit) if start < _PIT_SHARE else start
        paint(image, cover((begin - share) * thick, edge), min(value * rng.uniform(0.85, 1.15), 0.98))
    below = np.maximum(y - surfaces.pigment, 0)
    blood = np.tanh(2 * smooth_field(rng, grid, (0.16, 0.06, 0.3)))
    stroma = (0.5 + 0.05 * blood) * rng.uniform(0.85, 1.1) * np.exp(-below / rng.uniform(0.5, 0.9))
    paint(image, cover(surfaces.pigment - y, edge), stroma)
    beyond = np.maximum(y - surfaces.sclera, 0)
    paint(image, cover(surfaces.sclera - y, 4 * edge), 0.42 * np.exp(-beyond / rng.uniform(0.04, 0.1)))
    shown = rng.random() < 0.5  # the detached back face of the vitreous: a thin line in front of the retina
    hyaloid = surfaces.inner - rng.uniform(0.03, 0.12) - 0.02 * smooth_field(rng, grid, (1.5, 1.0, 1.5))
    paint(image, cover(np.abs(y - hyaloid) - 0.004, edge) * 0.5 * shown, 0.45)
    return image


def _draw_shadows(rng: np.random.Generator, grid: Grid, image: Field, surfaces: Surfaces, y: Field) -> None:
    """Retinal vessels: a bright spot in the inner retina, a darker column beneath."""
    x, _, b = grid.axes()
    depth = y - surfaces.inner
    for _ in range(int(rng.integers(1, 4))):
        at = rng.uniform(-2.7, 2.7) + rng.uniform(-0.35, 0.35) * b + 0.05 * np.sin(2 * b + rng.uniform(0, 6))
        width = rng.uniform(0.03, 0.06)
        column = np.exp(-(((x - at) / width) ** 2))
        image *= 1 - rng.uniform(0.2, 0.35) * column * np.clip((depth - 0.05) / 0.03, 0, 1)
        spot = np.hypot((x - at) / width, (depth - 0.035) / 0.028)
        paint(image, np.clip(1.5 - spot, 0, 1) * 0.8, rng.uniform(0.75, 0.9))


def _bend(rng: np.random.Generator, grid: Grid, surfaces: Surfaces, y: Field, turn: int) -> tuple[list[Lesion], Surfaces]:
    """Chooses 1-3 lesions and bends the surfaces around them."""
    scans = grid.shape[2]
    width = grid.shape[0] * grid.spacing[0]
    lesions: list[Lesion] = []
    taken: list[tuple[Run, float, float]] = []
    for kind, run in plan_lesions(rng, KINDS, turn, np.arange(scans), scans):
        half = rng.uniform(0.5, 0.8)
        for at in rng.uniform(-0.5 * width + half, 0.5 * width - half, 20).tolist():
            if all(run != other or abs(at - place) > 1.2 * (half + reach) for other, place, reach in taken):
                taken.append((run, at, half))
                lesion, surfaces = _bend_once(rng, grid, surfaces, y, kind, run, (at, half))
                lesions.append(lesion)
                break
    return lesions, surfaces


def _bend_once(
    rng: np.random.Generator,
    grid: Grid,
    surfaces: Surfaces,
    y: Field,
    kind: str,
    run: Run,
    place: tuple[float, float],
) -> tuple[Lesion, Surfaces]:
    """One lesion of half width ``place[1]`` mm around column position ``place[0]`` mm, and the surfaces it leaves."""
    x, _, _ = grid.axes()
    flat = Grid((grid.shape[0], 1, grid.shape[2]), grid.spacing)
    profile = run.profile(grid.shape[2])
    across = (x - place[0]) / np.maximum(place[1] * profile, 1e-6)
    hump = np.clip(1 - across**2, 0, None) * profile * (1 + smooth_field(rng, flat, (0.25, 1.0, 0.6), 0.08))
    inner, pigment, bruch = surfaces.inner, surfaces.pigment, surfaces.bruch
    if kind == "druse":
        rise = rng.uniform(0.12, 0.16) * hump**0.8
        inner, pigment = inner - 0.35 * rise, pigment - rise
        inside = (y > pigment - 0.05) & (y < bruch) & (rise > 0.015)
        radius = np.where(inside, np.abs(across), np.inf)
    elif kind == "thickening":
        rise = rng.uniform(0.09, 0.14) * hump
        inner = inner - rise
        inside = (y > inner) & (y < pigment - 0.02) & (rise > 0.02)
        radius = np.where(inside, np.abs(across), np.inf)
    else:
        inner = inner - rng.uniform(0.01, 0.03) * hump
        tall = rng.uniform(0.11, 0.14)
        middle = inner + rng.uniform(0.42, 0.58) * (pigment - inner)
        if kind == "disruption":
            middle = pigment - rng.uniform(0.04, 0.07)
        radius = np.hypot(across, (y - middle) / np.maximum(tall * profile, 1e-6))
        radius = radius + np.clip(smooth_field(rng, grid, (0.3, 0.08, 0.6), 0.1), -0.3, 0.3)
        radius = np.where((profile > 0) & (y > inner + 0.01), np.maximum(radius, 0), np.inf)
    lesion = Lesion(kind, drop_slivers(np.broadcast_to(radius, grid.shape)), (place[0], 0.0), place[1])
    return lesion, Surfaces(inner, pigment, bruch, surfaces.sclera)


def _draw_lesions(
    rng: np.random.Generator, grid: Grid, image: Field, lesions: list[Lesion], surfaces: Surfaces, y: Field
) -> None:
    edge = 1.2 * grid.spacing[1]
    for lesion in lesions:
        filled = lesion.filled(0.2)
        if lesion.kind == "cyst":
            paint(image, filled, rng.uniform(0.05, 0.09))
            septa = np.abs(smooth_field(rng, grid, (0.3, 0.1, 0.5)))
            paint(image, filled * np.clip(1 - septa / 0.25, 0, 1), 0.6)
        elif lesion.kind == "druse":
            under = np.maximum(surfaces.pigment - y, y - surfaces.bruch)
            fill = rng.uniform(0.4, 0.5) + 0.35 * mottle(rng, grid, (0.12, 0.025, 0.5))
            paint(image, cover(under, edge) * lesion.inside, fill)
        elif lesion.kind == "foci":
            spots = smooth_field(rng, grid, (0.12, 0.03, 0.3))
            paint(image, filled, 0.15)
            paint(image, filled * np.clip((spots - 0.3) * 4, 0, 1), 0.9)
        elif lesion.kind == "disruption":
            paint(image, filled, 0.46 + 0.4 * mottle(rng, grid, (0.12, 0.025, 0.4)))
        else:
            waves = np.sin(y / rng.uniform(0.008, 0.011) + smooth_field(rng, grid, (0.2, 0.1, 0.5), 1.6))
            paint(image, filled, 0.46 + 0.38 * waves)


def scan(rng: np.random.Generator, grid: Grid, image: Field) -> NDArray[np.uint8]:
    """What a scanner would store: log-compressed reflectivity with speckle; 8-bit."""
    speckle = rng.gamma(rng.uniform(25, 40), 1.0, grid.shape)
    speckle = ndimage.gaussian_filter(speckle / speckle.mean(), (0.5, 0.5, 0.0))
    fade = np.exp(smooth_field(rng, grid, (1.5, 2.0, 2.0), 0.06))
    grey = (image * fade * speckle) ** rng.uniform(0.8, 0.95) * rng.uniform(210, 245) + rng.normal(8, 4, grid.shape)
    return np.asarray(np.round(np.clip(grey, 0, 255)), np.uint8)
