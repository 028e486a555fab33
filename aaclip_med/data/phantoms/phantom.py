"""One phantom: a drawn scan with its lesion mask and its position in the patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel import orientations
from nibabel.affines import from_matvec
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from aaclip_med.data.phantoms import brain, liver, retina
from aaclip_med.data.phantoms.fields import Field, Grid
from aaclip_med.data.phantoms.lesions import Lesion
from aaclip_med.errors import InputError

PHANTOM_PRESETS = ("brain-mri", "liver-ct", "retinal-oct")
"""The presets that a phantom can be drawn for."""

_Drawing = tuple[NDArray[np.int16] | NDArray[np.uint8], NDArray[np.bool_], list[Lesion], Grid]


@dataclass(frozen=True)
class Phantom:
    """A drawn scan. For trying the software out; nothing in it is anatomy to learn from or to measure a model by.

    Attributes:
        array: (I, J, K) as a scanner would store it. MR: int16, arbitrary units, about 0 outside the head. CT: int16,
            HU, air -1000. OCT: uint8, axes columns, depth, B-scans.
        mask: (I, J, K) uint8; 1 = lesion.
        body: (I, J, K) uint8; 1 = head, body, or retina with what lies behind it.
        affine: (4, 4) voxel index (centre) to RAS mm; oblique, anisotropic, axes in any order and direction.
        kinds: what the lesions are, in the order they were drawn; empty for a normal phantom.
    """

    array: NDArray[np.int16] | NDArray[np.uint8]
    mask: NDArray[np.uint8]
    body: NDArray[np.uint8]
    affine: NDArray[np.float64]
    kinds: tuple[str, ...]


def make_phantom(preset_name: str, seed: int, abnormal: bool) -> Phantom:
    """Draw the phantom number ``seed`` for a preset, with 1-3 lesions or none.

    The same arguments give the same phantom. A normal and an abnormal phantom of one seed show the same anatomy with
    the same noise, and differ where the lesions are.

    Raises:
        InputError: there are no phantoms for that preset, or the seed is negative.
    """
    if preset_name not in PHANTOM_PRESETS:
        raise InputError(f"no phantoms for preset '{preset_name}'; choose one of {', '.join(PHANTOM_PRESETS)}")
    if seed < 0:
        raise InputError(f"phantom seed {seed} is negative; give 0 or more")
    number = PHANTOM_PRESETS.index(preset_name)
    anatomy, noise, place, ill = (np.random.default_rng([stream, number, seed]) for stream in range(4))
    # The first lesion's kind: all come in turn, also where only every other or two of three seeds are abnormal.
    turn = seed if number == 2 else seed + seed // 6
    draw = (_draw_brain, _draw_liver, _draw_retina)[number]
    array, body, lesions, grid = draw(anatomy, noise, ill if abnormal else None, turn)
    mask = np.zeros(grid.shape, np.bool_)
    for lesion in lesions:
        mask |= lesion.inside & body
    # OCT keeps the scanner's own axes: columns, depth into the eye, B-scans.
    codes = "RPS" if preset_name == "retinal-oct" else _choose_axes(place)
    drawn = "RPS" if preset_name == "retinal-oct" else "RAS"
    turns = orientations.ornt_transform(orientations.axcodes2ornt(drawn), orientations.axcodes2ornt(codes))
    affine = _tilt(place, grid, flip_depth=drawn == "RPS") @ orientations.inv_ornt_aff(turns, grid.shape)
    return Phantom(
        array=np.ascontiguousarray(orientations.apply_orientation(array, turns)),
        mask=np.ascontiguousarray(orientations.apply_orientation(mask.astype(np.uint8), turns)),
        body=np.ascontiguousarray(orientations.apply_orientation(body.astype(np.uint8), turns)),
        affine=affine,
        kinds=tuple(lesion.kind for lesion in lesions),
    )


def _draw_brain(
    anatomy: np.random.Generator, noise: np.random.Generator, ill: np.random.Generator | None, turn: int
) -> _Drawing:
    grid = brain.brain_grid(anatomy)
    image, depth, body, signal = brain.draw_head(anatomy, grid)
    lesions: list[Lesion] = []
    if ill is not None:
        image, lesions = brain.draw_lesions(ill, grid, image, depth, signal, turn)
    return brain.scan(noise, grid, image), body, lesions, grid


def _draw_liver(
    anatomy: np.random.Generator, noise: np.random.Generator, ill: np.random.Generator | None, turn: int
) -> _Drawing:
    grid = liver.liver_grid(anatomy)
    image, depth, body, organ = liver.draw_abdomen(anatomy, grid)
    lesions: list[Lesion] = []
    if ill is not None:
        image, lesions = liver.draw_lesions(ill, grid, image, depth, organ, turn)
    return liver.scan(noise, grid, image), body, lesions, grid


def _draw_retina(
    anatomy: np.random.Generator, noise: np.random.Generator, ill: np.random.Generator | None, turn: int
) -> _Drawing:
    grid = retina.retina_grid(anatomy)
    image, body, lesions = retina.draw_eye(anatomy, ill, grid, turn)
    return retina.scan(noise, grid, image), body, lesions, grid


def _tilt(rng: np.random.Generator, grid: Grid, flip_depth: bool) -> Field:
    """An oblique affine: 3-14 degrees about a random axis, the grid's centre within 20 mm of the origin.

    The grid's axes run right, anterior (posterior with ``flip_depth``) and superior before the turn.
    """
    axis = rng.standard_normal(3)
    turn = Rotation.from_rotvec(np.deg2rad(rng.uniform(3, 14)) * axis / np.linalg.norm(axis)).as_matrix()
    linear = turn @ np.diag([1.0, -1.0 if flip_depth else 1.0, 1.0]) @ np.diag(grid.spacing)
    centre = rng.uniform(-20, 20, 3)
    return np.asarray(from_matvec(linear, centre - linear @ ((np.array(grid.shape) - 1) / 2)))


def _choose_axes(rng: np.random.Generator) -> str:
    """Axis codes in any order and direction, such as LPS, RAS or PIR."""
    pairs = ["RL", "AP", "SI"]
    return "".join(pairs[axis][int(rng.integers(2))] for axis in rng.permutation(3))
