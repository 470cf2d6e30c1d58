"""Where the phase can be trusted, and where the brain is."""

from __future__ import annotations

import math

import cc3d
import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pvsbook._errors import InputError
from pvsbook.qsm._solve import distance_inside
from pvsbook.qsm.unwrap import _step

__all__ = ["mask_from_gre", "phase_quality"]


def phase_quality(phase_rad: ArrayLike, *, echo_times_s: ArrayLike | None = None) -> NDArray:
    """Rate each voxel's phase from 0 (noise) to 1, from its steps to its six neighbours.

    The rating is the mean, over the neighbours, of ROMEO's phase coherence; with two echoes or
    more it is multiplied by how well the step in the first echo predicts the step in the second,
    which noise and flow do not manage.

    Parameters
    ----------
    phase_rad
        Wrapped phase, shape (x, y, z) or (x, y, z, echo).
    echo_times_s
        Shape (echo,); needed with several echoes.

    Returns
    -------
    numpy.ndarray
        Shape (x, y, z), float32.

    References
    ----------
    Dymerska et al. 2021, doi:10.1002/mrm.28563.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> noise = rng.uniform(-np.pi, np.pi, (16, 16, 16)).astype(np.float32)
    >>> print(round(float(phase_quality(noise).mean()), 1), phase_quality(0 * noise).mean())
    0.5 1.0
    """
    phase = np.asarray(phase_rad, np.float32)
    if phase.ndim == 3:
        phase = phase[..., None]
    ratio = 1.0
    if phase.shape[3] > 1:
        if echo_times_s is None:
            raise InputError("echo_times_s: not given, but the phase has several echoes")
        times = np.asarray(echo_times_s, np.float64)
        ratio = float(times[1] / times[0])
    out = np.zeros(phase.shape[:3], np.float32)
    _quality(np.ascontiguousarray(phase[..., :2]), ratio, out)
    return out


@numba.njit(cache=True, fastmath=True)
def _quality(phase, ratio, out):  # type: ignore[no-untyped-def]
    nx, ny, nz, n = phase.shape
    count = np.zeros(out.shape, np.uint8)
    for axis in range(3):
        a, b, c = int(axis == 0), int(axis == 1), int(axis == 2)
        for i in range(nx - a):
            for j in range(ny - b):
                for k in range(nz - c):
                    d = _step(phase[i, j, k, 0], phase[i + a, j + b, k + c, 0])
                    q = 1 - abs(d) / math.pi
                    if n > 1:
                        d2 = _step(phase[i, j, k, 1], phase[i + a, j + b, k + c, 1])
                        q *= max(0.0, 1 - abs(_step(d2, ratio * d)))
                    out[i, j, k] += q
                    out[i + a, j + b, k + c] += q
                    count[i, j, k] += 1
                    count[i + a, j + b, k + c] += 1
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                if count[i, j, k] > 0:
                    out[i, j, k] /= count[i, j, k]


def mask_from_gre(
    magnitude: ArrayLike,
    phase_rad: ArrayLike,
    voxel_size_mm: ArrayLike,
    *,
    echo_times_s: ArrayLike | None = None,
    magnitude_fraction: float = 0.2,
    quality: float = 0.5,
    neck_mm: float = 3.0,
    rim_mm: float = 2.0,
) -> NDArray[np.bool_]:
    """Mask the brain: bright enough, phase in order, one piece that bone cuts off from the scalp.

    Voxels pass where the first echo's magnitude exceeds a share of its 98th percentile and the
    phase quality a threshold.  What hangs together by bridges thinner than twice `neck_mm` is cut
    apart, the largest piece kept, grown back, and its holes filled.

    Parameters
    ----------
    magnitude, phase_rad
        Shape (x, y, z, echo).
    voxel_size_mm
        Three numbers.
    echo_times_s
        Shape (echo,); needed with several echoes.
    magnitude_fraction
        Lower it where a surface coil shades the centre of the head.
    quality
        Lower it for noisy phase; at 0.5 noise rarely passes.
    neck_mm
        Raise it where veins or the optic nerve tie the brain to the scalp; 0 keeps every bridge.

    rim_mm
        Taken off the outside at last, and at least one voxel: beside bone the phase is the worst,
        and what is wrong there is taken for background everywhere.

    Returns
    -------
    numpy.ndarray
        Shape (x, y, z), bool.  A mask made by a tool for the purpose, or by hand, is better than
        this one wherever bone is bright: give it to `reconstruct`.

    Raises
    ------
    InputError
        Nothing passes.

    Examples
    --------
    >>> x, y, z = np.indices((40, 40, 40)) - 19.5
    >>> r = np.sqrt(x**2 + y**2 + z**2)
    >>> magnitude = np.where((r < 10) | ((r > 13) & (r < 16)), 1.0, 0.0)[..., None]
    >>> mask = mask_from_gre(magnitude, 0 * magnitude, (1, 1, 1), rim_mm=0)
    >>> bool((mask == (r < 10)).all())
    True
    """
    mag = np.asarray(magnitude, np.float32)[..., 0]
    passed = mag > magnitude_fraction * np.quantile(mag[mag > 0] if (mag > 0).any() else mag, 0.98)
    passed &= phase_quality(phase_rad, echo_times_s=echo_times_s) > quality
    size = np.asarray(voxel_size_mm, np.float64)
    core = passed & (distance_inside(passed, size, rim_is_outside=False) > neck_mm)
    pieces = cc3d.largest_k(core, k=1, connectivity=6).astype(bool)
    grown = distance_inside(~pieces, size, rim_is_outside=False) <= neck_mm + size.max()
    whole = ndimage.binary_fill_holes(pieces | (passed & grown & pieces.any()))
    if rim_mm > 0:
        depth = distance_inside(whole, size, rim_is_outside=False)
        whole &= depth > max(rim_mm, 1.001 * size.max())
    if not whole.any():
        raise InputError(
            "mask: no voxel is bright, in phase with its neighbours and inside a piece thicker "
            f"than {2 * (neck_mm + rim_mm):g} mm; look at magnitude and phase, or give a mask"
        )
    return whole
