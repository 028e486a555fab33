"""A drawn upper abdomen: CT slices in HU with liver, spleen, kidneys, gut, vessels, spine, ribs and lung bases."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from aaclip_med.data.phantoms.fields import FAR, LONG, Canvas, Field, Grid, ellipsoid, paint, smooth_field
from aaclip_med.data.phantoms.lesions import Lesion, mottle, place_lesions, stripes

KINDS = ("dark", "bright", "mottled", "fatty", "ring", "striped")
AIR, FAT, GAS, LUNG, WATER = -1000.0, -100.0, -900.0, -840.0, 8.0


def liver_grid(rng: np.random.Generator) -> Grid:
    """About 120 x 92 x 21 voxels of 2.5-2.9 x 2.5-2.9 x 5-7 mm; axes run right, anterior, superior."""
    pixel = rng.uniform(2.5, 2.9)
    slices = int(rng.integers(18, 25))
    width, depth = rng.uniform(310, 340), rng.uniform(236, 260)
    shape = (round(width / pixel), round(depth / pixel), slices)
    return Grid(shape, (pixel, pixel, rng.uniform(112, 126) / slices), (rng.uniform(-3, 3), rng.uniform(-3, 3), 0.0))


def draw_abdomen(rng: np.random.Generator, grid: Grid) -> tuple[Field, Field, NDArray[np.bool_], dict[str, float]]:
    """The noise-free abdomen: (HU, depth in mm below the liver's surface, body mask, organ HU)."""
    canvas = Canvas.blank(rng, grid, AIR, warp=2.5, scale=110.0, edge=1.1 * grid.spacing[0])
    liver = rng.uniform(55, 105)  # plain to portal venous
    organ = {
        "liver": liver,
        "spleen": liver + rng.uniform(-5, 30),
        "kidney": rng.uniform(130, 200),
        "muscle": rng.uniform(48, 62),
        "aorta": rng.uniform(130, 220),
        "vein": liver + rng.uniform(25, 75),
    }
    half = (
        grid.shape[0] * grid.spacing[0] / 2 * rng.uniform(0.95, 0.98),
        grid.shape[1] * grid.spacing[1] / 2 * rng.uniform(0.94, 0.97),
    )
    body, cavity = _draw_wall(rng, canvas, half, organ)
    cavity = np.maximum(cavity, -_draw_spine(rng, canvas, half, organ))
    lungs = _draw_chest(rng, canvas, cavity, half)
    inner = np.maximum(cavity, -lungs)
    _draw_bowel(rng, canvas, inner, half, organ)
    _draw_left_organs(rng, canvas, inner, half, organ)
    _draw_kidneys(rng, canvas, inner, half, organ)
    depth = _draw_liver(rng, canvas, inner, half, organ)
    return canvas.image, depth, body, organ


def _draw_wall(
    rng: np.random.Generator, canvas: Canvas, half: tuple[float, float], organ: dict[str, float]
) -> tuple[NDArray[np.bool_], Field]:
    """Paints skin, fat, muscle and ribs; returns (body mask, signed distance to the cavity)."""
    x, y, z = canvas.x, canvas.y, canvas.z
    power = rng.uniform(2.1, 2.6)  # 2 is an ellipse, more is boxier
    body = ((np.abs(x / half[0]) ** power + np.abs(y / half[1]) ** power) ** (1 / power) - 1) * half[1]
    fat, wall = rng.uniform(6, 15), rng.uniform(9, 14)
    muscle = body + fat * (1 + 0.5 * np.clip(y / half[1], -0.3, 1)) + smooth_field(rng, canvas.grid, 60.0, 1.2)
    canvas.fill(body, 40.0)
    canvas.fill(body + 2.5, FAT)
    canvas.fill(muscle, organ["muscle"])
    streaks = np.abs(smooth_field(rng, canvas.grid, (30.0, 18.0, 40.0))) - 0.07
    canvas.fill(np.maximum(streaks * 18, muscle), FAT + 30, opacity=0.6)
    slope, pitch = np.sin(np.arctan2(y, x)), rng.uniform(22, 28)  # ribs run downwards to the front
    along = (z + 14 * slope + rng.uniform(0, pitch)) % pitch - pitch / 2
    rib = np.hypot(along, (muscle + wall * 0.5) * 1.4) - rng.uniform(4.5, 5.5)
    rib = np.maximum(rib, y - rng.uniform(0.4, 0.6) * half[1])
    canvas.fill(rib, rng.uniform(250, 420))
    canvas.fill(rib + 3.0, rng.uniform(120, 220))
    canvas.fill(muscle + wall, FAT + 5)
    return body < 0, muscle + wall


def _draw_spine(rng: np.random.Generator, canvas: Canvas, half: tuple[float, float], organ: dict[str, float]) -> Field:
    """Paints the spine, the muscles beside it and the great vessels; returns the signed distance to all of them."""
    at, level = rng.uniform(-4, 4), -0.5 * half[1]
    solid = np.full(canvas.grid.shape, FAR)

    def lay(centre: tuple[float, float, float], radii: tuple[float, float, float], value: float) -> None:
        box, shape = canvas.blob((at + centre[0], level + centre[1], centre[2]), radii)
        canvas.fill_box(box, shape, value)
        np.minimum(solid[box], shape, out=solid[box])

    for side in (-1.0, 1.0):
        lay((side * 30, -32, 0), (27, 21, LONG), organ["muscle"])
        lay((side * 31, 2, -60), (14, 15, 70), organ["muscle"])
    wide, deep = rng.uniform(19, 23), rng.uniform(15, 18)
    lay((0, 0, 0), (wide, deep, LONG), rng.uniform(380, 560))
    lay((0, 0, 0), (wide - 3, deep - 3, LONG), rng.uniform(160, 240))
    x, y = canvas.x - at, canvas.y - level
    disc = np.cos(canvas.z * 2 * np.pi / rng.uniform(32, 38) + rng.uniform(0, 6)) < -0.85
    canvas.fill(np.where(disc, ellipsoid(x, y, canvas.z, (0, 0, 0), (wide, deep, LONG)), FAR), 90.0)
    box, arch = canvas.blob((at, level - 25, 0), (15, 12, LONG))
    bone = rng.uniform(300, 480)
    canvas.fill_box(box, np.abs(arch) - 2.5, bone)
    spinous = np.maximum(np.abs(x) - 3, np.abs(y + 46) - 12)
    transverse = np.maximum(np.abs(y + 18 + 0.12 * np.abs(x)) - 3.0, np.abs(x) - rng.uniform(28, 36))
    canvas.fill(np.minimum(spinous, transverse), bone)
    lay((0, -25, 0), (12.5, 9.5, LONG), 25.0)
    aorta = rng.uniform(8.5, 12)
    lay((-rng.uniform(6, 14), 28, 0), (aorta, aorta, LONG), organ["aorta"])
    lay((rng.uniform(16, 24), 28, 0), (rng.uniform(10, 13), rng.uniform(7, 11), LONG), organ["vein"])
    return solid


def _draw_chest(rng: np.random.Generator, canvas: Canvas, cavity: Field, half: tuple[float, float]) -> Field:
    """Paints heart and lung bases above the two domes of the diaphragm; returns the signed distance to them."""
    x, y, z = canvas.x, canvas.y, canvas.z
    top = float(z.max())
    base = top - rng.uniform(6, 18)
    heart = ellipsoid(x, y, z, (-rng.uniform(12, 25), 0.28 * half[1], 0.0), (rng.uniform(48, 60), 44.0, LONG))
    heart = np.maximum(heart + 0.5 * (top - z), base - z)
    middle = ellipsoid(x, y, z, (0.0, -0.1 * half[1], 0.0), (rng.uniform(30, 38), 0.75 * half[1], LONG))
    lungs = np.full(canvas.grid.shape, FAR)
    for side in (-1.0, 1.0):
        centre, rise, width = 0.45 * half[0] * side, rng.uniform(4, 14), rng.uniform(12.5, 14.5)
        fall = np.hypot((x - centre) * 0.9, y - 0.15 * half[1])
        dome = top + rise - (fall / width) ** 2 + smooth_field(rng, canvas.grid, 60.0, 1.5)
        lungs = np.minimum(lungs, np.maximum(np.maximum(dome - z, cavity + 2), -side * x))
    lungs = np.maximum(lungs, -np.minimum(middle, heart))
    canvas.fill(lungs, LUNG, softness=1.5)
    heart = np.maximum(heart, cavity + 2)
    canvas.fill(heart, rng.uniform(50, 65))
    canvas.fill(heart + rng.uniform(7, 11), rng.uniform(110, 170))
    return np.asarray(np.minimum(lungs - 2, heart - 1))


def _draw_bowel(
    rng: np.random.Generator, canvas: Canvas, inner: Field, half: tuple[float, float], organ: dict[str, float]
) -> None:
    """Paints loops of gut: a wall; water, food or contrast medium; often gas on top (the patient lies on the back)."""
    for _ in range(int(rng.integers(9, 14))):
        centre = (rng.uniform(-0.8, 0.75) * half[0], rng.uniform(-0.25, 0.8) * half[1], rng.uniform(-80, 20))
        radii = (rng.uniform(14, 28), rng.uniform(12, 22), rng.uniform(18, 45))
        box, loop = canvas.blob(centre, radii)
        loop = np.maximum(loop, inner[box] + 1)
        canvas.fill_box(box, loop, organ["muscle"] + rng.uniform(5, 40))
        content = float(rng.choice([10, 30, 60, 200, 250], p=[0.3, 0.3, 0.3, 0.05, 0.05]))
        canvas.fill_box(box, loop + rng.uniform(2.5, 4), content)
        if rng.random() < 0.25:
            level = centre[1] + rng.uniform(-0.3, 0.6) * radii[1]
            canvas.fill_box(box, np.maximum(loop + 3, level - canvas.y[box]), GAS)


def _draw_left_organs(
    rng: np.random.Generator, canvas: Canvas, inner: Field, half: tuple[float, float], organ: dict[str, float]
) -> None:
    """Paints the stomach with its contents and gas bubble, and the spleen."""
    where = (-rng.uniform(0.25, 0.38) * half[0], rng.uniform(0.15, 0.35) * half[1], rng.uniform(10, 30))
    box, stomach = canvas.blob(where, (rng.uniform(32, 48), rng.uniform(28, 45), rng.uniform(35, 55)))
    stomach = np.maximum(stomach + smooth_field(rng, canvas.grid, 40.0, 3.0)[box], inner[box] + 2)
    canvas.fill_box(box, stomach, organ["muscle"] + 30)
    canvas.fill_box(box, stomach + rng.uniform(3, 5), float(rng.choice([WATER, 35.0, 230.0])))
    canvas.fill_box(box, np.maximum(stomach + 4, rng.uniform(0.2, 0.5) * half[1] - canvas.y[box]), GAS)
    where = (-rng.uniform(0.58, 0.66) * half[0], -rng.uniform(0.15, 0.3) * half[1], rng.uniform(5, 30))
    box, spleen = canvas.blob(where, (rng.uniform(30, 42), rng.uniform(38, 54), rng.uniform(40, 55)))
    spleen = np.maximum(spleen + smooth_field(rng, canvas.grid, 45.0, 2.0)[box], inner[box] + 2)
    canvas.fill_box(box, spleen, organ["spleen"])


def _draw_kidneys(
    rng: np.random.Generator, canvas: Canvas, inner: Field, half: tuple[float, float], organ: dict[str, float]
) -> None:
    """Paints both kidneys in their fat."""
    for side in (-1.0, 1.0):
        where = (side * rng.uniform(0.4, 0.47) * half[0], -rng.uniform(0.36, 0.43) * half[1], rng.uniform(-50, -25))
        box, kidney = canvas.blob(where, (rng.uniform(24, 30), rng.uniform(27, 33), rng.uniform(45, 55)), grow=6.0)
        kidney = np.maximum(kidney, inner[box] + 3)
        canvas.fill_box(box, kidney - rng.uniform(4, 7), FAT)
        canvas.fill_box(box, kidney, organ["kidney"])
        box, pelvis = canvas.blob((where[0] - side * 12, where[1] + 4, where[2]), (15, 10, 26))
        canvas.fill_box(box, pelvis, FAT + 20)


def _draw_liver(
    rng: np.random.Generator, canvas: Canvas, inner: Field, half: tuple[float, float], organ: dict[str, float]
) -> Field:
    """Paints the liver, its vessels and the gallbladder; returns the depth in mm below the liver's surface."""
    lobes = np.full(canvas.grid.shape, FAR)
    for centre, radii in (
        (
            (0.42 * half[0], rng.uniform(-0.05, 0.08) * half[1], rng.uniform(0, 12)),
            (0.58 * half[0], rng.uniform(0.7, 0.85) * half[1], rng.uniform(72, 95)),
        ),
        (
            (-0.05 * half[0], 0.42 * half[1], rng.uniform(12, 28)),
            (rng.uniform(0.4, 0.6) * half[0], rng.uniform(0.28, 0.4) * half[1], rng.uniform(45, 60)),
        ),
    ):
        box, lobe = canvas.blob(centre, radii, grow=8.0)
        np.minimum(lobes[box], lobe, out=lobes[box])
    liver = np.maximum(lobes + smooth_field(rng, canvas.grid, 40.0, 2.5), inner + 2)
    for centre, radii in (
        ((rng.uniform(0.0, 0.08) * half[0], -0.12 * half[1], -20.0), (34.0, 38.0, 60.0)),
        ((0.0, -0.42 * half[1], 0.0), (34.0, 40.0, LONG)),
        ((0.45 * half[0], -0.5 * half[1], -40.0), (36.0, 38.0, 58.0)),
    ):
        box, gap = canvas.blob(centre, radii)
        np.maximum(liver[box], -gap, out=liver[box])
    canvas.fill(liver, organ["liver"] + smooth_field(rng, canvas.grid, 60.0, 2.0))
    trunks = ((0.12 * half[0], -0.1 * half[1], rng.uniform(38, 50)), (0.14 * half[0], -0.05 * half[1], -8.0))
    for root in trunks:
        for turn in np.linspace(-0.9, 1.9, int(rng.integers(4, 6))) + rng.normal(0, 0.15):
            reach, bend = rng.uniform(0.45, 0.75) * half[0], rng.normal(0, 8, 3)
            aim = np.array([np.cos(turn) * reach, np.sin(turn) * reach * 0.7, rng.uniform(-45, 15)])
            path = np.array(root) + np.array([aim * 0, aim * 0.35 + bend, aim * 0.7 + bend, aim])
            box, vessel = canvas.tube(path, np.array([6.0, 5.0, 3.6, 2.2]) * rng.uniform(0.8, 1.1))
            canvas.fill_box(box, np.maximum(vessel, liver[box] + 4), organ["vein"])
    if rng.random() < 0.8:
        where = (0.3 * half[0] + rng.uniform(-10, 10), 0.28 * half[1], rng.uniform(-45, -25))
        box, bladder = canvas.blob(where, (rng.uniform(12, 17), rng.uniform(15, 22), rng.uniform(18, 26)))
        bladder = np.maximum(bladder, inner[box] + 4)
        canvas.fill_box(box, bladder - 1.5, organ["liver"] + 25)
        canvas.fill_box(box, bladder, rng.uniform(2, 14))
        np.maximum(liver[box], -bladder, out=liver[box])
    return -liver


def draw_lesions(
    rng: np.random.Generator, grid: Grid, image: Field, depth: Field, organ: dict[str, float], turn: int
) -> tuple[Field, list[Lesion]]:
    """The image with 1-3 lesions in the liver, and the lesions; the first is of kind number ``turn``."""
    lesions = place_lesions(rng, grid, depth > 2, KINDS, turn, (26.0, 38.0))
    clumps = mottle(rng, grid, (5.5, 5.5, 10.0))
    liver = organ["liver"]
    for lesion in lesions:
        filled = lesion.filled()
        if lesion.kind == "dark":
            paint(image, filled, rng.uniform(-25, -5) + 30 * clumps)
        elif lesion.kind == "fatty":
            paint(image, filled, rng.uniform(-85, -60) + 40 * clumps)
        elif lesion.kind == "bright":
            paint(image, filled, liver + rng.uniform(95, 120) + 30 * clumps)
        elif lesion.kind == "mottled":
            paint(image, filled, liver - 10 + rng.uniform(100, 120) * clumps)
        elif lesion.kind == "striped":
            paint(image, filled, liver - 10 + rng.uniform(100, 120) * stripes(rng, grid, rng.uniform(12, 15)))
        else:
            paint(image, filled, liver + rng.uniform(100, 125))
            paint(image, lesion.core(0.7), rng.uniform(-20, 5) + 20 * clumps)
    return image, lesions


def scan(rng: np.random.Generator, grid: Grid, image: Field) -> NDArray[np.int16]:
    """What a scanner would store: HU with reconstruction noise; 16-bit signed, -1024 to 3071."""
    grain = ndimage.gaussian_filter(rng.standard_normal(grid.shape), (0.6, 0.6, 0.0))
    noisy = image + grain * (rng.uniform(5, 9) / grain.std())
    return np.asarray(np.round(np.clip(noisy, -1024, 3071)), np.int16)
