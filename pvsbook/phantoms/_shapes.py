"""Perivascular spaces and lesions: where they may lie, and how they fill the voxels of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import edt
import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numba import njit
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pvsbook._errors import InputError
from pvsbook.atlas import perivascular, templates
from pvsbook.phantoms.brain import Brain, box_around

DEFAULT_COUNTS: Mapping[str, int] = {
    "cso_left": 12,
    "cso_right": 12,
    "bg_left": 5,
    "bg_right": 5,
    "midbrain_left": 1,
    "midbrain_right": 1,
}
GAP_MM = 2.5  # free tissue between two spaces, and between a space and a lesion
LESIONS = ("wmh", "rim", "lacune", "microbleed")  # in the order in which they cover each other


@dataclass(frozen=True, eq=False)
class Pvs:
    """One perivascular space: a tube with flat ends.

    Attributes
    ----------
    centreline_mni_mm
        Points along the middle, shape (n, 3).
    diameter_mm, length_mm
        Of the tube, from end to end along the centreline.
    region
        One of `pvsbook.atlas.perivascular.REGIONS`, at the middle of the centreline.
    """

    centreline_mni_mm: NDArray[np.float64]
    diameter_mm: float
    length_mm: float
    region: str

    @property
    def volume_mm3(self) -> float:
        """Volume of the tube."""
        return np.pi / 4 * self.diameter_mm**2 * self.length_mm


@dataclass(frozen=True, eq=False)
class Spheroid:
    """A white-matter hyperintensity, a lacune, its rim, or a microbleed.

    Attributes
    ----------
    centre_mni_mm, half_axes_mm
        Shape (3,) each, along MNI x, y, z.
    kind
        One of `LESIONS`.
    """

    centre_mni_mm: NDArray[np.float64]
    half_axes_mm: NDArray[np.float64]
    kind: str


@dataclass(frozen=True, eq=False)
class Places:
    """Where perivascular spaces and lesions may lie: images in MNI space as arrays.

    Attributes
    ----------
    labels, affine
        Regions, as of `pvsbook.atlas.perivascular.regions`.
    depth, away
        How deep inside its region, and how far from the ventricles (smooth), voxels lie.
    white
        White matter.
    """

    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]
    depth: NDArray[np.float32]
    away: NDArray[np.float32]
    white: NDArray[np.bool_]

    @classmethod
    def of(cls, regions: nib.Nifti1Image, ventricles: NDArray, wm: NDArray) -> Places:
        """Take regions, and fractions of ventricles and white matter on their grid."""
        labels = np.asarray(regions.dataobj)
        away = ndimage.gaussian_filter(edt.edt(ventricles < 0.5), 2.0)
        return cls(labels, regions.affine, edt.edt(labels), away, wm > 0.6)

    @classmethod
    @lru_cache(maxsize=1)
    def of_template(cls) -> Places:
        """Those of the MNI152 brain."""
        ventricles, wm = (np.asarray(templates.mni(k).dataobj) for k in ("ventricles", "wm"))
        return cls.of(perivascular.regions(), ventricles, wm)


def draw_tube(
    centreline_mm: ArrayLike,
    *,
    diameter_mm: float,
    shape: tuple[int, int, int],
    voxel_size_mm: ArrayLike = (1.0, 1.0, 1.0),
) -> NDArray[np.float32]:
    """Fill a block with one tube: the fraction of each voxel that it takes.

    Parameters
    ----------
    centreline_mm
        Points, shape (n, 3), in mm from the centre of the first voxel.
    diameter_mm
        Of the tube; its ends are flat.
    shape, voxel_size_mm
        Of the block.

    Raises
    ------
    InputError
        Fewer than two points, or a diameter or voxel size that is not positive.

    Examples
    --------
    >>> block = draw_tube([[2, 5, 5], [12, 5, 5]], diameter_mm=2, shape=(15, 11, 11))
    >>> bool(abs(block.sum() - 10 * np.pi) < 1.5)
    True
    """
    points = np.asarray(centreline_mm, np.float64)
    size = np.broadcast_to(np.asarray(voxel_size_mm, np.float64), (3,))
    if points.ndim != 2 or points.shape[0] < 2 or points.shape[1] != 3:
        raise InputError(f"centreline_mm: shape {points.shape}; give two or more points (n, 3)")
    if not (diameter_mm > 0 and np.all(size > 0)):
        raise InputError(f"diameter_mm, voxel_size_mm: {diameter_mm}, {size}; must be positive")
    n_sub = int(np.clip(np.ceil(16 * size.max() / diameter_mm), 6, 16))
    along = np.r_[0.0, np.linalg.norm(np.diff(points, axis=0), axis=1).cumsum()]
    steps = np.linspace(0, along[-1], int(np.ceil(along[-1] / 0.5)) + 1)
    fine = np.stack([np.interp(steps, along, column) for column in points.T], axis=1)
    return _fill_tube(fine, diameter_mm / 2, np.diag(size), shape, n_sub)


def draw_tubes(
    brain: Brain, spaces: Sequence[Pvs]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Fill voxels with tubes: label of the one that fills most, and fraction of all together."""
    labels = np.zeros(brain.shape, np.int32)
    fullest = np.zeros(brain.shape, np.float32)
    empty = np.ones(brain.shape, np.float32)
    to_voxel = np.linalg.inv(brain.affine) @ brain.mni_to_world
    scale = brain.affine[:3, :3]
    for number, space in enumerate(spaces, start=1):
        points = apply_affine(to_voxel, space.centreline_mni_mm)
        reach = (space.diameter_mm / 2 + brain.voxel_size_mm.max()) / brain.voxel_size_mm.min()
        box = box_around(np.concatenate([points - reach, points + reach]), brain.shape)
        local = (points - [part.start for part in box]) @ scale.T
        n_sub = int(np.clip(np.ceil(10 * brain.voxel_size_mm.max() / space.diameter_mm), 4, 20))
        filled = _fill_tube(local, space.diameter_mm / 2, scale, labels[box].shape, n_sub)
        wins = (filled >= 0.1) & (filled > fullest[box])
        labels[box][wins] = number
        fullest[box] = np.maximum(fullest[box], filled)
        empty[box] *= 1 - filled
    return labels, 1 - empty


