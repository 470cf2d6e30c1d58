"""How far a susceptibility map is from the truth."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pvsbook._errors import InputError

__all__ = [
    "CalcificationError",
    "Linearity",
    "calcification_error",
    "compare",
    "hfen_percent",
    "linearity",
    "nrmse_percent",
    "xsim",
]

LOG_VOXELS = 1.5
XSIM_SD_VOXELS, XSIM_REACH_VOXELS = 1.5, 3
XSIM_C1, XSIM_C2 = 0.01**2, 0.001**2  # K1 and K2 of the paper, times a range of 1 ppm, squared


@dataclass(frozen=True)
class Linearity:
    """Straight line through the means of regions, found over true.

    Attributes
    ----------
    slope
        1 where contrast between regions is kept, below 1 where it is underestimated.
    intercept_ppb
        Found value of a region whose true value is zero.
    bias_mean_ppb, bias_max_ppb
        Mean and largest absolute error of a region.
    n_regions
        Regions with enough voxels in the mask.
    """

    slope: float
    intercept_ppb: float
    bias_mean_ppb: float
    bias_max_ppb: float
    n_regions: int


@dataclass(frozen=True)
class CalcificationError:
    """What became of a calcification.

    Attributes
    ----------
    moment_ratio
        Its susceptibility summed over its volume, found over true, both above the tissue around
        it: a blurred calcification keeps its moment.
    streaking_ppb
        Standard deviation of the error in the shell around it, where its streaks are brightest.
    """

    moment_ratio: float
    streaking_ppb: float


def nrmse_percent(
    chi_ppm: ArrayLike, truth_ppm: ArrayLike, mask: ArrayLike, *, detrend: bool = False
) -> float:
    """Return the root mean square error over that of the truth, both less their means.

    Parameters
    ----------
    chi_ppm, truth_ppm
        Shape (x, y, z).
    mask
        Where to compare.
    detrend
        First undo the straight line that fits `chi_ppm` best to `truth_ppm`: a map that is merely
        too low everywhere then scores as well as one that is right.

    References
    ----------
    QSM challenge 2.0, doi:10.1002/mrm.28754.

    Examples
    --------
    >>> truth = np.arange(27.0).reshape(3, 3, 3)
    >>> low = 0.5 * truth + 4
    >>> [round(nrmse_percent(low, truth, truth < 99, detrend=d)) for d in (False, True)]
    [50, 0]
    """
    found, true = _inside(chi_ppm, truth_ppm, mask)
    found, true = found - found.mean(), true - true.mean()
    power = float(true @ true)
    if not power > 0:
        raise InputError("truth_ppm: is the same everywhere in the mask; nothing can be compared")
    if detrend:
        slope = float(found @ true) / power
        if slope == 0:
            raise InputError("chi_ppm: is unrelated to the truth, so no line can be undone")
        found = found / slope
    return float(100 * np.linalg.norm(found - true) / power**0.5)


def hfen_percent(chi_ppm: ArrayLike, truth_ppm: ArrayLike, mask: ArrayLike) -> float:
    """Return the error's edges and details over the truth's (high-frequency error norm).

    Both maps are set to zero outside the mask, so that the truth's own rim does not count as an
    error, and filtered with the Laplacian of a Gaussian of 1.5 voxels.

    References
    ----------
    Langkammer et al. 2018 (QSM challenge 2016), doi:10.1002/mrm.26830.

    Examples
    --------
    >>> truth = np.random.default_rng(0).normal(size=(12, 12, 12))
    >>> round(hfen_percent(0.8 * truth, truth, truth < 9))
    20
    """
    inside = np.asarray(mask, bool)
    _inside(chi_ppm, truth_ppm, inside)
    found, true = (
        ndimage.gaussian_laplace(np.where(inside, v, 0).astype(np.float64), LOG_VOXELS)
        for v in (chi_ppm, truth_ppm)
    )
    return float(100 * np.linalg.norm(found - true) / np.linalg.norm(true))


def xsim(chi_ppm: ArrayLike, truth_ppm: ArrayLike, mask: ArrayLike) -> float:
    """Return the structural similarity of two maps in ppm: 1 where they are the same.

    SSIM with a range of 1 ppm instead of the maps' own, and constants 0.01 and 0.001, so that an
    artefact that widens the range does not raise the score; windows are Gaussian, 1.5 voxels
    wide, 7 voxels long.

    Parameters
    ----------
    chi_ppm, truth_ppm
        Shape (x, y, z), in ppm and with the same reference: unlike the other metrics it compares
        means too.
    mask
        Where to average; outside it both maps are set to zero.

    References
    ----------
    Milovic et al. 2025, doi:10.1002/mrm.30271.

    Examples
    --------
    >>> truth = np.random.default_rng(0).normal(0, 0.05, (12, 12, 12))
    >>> round(xsim(truth, truth, truth < 9), 3), xsim(-truth, truth, truth < 9) < 0
    (1.0, True)
    """
    inside = np.asarray(mask, bool)
    _inside(chi_ppm, truth_ppm, inside)
    a, b = (np.where(inside, v, 0).astype(np.float64) for v in (chi_ppm, truth_ppm))
    mean_a, mean_b, aa, bb, ab = map(_window_mean, (a, b, a * a, b * b, a * b))
    var_a, var_b = aa - mean_a**2, bb - mean_b**2
    covariance = ab - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + XSIM_C1) / (mean_a**2 + mean_b**2 + XSIM_C1)
    structure = (2 * covariance + XSIM_C2) / (var_a + var_b + XSIM_C2)
    return float((luminance * structure)[inside].mean())


def _window_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return ndimage.gaussian_filter(
        values, XSIM_SD_VOXELS, radius=XSIM_REACH_VOXELS, mode="constant"
    )


def linearity(
    chi_ppm: ArrayLike,
    truth_ppm: ArrayLike,
    labels: ArrayLike,
    mask: ArrayLike,
    *,
    min_voxels: int = 20,
) -> Linearity:
    """Fit a line through the mean of each region, found over true, less the mean of the mask.

    Parameters
    ----------
    chi_ppm, truth_ppm
        Shape (x, y, z).
    labels
        Region numbers; zero is none.
    mask
        Where susceptibility is known.
    min_voxels
        Smaller regions are left out.

    Examples
    --------
    >>> labels = np.arange(3).repeat(30).reshape(3, 5, 6)
    >>> found = linearity(0.9 * labels, labels, labels, np.ones(labels.shape))
    >>> round(found.slope, 3), found.n_regions
    (0.9, 2)
    """
    numbers, inside = np.asarray(labels), np.asarray(mask, bool)
    found, true = _inside(chi_ppm, truth_ppm, inside)
    numbers = numbers[inside]
    at = [numbers == k for k in np.unique(numbers[numbers > 0])]
    at = [region for region in at if region.sum() >= min_voxels]
    if len(at) < 2:
        raise InputError(f"labels: {len(at)} regions of {min_voxels} voxels; two are needed")
    x, y = (1e3 * (np.array([v[r].mean() for r in at]) - v.mean()) for v in (true, found))
    slope, intercept = np.polyfit(x, y, 1)
    miss = np.abs(y - x)
    return Linearity(
        float(slope), float(intercept), float(miss.mean()), float(miss.max()), len(at)
    )


def calcification_error(
    chi_ppm: ArrayLike,
    truth_ppm: ArrayLike,
    calcification: ArrayLike,
    mask: ArrayLike,
    *,
    inner: int = 2,
    outer: int = 8,
) -> CalcificationError:
    """Measure a calcification's moment and the streaks around it.

    Parameters
    ----------
    chi_ppm, truth_ppm
        Shape (x, y, z).
    calcification
        Its share of each voxel, or its mask.
    mask
        Where susceptibility is known; a calcification without signal is part of it.
    inner, outer
        It is grown by `inner` voxels, to hold its blur, and the shell reaches from there
        to `outer` voxels.

    References
    ----------
    QSM challenge 2.0 (calcification moment and streaking), doi:10.1002/mrm.28754; the shell here
    is our own choice.

    Examples
    --------
    >>> grid = np.indices((25, 25, 25)) - 12
    >>> core = (grid**2).sum(0) <= 4
    >>> found = calcification_error(-1.2 * core, -1.0 * core, core, core < 2)
    >>> round(found.moment_ratio, 2), found.streaking_ppb
    (1.2, 0.0)
    """
    inside = np.asarray(mask, bool)
    core = np.asarray(calcification) > 0.05
    near = ndimage.binary_dilation(core, iterations=inner)
    shell = ndimage.binary_dilation(near, iterations=outer - inner) & ~near & inside
    if not core.any() or not shell.any():
        raise InputError("calcification: it, or the shell around it, lies outside the mask")
    found, true = (np.asarray(v, np.float64) for v in (chi_ppm, truth_ppm))
    moments = [(v[near] - v[shell].mean()).sum() for v in (found, true)]
    error = (found - true)[shell]
    return CalcificationError(float(moments[0] / moments[1]), float(1e3 * error.std()))


def compare(
    chi_ppm: ArrayLike,
    truth_ppm: ArrayLike,
    mask: ArrayLike,
    labels: ArrayLike,
    calcification: ArrayLike,
) -> dict[str, float]:
    """Return all metrics as one flat row; both maps are first referred to the mask's mean.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.normal(0, 0.05, (24, 24, 24))
    >>> labels, core = rng.integers(0, 4, truth.shape), np.zeros(truth.shape)
    >>> core[12, 12, 12] = 1
    >>> row = compare(0.9 * truth, truth, truth < 9, labels, core)
    >>> round(row["nrmse_percent"]), round(row["detrended_percent"]), round(row["slope"], 2)
    (10, 0, 0.9)
    """
    inside = np.asarray(mask, bool)
    found, true = _inside(chi_ppm, truth_ppm, inside)
    chi = np.asarray(chi_ppm, np.float64) - found.mean()
    truth = np.asarray(truth_ppm, np.float64) - true.mean()
    return {
        "nrmse_percent": nrmse_percent(chi, truth, inside),
        "detrended_percent": nrmse_percent(chi, truth, inside, detrend=True),
        "hfen_percent": hfen_percent(chi, truth, inside),
        "xsim": xsim(chi, truth, inside),
        **asdict(linearity(chi, truth, labels, inside)),
        **asdict(calcification_error(chi, truth, calcification, inside)),
    }


def _inside(
    chi_ppm: ArrayLike, truth_ppm: ArrayLike, mask: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    found, true, inside = np.asarray(chi_ppm), np.asarray(truth_ppm), np.asarray(mask, bool)
    if not (found.shape == true.shape == inside.shape) or not inside.any():
        raise InputError(
            f"chi_ppm {found.shape}, truth_ppm {true.shape}, mask {inside.shape}: one grid and a "
            "mask that is not empty are needed"
        )
    return found[inside].astype(np.float64), true[inside].astype(np.float64)
