"""A head drawn on a fine grid: susceptibility, signal and R2* of tissue, vessels, bone and air."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import edt
import nibabel as nib
import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook._constants import RELAXIVITY_HZ_PPM
from pvsbook.atlas import deep_grey, templates
from pvsbook.phantoms.brain import interpolate

# Of each tissue: susceptibility relative to water in ppb, that of its myelin alone in ppb (iron is
# what is missing to the first), and R2* at 3 T in 1/s.  Tissue: the values of the challenge-style
# heads in use; bone and air: Schenck 1996, doi:10.1118/1.597854, less water's -9.05 ppm.
_TISSUES: Mapping[str, tuple[float, float | None, float]] = {
    "caudate": (44.0, 18.0, 22.0),
    "putamen": (38.0, 18.0, 26.0),
    "pallidum": (130.0, 30.0, 40.0),
    "thalamus": (20.0, 35.0, 20.0),
    "pulvinar": (35.0, 30.0, 22.0),
    "red nucleus": (100.0, 25.0, 33.0),
    "substantia nigra": (111.0, 20.0, 38.0),
    "dentate": (152.0, 25.0, 36.0),
    "white matter": (-30.0, 55.0, 21.0),
    "grey matter": (20.0, 12.0, 17.0),
    "csf": (19.0, 0.0, 4.0),
    "blood": (190.0, None, 55.0),
    "calcification": (-1500.0, None, 150.0),
    "bleed": (900.0, None, 150.0),
    "bone": (-2100.0, None, 400.0),
    "air": (9400.0, None, 0.0),
}
CHI_PPB = {name: chi for name, (chi, _, _) in _TISSUES.items()}
MYELIN_PPB = {name: m for name, (_, m, _) in _TISSUES.items() if m is not None}
R2S_HZ = {name: r2s for name, (_, _, r2s) in _TISSUES.items()} | {"scalp": 30.0}
R2_HZ = {"white matter": 12.5, "grey matter": 12.0, "csf": 4.0}
# Signal at echo time zero, relative.
SIGNAL = {
    "white matter": 0.70,
    "grey matter": 0.85,
    "csf": 1.0,
    "bone": 0.04,
    "scalp": 0.8,
    "air": 0.0,
}
BONE_MM, SCALP_MM, AIR_MM = 2.0, 7.0, 12.0  # distance from the brain at which each begins
# Air-filled cavities: centre and half axes in MNI mm.
CAVITIES_MM = (
    ((0.0, 34.0, -36.0), (14.0, 16.0, 11.0)),
    ((0.0, 80.0, 2.0), (12.0, 6.0, 8.0)),
    ((52.0, -20.0, -42.0), (8.0, 11.0, 10.0)),
    ((-52.0, -20.0, -42.0), (8.0, 11.0, 10.0)),
)
CALCIFICATION_MM = ((-24.0, -38.0, 26.0), 2.5)


@dataclass(frozen=True, eq=False)
class Head:
    """Everything drawn on the fine grid; attributes as of `GrePhantom`."""

    chi_ppm: NDArray[np.float32]
    signal: NDArray[np.float32]
    r2s_hz: NDArray[np.float32]
    brain: NDArray[np.bool_]
    labels: NDArray[np.uint8]
    veins: NDArray[np.float32]
    calcification: NDArray[np.float32]
    bleeds: NDArray[np.float32]
    iron_ppm: NDArray[np.float32]
    myelin_ppm: NDArray[np.float32]
    r2_hz: NDArray[np.float32]


def draw_head(
    shape: tuple[int, ...],
    to_mni: NDArray,
    size_mm: NDArray,
    chi_ppb: Mapping[str, float],
    myelin_ppb: Mapping[str, float],
    rng: np.random.Generator,
    *,
    texture: float,
    n_veins: int,
    n_microbleeds: int,
    sources: bool,
    anisotropy_ppb: float,
    up: NDArray,
) -> Head:
    """Draw a head; arguments as of `make_gre`, `up` the direction of the field in the head."""
    half = float(size_mm.mean())
    ppm = {name: 1e-3 * value for name, value in chi_ppb.items()}
    myelin_ppm = {name: 1e-3 * value for name, value in myelin_ppb.items()}
    outside = _sample(*_distance_outside_mni(), shape, to_mni)
    wm, gm, ventricles = (
        _sample(images.array(m), m.affine, shape, to_mni)
        for m in map(templates.mni, ("wm", "gm", "ventricles"))
    )
    fluid = np.clip(1 - wm - gm, 0, 1)

    def mix(value: Mapping[str, float]) -> NDArray[np.float32]:
        in_wm, in_gm = np.float32(value["white matter"]), np.float32(value["grey matter"])
        return in_wm * wm + in_gm * gm + np.float32(value["csf"]) * fluid

    chi, signal, r2s, r2, myelin = map(mix, (ppm, SIGNAL, R2S_HZ, R2_HZ, myelin_ppm))
    slow = _noise(shape, to_mni, rng, 12.0)
    chi += np.float32(0.006) * slow * (1 - fluid)  # tissue is not uniform
    r2s *= 1 + np.float32(0.05) * _noise(shape, to_mni, rng, 10.0)
    labels = np.zeros(shape, np.uint8)
    grain = _noise(shape, to_mni, rng, 2.5)
    grain_r2s = _noise(shape, to_mni, rng, 3.0)
    shifted = to_mni.copy()
    shifted[:3, 3] += rng.normal(0, 0.7, 3)  # magnitude edges lie elsewhere than those of chi
    region = deep_grey.table().set_index("label")["region"]
    for number, (box, level) in deep_grey.distances_on_grid(shape, to_mni).items():
        name, part = region[number], np.clip(0.5 - level / half, 0, 1) * (ventricles[box] < 0.5)
        _blend(chi[box], part, ppm[name] * (1 + texture * grain[box]))
        _blend(myelin[box], part, myelin_ppm[name])
        labels[box][part > 0.5] = number
    for number, (box, level) in deep_grey.distances_on_grid(shape, shifted).items():
        part = np.clip(0.5 - (level + 0.3) / (2 * half), 0, 1)
        _blend(r2s[box], part, R2S_HZ[region[number]] * (1 + 0.1 * grain_r2s[box]))
    iron = np.maximum(chi + myelin, 0)
    myelin = iron - chi  # where texture asked for less than none
    if sources:
        r2s = r2 + np.float32(RELAXIVITY_HZ_PPM) * (iron + myelin)
    if anisotropy_ppb:
        along = _along_fibres(shape, to_mni, up)
        chi += np.float32(anisotropy_ppb * 1e-3) * wm * (labels == 0) * along
    veins = _draw_veins(to_mni, size_mm, rng, n_veins, wm)
    calcification = _draw_balls(shape, to_mni, half, [CALCIFICATION_MM])
    bleeds = _draw_balls(shape, to_mni, half, _places_of_bleeds(rng, n_microbleeds))
    for name, part in (("blood", veins), ("calcification", calcification), ("bleed", bleeds)):
        _blend(chi, part, ppm[name])
        _blend(r2s, part, R2S_HZ[name])
    signal *= 1 - 0.5 * calcification
    _draw_surround(shape, to_mni, outside, chi, signal, r2s, ppm, 2 * half)
    signal *= 1 + np.float32(0.15) * _noise(shape, to_mni, rng, 45.0)  # coil sensitivity
    return Head(
        chi, signal, r2s, outside <= 0, labels, veins, calcification, bleeds, iron, myelin, r2
    )


def _blend(volume: NDArray[np.float32], part: NDArray, value: NDArray | float) -> None:
    """Replace a part, 0 to 1, of each voxel by a value, in place."""
    volume += part * (np.asarray(value, np.float32) - volume)


def _places_of_bleeds(
    rng: np.random.Generator, count: int
) -> list[tuple[tuple[float, float, float], float]]:
    """Draw centres in MNI mm, in white matter, and radii of microbleeds."""
    places = []
    for _ in range(count):
        side = float(rng.choice((-1.0, 1.0)))
        spot = (side * rng.uniform(20, 42), rng.uniform(-60, 35), rng.uniform(14, 40))
        places.append((spot, rng.uniform(1, 2)))
    return places


def _draw_balls(
    shape: tuple[int, ...],
    to_mni: NDArray,
    half_mm: float,
    places: Iterable[tuple[tuple[float, float, float], float]],
) -> NDArray[np.float32]:
    """Fraction of each voxel inside balls, given by centre and radius in MNI mm."""
    out = np.zeros(shape, np.float32)
    for centre, radius in places:
        box, level = _ball(shape, to_mni, centre, (radius,) * 3)
        out[box] = np.maximum(out[box], np.clip(0.5 - level / half_mm, 0, 1))
    return out


def _draw_surround(
    shape: tuple[int, ...],
    to_mni: NDArray,
    outside: NDArray,
    chi: NDArray,
    signal: NDArray,
    r2s: NDArray,
    ppm: Mapping[str, float],
    soft_mm: float,
) -> None:
    """Put fluid, bone, scalp, neck, cavities and air around the brain, in place."""
    height = _plane(shape, to_mni, 2)
    across = np.hypot(_plane(shape, to_mni, 0), _plane(shape, to_mni, 1) + 35)
    neck = np.clip((-50 - height) / soft_mm, 0, 1) * np.clip((60 - across) / soft_mm, 0, 1)
    chi_ppm = {**ppm, "scalp": 0.0}

    def beyond(distance_mm: float) -> NDArray[np.float32]:
        return np.clip((outside - distance_mm) / soft_mm + 0.5, 0, 1)

    def put(tissue: str, part: NDArray, box: tuple[slice, ...] = ()) -> None:
        for volume, values in ((chi, chi_ppm), (signal, SIGNAL), (r2s, R2S_HZ)):
            _blend(volume[box], part, values[tissue])

    # Edges are soft over a voxel: a sharp step of 9 ppm would ring through the whole head.
    put("csf", beyond(0.5 * soft_mm))
    put("bone", beyond(BONE_MM))
    put("scalp", beyond(SCALP_MM))
    put("air", beyond(AIR_MM))
    put("scalp", beyond(SCALP_MM) * neck)
    for centre, half_axes in CAVITIES_MM:
        box, level = _ball(shape, to_mni, centre, half_axes)
        part = np.clip(0.5 - level / soft_mm, 0, 1)
        put("air", part * np.clip((outside[box] - 3) / soft_mm + 0.5, 0, 1), box)


def _along_fibres(shape: tuple[int, ...], to_mni: NDArray, up: NDArray) -> NDArray[np.float32]:
    """Return cos^2 - 1/3 of the angle from schematic white-matter fibres to the field."""
    lateral = np.abs(_plane(shape, to_mni, 0))
    squares = [np.float32(u * u - 1 / 3) for u in up]
    out = np.where(lateral < 33, squares[2], squares[1])
    return np.where(lateral < 14, squares[0], out)


def _plane(shape: tuple[int, ...], to_mni: NDArray, axis: int) -> NDArray[np.float32]:
    """Return one MNI coordinate of every voxel."""
    i, j, k = (np.arange(n, dtype=np.float32) for n in shape)
    a, b, c, d = to_mni[axis].astype(np.float32)
    return a * i[:, None, None] + b * j[None, :, None] + (c * k + d)[None, None, :]


def _ball(
    shape: tuple[int, ...], to_mni: NDArray, centre_mm: ArrayLike, half_axes_mm: ArrayLike
) -> tuple[tuple[slice, ...], NDArray[np.float32]]:
    """Return a box and about how far its voxels lie from an ellipsoid's surface, in mm."""
    centre, axes = np.asarray(centre_mm, float), np.asarray(half_axes_mm, float)
    corners = centre + np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T * (axes + 3)
    voxels = nib.affines.apply_affine(np.linalg.inv(to_mni), corners)
    start = np.clip(np.floor(voxels.min(axis=0)), 0, shape).astype(int)
    stop = np.clip(np.ceil(voxels.max(axis=0)) + 1, 0, shape).astype(int)
    box = tuple(slice(a, max(a, b)) for a, b in zip(start, stop, strict=True))
    points = nib.affines.apply_affine(to_mni, np.moveaxis(np.mgrid[box], 0, -1))
    level = (np.linalg.norm((points - centre) / axes, axis=-1) - 1) * axes.min()
    return box, level.astype(np.float32)


