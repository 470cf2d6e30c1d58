"""From a vesselness response to objects: what is a perivascular space, and what is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import cc3d
import edt
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.special import ndtr

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.atlas import perivascular
from pvsbook.pvs.anatomy import Anatomy, Levels, measure_levels
from pvsbook.pvs.morphometry import (
    measure_centrelines,
    measure_spread,
    measure_ventricle_distance,
)
from pvsbook.pvs.vesselness import DEFAULT_SCALES_MM, Method, Vesselness, vesselness_filter

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

__all__ = ["CLASSES", "Rules", "Segmentation", "segment"]

_TRUST = 4.0  # contrast of the filter, in standard deviations of the noise
_APART_MM = 10.0  # between simulated threads
_RING_MM = 4.0  # tissue around an object that its background is measured in
_MIN_RING = 30  # voxels of it; with fewer, the smooth background stands
_CORTEX_HALF_MM = 1.2  # cortex and sulci are at least twice this thick
_CORTEX_MM3 = 1500.0  # and hang together over more than this

CLASSES: Mapping[str, int] = {"pvs": 1, "uncertain": 2, "wmh_overlap": 3, "lacune_like": 4}


@dataclass(frozen=True)
class Rules:
    """What makes an object a perivascular space.

    Attributes
    ----------
    expected_false
        False objects a scan that noise alone may make; lower it for fewer and larger objects.
    min_contrast
        The threshold is at least the response to a thread that stands out by this fraction of the
        contrast of fluid.  On fine or quiet scans noise alone would allow far fainter ones, and
        those are texture and strands of grey matter.  The default is where noise puts the
        threshold of a 1 mm scan with a signal-to-noise ratio of 20.
    low_to_high
        Hysteresis: an object grows from its seed down to this fraction of the seed's threshold.
    min_length_mm, min_elongation, max_width_mm
        Shape of a tube.  Shorter or rounder objects are *uncertain*, wider ones *lacune-like*
        when they are as bright as fluid, else *uncertain*.
    blob_mm
        Bright structures that hold a ball of this diameter are taken whole, so that their rims
        are not counted as tubes.
    wmh_overlap
        Fraction of an object inside the mask of white-matter hyperintensities that makes it
        *WMH overlap*.
    fluid_like
        Fraction of the contrast of fluid above which a wide object is *lacune-like*.
    space_contrast
        Contrast of the fluid in perivascular spaces, as a fraction of that in the ventricles.
        Volumes are divided by it: 1 gives the volume of ventricle-like fluid, which is too little
        where spaces are fainter.  Set it where it is known, from wide spaces or thinner slices.
    max_border
        Fraction of the voxels around an object that may belong to cortex, sulci or ventricles.
    """

    expected_false: float = 1.0
    min_contrast: float = 0.11
    low_to_high: float = 0.4
    min_length_mm: float = 2.5
    min_elongation: float = 1.6
    max_width_mm: float = 4.5
    blob_mm: float = 3.6
    wmh_overlap: float = 0.3
    fluid_like: float = 0.6
    space_contrast: float = 1.0
    max_border: float = 0.35


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Objects found in one scan.

    Attributes
    ----------
    objects
        One row an object: class, region, the columns of `pvsbook.pvs.morphometry`, width_mm,
        volume_voxels_mm3 (voxels counted), volume_mm3 (corrected for partial volume) with the
        standard error that noise gives it, contrast (largest, as a fraction of fluid), response,
        border, wmh_fraction, distance and angle to the ventricles, and the probability that it
        is found again under new noise (`repeat_probability`).
    labels
        Object of each voxel (the index of `objects` plus one), shape of the anatomy, int32.
    response
        The vesselness, shape of the anatomy.
    threshold
        Response above which an object is seeded.
    expected_false
        Objects of noise alone expected at this threshold over the searched volume.
    noise_variance
        What such objects add to the variance of a count: their number plus a half in the block of
        noise that was simulated (Jeffreys), since none there does not mean none ever.
    n_mirrored
        Threads of the wrong sign (dark on T2w) that pass the same threshold and rules.  None of
        them is a perivascular space: they tell how many objects texture, vessels and artefacts
        may add to those of the right sign.
    searched_ml
        Volume that was searched.
    levels
        Signal and noise of the scan.
    """

    objects: pd.DataFrame
    labels: NDArray[np.int32]
    response: Floats
    threshold: float
    expected_false: float
    noise_variance: float
    n_mirrored: int
    searched_ml: float
    levels: Levels


