"""The diffusion tensor by weighted least squares, for all voxels at once.

Six components stand in DIPY's order, Dxx, Dxy, Dyy, Dxz, Dyz, Dzz, so that
`dipy.reconst.dti.from_lower_triangular` makes matrices of them (FSL stores Dxx Dxy Dxz Dyy Dyz
Dzz); the anisotropy, direction and mode of a tensor come from `dipy.reconst.dti` too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from dipy.reconst.dti import decompose_tensor, from_lower_triangular
from numpy.typing import ArrayLike, NDArray

from pvsbook._errors import InputError

__all__ = ["TensorFit", "Wls", "design_matrix", "eigen", "fit_tensor", "wls"]

_ROW, _COLUMN = np.array([0, 0, 1, 0, 1, 2]), np.array([0, 1, 1, 2, 2, 2])
_CHUNK = 20_000


@dataclass(frozen=True, eq=False)
class TensorFit:
    """Tensors of the voxels inside a mask.

    Attributes
    ----------
    mask : ndarray of bool, shape (x, y, z)
        Where tensors were fitted.
    d_mm2_s : ndarray, shape (n, 3, 3)
        Tensor of each voxel of the mask, in C order, in the axes of the b-vectors (RAS).
    s0 : ndarray, shape (n,)
        Fitted signal without diffusion weighting.
    min_signal : float
        Smallest positive signal in the mask, to which lower ones were raised before the logarithm.
    """

    mask: NDArray[np.bool_]
    d_mm2_s: NDArray[np.float64]
    s0: NDArray[np.float64]
    min_signal: float

    def fill(self, values: ArrayLike) -> NDArray[np.float32]:
        """Put one value or vector per voxel of the mask into a volume of zeros."""
        values = np.asarray(values)
        volume = np.zeros(self.mask.shape + values.shape[1:], np.float32)
        volume[self.mask] = values
        return volume


@dataclass(frozen=True, eq=False)
class Wls:
    """A weighted least-squares fit of the log-signal, with what a bootstrap needs of it.

    Attributes
    ----------
    beta : ndarray, shape (n, 7)
        Dxx, Dxy, Dyy, Dxz, Dyz, Dzz in mm2/s, and log S0.
    solver : ndarray, shape (n, 7, volumes)
        Takes weighted log-signals to `beta`.
    residuals : ndarray, shape (n, volumes)
        Weighted residuals divided by sqrt(1 - leverage), so that their variance is the noise's;
        for a volume that alone determines a coefficient, such as a single b=0, the noise of the
        others.
    """

    beta: NDArray[np.float64]
    solver: NDArray[np.float64]
    residuals: NDArray[np.float64]

    @property
    def d_mm2_s(self) -> NDArray[np.float64]:
        """The tensors, shape (n, 3, 3), in the axes of the b-vectors."""
        return from_lower_triangular(self.beta[:, :6])


def design_matrix(bvals_s_mm2: ArrayLike, bvecs: ArrayLike) -> NDArray[np.float64]:
    """Build the matrix that takes the six tensor components and log S0 to the log-signal.

    Parameters
    ----------
    bvals_s_mm2 : array_like, shape (volumes,)
    bvecs : array_like, shape (volumes, 3)
        Unit vectors; the row of a b=0 volume may be zero.

    Returns
    -------
    ndarray, shape (volumes, 7)
        Columns Dxx, Dxy, Dyy, Dxz, Dyz, Dzz (mm2/s), log S0.

    Examples
    --------
    >>> design_matrix([0, 1000], [[0, 0, 0], [1, 0, 0]])[1, [0, 6]]
    array([-1000.,     1.])
    """
    b, g = np.asarray(bvals_s_mm2, float), np.asarray(bvecs, float)
    twice = np.where(_ROW == _COLUMN, 1.0, 2.0)
    return np.column_stack([-b[:, None] * twice * g[:, _ROW] * g[:, _COLUMN], np.ones(len(b))])


def fit_tensor(
    data: ArrayLike,
    bvals_s_mm2: ArrayLike,
    bvecs: ArrayLike,
    *,
    mask: ArrayLike,
) -> TensorFit:
    """Fit the diffusion tensor by weighted least squares in every voxel of a mask.

    The log-signal is fitted once unweighted; the squared predicted signal then weights a second
    fit.  All voxels share the products of the design matrix, so each fit is one matrix product
    and a batch of 7 x 7 solutions; the result equals that of DIPY's ``fit_method="WLS"``.

    Parameters
    ----------
    data : array_like, shape (x, y, z, volumes)
    bvals_s_mm2 : array_like, shape (volumes,)
    bvecs : array_like, shape (volumes, 3)
        In the axes in which the tensor is wanted; RAS from `pvsbook.images.load_dwi`.
    mask : array_like of bool, shape (x, y, z)

    Returns
    -------
    TensorFit

    Raises
    ------
    InputError
        If the mask is empty, has another shape, or no signal in it is positive.

    References
    ----------
    Chung, Lu and Henry 2006, NeuroImage 33:531, doi:10.1016/j.neuroimage.2006.07.001.

    Examples
    --------
    >>> bvecs = np.vstack([np.zeros(3), np.eye(3), (np.eye(3) + np.eye(3)[[1, 2, 0]]) / 2**0.5])
    >>> bvals = np.array([0, 1000, 1000, 1000, 1000, 1000, 1000])
    >>> data = np.exp(-bvals * (bvecs**2 @ [1.5e-3, 0.5e-3, 0.4e-3]))[None, None, None]
    >>> fit = fit_tensor(data, bvals, bvecs, mask=np.ones((1, 1, 1), bool))
    >>> np.round(np.diag(fit.d_mm2_s[0]) * 1e3, 6)
    array([1.5, 0.5, 0.4])
    """
    mask = np.asarray(mask, bool)
    data = np.asarray(data)
    if mask.shape != data.shape[:3] or not mask.any():
        raise InputError(
            f"mask has shape {mask.shape} and {int(mask.sum())} voxels for data of shape "
            f"{data.shape}; give a mask on the grid of the data with the brain inside"
        )
    signals = data[mask]
    positive = signals[signals > 0]
    if positive.size == 0:
        raise InputError("data has no positive signal inside the mask; check image and mask")
    floor = float(positive.min())
    design = design_matrix(bvals_s_mm2, bvecs)
    scale = _scale(design)
    beta = np.empty((len(signals), 7))
    for start in range(0, len(signals), _CHUNK):
        part = slice(start, start + _CHUNK)
        logs = np.log(np.maximum(signals[part].astype(np.float64), floor))
        beta[part] = _solve(design * scale, logs)[0] * scale
    return TensorFit(mask, from_lower_triangular(beta[:, :6]), np.exp(beta[:, 6]), floor)


def wls(signals: ArrayLike, design: ArrayLike, *, min_signal: float) -> Wls:
    """Fit a few voxels, keeping what a wild bootstrap needs.

    Parameters
    ----------
    signals : array_like, shape (n, volumes)
    design : array_like, shape (volumes, 7)
        See `design_matrix`.
    min_signal : float
        Signals below it are raised to it before the logarithm.

    Examples
    --------
    >>> design = design_matrix([0, *[1000] * 7], np.vstack([np.zeros(3), np.eye(3),
    ...     (np.eye(3) + np.eye(3)[[1, 2, 0]]) / 2**0.5, np.full((1, 3), 3**-0.5)]))
    >>> fit = wls(np.exp(design @ [1e-3, 0, 5e-4, 0, 0, 5e-4, 3]), design, min_signal=1e-6)
    >>> round(float(fit.beta[0, 0]) * 1e3, 6)
    1.0
    """
    design = np.asarray(design, float)
    scale = _scale(design)
    scaled = design * scale
    logs = np.log(np.maximum(np.atleast_2d(np.asarray(signals, float)), min_signal))
    beta, weights, normal = _solve(scaled, logs)
    weighted = weights[:, :, None] * scaled
    solver = np.linalg.solve(normal, weighted.transpose(0, 2, 1))
    leverage = np.einsum("nkp,npk->nk", weighted, solver)
    free = leverage < 0.999
    residuals = weights * (logs - beta @ scaled.T) / np.sqrt(np.where(free, 1 - leverage, 1))
    # a lone b=0 volume is fitted exactly, so its noise shows only in the other volumes
    noise = np.sqrt((residuals**2 * free).sum(axis=1) / np.maximum(free.sum(axis=1), 1))
    residuals = np.where(free, residuals, noise[:, None])
    return Wls(beta * scale, solver * scale[:, None], residuals)


def _scale(design: NDArray[np.float64]) -> NDArray[np.float64]:
    """Column scales that bring b in s/mm2 to about one, so that normal equations stay exact."""
    return 1 / np.maximum(np.abs(design).max(axis=0), 1e-12)


def _solve(
    design: NDArray[np.float64], logs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Two-step WLS; give coefficients, weights (predicted signal) and normal matrices."""
    p = design.shape[1]
    first = logs @ np.linalg.pinv(design).T
    exponent = first @ design.T
    # the largest predicted signal is set to one: weights matter only up to a factor
    weights = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    squared = weights**2
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), p * p)
    normal = (squared @ products).reshape(-1, p, p)
    right = (squared * logs) @ design
    return np.linalg.solve(normal, right[..., None])[..., 0], weights, normal


def eigen(tensor: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return eigenvalues, largest first, and eigenvectors of tensors, negative values kept.

    DIPY's default sets negative eigenvalues to zero, which raises the mean diffusivity where
    noise is strong.

    Parameters
    ----------
    tensor : array_like, shape (..., 3, 3)

    Returns
    -------
    eigenvalues : ndarray, shape (..., 3)
    eigenvectors : ndarray, shape (..., 3, 3)
        Columns; ``eigenvectors[..., 0]`` is the principal direction, whose sign is free.

    Examples
    --------
    >>> eigenvalues, eigenvectors = eigen(np.diag([1.0, 3.0, -0.5]))
    >>> eigenvalues, np.abs(eigenvectors[:, 0])
    (array([ 3. ,  1. , -0.5]), array([0., 1., 0.]))
    """
    return decompose_tensor(np.asarray(tensor, float), min_diffusivity=-np.inf)