def _draw_veins(
    to_mni: NDArray, size_mm: NDArray, rng: np.random.Generator, n_veins: int, wm: NDArray
) -> NDArray[np.float32]:
    """Draw veins that leave the ventricles' wall and run through white matter, gently bent."""
    out = np.zeros(wm.shape, np.float32)
    half = float(size_mm.mean())
    back = np.linalg.inv(to_mni)
    for _ in range(n_veins):
        side = rng.choice((-1.0, 1.0))
        start = np.array([side * rng.uniform(14, 20), rng.uniform(-45, 30), rng.uniform(18, 28)])
        along = np.array([side * rng.uniform(0.5, 1.0), rng.normal(0, 0.4), rng.normal(0.5, 0.3)])
        along /= np.linalg.norm(along)
        bend = rng.normal(0, 0.01, 3)
        radius = rng.uniform(0.3, 0.7)
        t = np.arange(0, rng.uniform(12, 30), 0.5 * half)[:, None]
        path = nib.affines.apply_affine(back, start + t * along + t**2 * bend)
        _stamp(out, path, size_mm, radius)
    return out * (wm > 0.3)


@numba.njit(cache=True)
def _stamp(out, path, size, radius):  # type: ignore[no-untyped-def]
    """Raise each voxel to the share of it that a tube of this radius (mm) along the path fills."""
    half = size.mean()
    peak = min(1.0, (radius / half) ** 2 * 3.14159 / 4 + 0.2)
    reach = int(np.ceil((radius + half) / size.min())) + 1
    for p in path:
        c = np.rint(p).astype(np.int64)
        for i in range(max(c[0] - reach, 0), min(c[0] + reach + 1, out.shape[0])):
            for j in range(max(c[1] - reach, 0), min(c[1] + reach + 1, out.shape[1])):
                for k in range(max(c[2] - reach, 0), min(c[2] + reach + 1, out.shape[2])):
                    d2 = ((i - p[0]) * size[0]) ** 2
                    d2 += ((j - p[1]) * size[1]) ** 2 + ((k - p[2]) * size[2]) ** 2
                    part = min(max(0.5 - (np.sqrt(d2) - radius) / half, 0.0), peak)
                    out[i, j, k] = max(out[i, j, k], part)