@njit(cache=True)
def _fill_tube(
    points: NDArray, radius: float, scale: NDArray, shape: tuple[int, int, int], n_sub: int
) -> NDArray[np.float32]:
    """Fraction of each voxel inside a tube with flat ends; points at most 0.5 mm apart."""
    out = np.zeros(shape, np.float32)
    n_segments = len(points) - 1
    half_diagonal = 0.5 * np.sqrt((scale**2).sum())
    window = int(half_diagonal / 0.4) + 2
    at = np.empty(3)
    for i, j, k in np.ndindex(shape):
        for a in range(3):
            at[a] = scale[a, 0] * i + scale[a, 1] * j + scale[a, 2] * k
        near, nearest = np.inf, 0
        for n in range(n_segments + 1):
            d = 0.0
            for a in range(3):
                d += (at[a] - points[n, a]) ** 2
            if d < near:
                near, nearest = d, n
        if near > (radius + half_diagonal + 0.5) ** 2:
            continue
        count = 0
        first = max(0, nearest - window)
        last = min(n_segments, nearest + window)
        for si, sj, sk in np.ndindex((n_sub, n_sub, n_sub)):
            u = (si + 0.5) / n_sub - 0.5
            v = (sj + 0.5) / n_sub - 0.5
            w = (sk + 0.5) / n_sub - 0.5
            best, where = np.inf, 0.0
            for n in range(first, last):
                dot, norm, square = 0.0, 0.0, 0.0
                for a in range(3):
                    p = at[a] + scale[a, 0] * u + scale[a, 1] * v + scale[a, 2] * w
                    e = points[n + 1, a] - points[n, a]
                    r = p - points[n, a]
                    dot += r * e
                    norm += e * e
                    square += r * r
                t = dot / norm
                c = min(max(t, 0.0), 1.0)
                d = square - 2 * c * dot + c * c * norm
                if d < best:
                    best, where = d, n + t
            if best <= radius * radius and 0 <= where <= n_segments:
                count += 1
        out[i, j, k] = count / n_sub**3
    return out


