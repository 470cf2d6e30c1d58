"""The ALPS index of two tensors in three frames, its bootstrap, and how far choices move it.

The choices are the fit, the radius of the regions, and free water.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel, from_lower_triangular
from dipy.reconst.fwdti import FreeWaterTensorModel
from numpy.typing import ArrayLike, NDArray

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.alps import tensor
from pvsbook.alps.regions import NAMES, Placement, RoiMeasure, RoiSet

__all__ = [
    "Estimate",
    "alps_in_axes",
    "alps_in_tracts",
    "fit_free_water",
    "fit_robust",
    "index_of",
    "interval",
    "wild_bootstrap",
]

VARIANTS = ("nlls", "restore", "free_water", "radius_2_5_mm")
FREE_WATER_MAX_B_S_MM2 = 2000.0
N_PARAMETERS = 7  # of a tensor and its signal at b = 0


@dataclass(frozen=True)
class Estimate:
    """An index with its 95 % interval, and what each source of error contributes.

    Attributes
    ----------
    value, low, high : float
    noise_sd : float
        SD over the draws of the scan's noise.
    placement_sd : float
        SD over places of each region on its own, and over radii; NaN for regions drawn by hand.
    registration_sd : float
        SD over shifts of all four regions together; NaN where none were placed by registration.
    """

    value: float
    low: float
    high: float
    noise_sd: float = float("nan")
    placement_sd: float = float("nan")
    registration_sd: float = float("nan")


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
    >>> found = interval(1.4, np.linspace(1.3, 1.5, 101))
    >>> found.low, found.high
    (1.305, 1.495)
    """
    low, high = np.percentile(np.asarray(draws, float), (2.5, 97.5))
    return Estimate(float(value), float(round(low, 12)), float(round(high, 12)))


def fit_robust(
    signals: ArrayLike,
    bvals_s_mm2: ArrayLike,
    bvecs: ArrayLike,
    *,
    sigma: float | None = None,
) -> NDArray[np.float64]:
    """Fit the tensors of a few voxels by nonlinear least squares or RESTORE (DIPY).

    Parameters
    ----------
    signals : array_like, shape (n, volumes)
    bvals_s_mm2 : array_like, shape (volumes,)
    bvecs : array_like, shape (volumes, 3)
    sigma : float, optional
        Standard deviation of the noise.  With it, the fit is RESTORE, which leaves out
        measurements that lie far off, such as slices that lost signal to motion; a clear
        difference from the other fits says that there are some.

    Returns
    -------
    ndarray, shape (n, 3, 3)
        mm2/s, in the axes of `bvecs`.

    References
    ----------
    Chang, Jones and Pierpaoli 2005, Magn Reson Med 53:1088, doi:10.1002/mrm.20426.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> bvecs = rng.normal(size=(20, 3))
    >>> bvecs = np.vstack([np.zeros(3), bvecs / np.linalg.norm(bvecs, axis=1, keepdims=True)])
    >>> bvals = np.r_[0, np.full(20, 1000.0)]
    >>> signals = 100 * np.exp(-bvals * (bvecs**2 @ [1.5e-3, 0.5e-3, 0.4e-3]))[None]
    >>> np.round(1e3 * np.diag(fit_robust(signals, bvals, bvecs)[0]), 3)
    array([1.5, 0.5, 0.4])
    """
    options = (
        {"fit_method": "NLLS"} if sigma is None else {"fit_method": "RESTORE", "sigma": sigma}
    )
    model = TensorModel(_table(bvals_s_mm2, bvecs), **options)
    return model.fit(np.asarray(signals, float)).quadratic_form


