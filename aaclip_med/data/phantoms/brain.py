"""A drawn head: FLAIR-like slices with scalp, skull, folded cortex, ventricles, deep grey nuclei and vessels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aaclip_med.data.phantoms.fields import FAR, LONG, Canvas, Field, Grid, ellipsoid, paint, smooth_field
from aaclip_med.data.phantoms.lesions import Lesion, mottle, place_lesions, stripes, swell

KINDS = ("bright", "dark", "mottled", "ring", "striped", "misfolded")


def brain_grid(rng: np.random.Generator) -> Grid:
    """About 88 x 108 x 21 voxels of 1.6-2 x 1.6-2 x 4-6 mm; axes run right, anterior, superior."""
    pixel = rng.uniform(1.65, 1.9)
    slices = int(rng.integers(18, 25))
    width, depth = rng.uniform(148, 164), rng.uniform(186, 202)
    thickness = rng.uniform(92, 100) / slices
    shape = (round(width / pixel), round(depth / pixel), slices)
    return Grid(shape, (pixel, pixel, thickness), (rng.uniform(-2, 2), rng.uniform(-2, 2), 18.0))


def draw_head(rng: np.random.Generator, grid: Grid) -> tuple[Field, Field, NDArray[np.bool_], dict[str, float]]:
    """The noise-free head: (signal, depth in mm below the brain's surface, head mask, signals of the tissues)."""
    canvas = Canvas.blank(rng, grid, 0.0, warp=1.3, scale=60.0, edge=1.3 * grid.spacing[0])
    white = rng.uniform(0.52, 0.56)
    signal = {
        "white": white,
        "grey": white * rng.uniform(1.2, 1.38),
        "csf": rng.uniform(0.12, 0.26),
        "fat": rng.uniform(0.88, 1.0),
        "bone": rng.uniform(0.04, 0.12),
    }
    depth, body = _draw_skull(rng, canvas, signal)
    _draw_cortex(rng, canvas, depth, signal)
    _draw_cerebellum(rng, canvas, depth, signal)
    _draw_ventricles(rng, canvas, signal)
    _draw_vessels(rng, canvas, depth)
    return canvas.image, depth, body, signal


def _draw_skull(rng: np.random.Generator, canvas: Canvas, signal: dict[str, float]) -> tuple[Field, NDArray[np.bool_]]:
    """Paints scalp, muscle, bone with its marrow, and a CSF-filled cranium; returns (brain depth in mm, head mask)."""
    grid = canvas.grid
    radii = (
        grid.shape[0] * grid.spacing[0] / 2 * rng.uniform(0.94, 0.98),
        grid.shape[1] * grid.spacing[1] / 2 * rng.uniform(0.94, 0.98),
        rng.uniform(92, 104),
    )
    head = ellipsoid(canvas.x, canvas.y, canvas.z, (0.0, 0.0, 0.0), radii)
    scalp, skull = rng.uniform(4.5, 8.0), rng.uniform(4.5, 7.5)
    outer = head + scalp + smooth_field(rng, grid, 40.0, 0.9)  # the skull's outer table
    inner = outer + skull + smooth_field(rng, grid, 40.0, 0.6)
    canvas.fill(head, signal["fat"] * rng.uniform(0.5, 0.8))  # skin
    canvas.fill(head + 1.5, signal["fat"])
    temple = np.maximum(np.abs(outer) - rng.uniform(2, 3.5), np.abs(canvas.y - 12) - 34) + np.maximum(canvas.z, 0) * 0.3
    canvas.fill(outer, signal["bone"])
    canvas.fill(temple, signal["white"] * rng.uniform(0.6, 0.9))
    marrow = np.abs((outer + inner) / 2) - skull * 0.2
    canvas.fill(marrow, rng.uniform(0.3, 0.75), opacity=0.8)
    canvas.fill(inner, signal["csf"])
    return -(inner + rng.uniform(0.8, 3.0)), head < 0


def _draw_cortex(rng: np.random.Generator, canvas: Canvas, depth: Field, signal: dict[str, float]) -> None:
    """Paints white matter under a folded grey ribbon, with CSF in the folds, the midline and the Sylvian fissures."""
    grid = canvas.grid
    x, y, z = canvas.x, canvas.y, canvas.z
    scale = rng.uniform(7.5, 10.0)
    folds = smooth_field(rng, grid, (scale, scale, 24.0))
    across, along = np.gradient(folds, *grid.spacing[:2], axis=(0, 1))
    reach = rng.uniform(15, 21) + smooth_field(rng, grid, 30.0, 3.0)
    sulcus = np.abs(folds) / np.sqrt(across**2 + along**2 + 0.25 / scale**2) + np.maximum(depth - reach, 0)
    midline = np.abs(x + smooth_field(rng, grid, 50.0, 0.8)) + np.maximum(depth - rng.uniform(30, 38), 0)
    level = y - rng.uniform(4, 12) + smooth_field(rng, grid, 25.0, 2.5)
    sylvian = np.abs(level + rng.uniform(0.2, 0.5) * (np.abs(x) - 40)) + np.maximum(depth - rng.uniform(20, 28), 0)
    sylvian = sylvian + np.maximum(np.abs(z - 4) - 16, 0) * 0.5
    surface = np.minimum(np.minimum(depth, sulcus), np.minimum(midline, sylvian))
    canvas.fill(-depth, signal["grey"] * (1 + smooth_field(rng, grid, 25.0, 0.03)))
    white = signal["white"] * (1 + smooth_field(rng, grid, 18.0, 0.025))
    canvas.fill(rng.uniform(2.6, 3.6) - surface, white)
    open_by = rng.uniform(0.0, 0.7)  # wider with age
    canvas.fill(np.maximum(sulcus - open_by - 0.3, -depth), signal["csf"], opacity=0.85)
    canvas.fill(np.maximum(sylvian - open_by - 1.0, -depth), signal["csf"])
    canvas.fill(np.maximum(midline - rng.uniform(0.6, 1.4), -depth), signal["csf"])


def _draw_cerebellum(rng: np.random.Generator, canvas: Canvas, depth: Field, signal: dict[str, float]) -> None:
    """Paints the cerebellum with its folia and dark notch, the brain stem and the cisterns around it."""
    top, bow = rng.uniform(-18, -12), rng.uniform(0.004, 0.008)
    box, hind = canvas.blob((0.0, -46.0, 0.0), (rng.uniform(44, 52), rng.uniform(29, 34), LONG))
    x, y, z = canvas.x[box], canvas.y[box], canvas.z[box]
    hind = np.maximum(hind + 0.35 * (z + 31), z - top)
    notch = np.hypot(x / 4, (y + 80) / 18) * 4 - 4
    hind = np.maximum(np.maximum(hind, 1 - depth[box]), -notch)
    canvas.fill_box(box, hind - 1.0, signal["csf"], opacity=0.3)
    canvas.fill_box(box, hind, signal["grey"])
    arcs = y - bow * x**2 + smooth_field(rng, canvas.grid, 20.0, 1.2)[box]
    leaves = np.cos(arcs * (2 * np.pi / rng.uniform(5, 6.5))) > 0.55
    paint(canvas.image[box], np.clip(-hind / 2, 0, 1) * leaves * 0.2, signal["csf"])
    for side in (-1.0, 1.0):
        inner, core = canvas.blob((side * 19.0, -40.0, -40.0), (14.0, 9.0, top + 37))
        canvas.fill_box(inner, core, signal["white"], softness=2.5)
    for centre, radii, value, opacity in (
        ((0.0, 12.0, -30.0), (rng.uniform(8, 12), rng.uniform(5, 8), 10.0), signal["csf"], 1.0),
        ((0.0, -12.0, 0.0), (18.2, 15.2, LONG), signal["csf"], 0.6),
        ((0.0, -12.0, 0.0), (17.0, 14.0, LONG), signal["white"] * 1.08, 1.0),
        ((0.0, -29.0, 0.0), (rng.uniform(4, 8), 4.0, LONG), signal["csf"], 1.0),
    ):
        box, shape = canvas.blob(centre, radii)
        canvas.fill_box(box, np.maximum(shape, canvas.z[box] - top), value, opacity)


def _draw_ventricles(rng: np.random.Generator, canvas: Canvas, signal: dict[str, float]) -> None:
    """Paints the deep grey nuclei, then the lateral and third ventricles with the bright rim of normal ageing."""
    size, rise, tilt = rng.uniform(0.7, 1.4), rng.uniform(12, 20), rng.uniform(-0.08, 0.08)
    fluid = np.full(canvas.grid.shape, FAR)
    grey = signal["grey"] * rng.uniform(0.94, 1.02)
    for side in (-1.0, 1.0):
        share = size * rng.uniform(0.8, 1.2)
        for centre, radii in (
            ((side * 26, 8.0, rise - 8), (7.5, 18.0, 14.0)),
            ((side * 11, -12.0, rise - 10), (8.5, 13.0, 11.0)),
        ):
            box, nucleus = canvas.blob(centre, radii)
            canvas.fill_box(box, nucleus, grey, softness=2.0)
        path = np.array(
            [[13, 38, rise - 4], [8, 22, rise + 2], [8, 0, rise + 5], [13, -22, rise + 2], [24, -42, rise - 8]], float
        )
        path[:, 0] = side * (path[:, 0] * rng.uniform(0.9, 1.1) + 2 * share) + tilt * path[:, 1]
        path += rng.normal(0, 1.2, path.shape)
        widths = share * np.array([2.5, 5.0, 4.5, 5.5, 4.5]) * rng.uniform(0.85, 1.15, 5)
        box, horn = canvas.tube(path, widths)
        np.minimum(fluid[box], horn, out=fluid[box])
    canvas.fill(fluid - rng.uniform(0.8, 2.5), signal["grey"] * rng.uniform(1.0, 1.25))
    canvas.fill(fluid, signal["csf"])
    box, third = canvas.blob((0.0, -5.0, rise - 14), (1.5 + 1.5 * size, 15.0, 13.0))
    canvas.fill_box(box, third, signal["csf"])


def _draw_vessels(rng: np.random.Generator, canvas: Canvas, depth: Field) -> None:
    """Paints the sagittal sinus and some veins that run through the slices as bright dots."""
    sinus = np.maximum(np.abs(depth + 1.0) - 3.0, np.abs(canvas.x) - rng.uniform(3, 5))
    canvas.fill(sinus, rng.uniform(0.3, 0.9))
    low, high = canvas.grid.middle[2] - 60, canvas.grid.middle[2] + 60
    for _ in range(int(rng.integers(4, 8))):
        x, y = rng.uniform(-50, 50), rng.uniform(-65, 65)
        box, vein = canvas.tube(np.array([[x, y, low], [x * 1.15, y * 1.15, high]]), np.full(2, rng.uniform(0.9, 1.7)))
        canvas.fill_box(box, np.maximum(vein, -depth[box]), rng.uniform(0.8, 1.0))


def draw_lesions(
    rng: np.random.Generator, grid: Grid, image: Field, depth: Field, signal: dict[str, float], turn: int
) -> tuple[Field, list[Lesion]]:
    """The image with 1-3 lesions in the brain, and the lesions; the first is of kind number ``turn``."""
    lesions = place_lesions(rng, grid, depth > 3, KINDS, turn, (18.0, 24.0))
    clumps = mottle(rng, grid, (3.5, 3.5, 8.0))
    dark, bright = signal["csf"], signal["fat"] * 0.94
    middle = 0.97 * signal["white"]  # dark and bright clumps or bands, on average as bright as what is around them
    for lesion in lesions:
        filled = lesion.filled()
        if lesion.kind == "bright":
            paint(image, filled, bright - 0.1 + 0.1 * clumps)
        elif lesion.kind == "dark":
            paint(image, filled, dark + 0.12 + 0.14 * clumps)
        elif lesion.kind == "mottled":
            paint(image, filled, middle + rng.uniform(0.32, 0.38) * clumps)
        elif lesion.kind == "striped":
            paint(image, filled, middle + rng.uniform(0.32, 0.38) * stripes(rng, grid, rng.uniform(7.0, 8.5)))
        elif lesion.kind == "ring":
            paint(image, filled, bright)
            paint(image, lesion.core(0.7), dark + 0.06 + 0.06 * clumps)
        else:
            folds = np.abs(smooth_field(rng, grid, (4.5, 4.5, 12.0)))  # too many, too narrow folds, spread apart
            paint(image, filled, np.where(folds < 0.35, dark, signal["grey"] * 1.15))
            image = swell(image, lesion, grid, rng.uniform(0.35, 0.5))
    return image, lesions


def scan(rng: np.random.Generator, grid: Grid, image: Field) -> NDArray[np.int16]:
    """What a scanner would store: coil shading, Rician noise, arbitrary units; 16-bit signed."""
    shading = np.exp(smooth_field(rng, grid, 90.0, rng.uniform(0.02, 0.05)))
    noise = rng.uniform(0.006, 0.012)
    real = image * shading + rng.normal(0, noise, grid.shape)
    signal = np.hypot(real, rng.normal(0, noise, grid.shape))
    return np.asarray(np.round(signal * rng.uniform(350, 1400)), np.int16)
