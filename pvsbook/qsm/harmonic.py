"""Slow susceptibility that no field inside a mask can tell from background."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from pvsbook.qsm._solve import Volume

__all__ = ["harmonic_polynomials", "remove_harmonic"]

N_POINTS = 20_000  # at which the gradient is compared
POINTS_PER_TERM = 200  # with fewer, the degree is lowered
EDGE_PPM_MM = 1e-3  # steeper gradients count as edges, by their length instead of its square
STEPS = 10


def harmonic_polynomials(
    degree: int, b0_direction: ArrayLike
) -> tuple[list[tuple[int, int, int]], NDArray[np.float64]]:
    r"""Return the polynomials of one degree whose field is harmonic, as columns over monomials.

    They solve :math:`\frac13 \nabla^2 p = (\hat{\mathbf b} \cdot \nabla)^2 p`, the dipole kernel
    written as derivatives; :math:`x^2 + y^2 + z^2` is one.  Degree n has 2 n + 1 of them.

    Parameters
    ----------
    degree
        Sum of the exponents.
    b0_direction
        Direction of the static field along the axes of the coordinates.

    Examples
    --------
    >>> exponents, terms = harmonic_polynomials(2, (0, 0, 1))
    >>> len(exponents), terms.shape
    (6, (6, 5))
    """
    b = np.asarray(b0_direction, np.float64)
    b = b / np.linalg.norm(b)
    weight = np.eye(3) / 3 - np.outer(b, b)
    exponents = _exponents(degree)
    row = {m: r for r, m in enumerate(_exponents(degree - 2))}
    equations = np.zeros((len(row), len(exponents)))
    for column, m in enumerate(exponents):
        for first, second in np.ndindex(3, 3):
            left, factor = list(m), weight[first, second]
            for axis in (first, second):
                factor *= left[axis]
                left[axis] -= 1
            if factor:
                equations[row[left[0], left[1], left[2]], column] += factor
    return exponents, linalg.null_space(equations) if row else np.eye(len(exponents))


def _exponents(degree: int) -> list[tuple[int, int, int]]:
    up_to = range(degree + 1)
    return [(i, j, degree - i - j) for i in up_to for j in up_to if i + j <= degree]


def remove_harmonic(
    chi_ppm: ArrayLike,
    mask: ArrayLike,
    voxel_size_mm: ArrayLike,
    b0_direction: ArrayLike = (0, 0, 1),
    *,
    degree: int = 6,
) -> Volume:
    r"""Choose, among maps that the field cannot tell apart, the one of least total variation.

    A map p with :math:`\frac13 \nabla^2 p = (\hat{\mathbf b} \cdot \nabla)^2 p` makes a field in
    the mask that is harmonic, as that of sources outside is.  So background removal decides how
    much of such a p the map holds, and not the data: LBV, which sets the field to zero on the
    rim, leaves a bowl, by which deep nuclei come out 5 to 24 ppb too high or too low.
    Here the polynomials among them are subtracted whose subtraction makes the map as flat as can
    be, :math:`\min_c \sum |\nabla(\chi - \sum_j c_j p_j)|`, which edges of nuclei hardly move.  A
    true slow change over the whole brain of that form is subtracted, too.

    Parameters
    ----------
    chi_ppm
        Susceptibility, shape (x, y, z).
    mask
        Where it is known.
    voxel_size_mm, b0_direction
        As in `pvsbook.qsm.dipole.dipole_kernel`.
    degree
        Highest degree of the polynomials; zero subtracts nothing.

    Returns
    -------
    numpy.ndarray
        Susceptibility in ppm, float32, zero outside the mask; its mean is arbitrary.

    References
    ----------
    Milovic et al. 2019, doi:10.1002/mrm.27483, who estimate the harmonic rest of the field within
    the inversion.

    Examples
    --------
    >>> x, y, z = np.indices((40, 40, 40)) - 19.5
    >>> bowl = 1e-4 * (x**2 + y**2 + z**2)
    >>> flat = remove_harmonic(bowl, bowl < 0.03, (1, 1, 1))
    >>> bool(np.ptp(flat[bowl < 0.03]) < 1e-4)
    True
    """
    chi, inside = np.asarray(chi_ppm, np.float32), np.asarray(mask, bool)
    size = np.asarray(voxel_size_mm, np.float64)
    core = inside.copy()  # voxels whose next neighbour on each axis is in the mask, too
    for axis in range(3):
        core[tuple(slice(-1, None) if a == axis else slice(None) for a in range(3))] = False
        core &= np.roll(inside, -1, axis)
    points = np.argwhere(core)
    while (degree + 1) ** 2 * POINTS_PER_TERM > len(points) and degree > 0:
        degree -= 1
    if degree == 0:
        return np.where(inside, chi, np.float32(0))
    points = points[:: max(len(points) // N_POINTS, 1)]
    slope = np.stack([chi[tuple((points + step).T)] for step in np.eye(3, dtype=int)], 1)
    slope = (slope - chi[tuple(points.T)][:, None]) / size
    places = [np.arange(n) * s for n, s in zip(chi.shape, size, strict=True)]
    middle, reach = size * points.mean(0), float((size * np.ptp(points, 0)).max()) / 2
    at = (size * (points + 0.5) - middle) / reach
    terms = [harmonic_polynomials(n, b0_direction) for n in range(1, degree + 1)]
    design = np.concatenate([_gradient(at, m) @ c / reach for m, c in terms], axis=2)
    found = _flattest(slope.astype(np.float64), design)
    total = np.zeros((degree + 1,) * 3)
    for exponents, basis in terms:
        part, found = found[: basis.shape[1]], found[basis.shape[1] :]
        total[tuple(np.transpose(exponents))] = basis @ part
    x, y, z = ((p - m) / reach for p, m in zip(places, middle, strict=True))
    smooth = np.asarray(np.polynomial.polynomial.polygrid3d(x, y, z, total), np.float32)
    return np.where(inside, chi - smooth, np.float32(0))


def _gradient(at: NDArray, exponents: Sequence[tuple[int, int, int]]) -> NDArray[np.float64]:
    """Return the gradient of monomials at points, shape (point, axis, monomial)."""
    power = [[at[:, a] ** n for n in range(sum(exponents[0]) + 1)] for a in range(3)]
    out = np.zeros((len(at), 3, len(exponents)))
    for column, m in enumerate(exponents):
        for axis in range(3):
            if m[axis]:
                lower = [n - (a == axis) for a, n in enumerate(m)]
                product = power[0][lower[0]] * power[1][lower[1]] * power[2][lower[2]]
                out[:, axis, column] = m[axis] * product
    return out


def _flattest(slope: NDArray, design: NDArray) -> NDArray[np.float64]:
    """Minimise the sum of lengths of ``slope - design @ c`` by reweighted least squares."""
    rest, flat = slope, design.reshape(-1, design.shape[2])
    for _ in range(STEPS):
        weight = (np.square(rest).sum(1) + EDGE_PPM_MM**2) ** -0.25  # a root, of either side
        weighted = (design * weight[:, None, None]).reshape(flat.shape)
        found = np.linalg.lstsq(
            weighted.T @ weighted, weighted.T @ (slope * weight[:, None]).ravel(), rcond=None
        )[0]
        rest = slope - design @ found
    return found
