"""The threshold of a scan, from simulated noise and from simulated faint tubes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pvsbook.pvs.anatomy import Levels
from pvsbook.pvs.morphometry import measure_spread
from pvsbook.pvs.objects import Rules, components, hysteresis, is_elongated

Floats = NDArray[np.float32]

__all__ = ["Threshold", "calibrate"]

_BLOCK_MM = 60.0  # side of the simulated block
_TUBE_DISTANCE_MM = 10.0  # between simulated tubes: they do not touch each other's response


@dataclass(frozen=True)
class Threshold:
    """Where objects are seeded, and what noise alone does there.

    Attributes
    ----------
    response
        The threshold.
    expected_false
        Objects of noise alone expected over the searched volume.
    noise_variance
        What such objects add to the variance of a count: their number plus a half in the block of
        noise that was simulated (Jeffreys), since none there does not mean none ever.
    root_sd
        Standard deviation that noise gives the square root of a response near the threshold.
    """

    response: float
    expected_false: float
    noise_variance: float
    root_sd: float


def calibrate(
    levels: Levels,
    size: NDArray[np.float64],
    filter_response: Callable[[Floats], Floats],
    *,
    width_mm: float,
    n_searched: int,
    rules: Rules,
    rng: np.random.Generator,
) -> Threshold:
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
    filter_response
        Vesselness of an image of this voxel size.
    width_mm
        Standard deviation of the profile of the tubes: the largest scale of the filter.
    n_searched
        Voxels that are searched.
    rules, rng
        As in `pvsbook.pvs.segment`.
    """
    block = tuple(int(np.ceil(_BLOCK_MM / s)) for s in size)
    noise = rng.standard_normal(block, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, [_smoothing_for(r) for r in levels.smoothness])
    noise *= np.float32(levels.noise_sd / noise.std())
    noise_response = filter_response(noise)
    blocks = float(n_searched) / noise.size  # searched, in units of the simulated block

    def count(threshold: float) -> int:
        labels = components(hysteresis(noise_response, threshold, rules.low_to_high))
        shapes = measure_spread(labels, noise, np.diag([*size, 1.0]))
        return int(is_elongated(shapes, rules).sum())

    contrast = np.float32(rules.min_contrast * levels.fluid_contrast)
    tubes = _straight_tubes(width_mm, noise.shape, size) * contrast
    faintest = _peaks(filter_response(tubes), size).max()
    threshold = max(faintest, _lowest(noise_response, count, rules.expected_false / blocks))
    tubes *= np.float32(np.sqrt(threshold / faintest))
    # the square root of a small response is linear in contrast, and its noise even
    root_sd = float(np.sqrt(_peaks(filter_response(tubes + noise), size)).std())
    n_noise = count(threshold)
    return Threshold(threshold, n_noise * blocks, (n_noise + 0.5) * blocks, root_sd)


def _lowest(response: Floats, count: Callable[[float], int], wanted: float) -> float:
    """Lowest threshold at which noise alone makes no more objects than wanted."""
    # From the top down: far below, noise runs together into one object and would seem rare.
    candidates = np.quantile(response, 1 - np.geomspace(3e-7, 3e-2, 40))
    threshold = float(candidates[0])
    for lower in candidates:
        if count(float(lower)) > wanted:
            break
        threshold = float(lower)
    return threshold


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
