"""How fast the magnitude decays: R2*."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvsbook._errors import InputError

__all__ = ["fit_r2s"]


def fit_r2s(
    magnitude: ArrayLike, echo_times_s: ArrayLike, mask: ArrayLike | None = None
) -> NDArray[np.float32]:
    """Fit an exponential decay over the echoes, weighted by squared magnitude.

    Parameters
    ----------
    magnitude
        Shape (x, y, z, echo).
    echo_times_s
        Shape (echo,), at least two.
    mask
        Where to fit; everywhere by default.

    Returns
    -------
    numpy.ndarray
        R2* in 1/s, shape (x, y, z), float32; zero outside the mask and never negative.  Field
        gradients across thick voxels raise it beside air, and a magnitude near the noise floor
        lowers it.

    Raises
    ------
    InputError
        Fewer than two echoes, or shapes that differ.

    References
    ----------
    Pei et al. 2015 (fits compared), doi:10.1002/mrm.25137.

    Examples
    --------
    >>> times = np.array([0.005, 0.010, 0.020])
    >>> print(fit_r2s(np.exp(-30 * times)[None, None, None], times).round(2))
    [[[30.]]]
    """
    mag = np.ascontiguousarray(magnitude, np.float32)
    times = np.asarray(echo_times_s, np.float64)
    if mag.ndim != 4 or times.shape != mag.shape[3:] or times.size < 2:
        raise InputError(
            f"magnitude: has shape {mag.shape}, with {times.size} echo times; R2* needs "
            "(x, y, z, echo) with at least two echoes"
        )
    inside = np.ones(mag.shape[:3], bool) if mask is None else np.asarray(mask, bool)
    if inside.shape != mag.shape[:3]:
        raise InputError(f"mask: has shape {inside.shape}, but magnitude has {mag.shape[:3]}")
    out = np.zeros(inside.size, np.float32)
    _decay(mag.reshape(-1, times.size), times, np.ascontiguousarray(inside).ravel(), out)
    return out.reshape(inside.shape)


@numba.njit(cache=True, fastmath=True)
def _decay(mag, times, inside, out):  # type: ignore[no-untyped-def]
    for v in range(inside.size):
        if not inside[v]:
            continue
        sw = st = sl = stt = stl = 0.0
        for e in range(times.size):
            m = float(mag[v, e])
            if m > 0:
                w = m * m
                t = times[e]
                log = np.log(m)
                sw += w
                st += w * t
                sl += w * log
                stt += w * t * t
                stl += w * t * log
        spread = stt * sw - st * st
        if spread > 0:
            out[v] = max(-(stl * sw - st * sl) / spread, 0.0)
