"""Removal of the field whose sources lie outside the mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import edt
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from pvsbook._errors import InputError
from pvsbook.qsm.inversion import _crop, _field_and_mask, padded_shape

__all__ = ["LocalField", "sphere", "vsharp"]

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
    """

    field_ppm: NDArray[np.float32]
    mask: NDArray[np.bool_]


def sphere(radius_mm: float, voxel_size_mm: ArrayLike) -> NDArray[np.float32]:
    """Return the mean over a ball as a small convolution kernel: voxels centred within it.

    Examples
    --------
    >>> sphere(1, (1, 1, 1)).shape, int((sphere(8, (1, 1, 1)) > 0).sum())
    ((3, 3, 3), 2109)
    >>> sphere(2, (1, 1, 3)).shape  # anisotropic voxels, the same ball in mm
    (5, 5, 1)
    """
    size = np.asarray(voxel_size_mm, np.float64)
    reach = np.floor(radius_mm / size + 1e-6).astype(int)
    grid = [s * np.arange(-n, n + 1) for n, s in zip(reach, size, strict=True)]
    x, y, z = np.meshgrid(*grid, indexing="ij", sparse=True)
    ball = (x * x + y * y + z * z <= radius_mm**2 * (1 + 1e-6)).astype(np.float32)
    return ball / ball.sum()


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
        the background through near the rim: on simulated heads 8 mm was better than 12 mm.
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
    field, inside = _field_and_mask(field_ppm, mask)
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
    spectrum = fft.rfftn(np.where(inside, field, np.float32(0)), s=big)
    local = np.zeros_like(field)
    served = np.zeros_like(inside)
    largest = None
    for radius, kernel in kernels:
        mean = _spectrum(kernel, big)
        if largest is None:
            largest = 1 - mean
        smooth = _crop(fft.irfftn(spectrum * mean, s=big, overwrite_x=True), field.shape)
        new = (distance > radius * (1 + 1e-6)) & ~served
        local[new] = field[new] - smooth[new]
        served |= new
    spectrum = fft.rfftn(local, s=big)
    assert largest is not None
    usable = np.abs(largest) >= threshold
    spectrum *= np.divide(1, largest, out=np.zeros_like(largest), where=usable)
    local = _crop(fft.irfftn(spectrum, s=big, overwrite_x=True), field.shape)
    local[~served] = 0
    return LocalField(local, served)


def distance_inside(
    mask: NDArray[np.bool_], voxel_size_mm: NDArray, *, rim_is_outside: bool = True
) -> NDArray[np.float32]:
    """Return the distance in mm from each voxel of the mask to the nearest one outside it."""
    spacing = tuple(map(float, voxel_size_mm))
    return edt.edt(mask, anisotropy=spacing, black_border=rim_is_outside)


def _spectrum(kernel: NDArray[np.float32], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return the transform of a symmetric kernel centred on the first voxel: it is real."""
    big = np.zeros(shape, np.float32)
    x, y, z = kernel.shape
    big[:x, :y, :z] = kernel
    big = np.roll(big, (-(x // 2), -(y // 2), -(z // 2)), axis=(0, 1, 2))
    return np.ascontiguousarray(fft.rfftn(big, overwrite_x=True).real)