@lru_cache(maxsize=1)
def _distance_outside_mni() -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the distance in mm from the template's brain, negative inside, and the affine."""
    brain = templates.mni("brain")
    mask = images.array(brain) > 0.5
    distance = edt.edt(~mask) - edt.edt(mask)
    return ndimage.gaussian_filter(distance, 1.5).astype(np.float32), brain.affine


def _sample(
    values: NDArray[np.float32], affine: NDArray, shape: tuple[int, ...], to_mni: NDArray
) -> NDArray[np.float32]:
    """Sample a volume in MNI space on the fine grid; beyond its edge the nearest value holds."""
    matrix = (np.linalg.inv(affine) @ to_mni).astype(np.float32)
    out = np.empty(shape, np.float32)
    interpolate(np.ascontiguousarray(values), matrix, out, True)
    return out


def _noise(
    shape: tuple[int, ...], to_mni: NDArray, rng: np.random.Generator, width_mm: float
) -> NDArray[np.float32]:
    """Return smooth noise of unit variance, fixed to the head: the same in every pose."""
    n = np.ceil(np.array([220, 260, 230]) / width_mm).astype(int)
    values = ndimage.gaussian_filter(rng.standard_normal(n, np.float32), 0.7, mode="wrap")
    values /= values.std()
    grid = np.diag([width_mm] * 3 + [1.0])
    grid[:3, 3] = -110, -145, -100
    return _sample(values, grid, shape, to_mni)