def segment(
    anatomy: Anatomy,
    *,
    wmh: NDArray[np.bool_] | None = None,
    scales_mm: Sequence[float] | None = None,
    method: Method = "frangi",
    rules: Rules | None = None,
    rng: np.random.Generator | None = None,
) -> Segmentation:
    """Find tube-shaped objects in the regions and give each a class.

    1. Cortex, sulci and ventricles are told from white matter and set to its background, so that
       their edges do not answer the filter.
    2. The vesselness filter runs with its contrast tied to the noise.
    3. The threshold is the response that pure noise of this scan's strength and smoothness
       exceeds `Rules.expected_false` times in the searched volume, by simulation, or the response
       to a thread of `Rules.min_contrast`, whichever is larger.
    4. Hysteresis and 26-connected components make objects; wide bright structures join them.
    5. The `Rules` give each a class.  Nothing is deleted in silence.

    Parameters
    ----------
    anatomy
        From `pvsbook.pvs.anatomy.locate`.
    wmh
        White-matter hyperintensities, shape of `anatomy`.
    scales_mm
        Scales of the filter; by default from 0.5 voxel, doubled up to 1.3 mm.
    method
        Vesselness, as in `vesselness_filter`.
    rules
        `Rules` other than the default.
    rng
        Random numbers of the noise simulation; a fixed seed by default.

    Raises
    ------
    InputError
        The mask of hyperintensities has another shape, or nothing is left to search.

    References
    ----------
    Ballerini et al. 2018, doi:10.1038/s41598-018-19781-5 (vesselness for perivascular spaces);
    Bernal et al. 2022, Magn Reson Imaging 93:33 (confounders).
    """
    rules = Rules() if rules is None else rules
    rng = np.random.default_rng(0) if rng is None else rng
    size = anatomy.voxel_size_mm
    levels = measure_levels(anatomy)
    if wmh is not None and wmh.shape != anatomy.regions.shape:
        raise InputError(f"wmh: shape {wmh.shape}, but the anatomy has {anatomy.regions.shape}")
    if scales_mm is None:
        scales_mm = default_scales(size)
    excess = levels.sign * (images.array(anatomy.image) - levels.background)
    outside = _outside_white_matter(excess, anatomy, levels)
    near_outside = edt.edt(~outside, anisotropy=tuple(size)) <= 0.75 * size.max()
    searched = (anatomy.regions > 0) & ~near_outside
    if not searched.any():
        raise InputError(
            "image: no tissue is left to search in the regions; check the registration figure"
        )
    excess[near_outside] = 0
    evened = _even_noise(excess, anatomy, searched, levels)
    filtered = excess * evened
    tubeness = partial(
        vesselness_filter,
        voxel_size_mm=size,
        scales_mm=scales_mm,
        method=method,
        c=_TRUST * levels.noise_sd,
    )
    response = tubeness(filtered, mask=searched).response
    noise, answer = _noise_alone(levels, size, tubeness, rng)
    share = float(searched.sum()) / noise.size
    count_noise = partial(_count_noise, answer, noise, size=size, rules=rules)
    fluid = abs(levels.fluid - levels.white_matter)
    thread = _thread(max(scales_mm), noise.shape, size) * np.float32(rules.min_contrast * fluid)
    faintest = _peaks(tubeness(thread).response, size).max()
    threshold = max(faintest, _calibrate(answer, count_noise, rules.expected_false / share))
    thread *= np.float32(np.sqrt(threshold / faintest))
    # the square root of a small response is linear in contrast, and its noise even
    spread = float(np.sqrt(_peaks(tubeness(thread + noise).response, size)).std())
    describe = partial(
        _describe, anatomy=anatomy, levels=levels, outside=near_outside, wmh=wmh, rules=rules
    )
    tubes = _hysteresis(response, threshold, rules.low_to_high)
    blobs = _blobs(excess, searched, levels, size, rules)
    labels = _components(tubes | blobs)
    objects = describe(labels, excess, response)
    spreads = spread * _largest(evened, labels, len(objects))
    objects["repeat_probability"] = _lifted(objects["response"], threshold, spreads)
    mirrored = np.where(_grow(labels) > 0, 0, -filtered)
    wrong = tubeness(mirrored, mask=searched).response
    dark = _components(_hysteresis(wrong, threshold, rules.low_to_high))
    n_noise = count_noise(threshold)
    return Segmentation(
        objects=objects,
        labels=labels,
        response=response,
        threshold=threshold,
        expected_false=n_noise * share,
        noise_variance=(n_noise + 0.5) * share,
        n_mirrored=int((describe(dark, mirrored, wrong)["class"] == "pvs").sum()),
        searched_ml=float(searched.sum() * np.prod(size) / 1000),
        levels=levels,
    )


