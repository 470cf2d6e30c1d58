"""From several echoes of wrapped phase to one map of the magnetic field."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.stats import chi2

from pvsbook._constants import GAMMA_MHZ_T, TWO_PI
from pvsbook._errors import InputError
from pvsbook.qsm.unwrap import romeo, wrap

__all__ = ["FieldMap", "Readout", "check_readout", "echo_difference", "fit_field", "hz_to_ppm"]


@dataclass(frozen=True, eq=False)
class FieldMap:
    """Field from a weighted straight line through the phase of every echo.

    Attributes
    ----------
    field_hz
        Off-resonance, shape (x, y, z), float32; zero outside the mask.
    offset_rad
        Phase at echo time zero (the coil's), wrapped; zero where one echo cannot tell it.
    residual_rad
        Root mean square misfit of the line, weighted by squared magnitude; large in veins, in
        signal voids and where a wrap was missed.  Zero with fewer than three echoes.
    standard_error_hz
        Standard error of the field in a voxel, from the median misfit in the mask and the
        voxel's own weights; NaN with fewer than three echoes.
    n_regions
        Pieces of the mask that were unwrapped on their own.
    """

    field_hz: NDArray[np.float32]
    offset_rad: NDArray[np.float32]
    residual_rad: NDArray[np.float32]
    standard_error_hz: NDArray[np.float32]
    n_regions: int


def hz_to_ppm(field_hz: ArrayLike, field_strength_t: float) -> NDArray:
    """Turn off-resonance in Hz into relative field in ppm.

    Examples
    --------
    >>> hz_to_ppm(np.array([127.73243555]), 3.0)
    array([1.])
    """
    return np.asarray(field_hz) / (GAMMA_MHZ_T * field_strength_t)


def echo_difference(
    phase_rad: ArrayLike, magnitude: ArrayLike, echo_times_s: ArrayLike
) -> tuple[NDArray[np.float32], float]:
    """Return the wrapped phase gained between echoes, and over how long it was gained.

    The difference of two echoes is free of the coil's phase offset.  Where echoes are evenly
    spaced, the differences of all neighbouring pairs are added as complex numbers, which costs
    nothing and halves the noise; else the pair with the shortest interval is taken.

    Parameters
    ----------
    phase_rad, magnitude
        Shape (x, y, z, echo).
    echo_times_s
        Shape (echo,), at least two.

    Returns
    -------
    difference_rad
        Shape (x, y, z), in [-pi, pi].
    interval_s
        Time between the echoes.

    Examples
    --------
    >>> phase = np.full((1, 1, 1, 3), [0.5, 1.0, 1.5], np.float32)
    >>> step, interval = echo_difference(phase, np.ones_like(phase), [0.004, 0.008, 0.012])
    >>> round(float(step[0, 0, 0]), 3), round(interval, 3)
    (0.5, 0.004)
    """
    times = np.asarray(echo_times_s, np.float64)
    gaps = np.diff(times)
    even = bool(np.ptp(gaps) < 0.02 * gaps.mean())
    first = np.arange(gaps.size) if even else np.array([np.argmin(gaps)])
    phase = np.ascontiguousarray(phase_rad, np.float32)
    mag = np.ascontiguousarray(magnitude, np.float32)
    flat = phase.reshape(-1, times.size), mag.reshape(-1, times.size)
    difference = _difference(*flat, first).reshape(phase.shape[:3])
    return difference, float(gaps[first].mean())


@numba.njit(cache=True, fastmath=True)
def _difference(phase, mag, first):  # type: ignore[no-untyped-def]
    out = np.empty(phase.shape[0], np.float32)
    for v in range(phase.shape[0]):
        re = np.float32(0)
        im = np.float32(0)
        for e in first:
            w = mag[v, e] * mag[v, e + 1]
            d = phase[v, e + 1] - phase[v, e]
            re += w * math.cos(d)
            im += w * math.sin(d)
        out[v] = math.atan2(im, re)
    return out


def fit_field(
    phase_rad: ArrayLike, magnitude: ArrayLike, echo_times_s: ArrayLike, mask: ArrayLike
) -> FieldMap:
    """Unwrap the echo difference in space, the echoes in time, and fit a line in each voxel.

    Only the echo difference is unwrapped by region growing.  Its slope predicts each next echo,
    which fixes that echo's wraps; the line's intercept takes up the coil phase, so the first
    echo need not be unwrapped at all.  Weights are the squared magnitude, the inverse variance
    of phase noise.

    Parameters
    ----------
    phase_rad, magnitude
        Shape (x, y, z, echo), wrapped radians.
    echo_times_s
        Shape (echo,), rising.
    mask
        Shape (x, y, z).

    Returns
    -------
    FieldMap
        With a single echo the coil phase cannot be told from the field: `offset_rad` is zero,
        and the smooth part of the field is wrong until the background is removed.

    References
    ----------
    Dymerska et al. 2021, doi:10.1002/mrm.28563; QSM Consensus 2024, doi:10.1002/mrm.30006.

    Examples
    --------
    >>> times = np.array([0.004, 0.008, 0.012])
    >>> phase = np.angle(np.exp(2j * np.pi * 60.0 * times + 1j)).astype(np.float32)
    >>> volume = np.tile(phase, (2, 2, 2, 1))
    >>> fit = fit_field(volume, np.ones_like(volume), times, np.ones((2, 2, 2), bool))
    >>> print(round(float(fit.field_hz[0, 0, 0]), 3), round(float(fit.offset_rad[0, 0, 0]), 3))
    60.0 1.0
    """
    phase = np.ascontiguousarray(phase_rad, np.float32)
    mag = np.ascontiguousarray(magnitude, np.float32)
    inside = np.ascontiguousarray(mask, dtype=bool)
    times = np.asarray(echo_times_s, np.float64)
    if phase.ndim != 4 or phase.shape != mag.shape or phase.shape[3] != times.size:
        raise InputError(
            f"phase {phase.shape}, magnitude {mag.shape}, {times.size} echo times: phase and "
            "magnitude must both be (x, y, z, echo) with one echo time an echo"
        )
    if times.size == 1:
        single = romeo(phase[..., 0], inside, magnitude=mag[..., 0])
        zero = np.zeros(inside.shape, np.float32)
        hz = single.phase_rad / np.float32(TWO_PI * times[0])
        return FieldMap(hz, zero, zero, np.full_like(zero, np.nan), single.n_regions)
    difference, interval_s = echo_difference(phase, mag, times)
    template = romeo(difference, inside, magnitude=mag[..., 0])
    n = times.size
    maps = [np.zeros(inside.shape, np.float32) for _ in range(5)]
    flat = (m.ravel() for m in (inside, template.phase_rad, *maps))
    _fit_lines(phase.reshape(-1, n), mag.reshape(-1, n), times, interval_s, *flat)
    field, offset, residual, sxx, rss = maps
    # The phase variance of a voxel with unit magnitude: of a chi-squared number's median, so that
    # the voxels beside air, which no line fits, do not make every other voxel look noisy.
    error = np.full_like(sxx, np.nan)
    if n > 2:
        variance = np.median(rss[inside]) / chi2.median(n - 2)
        error = np.divide(
            math.sqrt(variance) / TWO_PI, np.sqrt(sxx), out=np.zeros_like(sxx), where=sxx > 0
        )
    return FieldMap(field, offset, residual, error, template.n_regions)


@dataclass(frozen=True, eq=False)
class Readout:
    """Phase that odd and even echoes do not share, as a bipolar readout makes.

    Attributes
    ----------
    is_bipolar
        Whether the phase of odd and even echoes differs by more than noise.
    difference_rad
        Phase of even echoes less that of odd ones, smooth, shape (x, y, z).
    phase_rad
        The scan's phase with the difference taken out, wrapped; unchanged where it is monopolar.
    """

    is_bipolar: bool
    difference_rad: NDArray[np.float32]
    phase_rad: NDArray[np.float32]


def check_readout(
    phase_rad: ArrayLike,
    magnitude: ArrayLike,
    echo_times_s: ArrayLike,
    mask: ArrayLike,
    voxel_size_mm: ArrayLike,
    *,
    smoothing_mm: float = 8.0,
    threshold_rad: float = 0.1,
) -> Readout:
    r"""Tell a bipolar from a monopolar readout, and take the difference of its echoes out.

    On three evenly spaced echoes the phase :math:`\varphi_1 - 2\varphi_2 + \varphi_3` of a
    straight line is zero, whatever the field and the coils do.  Where odd and even echoes are read
    in opposite directions it is not: it is minus twice the difference between them, a smooth ramp.

    Parameters
    ----------
    phase_rad, magnitude
        Shape (x, y, z, echo).
    echo_times_s
        At least three; the first three evenly spaced.
    mask
        Brain.
    voxel_size_mm
        Three numbers.
    smoothing_mm
        The difference is taken to be smooth over this width.
    threshold_rad
        Smallest spread of the difference, over the mask, that is called bipolar.

    Returns
    -------
    Readout

    Raises
    ------
    InputError
        Fewer than three echoes, or not evenly spaced.

    References
    ----------
    Eckstein et al. 2018, doi:10.1002/mrm.26963.

    Examples
    --------
    >>> times = np.array([0.005, 0.010, 0.015])
    >>> phase = np.zeros((8, 8, 8, 3), np.float32)
    >>> phase[..., 1] += np.linspace(-0.4, 0.4, 8)[:, None, None]
    >>> inside = np.ones((8, 8, 8), bool)
    >>> found = check_readout(phase, 1 + 0 * phase, times, inside, (1, 1, 1), smoothing_mm=1)
    >>> found.is_bipolar
    True
    """
    phase, mag = np.asarray(phase_rad, np.float32), np.asarray(magnitude, np.float32)
    times, inside = np.asarray(echo_times_s, np.float64), np.asarray(mask, bool)
    gaps = np.diff(times)
    if times.size < 3 or abs(gaps[1] - gaps[0]) > 0.02 * gaps[0]:
        raise InputError("echo_times_s: three evenly spaced echoes are needed to tell the readout")
    curvature = phase[..., 0] - 2 * phase[..., 1] + phase[..., 2]
    weight = np.where(inside, mag[..., 0] * mag[..., 1] ** 2 * mag[..., 2], 0)
    signal = weight * np.exp(1j * curvature)
    width = smoothing_mm / np.asarray(voxel_size_mm, np.float64)
    smooth = np.angle(ndimage.gaussian_filter(signal, width)).astype(np.float32)
    difference = (-0.5 * romeo(smooth, inside).phase_rad).astype(np.float32)
    is_bipolar = bool(np.sqrt(np.mean(difference[inside] ** 2)) > threshold_rad)
    if not is_bipolar:
        return Readout(False, difference, phase)
    even = np.arange(times.size) % 2 == 1
    return Readout(True, difference, wrap(phase - difference[..., None] * even))


@numba.njit(cache=True, fastmath=True)
def _fit_lines(phase, mag, times, interval, inside, step, field, offset, residual, sxx, rss):  # type: ignore[no-untyped-def]
    n = times.size
    psi = np.empty(n)
    weight = np.empty(n)
    for v in range(inside.size):
        if not inside[v]:
            continue
        slope = step[v] / interval
        psi[0] = 0.0
        sw = 0.0
        st = 0.0
        sp = 0.0
        for e in range(n):
            if e > 0:
                d = float(phase[v, e]) - phase[v, 0]
                expected = psi[e - 1] + slope * (times[e] - times[e - 1])
                psi[e] = d + TWO_PI * np.rint((expected - d) / TWO_PI)
            w = max(float(mag[v, e]) ** 2, 1e-30)
            weight[e] = w
            sw += w
            st += w * times[e]
            sp += w * psi[e]
        mean_t = st / sw
        mean_p = sp / sw
        stt = 0.0
        stp = 0.0
        for e in range(n):
            dt = times[e] - mean_t
            stt += weight[e] * dt * dt
            stp += weight[e] * dt * psi[e]
        omega = stp / stt
        missed = 0.0
        for e in range(n):
            r = psi[e] - mean_p - omega * (times[e] - mean_t)
            missed += weight[e] * r * r
        field[v] = omega / TWO_PI
        start = mean_p - omega * mean_t + phase[v, 0]
        offset[v] = start - TWO_PI * np.rint(start / TWO_PI)
        if n > 2:
            residual[v] = math.sqrt(missed / sw)
            rss[v] = missed
        sxx[v] = stt
