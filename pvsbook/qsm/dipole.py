"""The dipole kernel: the field that a susceptibility map makes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from pvsbook._errors import InputError
from pvsbook.qsm._solve import convolve

__all__ = ["dipole_field", "dipole_kernel"]

PAD_MM = 16.0


def dipole_kernel(
    shape: Sequence[int],
    voxel_size_mm: ArrayLike,
    b0_direction: ArrayLike = (0, 0, 1),
) -> NDArray[np.float32]:
    r"""Return the dipole kernel in the layout of ``scipy.fft.rfftn``.

    .. math:: D(\mathbf k) = \frac13 - \frac{(\mathbf k \cdot \hat{\mathbf b})^2}{|\mathbf k|^2}

    and zero at the origin.  On an axis of even length the highest frequency stands for both of
    its signs; the kernel there is the mean of the two, so that a real field stays real.

    Parameters
    ----------
    shape
        Matrix, any three sizes.
    voxel_size_mm
        Three numbers; they need not be equal.
    b0_direction
        Unit vector of the static field in voxel axes.  Take it from the affine
        (``Gre.b0_direction``): in a tilted scan it is not the third axis.

    Returns
    -------
    numpy.ndarray
        Shape (x, y, z // 2 + 1), float32.

    Raises
    ------
    InputError
        `b0_direction` is zero, or sizes are not positive.

    References
    ----------
    Marques and Bowtell 2005, doi:10.1002/cmr.b.20034.

    Examples
    --------
    >>> kernel = dipole_kernel((8, 8, 8), (1, 1, 1))
    >>> print(kernel[0, 0, 1].round(4), kernel[1, 0, 0].round(4))
    -0.6667 0.3333
    """
    size = np.asarray(voxel_size_mm, np.float64)
    b = np.asarray(b0_direction, np.float64)
    if size.shape != (3,) or (size <= 0).any():
        raise InputError(f"voxel_size_mm: {size}, but three positive sizes in mm are needed")
    if b.shape != (3,) or not np.linalg.norm(b) > 0:
        raise InputError(f"b0_direction: {b}, but a vector of length one is needed")
    b = b / np.linalg.norm(b)
    frequencies = [fft.fftfreq, fft.fftfreq, fft.rfftfreq]
    k, odd = [], []
    for axis, (n, mm, of_axis) in enumerate(zip(shape, size, frequencies, strict=True)):
        line = of_axis(n, mm).astype(np.float32)
        k.append(line.reshape([-1 if axis == j else 1 for j in range(3)]))
        # The mean over both signs of a Nyquist frequency drops its products with the other axes.
        odd.append(k[-1].copy())
        if n % 2 == 0:
            odd[-1].flat[n // 2] = 0
    square = sum(a * a for a in k)
    along = sum(np.float32(b[i] ** 2) * a * a for i, a in enumerate(k))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        if b[i] * b[j] != 0:
            along = along + np.float32(2 * b[i] * b[j]) * odd[i] * odd[j]
    square[0, 0, 0] = 1
    kernel = np.float32(1 / 3) - along / square
    kernel[0, 0, 0] = 0
    return kernel


def padded_shape(
    shape: Sequence[int], voxel_size_mm: ArrayLike, pad_mm: float = PAD_MM
) -> tuple[int, int, int]:
    """Return the smallest fast transform sizes that leave `pad_mm` of room on each axis.

    Examples
    --------
    >>> padded_shape((51, 51, 41), (0.5, 0.5, 1.0), pad_mm=10)
    (72, 72, 54)
    """
    size = np.asarray(voxel_size_mm, np.float64)
    wanted = [int(np.ceil(n + pad_mm / s)) for n, s in zip(shape, size, strict=True)]
    x, y, z = (fft.next_fast_len(n, real=True) for n in wanted)
    return x, y, z


def dipole_field(
    chi_ppm: ArrayLike,
    voxel_size_mm: ArrayLike,
    b0_direction: ArrayLike = (0, 0, 1),
    *,
    pad_mm: float = PAD_MM,
) -> NDArray[np.float32]:
    """Compute the relative field, in ppm, that a susceptibility map makes.

    Parameters
    ----------
    chi_ppm
        Shape (x, y, z).
    voxel_size_mm, b0_direction
        As in `dipole_kernel`.
    pad_mm
        Room on each axis that keeps the field of one side from coming back on the other.
        More for strong sources near the border; it costs time only.

    Examples
    --------
    >>> grid = np.indices((33, 33, 33)) - 16
    >>> ball = (grid**2).sum(0) <= 36
    >>> field = dipole_field(ball, (1, 1, 1), pad_mm=64)
    >>> print(field[16, 16, 28].round(2))  # 2/3 (a / r)^3 outside, along the field
    0.08
    """
    chi = np.asarray(chi_ppm, np.float32)
    big = padded_shape(chi.shape, voxel_size_mm, pad_mm)
    return convolve(chi, dipole_kernel(big, voxel_size_mm, b0_direction), big)
