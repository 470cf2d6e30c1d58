"""A head drawn on a fine grid: susceptibility, signal and R2* of tissue, vessels, bone and air."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import edt
import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook._constants import RELAXIVITY_HZ_PPM
from pvsbook.atlas import deep_grey, templates
from pvsbook.phantoms.brain import box_around, interpolate

# Of each tissue: susceptibility relative to water in ppb, that of its myelin alone in ppb (iron is
# what is missing to the first), R2* at 3 T in 1/s, and signal at echo time zero, relative (vessels
# and lesions have that of the tissue around).  Tissue: the values of the challenge-style heads in
# use; bone and air: Schenck 1996, doi:10.1118/1.597854, less water's -9.05 ppm.
_TISSUES: Mapping[str, tuple[float, float | None, float, float | None]] = {
    "caudate": (44.0, 18.0, 22.0, None),
    "putamen": (38.0, 18.0, 26.0, None),
    "pallidum": (130.0, 30.0, 40.0, None),
    "thalamus": (20.0, 35.0, 20.0, None),
    "pulvinar": (35.0, 30.0, 22.0, None),
    "red nucleus": (100.0, 25.0, 33.0, None),
    "substantia nigra": (111.0, 20.0, 38.0, None),
    "dentate": (152.0, 25.0, 36.0, None),
    "white matter": (-30.0, 55.0, 21.0, 0.70),
    "grey matter": (20.0, 12.0, 17.0, 0.85),
    "csf": (19.0, 0.0, 4.0, 1.0),
    "blood": (190.0, None, 55.0, None),
    "calcification": (-1500.0, None, 150.0, None),
    "bleed": (900.0, None, 150.0, None),
    "bone": (-2100.0, None, 400.0, 0.04),
    "scalp": (0.0, None, 30.0, 0.8),
    "air": (9400.0, None, 0.0, 0.0),
}
CHI_PPB, MYELIN_PPB, R2S_HZ, SIGNAL = (
    {name: value for name, row in _TISSUES.items() if (value := row[column]) is not None}
    for column in range(4)
)
R2_HZ = {"white matter": 12.5, "grey matter": 12.0, "csf": 4.0}
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
class FineGrid:
    """The grid of half the voxel size that a head is drawn on; `to_mni` is voxel to MNI mm."""

    shape: tuple[int, ...]
    to_mni: NDArray[np.float64]
    size_mm: NDArray[np.float64]

    def sample(self, image: nib.Nifti1Image) -> NDArray[np.float32]:
        """Sample a volume in MNI space; beyond its edge the nearest value holds."""
        matrix = (np.linalg.inv(image.affine) @ self.to_mni).astype(np.float32)
        out = np.empty(self.shape, np.float32)
        interpolate(np.ascontiguousarray(images.array(image)), matrix, out, True)
        return out

    def noise(self, rng: np.random.Generator, width_mm: float) -> NDArray[np.float32]:
        """Return smooth noise of unit variance, fixed to the head: the same in every pose."""
        n = np.ceil(np.array([220, 260, 230]) / width_mm).astype(int)
        values = ndimage.gaussian_filter(rng.standard_normal(n, np.float32), 0.7, mode="wrap")
        values /= values.std()
        affine = nib.affines.from_matvec(width_mm * np.eye(3), (-110, -145, -100))
        return self.sample(images.make(values, affine))

    def plane(self, axis: int) -> NDArray[np.float32]:
        """Return one MNI coordinate of every voxel."""
        i, j, k = (np.arange(n, dtype=np.float32) for n in self.shape)
        a, b, c, d = self.to_mni[axis].astype(np.float32)
        return a * i[:, None, None] + b * j[None, :, None] + (c * k + d)[None, None, :]

    def ball(
        self, centre_mm: ArrayLike, half_axes_mm: ArrayLike
    ) -> tuple[tuple[slice, ...], NDArray[np.float32]]:
        """Return a box and about how far its voxels lie from an ellipsoid's surface, in mm."""
        centre, axes = np.asarray(centre_mm, float), np.asarray(half_axes_mm, float)
        corners = centre + np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T * (axes + 3)
        voxels = nib.affines.apply_affine(np.linalg.inv(self.to_mni), corners)
        box = box_around(voxels, self.shape)
        points = nib.affines.apply_affine(self.to_mni, np.moveaxis(np.mgrid[box], 0, -1))
        level = (np.linalg.norm((points - centre) / axes, axis=-1) - 1) * axes.min()
        return box, level.astype(np.float32)


