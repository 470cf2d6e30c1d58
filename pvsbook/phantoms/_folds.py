"""One person's brain instead of the average of many: folded cortex, deep nuclei, own shape.

The MNI152 maps are an average, so their cortex is smooth and their sulci are shallow.  Here the
template gives the course of the surface, the ventricles and the nuclei; a random smooth warp gives
the person's shape; and sulci are cut as thin sheets of fluid where a band-limited random field
crosses zero.  The field is constant along the way from white matter to the surface, so the sheets
stand on the surface and wind along it.  Everything is a distance in mm, so sheets thinner than a
voxel keep their width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import edt
import nibabel as nib
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import fft, ndimage

from pvsbook import images
from pvsbook.atlas import deep_grey, perivascular, templates
from pvsbook.phantoms._shapes import Places
from pvsbook.phantoms.brain import Brain, Grid, interpolate, sample_mni

Floats = NDArray[np.float32]

NUCLEI: Mapping[str, tuple[str, ...]] = {
    "caudate": ("caudate",),
    "putamen": ("putamen",),
    "pallidum": ("pallidum",),
    "thalamus": ("thalamus", "pulvinar"),
}
_STEP_MM = 2.0  # of the grid that distances are kept on
_PLANES = 16  # drawn at once, for memory
_CORE = 0.85  # white in so large a share of people: sulci end near its surface
_FLUID = 0.4  # fluid in so large a share of people: surface, cisterns, Sylvian fissure
_CORTEX_MM = 2.5
_GREY_WHITE_MM = 1.5  # width of the ramp from cortex, or a nucleus, to white matter
_BRAINSTEM_MM = ((-17, 18), (-45, -4), (-60, 0))
_FAR_MM = 30.0
_WARP_MM = 1.7  # standard deviation of each component
_WAVE_MM = (15.0, 19.0)  # two gyri
_BOTTOM_MM, _BOTTOM_SD_MM = (-1.0, 1.0), 1.5  # of the sulci, above the core
_DEEPEST_MM = -2.5
_WIDEST_MM = 3.0  # of the sulci
_VENTRICLES_MM, _SURFACE_MM = 4.5, 0.5  # that the most atrophic person loses


@dataclass(frozen=True, eq=False)
class Person:
    """Anatomy of one person.

    Attributes
    ----------
    levels
        Distances in mm, negative inside: ``"surface"`` from the fluid around the brain,
        ``"sheet"`` from the middle of the nearest sulcus, ``"beyond"`` from the bottom of the
        sulci, ``"ventricles"``, ``"brain"`` and the `NUCLEI`; with half the width of the sulci,
        ``"half"``, and a weight, ``"cortex"``: 0 where the surface bears none.
    affine
        Of the levels, to MNI mm.
    regions
        `pvsbook.atlas.perivascular.regions` of this person.
    """

    levels: Mapping[str, Floats]
    affine: NDArray[np.float64]
    regions: nib.Nifti1Image


def draw_person(rng: Generator) -> Person:
    """Draw the shape of a head, its atrophy, and the course, depth and width of its sulci."""
    template, affine = _template_levels()
    shape = template["core"].shape
    atrophy = rng.uniform(0, 1)
    shift = [_waves(rng, shape, 70.0, 0.5) * np.float32(_WARP_MM) for _ in range(3)]
    at = np.indices(shape, np.float32) + np.stack(shift) / np.float32(_STEP_MM)
    levels = {
        name: ndimage.map_coordinates(level, at, order=1, mode="nearest")
        for name, level in template.items()
    }
    core = levels.pop("core")
    smooth = ndimage.gaussian_filter(core, 2.0 / _STEP_MM)
    slope = np.stack(np.gradient(smooth, _STEP_MM))
    slope /= np.maximum(np.linalg.norm(slope, axis=0), 0.5)
    foot = np.indices(shape, np.float32) - smooth * slope / np.float32(_STEP_MM)
    course, depth, wide = (
        ndimage.map_coordinates(_waves(rng, shape, wave_mm, width), foot, order=3, mode="nearest")
        for wave_mm, width in ((rng.uniform(*_WAVE_MM), 0.15), (30.0, 0.4), (30.0, 0.4))
    )
    steep = np.linalg.norm(np.stack(np.gradient(course, _STEP_MM)), axis=0)
    levels["sheet"] = np.clip(course / np.maximum(steep, 1e-3), -_FAR_MM, _FAR_MM)
    bottom = rng.uniform(*_BOTTOM_MM) + _BOTTOM_SD_MM * depth
    levels["beyond"] = np.maximum(bottom, _DEEPEST_MM) - core
    width_mm = (0.7 + 1.3 * atrophy) * (1 + 0.5 * wide)
    levels["half"] = np.clip(width_mm, 0.2, _WIDEST_MM) / 2
    levels["ventricles"] -= _VENTRICLES_MM * atrophy
    levels["surface"] -= _SURFACE_MM * atrophy
    atlas = perivascular.regions()
    fine = [sample_mni(images.make(part, affine), atlas.shape, atlas.affine) for part in shift]
    there = np.indices(atlas.shape, np.float32) + np.stack(fine)
    regions = ndimage.map_coordinates(np.asarray(atlas.dataobj), there, order=0)
    levels = {name: level.astype(np.float32) for name, level in levels.items()}
    return Person(levels, affine, images.make(regions, atlas.affine))


def draw_brain(person: Person, grid: Grid, sample_mm: float = 0.6) -> Brain:
    """Fill the voxels of a grid with the tissues of a person, from samples within each voxel."""
    parts = np.ceil(grid.voxel_size_mm / sample_mm - 0.01).astype(int)
    inside_mm = float((grid.voxel_size_mm / parts).mean())
    names = ("wm", "gm", "csf", "ventricles", "brain", *NUCLEI)
    maps = {name: np.zeros(grid.shape, np.float32) for name in names}
    to_levels = np.linalg.inv(person.affine) @ grid.to_mni
    for first in range(0, grid.shape[0], _PLANES):
        block = slice(first, first + _PLANES)
        for offset in np.ndindex(*parts):
            within = np.eye(4)
            within[:3, 3] = (np.array(offset) + 0.5) / parts - 0.5 + [first, 0, 0]
            at = {name: np.empty_like(maps["wm"][block]) for name in person.levels}
            for name, level in person.levels.items():
                interpolate(level, to_levels @ within, at[name], True)
            for name, share in _tissues(at, inside_mm).items():
                maps[name][block] += share / np.float32(parts.prod())
    nuclei = {name: maps.pop(name) for name in NUCLEI}
    return Brain(grid.shape, grid.affine, grid.mni_to_world, **maps, nuclei=nuclei)


def places_of(person: Person) -> Places:
    """Return where lesions and perivascular spaces of a person may lie: 2 mm from other tissue."""
    regions = person.regions
    x, y, z = regions.shape
    brain = draw_brain(person, Grid((x, y, z), regions.affine, np.eye(4)), 1.0)
    solid = edt.edt(brain.wm + sum(brain.nuclei.values()) > 0.75) >= 2
    labels = np.asarray(regions.dataobj) * solid
    return Places.of(images.make(labels, regions.affine), brain.ventricles, brain.wm)


def _tissues(at: Mapping[str, Floats], sample_mm: float) -> dict[str, Floats]:
    """Shares of the tissues at samples `sample_mm` apart, from their distances."""
    sheet = np.hypot(at["sheet"], np.maximum(at["beyond"], 0)) - at["half"]
    brain = _ramp(at["brain"], sample_mm)
    ventricles = brain * _ramp(at["ventricles"], sample_mm)
    surface = _ramp(np.minimum(sheet, at["surface"]), sample_mm)
    csf = np.maximum(ventricles, brain * surface)
    cortex = np.maximum(
        _ramp(sheet - _CORTEX_MM, _GREY_WHITE_MM),
        at["cortex"] * _ramp(at["surface"] - _CORTEX_MM, _GREY_WHITE_MM),
    )
    out = {"brain": brain, "ventricles": ventricles, "csf": csf}
    left = brain - csf
    for name in NUCLEI:
        out[name] = left * _ramp(at[name], _GREY_WHITE_MM)
        left = left - out[name]
    out["wm"] = left * (1 - cortex)
    out["gm"] = brain - csf - out["wm"]
    return out


def _ramp(distance: Floats, width_mm: float) -> Floats:
    """Share inside, of a border that lies within `width_mm`."""
    return np.clip(np.float32(0.5) - distance / np.float32(width_mm), 0, 1)


def _waves(rng: Generator, shape: tuple[int, ...], wave_mm: float, width: float) -> Floats:
    """Random field of SD 1 whose wavelengths lie within a share `width` of one in mm."""
    padded = tuple(fft.next_fast_len(n + 20, real=True) for n in shape)
    spectrum = fft.rfftn(rng.standard_normal(padded, dtype=np.float32))
    axes = [fft.fftfreq(n, _STEP_MM) for n in padded[:2]] + [fft.rfftfreq(padded[2], _STEP_MM)]
    wave = np.sqrt(sum(k**2 for k in np.meshgrid(*axes, indexing="ij", sparse=True)))
    spectrum *= np.exp(-0.5 * ((wave * wave_mm - 1) / width) ** 2).astype(np.float32)
    field = fft.irfftn(spectrum, padded)[tuple(map(slice, shape))]
    return (field / field.std()).astype(np.float32)


@lru_cache(maxsize=1)
def _template_levels() -> tuple[dict[str, Floats], NDArray[np.float64]]:
    """Levels of the MNI152 head, in template space, with the grid that they lie on."""
    whole = templates.mni("wm")
    wm, gm, csf, ventricles, brain = (
        images.array(templates.mni(kind)) for kind in ("wm", "gm", "csf", "ventricles", "brain")
    )
    chambers = ventricles > 0.5
    outside = (brain < 0.5) | ((csf > _FLUID) & ~ndimage.binary_dilation(chambers, iterations=2))
    deep = images.array(deep_grey.region()) > 0
    stem = np.zeros(wm.shape, bool)
    stem[templates.box(_BRAINSTEM_MM, whole.affine)] = True
    core = (wm > _CORE) | deep | chambers | (stem & ~outside)
    core = ndimage.binary_opening(core, iterations=2) | deep | chambers
    bears = np.clip(ndimage.gaussian_filter(gm, 2.0) / np.float32(0.2), 0, 1)
    maps = {
        "core": _signed(core),
        "surface": _signed(outside),
        "ventricles": _signed(chambers),
        "brain": _signed(brain > 0.5),
        "cortex": ndimage.gaussian_filter(np.where(deep | stem, 0, bears), 1.0),
    }
    nuclei = deep_grey.distances_on_grid(wm.shape, whole.affine)
    regions = deep_grey.table().set_index("label")["region"]
    for name, members in NUCLEI.items():
        level = maps[name] = np.full(wm.shape, 3.0, np.float32)
        for label, (box, distance) in nuclei.items():
            if regions[label] in members:
                level[box] = np.minimum(level[box], distance)
    affine = whole.affine @ np.diag([_STEP_MM] * 3 + [1])
    x, y, z = (int(n / _STEP_MM) for n in wm.shape)
    return {
        name: sample_mni(images.make(level, whole.affine), (x, y, z), affine)
        for name, level in maps.items()
    }, affine


def _signed(mask: NDArray[np.bool_]) -> Floats:
    """Distance from the border of a mask in voxels of 1 mm, negative inside, without its steps."""
    distance = edt.edt(~mask) - edt.edt(mask)
    return ndimage.gaussian_filter(np.clip(distance, -_FAR_MM, _FAR_MM), 0.7)
