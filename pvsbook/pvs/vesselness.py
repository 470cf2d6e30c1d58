"""Vesselness: multi-scale filters for tubes, from the eigenvalues of the Hessian."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvsbook._errors import InputError
from pvsbook.pvs._hessian import filter_slab

Floats = NDArray[np.float32]
Method = Literal["frangi", "sato", "jerman"]
Polarity = Literal["bright", "dark"]

METHODS: tuple[Method, ...] = ("frangi", "sato", "jerman")
DEFAULT_SCALES_MM = (0.4, 0.6, 0.9, 1.3)

# Radius of the derivative kernels, in standard deviations.  The second derivative of a Gaussian is
# widest: beyond 4 it is below 1 % of its centre, and `derivative_taps` restores the exact sums.
_TRUNCATE = 4.0


@dataclass(frozen=True)
class Vesselness:
    """Response of a multi-scale vesselness filter.

    Attributes
    ----------
    response : ndarray, shape (x, y, z), float32
        The largest response over scales; 0 outside the mask and where the voxel is not on a
        tube of the wanted polarity.
    scale_mm : ndarray, shape (x, y, z), float32
        The scale (standard deviation of the Gaussian) of that response; 0 where it is 0.
    c : float
        The contrast used, in units of the image.
    """

    response: Floats
    scale_mm: Floats
    c: float


def vesselness_filter(
    image: ArrayLike,
    *,
    voxel_size_mm: ArrayLike = (1.0, 1.0, 1.0),
    scales_mm: Sequence[float] = DEFAULT_SCALES_MM,
    polarity: Polarity = "bright",
    method: Method = "frangi",
    mask: ArrayLike | None = None,
    alpha: float = 0.5,
    beta: float = 0.5,
    c: float | None = None,
) -> Vesselness:
    """Measure how tube-like each voxel is, over several scales.

    The Hessian comes from Gaussian derivatives multiplied by the scale squared, so that
    responses of different scales compare, whatever the voxel size along each axis.  With its
    eigenvalues ``e1 >= e2 >= e3`` of the wanted sign, a tube has two large ones and a small one.

    Parameters
    ----------
    image : array_like, shape (x, y, z)
        Intensities, any unit.
    voxel_size_mm : sequence of three floats
        Spacing along each axis of `image`.
    scales_mm : sequence of floats
        Standard deviations of the Gaussian.  A tube of diameter d answers most at about
        ``d / (2 * sqrt(2))`` once blur by the voxel is added.  Add larger scales for wider
        tubes; scales below a third of the voxel respond to noise alone and are refused.
    polarity : {"bright", "dark"}
        "bright" for perivascular spaces on T2w, "dark" for T1w.
    method : {"frangi", "sato", "jerman"}
        Frangi weighs sheets, blobs and contrast; Sato is linear in contrast; Jerman is nearly
        flat along and across a tube.
    mask : array_like of bool, shape (x, y, z), optional
        Where to compute.  Voxels outside still serve as neighbours, so the values inside do
        not depend on the mask.
    alpha, beta : float
        Frangi's weights for sheets (a larger `alpha` suppresses more) and for blobs (a larger
        `beta` forgives more).
    c : float, optional
        Contrast, in units of `image`, below which Frangi's response fades, and Jerman's floor of
        the largest eigenvalue; Sato does not use it.  Tie it to the noise where that is known.
        By default a quarter of the range between the 0.5th and 99.5th percentile.

    Returns
    -------
    Vesselness

    Raises
    ------
    InputError
        If the image is not a finite, non-constant 3-D array, or a parameter is out of range.

    References
    ----------
    Frangi et al. 1998, doi:10.1007/BFb0056195; Sato et al. 1998,
    doi:10.1016/S1361-8415(98)80009-1; Jerman et al. 2016, doi:10.1109/TMI.2016.2550102.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((21, 21, 21), np.float32)
    >>> image[10, 10, :] = 1.0
    >>> tube = vesselness_filter(image, c=0.1)
    >>> np.unravel_index(tube.response[:, :, 10].argmax(), (21, 21))
    (np.int64(10), np.int64(10))
    >>> float(vesselness_filter(image, c=0.1, polarity="dark").response[10, 10, 10])
    0.0
    """
    volume = _check_image(image)
    voxel = _check_voxel_size(voxel_size_mm)
    scales = _check_scales(scales_mm, voxel)
    if method not in METHODS:
        raise InputError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
    if polarity not in ("bright", "dark"):
        raise InputError(f"polarity is {polarity!r}; choose 'bright' or 'dark'")
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not value > 0:
            raise InputError(f"{name} is {value}; it must be positive")
    if c is None:
        # From the intensities, not from the largest Hessian norm of the first scale, as in
        # scikit-image: with that, the response depends on the order of the scales.
        low, high = np.percentile(volume[::2, ::2, ::2], (0.5, 99.5))
        c = float(high - low) / 4 or float(np.ptp(volume)) / 4
    if not (np.isfinite(c) and c > 0):
        raise InputError(f"c is {c}; it must be a positive contrast in the unit of the image")

    inside = np.ones(volume.shape, bool) if mask is None else _check_mask(mask, volume.shape)
    first, last = _row_ranges(inside)
    response = np.zeros(volume.shape, np.float32)
    best = np.zeros(volume.shape, np.uint8)
    sign = np.float32(-1.0 if polarity == "bright" else 1.0)
    kind = METHODS.index(method)
    weights = np.array((0.5 / alpha**2, 0.5 / beta**2, c), np.float32)
    n_threads = numba.get_num_threads()
    edges = np.linspace(0, volume.shape[0], 4 * n_threads + 1).astype(int)
    with ThreadPoolExecutor(n_threads) as pool:
        for index, scale in enumerate(scales, start=1):
            taps = derivative_taps(scale, voxel)
            jobs = [
                pool.submit(
                    filter_slab,
                    *(volume, first, last, taps, sign, kind, weights, index, response, best),
                    *(start, stop),
                )
                for start, stop in pairwise(edges)
            ]
            for job in jobs:
                job.result()
    response[~inside] = 0
    best[~inside] = 0
    table = np.array([0.0, *scales], np.float32)
    return Vesselness(response, table[best], float(c))


def derivative_taps(scale_mm: float, voxel_size_mm: ArrayLike) -> Floats:
    """Sample a Gaussian and its first two derivatives along each axis.

    The sampled weights are corrected so that sums over a constant, a ramp and a parabola are
    exact: at scales near the voxel size plain samples leak the mean intensity into the second
    derivative.

    Parameters
    ----------
    scale_mm : float
        Standard deviation of the Gaussian.
    voxel_size_mm : sequence of three floats
        Spacing along each axis.

    Returns
    -------
    ndarray, shape (3 axes, 3 orders, 1 + radius), float32
        Weights at 0, 1, ... voxels; even orders are symmetric and order 1 antisymmetric.
        Multiplied by ``scale**order``: the derivatives come out scale-normalised, in the unit
        of the image.  The radius is even (padded with zeros).

    Examples
    --------
    >>> taps = derivative_taps(1.0, (1.0, 1.0, 1.0))
    >>> float(taps[0, 0, 0] + 2 * taps[0, 0, 1:].sum())
    1.0
    """
    sigmas = (scale_mm / _check_voxel_size(voxel_size_mm)).tolist()
    radius = max(1, int(np.ceil(_TRUNCATE * max(sigmas))))
    radius += radius % 2
    taps = np.zeros((3, 3, radius + 1))
    for axis, sigma in enumerate(sigmas):
        x = np.arange(max(1, int(np.ceil(_TRUNCATE * sigma))) + 1, dtype=np.float64)
        twice = np.where(x > 0, 2.0, 1.0)
        gauss = np.exp(-0.5 * (x / sigma) ** 2)
        gauss /= (twice * gauss).sum()
        slope = x * gauss
        slope /= (twice * x * slope).sum()
        curve = ((x / sigma) ** 2 - 1) * gauss
        curve -= gauss * (twice * curve).sum()
        curve *= 2 / (twice * x**2 * curve).sum()
        taps[axis, 0, : x.size] = gauss
        taps[axis, 1, : x.size] = slope * sigma
        taps[axis, 2, : x.size] = curve * sigma**2
    return taps.astype(np.float32)


def _check_image(image: ArrayLike) -> Floats:
    volume = np.ascontiguousarray(image, dtype=np.float32)
    if volume.ndim != 3 or 0 in volume.shape:
        raise InputError(f"image has shape {volume.shape}; give a non-empty 3-D array")
    if not np.isfinite(volume.sum(dtype=np.float64)):
        raise InputError("image holds NaN or infinite values; replace them first")
    if np.ptp(volume) == 0:
        raise InputError(f"image is constant ({volume.flat[0]}): there is nothing to filter")
    return volume


def _check_voxel_size(voxel_size_mm: ArrayLike) -> NDArray[np.float64]:
    voxel = np.asarray(voxel_size_mm, np.float64)
    if voxel.shape != (3,) or not np.all(np.isfinite(voxel) & (voxel > 0)):
        raise InputError(f"voxel_size_mm is {voxel_size_mm!r}; give three positive lengths in mm")
    return voxel


def _check_scales(scales_mm: Sequence[float], voxel: NDArray[np.float64]) -> list[float]:
    scales = sorted({float(s) for s in scales_mm})
    if not scales or len(scales) > 255 or not np.all(np.isfinite(scales)):
        raise InputError(f"scales_mm is {scales_mm}; give one or more finite lengths in mm")
    if scales[0] < voxel.min() / 3:
        raise InputError(
            f"scales_mm holds {scales[0]} mm, below a third of the smallest voxel side "
            f"({voxel.min():.3g} mm); start at {voxel.min() / 3:.3g} mm or above"
        )
    return scales


def _check_mask(mask: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    inside = np.asarray(mask) != 0
    if inside.shape != shape:
        raise InputError(f"mask has shape {inside.shape}, image {shape}; they must be one grid")
    if not inside.any():
        raise InputError("mask is empty; give at least one voxel")
    return inside


def _row_ranges(inside: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """First and one-past-last column to compute in each row; equal where there is none."""
    n = inside.shape[2]
    first = inside.argmax(axis=2)
    last = np.where(inside.any(axis=2), n - inside[:, :, ::-1].argmax(axis=2), first)
    return first.astype(np.int32), last.astype(np.int32)
