"""What the methods of QSM share: input, convolutions, conjugate gradients, the loops of TV."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import edt
import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from pvsbook._errors import InputError

Volume = NDArray[np.float32]


def check_field(
    field_ppm: ArrayLike, mask: ArrayLike
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return a field, zero outside its mask, and the mask; refuse those that do not fit."""
    field, inside = np.asarray(field_ppm, np.float32), np.asarray(mask, bool)
    if field.ndim != 3 or field.shape != inside.shape:
        raise InputError(f"mask: has shape {inside.shape}, but the field has {field.shape}")
    if not inside.any():
        raise InputError("mask: is empty; give a mask that holds the tissue to map")
    if not np.isfinite(field[inside]).all():
        raise InputError("field_ppm: holds NaN inside the mask; leave those voxels out of it")
    return np.where(inside, field, np.float32(0)), inside


def distance_inside(
    mask: NDArray[np.bool_], voxel_size_mm: NDArray, *, rim_is_outside: bool = True
) -> Volume:
    """Return the distance in mm from each voxel of the mask to the nearest one outside it."""
    spacing = tuple(map(float, voxel_size_mm))
    return edt.edt(mask, anisotropy=spacing, black_border=rim_is_outside)


def crop(volume: NDArray, shape: Sequence[int]) -> Volume:
    """Return the first corner of a padded volume."""
    x, y, z = shape
    return np.ascontiguousarray(volume[:x, :y, :z])


def convolve(volume: Volume, transfer: NDArray, padded: Sequence[int]) -> Volume:
    """Convolve on a padded grid, by a transfer function that is real; return the volume's part."""
    spectrum = fft.rfftn(volume, s=padded)
    spectrum *= transfer
    return crop(fft.irfftn(spectrum, s=padded, overwrite_x=True), volume.shape)


def sphere(radius_mm: float, voxel_size_mm: ArrayLike) -> Volume:
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