def default_scales(voxel_size_mm: ArrayLike) -> tuple[float, ...]:
    """Return the scales for a voxel size: those of `DEFAULT_SCALES_MM` that the grid can carry.

    Examples
    --------
    >>> default_scales((1.0, 1.0, 1.0))
    (0.6, 0.9, 1.3)
    """
    smallest = 0.55 * float(np.prod(np.asarray(voxel_size_mm, np.float64))) ** (1 / 3)
    kept = tuple(s for s in DEFAULT_SCALES_MM if s >= smallest)
    return kept if kept else (smallest, 1.5 * smallest)


def _outside_white_matter(excess: Floats, anatomy: Anatomy, levels: Levels) -> Mask:
    """Cortex, sulci and ventricles: what is thick, fluid- or cortex-like, and reaches outwards."""
    size = anatomy.voxel_size_mm
    fluid = abs(levels.fluid - levels.white_matter)
    cortex = max(levels.sign * (levels.grey_matter - levels.white_matter), 0.0)
    core = (anatomy.wm > 0.9) & ((anatomy.regions == 1) | (anatomy.regions == 2))
    hemisphere = edt.edt(~core, anisotropy=tuple(size)) < 15
    # Above cortex, brightness says nothing here, but would widen what is thin when smoothed.
    ceiling = np.where(hemisphere, max(cortex, 8 * levels.noise_sd), np.inf).astype(np.float32)
    smooth = ndimage.gaussian_filter(np.minimum(excess, ceiling), 0.8 / size)
    noise = 1.4826 * float(np.median(np.abs(smooth[core]))) if core.any() else levels.noise_sd
    level = np.where(hemisphere, np.clip(0.5 * cortex, 2.5 * noise, 0.35 * fluid), 0.35 * fluid)
    bright = (smooth > level) | ~anatomy.brain
    known = (anatomy.ventricles > 0.5) | ~anatomy.brain
    known |= (anatomy.regions == 0) & (anatomy.wm < 0.4)
    depth = edt.edt(bright, anisotropy=tuple(size))
    labels = _components(depth > _CORTEX_HALF_MM, connectivity=6)
    large = np.bincount(labels.ravel()) * np.prod(size) >= _CORTEX_MM3
    large[0] = False
    reached = np.zeros(len(large), bool)
    reached[labels[known]] = True
    kept = (large & reached)[labels]
    return bright & (edt.edt(~kept, anisotropy=tuple(size)) <= _CORTEX_HALF_MM) | kept


def _even_noise(excess: Floats, anatomy: Anatomy, searched: Mask, levels: Levels) -> Floats:
    """Factor that brings the texture of each region down to the noise of white matter."""
    factor = np.ones(excess.shape, np.float32)
    for group in ((3, 4), (5, 6)):
        inside = np.isin(anatomy.regions, group)
        sample = excess[inside & searched]
        if sample.size > 200:
            spread = 1.4826 * float(np.median(np.abs(sample - np.median(sample))))
            factor[inside] = min(1.0, levels.noise_sd / max(spread, 1e-12))
    return factor


