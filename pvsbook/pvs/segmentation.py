"""Perivascular spaces of one scan: a vesselness response, a threshold, and objects.

The threshold comes from simulated noise and from simulated faint tubes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

import edt
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.special import ndtr

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.pvs._spread import robust_spread
from pvsbook.pvs.anatomy import Levels, PvsAnatomy, measure_levels
from pvsbook.pvs.morphometry import measure_spread
from pvsbook.pvs.objects import (
    Rules,
    classify,
    components,
    describe,
    dilate,
    hysteresis,
    is_elongated,
)
from pvsbook.pvs.vesselness import DEFAULT_SCALES_MM, Vesselness, vesselness_filter

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

__all__ = ["Segmentation", "default_scales", "segment"]

_CONTRAST_TO_NOISE = 4.0  # at which the filter starts to trust a structure
_CORTEX_HALF_MM = 1.2  # cortex and sulci are at least twice this thick
_SULCUS = 0.3  # of the contrast of fluid: fluid, in part at least
_CORTEX_MM3 = 1500.0  # and hang together over more than this
_ROUNDS = 3  # of levels and cortex; a fourth moves the noise by less than 1 %
_OPPOSITE_SHARE = 0.25  # of opposite contrast, of those counted
_FEWEST = 8  # taken as counted, if fewer are: one or two of opposite contrast say little
_STRICT = 1.25  # how much more stricter rules ask for; a response goes with contrast squared
_BLOCK_MM = 60.0  # side of the simulated block
_TUBE_DISTANCE_MM = 10.0  # between simulated tubes: they do not touch each other's response


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Objects found in one scan.

    Attributes
    ----------
    objects
        One row per object: class, region, the columns of `pvsbook.pvs.morphometry`, width_mm,
        volume_voxels_mm3 (voxels counted), volume_mm3 (corrected for partial volume) with the
        standard error that noise gives it, contrast (largest, as a fraction of fluid), response,
        depth_mm, distance and angle to the ventricles, and the probability that it
        is found again under new noise (`repeat_probability`).
    strict
        The perivascular spaces that pass rules of contrast, depth and shape which ask for 1.25
        times as much: how far the numbers hang on the rules.
    loose, loose_labels
        Objects of all classes, and their voxels, under rules that ask for 1.25 times as little.
    labels
        Object of each voxel (the index of `objects` plus one), shape of the anatomy, int32.
    response
        The vesselness, shape of the anatomy.
    threshold
        Response that a perivascular space reaches.
    raised
        The threshold as a multiple of what noise asks for.
    expected_false
        Objects of noise alone expected at this threshold over the searched volume.
    noise_variance
        What such objects add to the variance of a count: their number plus a half in the block of
        noise that was simulated (Jeffreys), since none there does not mean none ever.
    n_mirrored
        Objects of opposite contrast (dark on T2w) that pass the same threshold and rules.  None
        of them is a perivascular space: their number estimates how many objects texture, vessels
        and artefacts add to those of the right contrast.  The threshold is raised until they are
        at most a quarter of those.
    searched_ml
        Volume that was searched.
    levels
        Signal and noise of the scan.
    rules
        What made an object a perivascular space.
    """

    objects: pd.DataFrame
    strict: pd.DataFrame
    loose: pd.DataFrame
    loose_labels: NDArray[np.int32]
    labels: NDArray[np.int32]
    response: Floats
    threshold: float
    raised: float
    expected_false: float
    noise_variance: float
    n_mirrored: int
    searched_ml: float
    levels: Levels
    rules: Rules