def draw_head(
    grid: FineGrid,
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
) -> dict[str, NDArray]:
    """Draw the volumes of a head, named as in `GrePhantom`, and `signal` at echo time zero.

    Arguments are as of `make_gre`; `up` is the direction of the field in the head.
    """
    half = float(grid.size_mm.mean())
    ppm = {name: 1e-3 * value for name, value in chi_ppb.items()}
    myelin_ppm = {name: 1e-3 * value for name, value in myelin_ppb.items()}
    outside = grid.sample(_distance_outside_mni())
    wm, gm, ventricles = (grid.sample(templates.mni(kind)) for kind in ("wm", "gm", "ventricles"))
    fluid = np.clip(1 - wm - gm, 0, 1)

    def mix(value: Mapping[str, float]) -> NDArray[np.float32]:
        in_wm, in_gm = np.float32(value["white matter"]), np.float32(value["grey matter"])
        return in_wm * wm + in_gm * gm + np.float32(value["csf"]) * fluid

    chi, signal, r2s, r2, myelin = map(mix, (ppm, SIGNAL, R2S_HZ, R2_HZ, myelin_ppm))
    slow = grid.noise(rng, 12.0)
    chi += np.float32(0.006) * slow * (1 - fluid)  # tissue is not uniform
    r2s *= 1 + np.float32(0.05) * grid.noise(rng, 10.0)
    labels = np.zeros(grid.shape, np.uint8)
    grain, grain_r2s = grid.noise(rng, 2.5), grid.noise(rng, 3.0)
    shifted = grid.to_mni.copy()
    shifted[:3, 3] += rng.normal(0, 0.7, 3)  # magnitude edges lie elsewhere than those of chi
    region = deep_grey.table().set_index("label")["region"]
    for number, (box, level) in deep_grey.distances_on_grid(grid.shape, grid.to_mni).items():
        name, part = region[number], np.clip(0.5 - level / half, 0, 1) * (ventricles[box] < 0.5)
        _blend(chi[box], part, ppm[name] * (1 + texture * grain[box]))
        _blend(myelin[box], part, myelin_ppm[name])
        labels[box][part > 0.5] = number
    for number, (box, level) in deep_grey.distances_on_grid(grid.shape, shifted).items():
        part = np.clip(0.5 - (level + 0.3) / (2 * half), 0, 1)
        _blend(r2s[box], part, R2S_HZ[region[number]] * (1 + 0.1 * grain_r2s[box]))
    iron = np.maximum(chi + myelin, 0)
    myelin = iron - chi  # where texture asked for less than none
    if sources:
        r2s = r2 + np.float32(RELAXIVITY_HZ_PPM) * (iron + myelin)
    if anisotropy_ppb:  # cos^2 - 1/3 of the angle from schematic fibres to the field
        lateral = np.abs(grid.plane(0))
        x, y, z = (np.float32(u * u - 1 / 3) for u in up)
        along = np.where(lateral < 14, x, np.where(lateral < 33, z, y))
        chi += np.float32(anisotropy_ppb * 1e-3) * wm * (labels == 0) * along

    def put(tissue: str, part: NDArray, box: tuple[slice, ...] = ()) -> None:
        for volume, values in ((chi, ppm), (signal, SIGNAL), (r2s, R2S_HZ)):
            if tissue in values:
                _blend(volume[box], part, values[tissue])

    veins = _draw_veins(grid, rng, n_veins, wm)
    calcification = _draw_balls(grid, [CALCIFICATION_MM])
    bleeds = _draw_balls(grid, [_place_bleed(rng) for _ in range(n_microbleeds)])
    for tissue, part in (("blood", veins), ("calcification", calcification), ("bleed", bleeds)):
        put(tissue, part)
    signal *= 1 - 0.5 * calcification
    _draw_surround(grid, outside, put)
    signal *= 1 + np.float32(0.15) * grid.noise(rng, 45.0)  # coil sensitivity
    return {
        "chi_ppm": chi,
        "signal": signal,
        "r2s_hz": r2s,
        "brain": outside <= 0,
        "labels": labels,
        "veins": veins,
        "calcification": calcification,
        "bleeds": bleeds,
        "iron_ppm": iron,
        "myelin_ppm": myelin,
        "r2_hz": r2,
    }