def _noise_alone(
    levels: Levels, size: NDArray, tubeness: Callable[..., Vesselness], rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Simulate a block of noise like that of this scan, and the answer of the filter."""
    block = tuple(int(np.ceil(60 / s)) for s in size)
    noise = rng.standard_normal(block, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, [_sigma_for(r) for r in levels.smoothness])
    noise *= np.float32(levels.noise_sd / noise.std())
    return noise, tubeness(noise).response


def _thread(width_mm: float, shape: tuple[int, ...], size: NDArray) -> Floats:
    """Straight threads along the third axis, far apart, of unit height and a Gaussian profile."""
    squares = []
    for n, step in zip(shape[:2], size, strict=False):
        away = (np.arange(n) * step) % _APART_MM - _APART_MM / 2
        squares.append((np.round(away / step) * step) ** 2)
    profile = np.exp(-0.5 * (squares[0][:, None] + squares[1]) / width_mm**2)
    return np.repeat(profile[..., None].astype(np.float32), shape[2], axis=2)


def _peaks(response: Floats, size: NDArray) -> Floats:
    """Largest response of each piece of `_APART_MM` / 2 of the threads of `_thread`."""
    whole = [int(_APART_MM / s) for s in size[:2]]
    piece = int(_APART_MM / 2 / size[2])
    n = [length // p for length, p in zip(response.shape, (*whole, piece), strict=True)]
    cut = response[: n[0] * whole[0], : n[1] * whole[1], : n[2] * piece]
    blocks = cut.reshape(n[0], whole[0], n[1], whole[1], n[2], piece)
    return blocks.max(axis=(1, 3, 5))[:, :, 1:-1].ravel()


def _lifted(response: ArrayLike, threshold: float, spread: ArrayLike) -> NDArray[np.float64]:
    """Probability that an object with this response passes the threshold under new noise."""
    above = np.sqrt(np.maximum(np.asarray(response, np.float64), 0)) - np.sqrt(threshold)
    return ndtr(above / (np.sqrt(2) * np.asarray(spread, np.float64)))


def _calibrate(answer: Floats, count_noise: Callable[[float], int], wanted: float) -> float:
    """Lowest threshold at which noise alone makes no more objects than wanted."""
    # From the top down: far below, noise runs together into one object and would seem rare.
    candidates = np.quantile(answer, 1 - np.geomspace(3e-7, 3e-2, 40))
    threshold = float(candidates[0])
    for lower in candidates:
        if count_noise(float(lower)) > wanted:
            break
        threshold = float(lower)
    return threshold


def _count_noise(
    response: Floats, noise: Floats, threshold: float, size: NDArray, rules: Rules
) -> int:
    tubes = _hysteresis(response, threshold, rules.low_to_high)
    labels = _components(tubes)
    shapes = measure_spread(labels, noise, np.diag([*size, 1.0]))
    return int(
        (
            (shapes["length_mm"] >= rules.min_length_mm)
            & (shapes["elongation"] >= rules.min_elongation)
        ).sum()
    )


def _components(mask: Mask, connectivity: Literal[6, 26] = 26) -> NDArray[np.int32]:
    return np.asarray(cc3d.connected_components(mask, connectivity=connectivity), np.int32)


def _sigma_for(correlation: float) -> float:
    """Gaussian smoothing in voxels that gives white noise this correlation of neighbours."""
    return 0.0 if correlation < 0.01 else float(np.sqrt(-0.25 / np.log(correlation)))


def _hysteresis(response: Floats, high: float, low_to_high: float) -> Mask:
    """Components above the low threshold that reach the high one."""
    labels = _components(response > low_to_high * high)
    seeded = np.zeros(int(labels.max()) + 1, bool)
    seeded[labels[response > high]] = True
    seeded[0] = False
    return seeded[labels]


def _blobs(excess: Floats, searched: Mask, levels: Levels, size: NDArray, rules: Rules) -> Mask:
    """Bright structures that hold a ball of `Rules.blob_mm`."""
    fluid = abs(levels.fluid - levels.white_matter)
    smooth = ndimage.gaussian_filter(excess, 0.5 / size)
    bright = searched & (smooth > max(4 * levels.noise_sd, 0.15 * fluid))
    radius = rules.blob_mm / 2
    core = edt.edt(bright, anisotropy=tuple(size)) >= radius
    return bright & (edt.edt(~core, anisotropy=tuple(size)) <= radius)


def _describe(
    labels: NDArray[np.int32],
    excess: Floats,
    response: Floats,
    *,
    anatomy: Anatomy,
    levels: Levels,
    outside: Mask,
    wmh: Mask | None,
    rules: Rules,
) -> pd.DataFrame:
    """Class, shape, content and place of each object."""
    size = anatomy.voxel_size_mm
    voxel_mm3 = float(np.prod(size))
    fluid = abs(levels.fluid - levels.white_matter)
    table = measure_centrelines(labels, excess, anatomy.image.affine)
    count = len(table)
    voxels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    grown = _grow(labels)
    shell = (grown > 0) & (labels == 0)
    filled = np.bincount(grown.ravel(), minlength=count + 1)[1:]
    around, n_around = _tissue_around(grown, excess, (anatomy.regions > 0) & ~outside, size)
    total = np.bincount(grown.ravel(), np.maximum(excess, -fluid).ravel(), count + 1)[1:]
    content = total - filled * around
    table["volume_voxels_mm3"] = voxels * voxel_mm3
    per_unit = voxel_mm3 / (fluid * rules.space_contrast)
    table["volume_mm3"] = np.maximum(content, 0) * per_unit
    table["width_mm"] = np.sqrt(
        4 / np.pi * table["volume_mm3"] / np.maximum(table["length_mm"], size.min())
    )
    table["volume_se_mm3"] = per_unit * _volume_error(filled, n_around, levels)
    table["contrast"] = _largest(excess, labels, count) / fluid
    table["response"] = _largest(response, labels, count)
    rim = np.bincount(grown[shell], minlength=count + 1)[1:]
    touching = np.bincount(grown[shell & outside], minlength=count + 1)[1:]
    table["border"] = touching / np.maximum(rim, 1)
    lesion = np.zeros(count) if wmh is None else np.bincount(labels[wmh], minlength=count + 1)[1:]
    table["wmh_fraction"] = lesion / voxels
    ventricles = anatomy.ventricles > 0.5
    place = measure_ventricle_distance(table, ventricles, anatomy.image.affine)
    table = pd.concat([table, place], axis=1)
    table["region"] = _regions_of(labels, anatomy.regions, count)
    table.insert(0, "class", _classify(table, rules))
    return table


def _tissue_around(
    grown: NDArray[np.int32], excess: Floats, tissue: Mask, size: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Median excess of the tissue around each object, and over how many voxels.

    The smooth background of the scan mixes white matter with what lies some millimetres away;
    over an object of a hundred voxels, one per cent of it is as much as a faint space.
    """
    count = int(grown.max(initial=0))
    medians, voxels = np.zeros(count), np.zeros(count, np.int64)
    margin = np.ceil(_RING_MM / size).astype(int)
    for n, found in enumerate(ndimage.find_objects(grown)):
        if found is None:
            continue
        box = tuple(
            slice(max(0, s.start - m), s.stop + m) for s, m in zip(found, margin, strict=True)
        )
        near = edt.edt(grown[box] != n + 1, anisotropy=tuple(size)) <= _RING_MM
        sample = excess[box][near & (grown[box] == 0) & tissue[box]]
        voxels[n] = sample.size
        if sample.size >= _MIN_RING:
            medians[n] = np.median(sample)
    return medians, voxels


def _volume_error(filled: NDArray, around: NDArray, levels: Levels) -> NDArray[np.float64]:
    """Return the standard error that noise gives a sum over so many voxels less its background.

    The variance of a median is pi / 2 times that of a mean.
    """
    together = float(np.prod([1 + 2 * r for r in levels.noise_correlation]))
    background = np.where(around >= _MIN_RING, np.pi / 2 * filled**2 / np.maximum(around, 1), 0)
    return levels.noise_sd * np.sqrt(together * (filled + background))


def _largest(values: Floats, labels: NDArray[np.int32], count: int) -> Floats:
    """Largest value inside each object."""
    inside = labels > 0
    out = np.full(count, -np.inf, np.float32)
    np.maximum.at(out, labels[inside] - 1, values[inside])
    return out


def _grow(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give the neighbours (26) of each object its number; nearer objects keep theirs."""
    grown = ndimage.maximum_filter(labels, size=3)
    return np.where(labels > 0, labels, grown)


def _regions_of(labels: NDArray, regions: NDArray, count: int) -> list[str]:
    """Region that holds most of each object."""
    inside = labels > 0
    table = np.zeros((count + 1, 7), np.int64)
    np.add.at(table, (labels[inside], regions[inside]), 1)
    return [perivascular.REGIONS[int(k)] for k in 1 + table[1:, 1:].argmax(axis=1)]


def _classify(objects: pd.DataFrame, rules: Rules) -> NDArray[np.str_]:
    tube = (
        (objects["length_mm"] >= rules.min_length_mm)
        & (objects["elongation"] >= rules.min_elongation)
        & (objects["width_mm"] <= rules.max_width_mm)
        & (objects["border"] <= rules.max_border)
    )
    lacune = (
        ~tube
        & (objects["contrast"] >= rules.fluid_like)
        & (objects["length_mm"] >= 3)
        & (objects["border"] <= rules.max_border)
    )
    lesion = objects["wmh_fraction"] >= rules.wmh_overlap
    return np.select([lesion, tube, lacune], ["wmh_overlap", "pvs", "lacune_like"], "uncertain")