def fit_free_water(
    signals: ArrayLike, bvals_s_mm2: ArrayLike, bvecs: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit a tensor and a fraction of free water (3e-3 mm2/s) to voxels with two shells (DIPY).

    One shell cannot tell free water from a larger tensor, so this refuses it.

    Parameters
    ----------
    signals : array_like, shape (n, volumes)
    bvals_s_mm2 : array_like, shape (volumes,)
        With b=0 and at least two shells.
    bvecs : array_like, shape (volumes, 3)

    Returns
    -------
    d_mm2_s : ndarray, shape (n, 3, 3)
        Tensor of what is not free water.
    fraction : ndarray, shape (n,)
        Free water's fraction of the signal at b=0.

    Raises
    ------
    InputError
        Fewer than two shells.

    References
    ----------
    Neto Henriques et al. 2017, ReScience 3:1, doi:10.5281/zenodo.495237.
    """
    b = np.asarray(bvals_s_mm2, float)
    shells = np.unique(np.round(b[b >= images.B0_BELOW_S_MM2], -2))
    if len(shells) < 2:
        raise InputError(
            f"bvals: the only shell is at {shells.tolist()} s/mm2; free water can be told from "
            "tissue with two shells or more"
        )
    fit = FreeWaterTensorModel(_table(b, bvecs), fit_method="NLS").fit(np.asarray(signals, float))
    return fit.quadratic_form, np.asarray(fit.f, np.float64)


def noise_sigma(fit: tensor.Wls) -> float:
    """Estimate the noise of the signals from the residuals of a fit.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> bvecs = rng.normal(size=(41, 3)) * (np.arange(41) > 0)[:, None]
    >>> bvecs /= np.maximum(np.linalg.norm(bvecs, axis=1, keepdims=True), 1e-9)
    >>> design = tensor.design_matrix(np.r_[0, np.full(40, 1000)], bvecs)
    >>> clean = 100 * np.exp(design @ [1e-3, 0, 5e-4, 0, 0, 5e-4, 0])
    >>> noisy = clean + rng.normal(0, 4, (50, 41))
    >>> 3.5 < noise_sigma(tensor.wls(noisy, design, min_signal=1)) < 4.5
    True
    """
    return float(np.sqrt((fit.residuals**2).mean()) * np.exp(np.median(fit.beta[:, 6])))


def index_of(means: Mapping[str, ArrayLike]) -> float:
    """Return the tract-frame index, mean of both sides, of the mean tensors of four regions.

    Examples
    --------
    >>> projection, association = np.diag([0.6, 0.4, 1.5]), np.diag([0.6, 1.5, 0.4])
    >>> means = {n: projection if "projection" in n else association for n in NAMES}
    >>> round(index_of(means), 6)
    1.5
    """
    sides = [
        alps_in_tracts(means[f"{s}_projection"], means[f"{s}_association"])
        for s in ("left", "right")
    ]
    return float(np.mean(sides))


def other_fits(
    dwi: images.Dwi, shell: NDArray[np.intp], rois: Sequence[RoiMeasure]
) -> dict[str, float]:
    """Return the index by those other fits that the series allows.

    That is ``"nlls"``, ``"restore"`` where more volumes than parameters are there, and
    ``"free_water"`` where two shells are.

    Parameters
    ----------
    dwi : pvsbook.images.Dwi
        All shells, in canonical storage order.
    shell : ndarray of int
        Volumes of the shell that was used, and without weighting.
    rois : sequence of RoiMeasure
        The four regions.
    """
    data, bvals, bvecs = images.array(dwi.image), dwi.bvals_s_mm2, dwi.bvecs_ras
    low = bvals <= FREE_WATER_MAX_B_S_MM2
    two_shells = len(np.unique(np.round(bvals[low & ~dwi.is_b0], -2))) > 1
    means: dict[str, dict[str, NDArray]] = {"nlls": {}, "restore": {}, "free_water": {}}
    for roi in rois:
        signals, mean = data[roi.voxels.at], roi.voxels.mean
        one = signals[:, shell], bvals[shell], bvecs[shell]
        means["nlls"][roi.name] = mean(fit_robust(*one))
        if len(shell) > N_PARAMETERS:  # else nothing is left over to tell an outlier by
            sigma = max(noise_sigma(roi.fit), 1e-6)
            means["restore"][roi.name] = mean(fit_robust(*one, sigma=sigma))
        if two_shells:
            tissue, _ = fit_free_water(signals[:, low], bvals[low], bvecs[low])
            means["free_water"][roi.name] = mean(tissue)
    return {name: index_of(d) for name, d in means.items() if d}


def small_spheres(placement: Placement, rois: RoiSet | nib.Nifti1Image) -> dict[str, float]:
    """Return the index with spheres of 2.5 mm; nothing where regions were drawn by hand."""
    if not isinstance(rois, RoiSet):
        return {}
    still = dict.fromkeys(NAMES, np.zeros(3))
    voxels = placement.place(replace(rois, radius_mm=2.5), still)
    if min(v.weight.sum() for v in voxels.values()) == 0:
        return {}
    means = {n: v.mean(placement.d_mm2_s[v.at]) for n, v in voxels.items()}
    return {"radius_2_5_mm": index_of(means)}


def _table(bvals_s_mm2: ArrayLike, bvecs: ArrayLike) -> object:
    return gradient_table(
        np.asarray(bvals_s_mm2, float), bvecs=np.asarray(bvecs, float), b0_threshold=49
    )