def segment(
    anatomy: PvsAnatomy,
    *,
    wmh: NDArray[np.bool_] | None = None,
    rules: Rules | None = None,
    rng: np.random.Generator | None = None,
) -> Segmentation:
    """Find tube-shaped objects in the regions and give each a class.

    1. Cortex, sulci and ventricles are separated from white matter and set to its background, so
       that the filter does not respond to their edges.
    2. The vesselness filter runs with its contrast tied to the noise.
    3. The threshold is the response that pure noise of this scan's strength and smoothness
       exceeds `Rules.expected_false` times in the searched volume, by simulation, or the response
       to a tube of `Rules.min_contrast`, whichever is larger.
    4. Hysteresis and 26-connected components make objects; wide bright structures join them.
    5. The `Rules` give each a class; no object is deleted.
    6. The same search for objects of opposite contrast tells how many may be false.  The
       threshold is raised until that is at most a quarter; what it passes over is *uncertain*.

    Parameters
    ----------
    anatomy
        From `pvsbook.pvs.anatomy.locate_regions`.
    wmh
        White-matter hyperintensities, shape of `anatomy`.
    rules
        `Rules` other than the default.
    rng
        Random numbers of the noise simulation; a fixed seed by default.

    Raises
    ------
    InputError
        Nothing is left to search.

    References
    ----------
    Ballerini et al. 2018, doi:10.1038/s41598-018-19781-5 (vesselness for perivascular spaces);
    Bernal et al. 2022, Magn Reson Imaging 93:33 (confounders).
    """
    rules = Rules() if rules is None else rules
    rng = np.random.default_rng(0) if rng is None else rng
    size = anatomy.voxel_size_mm
    scales_mm = default_scales(size)
    levels, excess, depth_mm = _levels_inside(anatomy)
    near_outside = depth_mm <= 0.75 * size.max()
    searched = (anatomy.regions > 0) & ~near_outside
    if not searched.any():
        raise InputError(
            "image: no tissue is left to search in the regions; check the registration figure"
        )
    excess[near_outside] = 0
    noise_scaling = _even_noise(excess, anatomy, searched, levels)
    scaled_excess = excess * noise_scaling

    # With their rim, which is part lesion and would be left as threads.
    lesions = np.zeros_like(searched)
    if wmh is not None and wmh.any():
        lesions = edt.edt(~wmh, anisotropy=tuple(size)) <= 1.5 * size.min()
    n_searched = int(searched.sum())
    filter_tubes = partial(
        vesselness_filter,
        voxel_size_mm=size,
        scales_mm=scales_mm,
        c=_CONTRAST_TO_NOISE * levels.noise_sd,
    )
    threshold = _calibrate(levels, size, filter_tubes, max(scales_mm), n_searched, rules, rng)

    def find(
        response: Floats, plain: Floats, more: Mask, rules: Rules, high: float
    ) -> tuple[NDArray[np.int32], pd.DataFrame]:
        """Labels and description of what responds, and of more."""

        def cut(where: Mask) -> NDArray[np.int32]:
            seeded = hysteresis(np.where(where, response, 0), high, rules.low_to_high)
            return components(seeded | (more & where))

        # Apart, so that a space that touches a lesion is kept.
        labels, inside = cut(~lesions), cut(lesions)
        labels = np.where(inside > 0, inside + labels.max(), labels)
        return labels, describe(
            labels,
            plain,
            response,
            anatomy=anatomy,
            levels=levels,
            depth_mm=depth_mm,
            searched=searched,
            lesions=lesions,
            rules=rules,
        )

    blobs = _blobs(excess, searched, levels, size, rules)
    response = filter_tubes(scaled_excess, mask=searched).response
    labels, objects = find(response, excess, blobs, rules, threshold.response)
    # The image of opposite contrast, without what was found in this one.
    opposite = np.where(dilate(labels) > 0, 0, -scaled_excess)
    respond = filter_tubes(opposite, mask=searched).response
    _, mirrored = find(respond, opposite, np.zeros_like(blobs), rules, threshold.response)
    lowest, n_mirrored = _lowest_pure(objects, mirrored, threshold.response)
    is_faint = (objects["class"] == "pvs") & (objects["response"] <= lowest)
    objects.loc[is_faint, "class"] = "uncertain"
    scaling = ndimage.maximum(noise_scaling, labels, np.arange(1, len(objects) + 1))
    root_sd = threshold.root_sd * np.asarray(scaling, np.float32)
    objects["repeat_probability"] = _repeat_probability(objects["response"], lowest, root_sd)
    strict, loose = rules.scaled(_STRICT), rules.scaled(1 / _STRICT)
    is_lesion = (objects["class"] == "wmh_overlap").to_numpy()
    passes = classify(objects, is_lesion, strict) == "pvs"
    passes &= objects["response"].to_numpy() > _STRICT**2 * lowest
    loose_labels, more = find(response, excess, blobs, loose, lowest / _STRICT**2)
    return Segmentation(
        objects=objects,
        strict=objects[passes],
        loose=more,
        loose_labels=loose_labels,
        labels=labels,
        response=response,
        threshold=lowest,
        raised=lowest / threshold.response,
        expected_false=threshold.expected_false,
        noise_variance=threshold.noise_variance,
        n_mirrored=n_mirrored,
        searched_ml=float(n_searched * np.prod(size) / 1000),
        levels=levels,
        rules=rules,
    )


def _lowest_pure(
    objects: pd.DataFrame, mirrored: pd.DataFrame, threshold: float
) -> tuple[float, int]:
    """Lowest threshold at which few enough objects are of opposite contrast, and how many."""
    counted, opposite = (
        table["response"][table["class"] == "pvs"].to_numpy() for table in (objects, mirrored)
    )
    for candidate in (threshold, *np.sort(opposite)):
        n_opposite = int((opposite > candidate).sum())
        if n_opposite <= _OPPOSITE_SHARE * max(int((counted > candidate).sum()), _FEWEST):
            break
    return float(candidate), n_opposite