def _blend(volume: NDArray[np.float32], part: NDArray, value: NDArray | float) -> None:
    """Replace a part, 0 to 1, of each voxel by a value, in place."""
    volume += part * (np.asarray(value, np.float32) - volume)


def _place_bleed(rng: np.random.Generator) -> tuple[tuple[float, float, float], float]:
    """Draw the centre in MNI mm, in white matter, and the radius of a microbleed."""
    x = float(rng.choice((-1.0, 1.0))) * rng.uniform(20, 42)
    return (x, rng.uniform(-60, 35), rng.uniform(14, 40)), rng.uniform(1, 2)


def _draw_balls(
    grid: FineGrid, places: Iterable[tuple[tuple[float, float, float], float]]
) -> NDArray[np.float32]:
    """Fraction of each voxel inside balls, given by centre and radius in MNI mm."""
    out = np.zeros(grid.shape, np.float32)
    for centre, radius in places:
        box, level = grid.ball(centre, (radius,) * 3)
        out[box] = np.maximum(out[box], np.clip(0.5 - level / float(grid.size_mm.mean()), 0, 1))
    return out


def _draw_surround(grid: FineGrid, outside: NDArray, put: Callable[..., None]) -> None:
    """Put fluid, bone, scalp, neck, cavities and air around the brain."""
    soft_mm = 2 * float(grid.size_mm.mean())
    across = np.hypot(grid.plane(0), grid.plane(1) + 35)
    neck = np.clip((-50 - grid.plane(2)) / soft_mm, 0, 1)
    neck *= np.clip((60 - across) / soft_mm, 0, 1)

    def beyond(distance_mm: float) -> NDArray[np.float32]:
        return np.clip((outside - distance_mm) / soft_mm + 0.5, 0, 1)

    # Edges are soft over a voxel: a sharp step of 9 ppm would ring through the whole head.
    put("csf", beyond(0.5 * soft_mm))
    put("bone", beyond(BONE_MM))
    put("scalp", beyond(SCALP_MM))
    put("air", beyond(AIR_MM))
    put("scalp", beyond(SCALP_MM) * neck)
    for centre, half_axes in CAVITIES_MM:
        box, level = grid.ball(centre, half_axes)
        part = np.clip(0.5 - level / soft_mm, 0, 1)
        put("air", part * np.clip((outside[box] - 3) / soft_mm + 0.5, 0, 1), box)


def _draw_veins(
    grid: FineGrid, rng: np.random.Generator, n_veins: int, wm: NDArray
) -> NDArray[np.float32]:
    """Draw veins that leave the ventricles' wall and run through white matter, gently bent."""
    out = np.zeros(grid.shape, np.float32)
    half = float(grid.size_mm.mean())
    back = np.linalg.inv(grid.to_mni)
    for _ in range(n_veins):
        side = rng.choice((-1.0, 1.0))
        start = np.array([side * rng.uniform(14, 20), rng.uniform(-45, 30), rng.uniform(18, 28)])
        along = np.array([side * rng.uniform(0.5, 1.0), rng.normal(0, 0.4), rng.normal(0.5, 0.3)])
        along /= np.linalg.norm(along)
        bend = rng.normal(0, 0.01, 3)
        radius = rng.uniform(0.3, 0.7)
        t = np.arange(0, rng.uniform(12, 30), 0.5 * half)[:, None]
        peak = min(1.0, (radius / half) ** 2 * 3.14159 / 4 + 0.2)  # part of a voxel that it fills
        reach = np.ceil((radius + half) / grid.size_mm.min()) + 1
        for point in nib.affines.apply_affine(back, start + t * along + t**2 * bend):
            box = box_around(np.rint(point) + np.array([[-reach], [reach]]), grid.shape)
            away = zip(np.ogrid[box], point, grid.size_mm, strict=True)
            x, y, z = (((voxel - at) * size) ** 2 for voxel, at, size in away)
            part = np.clip(0.5 - (np.sqrt(x + (y + z)) - radius) / half, 0, peak)
            out[box] = np.maximum(out[box], part)
    return out * (wm > 0.3)


@lru_cache(maxsize=1)
def _distance_outside_mni() -> nib.Nifti1Image:
    """Return the distance in mm from the template's brain, negative inside."""
    brain = templates.mni("brain")
    mask = images.array(brain) > 0.5
    distance = edt.edt(~mask) - edt.edt(mask)
    return images.make(ndimage.gaussian_filter(distance, 1.5), brain.affine)