def draw_spheroids(brain: Brain, lesions: Sequence[Spheroid], kind: str) -> NDArray[np.float32]:
    """Fraction of each voxel inside the lesions of one kind, with an edge one voxel wide."""
    out = np.zeros(brain.shape, np.float32)
    to_voxel = np.linalg.inv(brain.affine) @ brain.mni_to_world
    scale = (np.linalg.inv(brain.mni_to_world) @ brain.affine)[:3, :3]
    width = float(brain.voxel_size_mm.mean())
    for lesion in lesions:
        if lesion.kind != kind:
            continue
        centre = apply_affine(to_voxel, lesion.centre_mni_mm)
        reach = (lesion.half_axes_mm.max() + 2 * width) / brain.voxel_size_mm
        box = box_around(np.stack([centre - reach, centre + reach]), brain.shape)
        offset = np.moveaxis(np.mgrid[box], 0, -1) - centre
        radius = np.linalg.norm(offset @ scale.T / lesion.half_axes_mm, axis=-1)
        from_edge = (1 - radius) * lesion.half_axes_mm.mean()
        out[box] = np.maximum(out[box], np.clip(from_edge / width + 0.5, 0, 1))
    return out


def place_pvs(
    rng: Generator,
    *,
    counts: Mapping[str, int] = DEFAULT_COUNTS,
    diameters_mm: tuple[float, float] = (0.75, 3.0),
    lengths_mm: tuple[float, float] = (5.0, 16.0),
    avoid: Sequence[Spheroid] = (),
    places: Places | None = None,
) -> list[Pvs]:
    """Place curved tubes: radial to the ventricles, fanning upwards in the basal ganglia.

    Parameters
    ----------
    rng
        Random numbers.
    counts, diameters_mm, lengths_mm
        As in `make_phantom`.
    avoid
        Lesions to stay away from.
    places
        Where tissue lies; the MNI152 brain's by default.

    Raises
    ------
    InputError
        An unknown region, or no room left.
    """
    places = places or Places.of_template()
    names = {name: label for label, name in perivascular.REGIONS.items()}
    unknown = set(counts) - set(names)
    if unknown:
        raise InputError(f"counts: {', '.join(sorted(unknown))}: not one of {', '.join(names)}")
    to_voxel = np.linalg.inv(places.affine)
    spaces: list[Pvs] = []
    for region, count in counts.items():
        inside = places.labels == names[region]
        candidates = np.argwhere(inside & (places.depth > 2.5))
        for _ in range(count):
            for _attempt in range(2000):
                start = candidates[rng.integers(len(candidates))] + rng.uniform(-0.5, 0.5, 3)
                start_mm = apply_affine(places.affine, start)
                along = _direction(region, start_mm, places.away, start.round().astype(int))
                length = rng.uniform(*lengths_mm)
                line = _bend(rng, start_mm, along, length)
                space = Pvs(line, rng.uniform(*diameters_mm), length, region)
                voxels = apply_affine(to_voxel, space.centreline_mni_mm).round().astype(int)
                if inside[tuple(voxels.T)].all() and _is_free(space, [*spaces, *avoid], GAP_MM):
                    spaces.append(space)
                    break
            else:
                raise InputError(
                    f"counts: no room for {count} spaces in {region}; ask for fewer, or shorter"
                )
    return spaces


def _direction(region: str, at_mm: NDArray, away: NDArray, at: NDArray) -> NDArray:
    """Direction in which a vessel runs at a place in MNI mm and its voxel."""
    if region.startswith("cso"):
        outward = [
            away[tuple(at + step)] - away[tuple(at - step)] for step in np.eye(3, dtype=int)
        ]
        along = np.array(outward, np.float64) / 2 + np.array([0, 0, 0.15])
    elif region.startswith("bg"):
        along = at_mm - np.array([np.sign(at_mm[0]) * 18.0, 4.0, -28.0])
    else:
        along = np.array([np.sign(at_mm[0]) * 0.4, 0.5, 1.0])
    return along / max(float(np.linalg.norm(along)), 1e-6)


def _bend(
    rng: Generator, start_mm: NDArray, along: NDArray, length_mm: float
) -> NDArray[np.float64]:
    """Points every half millimetre or less along an arc whose middle is `start_mm`."""
    along = along + rng.normal(0, 0.2, 3)
    along /= np.linalg.norm(along)
    across = np.cross(along, rng.standard_normal(3))
    across /= np.linalg.norm(across)
    curvature = abs(rng.normal(0, 0.03)) + 1e-4  # 1 / mm
    angle = curvature * np.linspace(-0.5, 0.5, int(np.ceil(length_mm / 0.5)) + 1) * length_mm
    steps = np.sin(angle)[:, None] * along + (1 - np.cos(angle))[:, None] * across
    return start_mm + steps / curvature