@dataclass(frozen=True)
class _Threshold:
    """Where objects are seeded, and what noise alone does there (see `Segmentation`).

    `root_sd` is the standard deviation that noise gives the square root of a response near the
    threshold.
    """

    response: float
    expected_false: float
    noise_variance: float
    root_sd: float


def _calibrate(
    levels: Levels,
    size: NDArray[np.float64],
    filter_tubes: Callable[..., Vesselness],
    width_mm: float,
    n_searched: int,
    rules: Rules,
    rng: np.random.Generator,
) -> _Threshold:
    """Set the threshold of a scan by simulation.

    It is the response that pure noise of this strength and smoothness exceeds
    `Rules.expected_false` times in the searched volume, or the response to a straight tube of
    `Rules.min_contrast`, whichever is larger.

    Parameters
    ----------
    levels
        Noise and contrast of the scan.
    size
        Voxel size in mm, shape (3,).
    filter_tubes
        Vesselness of an image of this voxel size.
    width_mm
        Standard deviation of the profile of the tubes: the largest scale of the filter.
    n_searched
        Voxels that are searched.
    rules, rng
        As in `segment`.
    """
    block = tuple(int(np.ceil(_BLOCK_MM / s)) for s in size)
    noise = rng.standard_normal(block, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, [_smoothing_for(r) for r in levels.smoothness])
    noise *= np.float32(levels.noise_sd / noise.std())
    noise_response = filter_tubes(noise).response
    blocks = float(n_searched) / noise.size  # searched, in units of the simulated block

    def count(threshold: float) -> int:
        labels = components(hysteresis(noise_response, threshold, rules.low_to_high))
        shapes = measure_spread(labels, noise, np.diag([*size, 1.0]))
        return int(is_elongated(shapes, rules).sum())

    contrast = np.float32(rules.min_contrast * levels.fluid_contrast)
    tubes = _straight_tubes(width_mm, noise.shape, size) * contrast
    faintest = _peaks(filter_tubes(tubes).response, size).max()
    threshold = max(faintest, _lowest(noise_response, count, rules.expected_false / blocks))
    tubes *= np.float32(np.sqrt(threshold / faintest))
    # the square root of a small response is linear in contrast, and its noise even
    root_sd = float(np.sqrt(_peaks(filter_tubes(tubes + noise).response, size)).std())
    n_noise = count(threshold)
    return _Threshold(threshold, n_noise * blocks, (n_noise + 0.5) * blocks, root_sd)


def _lowest(response: Floats, count: Callable[[float], int], wanted: float) -> float:
    """Lowest threshold at which noise alone makes no more objects than wanted."""
    # From the top down: far below, noise runs together into one object and would seem rare.
    candidates = np.quantile(response, 1 - np.geomspace(3e-7, 3e-2, 40))
    rare = list(takewhile(lambda threshold: count(threshold) <= wanted, candidates))
    return float(rare[-1] if rare else candidates[0])


def _straight_tubes(width_mm: float, shape: tuple[int, ...], size: NDArray) -> Floats:
    """Straight tubes along the third axis, far apart, of unit height and a Gaussian profile."""
    squares = []
    for n, step in zip(shape[:2], size[:2], strict=True):
        offset_mm = (np.arange(n) * step) % _TUBE_DISTANCE_MM - _TUBE_DISTANCE_MM / 2
        squares.append((np.round(offset_mm / step) * step) ** 2)
    profile = np.exp(-0.5 * (squares[0][:, None] + squares[1]) / width_mm**2)
    return np.repeat(profile[..., None].astype(np.float32), shape[2], axis=2)