def transfer_of(kernel: Volume, shape: tuple[int, int, int]) -> Volume:
    """Return the transform of a symmetric kernel centred on the first voxel: it is real."""
    big = np.zeros(shape, np.float32)
    x, y, z = kernel.shape
    big[:x, :y, :z] = kernel
    big = np.roll(big, (-(x // 2), -(y // 2), -(z // 2)), axis=(0, 1, 2))
    return np.ascontiguousarray(fft.rfftn(big, overwrite_x=True).real)


def conjugate_gradients(
    normal: Callable[[Volume], Volume], right: Volume, tolerance: float, max_iterations: int
) -> tuple[Volume, int, float]:
    """Solve ``normal(x) = right`` for a symmetric, positive semi-definite operator, from zero.

    Stops when the residual has fallen to `tolerance` of its start: for an ill-posed operator
    stopping early is itself a regularisation.  Returns the solution, the iterations taken and the
    share of the residual that is left.
    """
    solution = np.zeros_like(right)
    residual = right.copy()
    direction = residual.copy()
    square = start = _dot(residual, residual)
    n = 0
    while n < max_iterations and square > tolerance**2 * start:
        n += 1
        image = normal(direction)
        step = np.float32(square / _dot(direction, image))
        solution += step * direction
        residual -= step * image
        previous, square = square, _dot(residual, residual)
        direction *= np.float32(square / previous)
        direction += residual
    return solution, n, (square / start) ** 0.5 if start else 0.0


def _dot(a: Volume, b: Volume) -> float:
    return float(np.dot(a.ravel(), b.ravel()))


def gradient_power(shape: Sequence[int], voxel_size_mm: ArrayLike) -> NDArray[np.float32]:
    """Return the squared transfer of forward differences in mm, in the layout of rfftn."""
    size = np.asarray(voxel_size_mm, np.float64)
    x = (2 - 2 * np.cos(2 * np.pi * fft.fftfreq(shape[0]))) / size[0] ** 2
    y = (2 - 2 * np.cos(2 * np.pi * fft.fftfreq(shape[1]))) / size[1] ** 2
    z = (2 - 2 * np.cos(2 * np.pi * fft.rfftfreq(shape[2]))) / size[2] ** 2
    return (x[:, None, None] + y[None, :, None] + z).astype(np.float32)


def relative_weight(weight: ArrayLike | None, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return weights between 0 and 1 in the mask: 1 is the 95th percentile or better."""
    if weight is None:
        return inside.astype(np.float32)
    values = np.where(inside, np.asarray(weight, np.float32), np.float32(0))
    if values.shape != inside.shape or not np.isfinite(values).all() or values.min() < 0:
        raise InputError("weight: must be finite, not negative, and of the field's shape")
    return np.minimum(values / np.quantile(values[inside], 0.95), 1).astype(np.float32)


# The inner loops of TV are bound by memory, so each step is one pass over it.


@numba.njit(cache=True, fastmath=True)
def scale_and_add(spectrum, scale, offset):  # type: ignore[no-untyped-def]
    """Multiply by a real volume and add another spectrum, in place and in one pass."""
    s, t, o = spectrum.ravel(), scale.ravel(), offset.ravel()
    for i in range(s.size):
        s[i] = complex(s[i].real * t[i] + o[i].real, s[i].imag * t[i] + o[i].imag)


@numba.njit(cache=True, fastmath=True)
def scale(spectrum, a, b):  # type: ignore[no-untyped-def]
    """Multiply by two real volumes, in place and in one pass."""
    s, t, u = spectrum.ravel(), a.ravel(), b.ravel()
    for i in range(s.size):
        c = t[i] * u[i]
        s[i] = complex(s[i].real * c, s[i].imag * c)


@numba.njit(cache=True, fastmath=True, error_model="numpy")  # else a check stops vectorising
def shrink(chi, old, dual, strength, inverse_size, adjoint):  # type: ignore[no-untyped-def]
    """Take one step of the gradient's splitting, in one pass over memory.

    With g the forward differences of `chi` (the volume is periodic) and t = g + dual: z is t
    shrunk by `strength`, the new dual is t - z, and `adjoint` becomes the adjoint differences of
    z - dual = 2 z - t.  Returns the relative change from `old` to `chi`.
    """
    nx, ny, nz = chi.shape
    ax, ay, az = inverse_size[0], inverse_size[1], inverse_size[2]
    # What the planes and rows before hand on is kept apart, so that `adjoint` is written once.
    px = np.zeros((ny, nz), np.float32)
    py = np.empty(nz, np.float32)
    pz = np.empty(nz + 1, np.float32)
    right = np.empty(nz, np.float32)
    one = np.float32(1)
    moved = 0.0
    total = 0.0
    for i in range(nx):
        ahead = i + 1 if i + 1 < nx else 0
        py[:] = 0
        for j in range(ny):
            up = j + 1 if j + 1 < ny else 0
            row, row_ahead, row_up, row_old = chi[i, j], chi[ahead, j], chi[i, up], old[i, j]
            ux, uy, uz = dual[0, i, j], dual[1, i, j], dual[2, i, j]
            limit, out, before = strength[i, j], adjoint[i, j], px[j]
            right[: nz - 1] = row[1:]
            right[nz - 1] = row[0]
            row_moved = np.float32(0)
            row_total = np.float32(0)
            for k in range(nz):
                c = row[k]
                tx = (row_ahead[k] - c) * ax + ux[k]
                ty = (row_up[k] - c) * ay + uy[k]
                tz = (right[k] - c) * az + uz[k]
                length = np.sqrt(tx * tx + ty * ty + tz * tz) + np.float32(1e-20)
                keep = max(one - limit[k] / length, np.float32(0))
                ux[k] = (one - keep) * tx
                uy[k] = (one - keep) * ty
                uz[k] = (one - keep) * tz
                both = keep + keep - one
                sx = both * tx * ax
                sy = both * ty * ay
                sz = both * tz * az
                out[k] = before[k] + py[k] - (sx + sy + sz)
                before[k] = sx
                py[k] = sy
                pz[k + 1] = sz
                d = c - row_old[k]
                row_moved += d * d
                row_total += c * c
            moved += row_moved
            total += row_total
            pz[0] = pz[nz]
            for k in range(nz):
                out[k] += pz[k]
        adjoint[i, 0] += py
    adjoint[0] += px
    return math.sqrt(moved / max(total, 1e-30))


def edges(
    magnitude: ArrayLike, mask: ArrayLike, voxel_size_mm: ArrayLike, *, share: float = 0.1
) -> NDArray[np.float32]:
    """Mark the steepest voxels of an image inside the mask: 1 at an edge, 0 elsewhere.

    Examples
    --------
    >>> step = np.zeros((8, 8, 8)); step[4:] = 1
    >>> np.flatnonzero(edges(step, step < 2, (1, 1, 1), share=0.2)[:, 0, 0]).tolist()
    [3]
    """
    inside = np.asarray(mask, bool)
    image = np.asarray(magnitude, np.float32)
    steep = np.zeros(image.shape, np.float32)
    for axis, size in enumerate(np.asarray(voxel_size_mm, np.float32)):
        step = np.diff(image, axis=axis, append=np.take(image, [-1], axis)) / size
        both = inside & np.roll(inside, -1, axis)
        steep += np.where(both, step * step, 0)
    limit = np.quantile(steep[inside], 1 - share)
    return ((steep > limit) & inside).astype(np.float32)
