"""The ALPS index of two tensors, in three frames, and its bootstrap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from dipy.reconst.dti import from_lower_triangular
from numpy.typing import ArrayLike, NDArray

from pvsbook.alps import tensor

__all__ = [
    "Estimate",
    "alps_in_axes",
    "alps_in_tracts",
    "interval",
    "tract_frame",
    "wild_bootstrap",
]


@dataclass(frozen=True)
class Estimate:
    """A number with the 95 % interval of the scan's noise."""

    value: float
    low: float
    high: float


def alps_in_axes(
    projection: ArrayLike, association: ArrayLike, axes: ArrayLike
) -> NDArray[np.float64]:
    """Calculate the ALPS index along given axes.

    mean(Dxx of projection, Dxx of association) / mean(Dyy of projection, Dzz of association):
    diffusivity along the vessels, over diffusivity across both the vessels and the tract.

    Parameters
    ----------
    projection, association : array_like, shape (..., 3, 3)
        Mean tensors of the two regions, in the same coordinates as `axes`.
    axes : array_like, shape (3, 3)
        Rows: unit vectors of x (left-right), y (back-front), z (feet-head).

    Returns
    -------
    ndarray, shape (...)

    References
    ----------
    Taoka et al. 2017, Jpn J Radiol 35:172, doi:10.1007/s11604-017-0617-z.

    Examples
    --------
    >>> projection, association = np.diag([0.6, 0.4, 1.5]), np.diag([0.6, 1.5, 0.4])
    >>> round(float(alps_in_axes(projection, association, np.eye(3))), 6)
    1.5
    """
    x, y, z = np.asarray(axes, float)
    along = _along(projection, x) + _along(association, x)
    return along / (_along(projection, y) + _along(association, z))


def alps_in_tracts(projection: ArrayLike, association: ArrayLike) -> NDArray[np.float64]:
    """Calculate the ALPS index in the frame that the two tracts span.

    The vessels are taken to run along the cross product of the two principal directions, which
    is perpendicular to both tracts however the head or a tract is tilted.  Where the tracts are
    exactly z and y, this is `alps_in_axes`.  Where they are parallel no such direction exists,
    and the index is NaN.

    Parameters
    ----------
    projection, association : array_like, shape (..., 3, 3)
        Mean tensors of the two regions, in any one frame.

    Returns
    -------
    ndarray, shape (...)

    Examples
    --------
    >>> turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
    >>> projection, association = np.diag([0.6, 0.4, 1.5]), np.diag([0.6, 1.5, 0.4])
    >>> round(float(alps_in_tracts(turn @ projection @ turn.T, turn @ association @ turn.T)), 6)
    1.5
    """
    vessel, first, second = tract_frame(projection, association)
    third_p, third_a = np.cross(vessel, first), np.cross(vessel, second)
    along = _along(projection, vessel) + _along(association, vessel)
    return along / (_along(projection, third_p) + _along(association, third_a))


def tract_frame(
    projection: ArrayLike, association: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return unit vectors of the vessels and of the two tracts, each of shape (..., 3).

    Examples
    --------
    >>> vessel, _, _ = tract_frame(np.diag([0.6, 0.4, 1.5]), np.diag([0.6, 1.5, 0.4]))
    >>> np.abs(vessel)
    array([1., 0., 0.])
    """
    first, second = (tensor.eigen(d)[1][..., 0] for d in (projection, association))
    vessel = np.cross(first, second)
    length = np.linalg.norm(vessel, axis=-1, keepdims=True)
    return np.where(length > 1e-3, vessel / np.maximum(length, 1e-3), np.nan), first, second


def _along(tensors: ArrayLike, direction: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.einsum("...i,...ij,...j->...", direction, np.asarray(tensors, float), direction)


def wild_bootstrap(
    fit: tensor.Wls, weight: ArrayLike, n: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw mean tensors of a region by flipping the signs of residuals.

    Parameters
    ----------
    fit : Wls
        Fit of the region's voxels, from `pvsbook.alps.tensor.wls`.
    weight : array_like, shape (voxels,)
        How much of each voxel belongs.
    n : int
        Draws.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, shape (n, 3, 3)

    References
    ----------
    Whitcher et al. 2008, Hum Brain Mapp 29:346, doi:10.1002/hbm.20395.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> bvecs = rng.normal(size=(20, 3))
    >>> bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    >>> design = tensor.design_matrix(np.r_[0, np.full(19, 1000)], bvecs)
    >>> signals = np.exp(design @ [1e-3, 0, 5e-4, 0, 0, 5e-4, 0]) + rng.normal(0, 0.02, (8, 20))
    >>> fit = tensor.wls(signals, design, min_signal=1e-3)
    >>> wild_bootstrap(fit, np.ones(8), 100, rng).shape
    (100, 3, 3)
    """
    share = np.asarray(weight, float) / np.sum(weight)
    effect = fit.solver[:, :6] * fit.residuals[:, None] * share[:, None, None]
    voxels, _, volumes = effect.shape
    signs = rng.integers(0, 2, (n, voxels * volumes), dtype=np.int8) * 2.0 - 1.0
    shifts = signs @ effect.transpose(0, 2, 1).reshape(voxels * volumes, 6)
    return from_lower_triangular(share @ fit.beta[:, :6] + shifts)


def interval(value: float, draws: ArrayLike) -> Estimate:
    """Make an estimate of a value and its bootstrap draws (percentiles 2.5 and 97.5).

    Examples
    --------
    >>> interval(1.4, np.linspace(1.3, 1.5, 101))
    Estimate(value=1.4, low=1.305, high=1.495)
    """
    low, high = np.percentile(np.asarray(draws, float), (2.5, 97.5))
    return Estimate(float(value), float(round(low, 12)), float(round(high, 12)))
