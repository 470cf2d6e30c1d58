"""Removal of the field whose sources lie outside the mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage

from pvsbook._errors import InputError
from pvsbook.qsm._solve import (
    Volume,
    check_field,
    conjugate_gradients,
    convolve,
    crop,
    distance_inside,
    sphere,
    transfer_of,
)
from pvsbook.qsm.dipole import dipole_kernel, padded_shape

__all__ = ["LocalField", "lbv", "pdf", "resharp", "smv", "vsharp"]

RADII_MM = (8.0, 6.0, 4.0, 2.0, 1.0)


@dataclass(frozen=True, eq=False)
class LocalField:
    """Field made by sources inside the mask.

    Attributes
    ----------
    field_ppm
        Shape (x, y, z), float32; zero outside `mask`.
    mask
        Where the field is known: the given mask less a rim that the method cannot serve.
    ball_mm
        Radius of the ball whose mean was subtracted and not put back, as `smv` does; else zero.
        An inversion must take it into account (`pvsbook.qsm.inversion.tv` can).
    is_settled
        Whether the method met its tolerance before it ran out of iterations.
    """

    field_ppm: Volume
    mask: NDArray[np.bool_]
    ball_mm: float = 0.0
    is_settled: bool = True


def _local_field(
    local: Volume, known: NDArray[np.bool_], ball_mm: float = 0.0, *, is_settled: bool = True
) -> LocalField:
    return LocalField(np.where(known, local, np.float32(0)), known, ball_mm, is_settled)


def smv(
    field_ppm: ArrayLike, mask: ArrayLike, voxel_size_mm: ArrayLike, *, radius_mm: float = 5.0
) -> LocalField:
    """Subtract from each voxel the mean over the ball around it, and leave it at that.

    A field from outside equals its own mean over a ball, so it is gone.  The tissue's field is
    changed too, by a known filter.  V-SHARP and RESHARP undo that filter, and have to guess its
    slow part, which they cannot see; here the inversion is told instead, and compares the map's
    field, filtered in the same way, with what is returned here (single-step QSM).

    Parameters
    ----------
    field_ppm, mask, voxel_size_mm
        As in `vsharp`.
    radius_mm
        Ball radius; the mask loses as much.  On simulated heads, 5 mm made the steadiest
        change between visits; 8 mm kept more of the slow contrast, lost more rim, and depended
        more on the pose; at 3 mm noise drowns the slow part.

    Returns
    -------
    LocalField
        With `ball_mm` set: only `pvsbook.qsm.inversion.tv` can invert it.

    Raises
    ------
    InputError
        Shapes differ, or the ball does not fit into the mask.

    References
    ----------
    Schweser et al. 2011, doi:10.1016/j.neuroimage.2010.10.070, for the filter.

    Examples
    --------
    >>> x, y, z = np.indices((32, 32, 32)) - 16.0
    >>> brain = x**2 + y**2 + z**2 < 14**2
    >>> local = smv(0.01 * z + 1e-3 * (x**2 - y**2), brain, (1, 1, 1))
    >>> bool(np.abs(local.field_ppm).max() < 1e-4), local.ball_mm
    (True, 5.0)
    """
    field, served, contrast, big = _less_ball_mean(field_ppm, mask, voxel_size_mm, radius_mm)
    return _local_field(convolve(field, contrast, big), served, float(radius_mm))


def _less_ball_mean(
    field_ppm: ArrayLike, mask: ArrayLike, voxel_size_mm: ArrayLike, radius_mm: float
) -> tuple[Volume, NDArray[np.bool_], Volume, tuple[int, int, int]]:
    """Return the field, where a ball fits, the filter that takes its mean off, and its shape."""
    field, inside = check_field(field_ppm, mask)
    size = np.asarray(voxel_size_mm, np.float64)
    served = distance_inside(inside, size) > radius_mm * (1 + 1e-6)
    if not served.any():
        raise InputError(
            f"mask: no ball of {radius_mm:g} mm fits into it ({inside.sum()} voxels); "
            "check the mask, or give a smaller radius_mm"
        )
    big = padded_shape(field.shape, size, pad_mm=radius_mm)
    return field, served, 1 - transfer_of(sphere(radius_mm, size), big), big


def vsharp(
    field_ppm: ArrayLike,
    mask: ArrayLike,
    voxel_size_mm: ArrayLike,
    *,
    radii_mm: Sequence[float] = RADII_MM,
    threshold: float = 0.05,
) -> LocalField:
    """Remove the background field with balls of several sizes (V-SHARP).

    A field from outside is harmonic inside the mask, so its mean over a ball is its value at the
    centre, and subtracting the mean removes it.  Each voxel uses the largest ball that fits into
    the mask; what the subtraction did to the local field is then undone by deconvolution with
    the largest ball.

    Parameters
    ----------
    field_ppm
        Total field, shape (x, y, z), ppm.
    mask
        Where it is known.
    voxel_size_mm
        Three numbers.
    radii_mm
        Ball radii.  A larger first radius keeps more of the slow local field and lets more of
        the background through near the rim.  None is best for all: after `tv`, the deep nuclei of
        six simulated heads erred by 16 ppb in the mean with 8 mm, 10 with 16 mm and 14 with 24 mm,
        each nucleus by another amount (8 mm: -5 ppb in the caudate, -33 in the red nucleus).  On a
        numerical brain the best radius depended on the inversion (doi:10.1002/nbm.3550).
        A smaller last radius loses less rim, where the result is least certain.
    threshold
        Frequencies where the deconvolution would divide by less are set to zero.

    Returns
    -------
    LocalField

    Raises
    ------
    InputError
        Shapes differ, the mask is empty, or no ball fits into it.

    References
    ----------
    Schweser et al. 2011, doi:10.1016/j.neuroimage.2010.10.070; Li et al. 2011,
    doi:10.1016/j.neuroimage.2010.11.088; Wu et al. 2012, doi:10.1002/mrm.23000.

    Examples
    --------
    >>> x, y, z = np.indices((32, 32, 32)) - 16.0
    >>> brain = x**2 + y**2 + z**2 < 14**2
    >>> local = vsharp(0.01 * z + 1e-3 * (x**2 - y**2), brain, (1, 1, 1))  # harmonic: all of it
    >>> bool(np.abs(local.field_ppm).max() < 1e-4)                         # is background
    True
    """
    field, inside = check_field(field_ppm, mask)
    size = np.asarray(voxel_size_mm, np.float64)
    distance = distance_inside(inside, size)
    kernels = [(r, k) for r in sorted(radii_mm, reverse=True) if (k := sphere(r, size)).size > 1]
    kernels = [(r, k) for r, k in kernels if (distance > r * (1 + 1e-6)).any()]
    if not kernels:
        raise InputError(
            f"mask: no ball of {min(radii_mm):g} mm or more fits into it ({inside.sum()} voxels); "
            "check the mask, or give smaller radii_mm"
        )
    big = padded_shape(field.shape, size, pad_mm=max(r for r, _ in kernels))
    spectrum = fft.rfftn(field, s=big)
    local = np.zeros_like(field)
    served = np.zeros_like(inside)
    for radius, kernel in reversed(kernels):  # from the smallest: a larger ball replaces it
        mean = transfer_of(kernel, big)
        smooth = crop(fft.irfftn(spectrum * mean, s=big, overwrite_x=True), field.shape)
        fits = distance > radius * (1 + 1e-6)
        local[fits] = field[fits] - smooth[fits]
        served |= fits
    largest = 1 - mean
    usable = np.abs(largest) >= threshold
    inverse = np.divide(1, largest, out=np.zeros_like(largest), where=usable)
    local = convolve(local, inverse, big)
    return _local_field(local, served)


def resharp(
    field_ppm: ArrayLike,
    mask: ArrayLike,
    voxel_size_mm: ArrayLike,
    *,
    radius_mm: float = 6.0,
    regularisation: float = 1e-4,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
) -> LocalField:
    """Remove the background field with one ball and Tikhonov regularisation (RESHARP).

    Among all local fields whose difference from their own ball mean agrees with the data, the
    smallest is taken, by conjugate gradients.

    Parameters
    ----------
    field_ppm, mask, voxel_size_mm
        As in `vsharp`.
    radius_mm
        Ball radius; the mask loses as much.  Larger: less background left, more brain lost.
    regularisation
        Weight of the local field's own size.  Larger: less background left, and less of the slow
        local field.
    tolerance
        Stop when the residual of the normal equations has fallen to this share.
    max_iterations
        Stop at the latest.

    Returns
    -------
    LocalField

    Raises
    ------
    InputError
        Shapes differ, or the ball does not fit into the mask.

    References
    ----------
    Sun and Wilman 2014, doi:10.1002/mrm.24765.

    Examples
    --------
    >>> x, y, z = np.indices((32, 32, 32)) - 16.0
    >>> brain = x**2 + y**2 + z**2 < 14**2
    >>> local = resharp(0.01 * z + 1e-3 * (x**2 - y**2), brain, (1, 1, 1))
    >>> bool(np.abs(local.field_ppm).max() < 1e-4)
    True
    """
    field, served, contrast, big = _less_ball_mean(field_ppm, mask, voxel_size_mm, radius_mm)
    weight = served.astype(np.float32)

    def twice(volume: Volume) -> Volume:
        return convolve(weight * convolve(volume, contrast, big), contrast, big)

    def normal(volume: Volume) -> Volume:
        return twice(volume) + np.float32(regularisation) * volume

    right = twice(field)
    local, _, left = conjugate_gradients(normal, right, tolerance, max_iterations)
    return _local_field(local, served, is_settled=left <= tolerance)


def pdf(
    field_ppm: ArrayLike,
    mask: ArrayLike,
    voxel_size_mm: ArrayLike,
    b0_direction: ArrayLike = (0, 0, 1),
    *,
    weight: ArrayLike | None = None,
    tolerance: float = 0.01,
    max_iterations: int = 60,
    pad_mm: float = 24.0,
) -> LocalField:
    """Remove the background field by fitting dipoles outside the mask to it (PDF).

    Parameters
    ----------
    field_ppm, mask, voxel_size_mm
        As in `vsharp`.
    b0_direction
        Unit vector of the static field in voxel axes.
    weight
        Inverse standard deviation of the field in each voxel, up to a factor; shape (x, y, z).
        Where None, all voxels count the same.
    tolerance
        Stop when the residual of the normal equations has fallen to this share.  Smaller: more
        of the background goes, and near the rim more of the local field with it.
    max_iterations
        Stop at the latest.
    pad_mm
        Room around the scan in which sources may lie.

    Returns
    -------
    LocalField
        Its mask is the mask given: no rim is lost, but the rim is where the fit errs most.

    References
    ----------
    Liu et al. 2011, doi:10.1002/nbm.1670.

    Examples
    --------
    >>> x, y, z = np.indices((32, 32, 32)) - 16.0
    >>> brain = x**2 + y**2 + z**2 < 10**2
    >>> local = pdf(0.01 * z + 1e-3 * (x**2 - y**2), brain, (1, 1, 1))
    >>> bool(np.abs(local.field_ppm).max() < 0.2 * 0.01 * 10)
    True
    """
    field, inside = check_field(field_ppm, mask)
    size = np.asarray(voxel_size_mm, np.float64)
    big = padded_shape(field.shape, size, pad_mm)
    box = tuple(slice(n) for n in field.shape)
    kernel = dipole_kernel(big, size, b0_direction)
    data = np.zeros(big, np.float32)
    data[box] = field
    trust = np.zeros(big, np.float32)
    trust[box] = inside if weight is None else np.where(inside, np.asarray(weight), 0)
    trust /= trust.max()
    trust *= trust
    outside = np.ones(big, np.float32)
    outside[box] = ~inside

    def normal(sources: Volume) -> Volume:
        return outside * convolve(trust * convolve(sources, kernel, big), kernel, big)

    right = outside * convolve(trust * data, kernel, big)
    sources, _, left = conjugate_gradients(normal, right, tolerance, max_iterations)
    rest = (data - convolve(sources, kernel, big))[box]
    return _local_field(rest, inside, is_settled=left <= tolerance)


def lbv(
    field_ppm: ArrayLike,
    mask: ArrayLike,
    voxel_size_mm: ArrayLike,
    *,
    tolerance: float = 1e-4,
    max_sweeps: int = 400,
) -> LocalField:
    """Remove the background field by solving Laplace's equation in the mask (LBV).

    On the mask's rim the whole field is taken to be background; inside, the background is the
    harmonic field with those values.  So the local field is set to zero on the rim, and part of
    the tissue's own slow field goes with the background.  The mask must not reach into bone: one
    voxel too many raised the error of the nuclei of a simulated head from 3 to 268 ppb, where
    `resharp` and `pdf` stayed below 20.

    Parameters
    ----------
    field_ppm, mask, voxel_size_mm
        As in `vsharp`.
    tolerance
        Stop when no voxel changes by more than this share of the field's spread in a sweep.
    max_sweeps
        Stop at the latest.

    Returns
    -------
    LocalField
        Its mask is the mask without its outermost voxels.

    References
    ----------
    Zhou et al. 2014, doi:10.1002/nbm.3064.

    Examples
    --------
    >>> x, y, z = np.indices((32, 32, 32)) - 16.0
    >>> brain = x**2 + y**2 + z**2 < 14**2
    >>> local = lbv(0.01 * z + 1e-3 * (x**2 - y**2), brain, (1, 1, 1), tolerance=1e-6)
    >>> bool(np.abs(local.field_ppm).max() < 1e-4)
    True
    """
    field, inside = check_field(field_ppm, mask)
    size = np.asarray(voxel_size_mm, np.float64)
    padded, whole = np.pad(field, 1), np.pad(inside, 1)
    interior = ndimage.binary_erosion(whole)  # voxels with all six neighbours in the mask
    scale = float(np.std(field[inside]))
    limit = tolerance * scale
    background, change = _harmonic(padded, whole, interior, size, limit, max_sweeps)
    centre = (slice(1, -1),) * 3
    rest = (padded - background)[centre]
    return _local_field(rest, interior[centre].copy(), is_settled=change <= limit)


def _harmonic(
    values: Volume,
    inside: NDArray[np.bool_],
    interior: NDArray[np.bool_],
    size_mm: NDArray,
    tolerance: float,
    max_sweeps: int,
) -> tuple[Volume, float]:
    """Replace the interior by the harmonic field of the rim, from coarse grids to fine.

    Returns it, and the largest change of a voxel in the last sweep.
    """
    start = values.copy()
    if min(values.shape) >= 24:
        count = _blocks(inside)
        mean = _blocks(np.where(inside, values, np.float32(0)))
        mean = np.divide(mean, count, out=np.zeros_like(mean), where=count > 0)
        coarse_interior = _blocks(interior) == 8
        coarse_interior &= ndimage.binary_erosion(count > 0)
        about = 2 * size_mm, tolerance, max_sweeps
        coarse, _ = _harmonic(mean, count > 0, coarse_interior, *about)
        fine = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
        fine = fine[tuple(slice(n) for n in values.shape)]
        start[interior] = fine[interior]
    return start, _relax(start, interior, 1 / size_mm**2, 1.9, tolerance, max_sweeps)


def _blocks(volume: NDArray) -> Volume:
    """Add up each 2 x 2 x 2 block; zeros fill the last ones."""
    even = np.pad(volume.astype(np.float32), [(0, n % 2) for n in volume.shape])
    x, y, z = (n // 2 for n in even.shape)
    return even.reshape(x, 2, y, 2, z, 2).sum(axis=(1, 3, 5))


@numba.njit(cache=True, fastmath=True)
def _relax(u, interior, weight, omega, tolerance, max_sweeps):  # type: ignore[no-untyped-def]
    """Solve Laplace's equation in place by successive over-relaxation."""
    nx, ny, nz = u.shape
    wx, wy, wz = np.float32(weight[0]), np.float32(weight[1]), np.float32(weight[2])
    share = np.float32(1) / (2 * (wx + wy + wz))
    omega = np.float32(omega)
    largest = np.float32(np.inf)
    for _ in range(max_sweeps):
        largest = np.float32(0)
        for i in range(1, nx - 1):
            for j in range(1, ny - 1):
                for k in range(1, nz - 1):
                    if interior[i, j, k]:
                        mean = share * (
                            wx * (u[i - 1, j, k] + u[i + 1, j, k])
                            + wy * (u[i, j - 1, k] + u[i, j + 1, k])
                            + wz * (u[i, j, k - 1] + u[i, j, k + 1])
                        )
                        change = mean - u[i, j, k]
                        u[i, j, k] += omega * change
                        largest = max(largest, abs(change))
        if largest < tolerance:
            break
    return largest
