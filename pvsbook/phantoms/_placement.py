"""Where perivascular spaces and lesions may lie: random places that keep their distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import edt
import numpy as np
from nibabel.affines import apply_affine
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from pvsbook._errors import InputError
from pvsbook.atlas import perivascular, templates
from pvsbook.phantoms._shapes import Pvs, Spheroid

DEFAULT_COUNTS: Mapping[str, int] = {
    "cso_left": 12,
    "cso_right": 12,
    "bg_left": 5,
    "bg_right": 5,
    "midbrain_left": 1,
    "midbrain_right": 1,
}
GAP_MM = 2.5  # free tissue between two spaces, and between a space and a lesion


def place_pvs(
    rng: Generator,
    *,
    counts: Mapping[str, int] = DEFAULT_COUNTS,
    diameters_mm: tuple[float, float] = (0.75, 3.0),
    lengths_mm: tuple[float, float] = (5.0, 16.0),
    avoid: Sequence[Spheroid] = (),
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

    Raises
    ------
    InputError
        An unknown region, or no room left.
    """
    atlas = perivascular.regions()
    names = {name: label for label, name in perivascular.REGIONS.items()}
    unknown = set(counts) - set(names)
    if unknown:
        raise InputError(f"counts: {', '.join(sorted(unknown))}: not one of {', '.join(names)}")
    labels, depth = _depth_in_regions()
    away = _from_ventricles()
    to_voxel = np.linalg.inv(atlas.affine)
    spaces: list[Pvs] = []
    for region, count in counts.items():
        inside = labels == names[region]
        candidates = np.argwhere(inside & (depth > 2.5))
        for _ in range(count):
            for _attempt in range(2000):
                start = candidates[rng.integers(len(candidates))] + rng.uniform(-0.5, 0.5, 3)
                start_mm = apply_affine(atlas.affine, start)
                outward = _gradient(away, start.round().astype(int))
                along = _direction(region, start_mm, outward)
                length = rng.uniform(*lengths_mm)
                line = _bend(rng, start_mm, along, length)
                space = Pvs(line, rng.uniform(*diameters_mm), length, region)
                voxels = apply_affine(to_voxel, space.centreline_mni_mm).round().astype(int)
                if inside[tuple(voxels.T)].all() and _is_free(space, spaces, avoid):
                    spaces.append(space)
                    break
            else:
                raise InputError(
                    f"counts: no room for {count} spaces in {region}; ask for fewer, or shorter"
                )
    return spaces


@lru_cache(maxsize=1)
def _depth_in_regions() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the labels of the regions, and how deep inside its region each MNI voxel lies."""
    labels = np.asarray(perivascular.regions().dataobj)
    return labels, edt.edt(labels)


@lru_cache(maxsize=1)
def _from_ventricles() -> NDArray[np.float32]:
    """Smooth distance to the ventricles in MNI voxels of 1 mm."""
    away = edt.edt(np.asarray(templates.mni("ventricles").dataobj) < 0.5)
    return ndimage.gaussian_filter(away, 2.0)


def _gradient(values: NDArray, at: NDArray) -> NDArray[np.float64]:
    """Central differences at one voxel."""
    steps = np.eye(3, dtype=int)
    differences = [values[tuple(at + step)] - values[tuple(at - step)] for step in steps]
    return np.array(differences, np.float64) / 2


def _direction(region: str, at_mm: NDArray, outward: NDArray) -> NDArray:
    """Direction in which a vessel runs here."""
    if region.startswith("cso"):
        along = outward + np.array([0, 0, 0.15])
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


def _is_free(space: Pvs, others: Sequence[Pvs], lesions: Sequence[Spheroid]) -> bool:
    """Whether a space keeps its distance from other spaces and from lesions."""
    obstacles = [(other.centreline_mni_mm, other.diameter_mm / 2) for other in others]
    obstacles += [(lesion.centre_mni_mm[None], lesion.half_axes_mm.max()) for lesion in lesions]
    for points, radius_mm in obstacles:
        distance = np.linalg.norm(space.centreline_mni_mm[:, None] - points, axis=-1).min()
        if distance < GAP_MM + space.diameter_mm / 2 + radius_mm:
            return False
    return True


def place_spheroids(
    rng: Generator,
    *,
    n_wmh: int = 0,
    n_periventricular: int = 0,
    n_lacunes: int = 0,
    n_microbleeds: int = 0,
) -> list[Spheroid]:
    """Place white-matter hyperintensities, lacunes with their rims, and microbleeds.

    Half axes are 1.5 to 4 mm for deep hyperintensities (each axis of its own) and for lacunes
    (nearly round; their rim is 1.5 mm thick), 3 to 6 mm beside the ventricles, and 0.75 to 2 mm
    for microbleeds.

    Parameters
    ----------
    rng
        Random numbers.
    n_wmh, n_periventricular, n_lacunes, n_microbleeds
        How many.

    Raises
    ------
    InputError
        No room left.
    """
    lesions: list[Spheroid] = []
    if n_wmh + n_periventricular + n_lacunes + n_microbleeds == 0:
        return lesions
    atlas = perivascular.regions()
    labels, depth = _depth_in_regions()
    away = _from_ventricles()
    deep = np.where(depth > 3.5, labels, 0)
    white = np.asarray(templates.mni("wm").dataobj) > 0.6
    heights = np.arange(atlas.shape[2]) + atlas.affine[2, 3]
    beside = white & (away > 1) & (away < 4) & (heights > 5)
    for kind, name, count, places, radii_mm in (
        ("wmh", "n_wmh", n_wmh, (deep > 0) & (deep <= 2), (1.5, 4.0)),
        ("wmh", "n_periventricular", n_periventricular, beside, (3.0, 6.0)),
        ("lacune", "n_lacunes", n_lacunes, (deep > 0) & (deep <= 4), (1.5, 4.0)),
        ("microbleed", "n_microbleeds", n_microbleeds, deep > 0, (0.75, 2.0)),
    ):
        candidates = np.argwhere(places)
        for _ in range(count):
            radius = rng.uniform(*radii_mm)
            spread = rng.uniform(0.75, 1.35, 3) if kind == "wmh" else rng.uniform(0.9, 1.1, 3)
            for _attempt in range(500):
                centre = apply_affine(atlas.affine, candidates[rng.integers(len(candidates))])
                lesion = Spheroid(centre, radius * spread, kind)
                if all(
                    np.linalg.norm(centre - other.centre_mni_mm)
                    > 2 + lesion.half_axes_mm.max() + other.half_axes_mm.max()
                    for other in lesions
                ):
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