def _peaks(response: Floats, size: NDArray) -> Floats:
    """Largest response in each piece of the simulated tubes, half their distance long."""
    whole = [max(1, int(_TUBE_DISTANCE_MM / s)) for s in size[:2]]
    piece = max(1, int(_TUBE_DISTANCE_MM / 2 / size[2]))  # slices may be thicker than that
    n = [length // p for length, p in zip(response.shape, (*whole, piece), strict=True)]
    part = response[: n[0] * whole[0], : n[1] * whole[1], : n[2] * piece]
    blocks = part.reshape(n[0], whole[0], n[1], whole[1], n[2], piece)
    return blocks.max(axis=(1, 3, 5))[:, :, 1:-1].ravel()


def _smoothing_for(correlation: float) -> float:
    """Gaussian smoothing in voxels that gives white noise this correlation of neighbours.

    Neighbours of white noise smoothed by s correlate by exp(-1 / (4 s^2)).
    """
    return 0.0 if correlation < 0.01 else float(np.sqrt(-0.25 / np.log(correlation)))


def _repeat_probability(
    response: ArrayLike, threshold: float, root_sd: ArrayLike
) -> NDArray[np.float64]:
    """Probability that an object with this response passes the threshold under new noise."""
    above = np.sqrt(np.maximum(np.asarray(response, np.float64), 0)) - np.sqrt(threshold)
    return ndtr(above / (np.sqrt(2) * np.asarray(root_sd, np.float64)))


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


def _levels_inside(anatomy: PvsAnatomy) -> tuple[Levels, Floats, Floats]:
    """Return levels, excess over the background, and depth in this person's white matter.

    Each needs the others: noise that sulci raise hides cortex, and missed cortex raises noise.
    """
    values, size = images.array(anatomy.image), tuple(anatomy.voxel_size_mm)
    depth_mm: Floats | None = None
    for _ in range(_ROUNDS):
        levels = measure_levels(anatomy, depth_mm)
        excess = np.float32(levels.sign) * (values - levels.background)
        outside = _outside_white_matter(excess, anatomy, levels)
        depth_mm = np.asarray(edt.edt(~outside, anisotropy=size), np.float32)
    assert depth_mm is not None
    return levels, excess, depth_mm


def _outside_white_matter(excess: Floats, anatomy: PvsAnatomy, levels: Levels) -> Mask:
    """Cortex, sulci and ventricles: what is thick, fluid- or cortex-like, and reaches outwards."""
    size, fluid = anatomy.voxel_size_mm, levels.fluid_contrast
    cortex = max(levels.sign * (levels.grey_matter - levels.white_matter), 0.0)
    core = (anatomy.wm > 0.9) & ((anatomy.regions == 1) | (anatomy.regions == 2))
    hemisphere = edt.edt(~core, anisotropy=tuple(size)) < 15
    # Above cortex, brightness says nothing here, but would widen what is thin when smoothed.
    ceiling = np.where(hemisphere, max(cortex, 8 * levels.noise_sd), np.inf).astype(np.float32)
    smooth = ndimage.gaussian_filter(np.minimum(excess, ceiling), 0.8 / size)
    below = smooth[core & (smooth < 0)]  # cortex is above
    noise = 1.4826 * float(np.median(-below)) if below.size else levels.noise_sd
    level = np.where(hemisphere, np.clip(0.5 * cortex, 2.5 * noise, 0.35 * fluid), 0.35 * fluid)
    bright = (smooth > level) | ~anatomy.brain
    surely_outside = (anatomy.ventricles > 0.5) | ~anatomy.brain
    surely_outside |= (anatomy.regions == 0) & (anatomy.wm < 0.4)
    depth = edt.edt(bright, anisotropy=tuple(size))
    labels = components(depth > _CORTEX_HALF_MM, connectivity=6)
    large = np.bincount(labels.ravel()) * np.prod(size) >= _CORTEX_MM3
    large[0] = False
    reached = np.zeros(len(large), bool)
    reached[labels[surely_outside]] = True
    kept = (large & reached)[labels]
    outside = bright & (edt.edt(~kept, anisotropy=tuple(size)) <= _CORTEX_HALF_MM) | kept
    # Sulci too thin for that hang together with them as fluid.
    is_fluid = excess > max(_SULCUS * fluid, 4 * levels.noise_sd)
    joined = outside | (is_fluid & (anatomy.regions < 3))  # spaces of nuclei open to the basal CSF
    labels = components(joined, connectivity=6)
    reached = np.zeros(int(labels.max()) + 1, bool)
    reached[labels[outside]] = True
    reached[0] = False
    return reached[labels]


def _even_noise(excess: Floats, anatomy: PvsAnatomy, searched: Mask, levels: Levels) -> Floats:
    """Factor that brings the texture of each region down to the noise of white matter."""
    factor = np.ones(excess.shape, np.float32)
    for group in ((3, 4), (5, 6)):
        inside = np.isin(anatomy.regions, group)
        sample = excess[inside & searched]
        if sample.size > 200:
            _, spread = robust_spread(sample)
            factor[inside] = min(1.0, levels.noise_sd / max(spread, 1e-12))
    return factor


def _blobs(excess: Floats, searched: Mask, levels: Levels, size: NDArray, rules: Rules) -> Mask:
    """Bright structures that hold a ball of `Rules.blob_mm`."""
    smooth = ndimage.gaussian_filter(excess, 0.5 / size)
    bright = searched & (smooth > max(4 * levels.noise_sd, 0.15 * levels.fluid_contrast))
    radius = rules.blob_mm / 2
    core = edt.edt(bright, anisotropy=tuple(size)) >= radius
    return bright & (edt.edt(~core, anisotropy=tuple(size)) <= radius)