def _is_free(new: Pvs | Spheroid, others: Sequence[Pvs | Spheroid], gap_mm: float) -> bool:
    """Whether a space or lesion keeps its distance from others."""
    points, radius_mm = _extent(new)
    for other in others:
        their_points, their_radius_mm = _extent(other)
        distance = np.linalg.norm(points[:, None] - their_points, axis=-1).min()
        if distance < gap_mm + radius_mm + their_radius_mm:
            return False
    return True


def _extent(one: Pvs | Spheroid) -> tuple[NDArray[np.float64], float]:
    """Points in MNI mm, shape (n, 3), and how far from them a space or lesion reaches, in mm."""
    if isinstance(one, Pvs):
        return one.centreline_mni_mm, one.diameter_mm / 2
    return one.centre_mni_mm[None], one.half_axes_mm.max()


def place_lesions(
    rng: Generator,
    n_wmh: int,
    n_periventricular: int,
    n_lacunes: int,
    n_microbleeds: int,
    places: Places | None = None,
) -> list[Spheroid]:
    """Place white-matter hyperintensities, lacunes with their rims, and microbleeds.

    Half axes are 1.5 to 4 mm for deep hyperintensities (each axis of its own) and for lacunes
    (nearly round; their rim is 1.5 mm thick), 3 to 6 mm beside the ventricles, and 0.75 to 2 mm
    for microbleeds.

    Raises
    ------
    InputError
        No room left.
    """
    lesions: list[Spheroid] = []
    if n_wmh + n_periventricular + n_lacunes + n_microbleeds == 0:
        return lesions
    places = places or Places.of_template()
    away = places.away
    deep = np.where(places.depth > 3.5, places.labels, 0)
    heights = np.arange(away.shape[2]) + places.affine[2, 3]
    beside = places.white & (away > 1) & (away < 4) & (heights > 5)
    for kind, name, count, allowed, radii_mm in (
        ("wmh", "n_wmh", n_wmh, (deep > 0) & (deep <= 2), (1.5, 4.0)),
        ("wmh", "n_periventricular", n_periventricular, beside, (3.0, 6.0)),
        ("lacune", "n_lacunes", n_lacunes, (deep > 0) & (deep <= 4), (1.5, 4.0)),
        ("microbleed", "n_microbleeds", n_microbleeds, deep > 0, (0.75, 2.0)),
    ):
        candidates = np.argwhere(allowed)
        for _ in range(count):
            radius = rng.uniform(*radii_mm)
            spread = rng.uniform(0.75, 1.35, 3) if kind == "wmh" else rng.uniform(0.9, 1.1, 3)
            for _attempt in range(500):
                centre = apply_affine(places.affine, candidates[rng.integers(len(candidates))])
                lesion = Spheroid(centre, radius * spread, kind)
                if _is_free(lesion, lesions, 2.0):
                    lesions.append(lesion)
                    break
            else:
                raise InputError(f"{name}: no room for {count}; ask for fewer")
    rims = [
        Spheroid(lesion.centre_mni_mm, lesion.half_axes_mm + 1.5, "rim")
        for lesion in lesions
        if lesion.kind == "lacune"
    ]
    return lesions + rims


def onto_spaces(
    rng: Generator, lesions: Sequence[Spheroid], spaces: Sequence[Pvs]
) -> list[Spheroid]:
    """Move every second hyperintensity to a perivascular space, which crosses or touches it."""
    moved = list(lesions)
    for n in [k for k, lesion in enumerate(lesions) if lesion.kind == "wmh"][::2]:
        space, lesion = spaces[int(rng.integers(len(spaces)))], lesions[n]
        reach = space.diameter_mm / 2 + lesion.half_axes_mm.min()
        aside = rng.standard_normal(3)
        aside *= rng.uniform(0, reach) / np.linalg.norm(aside)
        point = space.centreline_mni_mm[rng.integers(len(space.centreline_mni_mm))]
        moved[n] = replace(lesion, centre_mni_mm=point + aside)
    return moved
