"""How much the index depends on choices: fit, radius, place, free water."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import nibabel as nib
import numpy as np
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from dipy.reconst.fwdti import FreeWaterTensorModel
from numpy.typing import ArrayLike, NDArray

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.alps import estimators, tensor
from pvsbook.alps.regions import NAMES, Placement, RoiSet, Voxels

__all__ = ["fit_free_water", "fit_robust", "index_of", "noise_sigma"]

VARIANTS = ("nlls", "restore", "free_water", "radius_5_mm", "shift_sd")
FREE_WATER_MAX_B_S_MM2 = 2000.0
N_PARAMETERS = 7  # of a tensor and its signal at b = 0


def fit_robust(
    signals: ArrayLike,
    bvals_s_mm2: ArrayLike,
    bvecs: ArrayLike,
    *,
    method: str = "nlls",
    sigma: float | None = None,
) -> NDArray[np.float64]:
    """Fit the tensors of a few voxels by nonlinear least squares or RESTORE (DIPY).

    Parameters
    ----------
    signals : array_like, shape (n, volumes)
    bvals_s_mm2 : array_like, shape (volumes,)
    bvecs : array_like, shape (volumes, 3)
    method : {"nlls", "restore"}
        RESTORE leaves out measurements that lie far off the fit, such as slices that lost signal
        to motion; a clear difference from the other fits says that there are some.
    sigma : float, optional
        Standard deviation of the noise; RESTORE needs it.

    Returns
    -------
    ndarray, shape (n, 3, 3)
        mm2/s, in the axes of `bvecs`.

    Raises
    ------
    InputError
        Another method, or RESTORE without `sigma`.

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
    if method not in ("nlls", "restore"):
        raise InputError(f"method is {method!r}; use 'nlls' or 'restore'")
    if method == "restore" and sigma is None:
        raise InputError("sigma is missing; RESTORE needs the noise's standard deviation")
    options = {"sigma": sigma} if method == "restore" else {}
    model = TensorModel(_table(bvals_s_mm2, bvecs), fit_method=method.upper(), **options)
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
    >>> from pvsbook.alps.regions import NAMES
    >>> projection, association = np.diag([0.6, 0.4, 1.5]), np.diag([0.6, 1.5, 0.4])
    >>> means = {n: projection if "projection" in n else association for n in NAMES}
    >>> round(index_of(means), 6)
    1.5
    """
    sides = [
        estimators.alps_in_tracts(means[f"{s}_projection"], means[f"{s}_association"])
        for s in ("left", "right")
    ]
    return float(np.mean(sides))


def other_fits(
    dwi: images.Dwi,
    shell: NDArray[np.intp],
    voxels: Mapping[str, Voxels],
    fits: Mapping[str, tensor.Wls],
) -> dict[str, float]:
    """Return the index by other fits: ``"nlls"``, ``"restore"`` and ``"free_water"``.

    Parameters
    ----------
    dwi : pvsbook.images.Dwi
        All shells, in canonical storage order.
    shell : ndarray of int
        Volumes of the shell that was used, and without weighting.
    voxels, fits : mapping of str
        Voxels of the four regions, and their weighted least-squares fits.
    """
    data, bvals, bvecs = images.array(dwi.image), dwi.bvals_s_mm2, dwi.bvecs_ras
    low = bvals <= FREE_WATER_MAX_B_S_MM2
    two_shells = len(np.unique(np.round(bvals[low & ~dwi.is_b0], -2))) > 1
    means: dict[str, dict[str, NDArray]] = {"nlls": {}, "restore": {}, "free_water": {}}
    for name, region in voxels.items():
        signals = data[region.at]
        one = signals[:, shell], bvals[shell], bvecs[shell]
        means["nlls"][name] = region.mean(fit_robust(*one))
        if len(shell) > N_PARAMETERS:  # else nothing is left over to tell an outlier by
            sigma = max(noise_sigma(fits[name]), 1e-6)
            robust = fit_robust(*one, method="restore", sigma=sigma)
            means["restore"][name] = region.mean(robust)
        if two_shells:
            tissue, _ = fit_free_water(signals[:, low], bvals[low], bvecs[low])
            means["free_water"][name] = region.mean(tissue)
    return {name: index_of(d) if d else float("nan") for name, d in means.items()}


def other_places(
    placement: Placement, rois: RoiSet | nib.Nifti1Image, step_mm: float
) -> dict[str, float]:
    """Return the index with spheres of 5 mm, and its SD when all regions shift by a step.

    ``"radius_5_mm"`` and ``"shift_sd"`` are NaN for regions drawn by hand.
    """
    unknown = {"radius_5_mm": float("nan"), "shift_sd": float("nan")}
    if not isinstance(rois, RoiSet):
        return unknown

    def index(rois: RoiSet, shift_mm: NDArray[np.float64]) -> float | None:
        voxels = placement.place(rois, dict.fromkeys(NAMES, shift_mm))
        if min(v.weight.sum() for v in voxels.values()) == 0:
            return None
        return index_of({n: v.mean(placement.d_mm2_s[v.at]) for n, v in voxels.items()})

    steps = np.vstack([np.zeros(3), step_mm * np.eye(3), -step_mm * np.eye(3)])
    shifted = [value for step in steps if (value := index(rois, step)) is not None]
    large = index(replace(rois, radius_mm=5.0), np.zeros(3))
    return {
        "radius_5_mm": unknown["radius_5_mm"] if large is None else large,
        "shift_sd": float(np.std(shifted, ddof=1)) if len(shifted) > 2 else unknown["shift_sd"],
    }


def _table(bvals_s_mm2: ArrayLike, bvecs: ArrayLike) -> object:
    return gradient_table(
        np.asarray(bvals_s_mm2, float), bvecs=np.asarray(bvecs, float), b0_threshold=49
    )
