"""How strongly to regularise: the L-curve, and the discrepancy principle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvsbook._errors import InputError
from pvsbook.qsm.inversion import dipole_field

__all__ = ["LCurve", "l_curve"]


@dataclass(frozen=True, eq=False)
class LCurve:
    """Misfit and roughness over the strength of regularisation.

    Attributes
    ----------
    regularisation
        Values tried, rising, shape (n,).
    misfit_ppm
        Root mean square of the field that the map does not explain.
    roughness_ppm_mm
        Mean length of the map's gradient, ppm/mm.
    corner
        Value at the largest curvature of the log-log curve.
    discrepancy
        Value where the misfit equals the noise, interpolated; NaN where none does, or where no
        noise was given.
    """

    regularisation: NDArray[np.float64]
    misfit_ppm: NDArray[np.float64]
    roughness_ppm_mm: NDArray[np.float64]
    corner: float
    discrepancy: float


def l_curve(
    solve: Callable[[float], NDArray],
    regularisation: Sequence[float],
    field_ppm: ArrayLike,
    mask: ArrayLike,
    voxel_size_mm: ArrayLike,
    b0_direction: ArrayLike = (0, 0, 1),
    *,
    noise_ppm: float | None = None,
) -> LCurve:
    """Invert with several strengths, and find the corner and the discrepancy.

    Parameters
    ----------
    solve
        Takes a strength, returns susceptibility in ppm.
    regularisation
        At least three strengths, best evenly spaced in their logarithm.
    field_ppm, mask, voxel_size_mm, b0_direction
        What is inverted, as in `pvsbook.qsm.inversion.tkd`.
    noise_ppm
        Standard deviation of the field.  The misfit also holds what background removal left, so
        the discrepancy with thermal noise alone regularises too little; the corner needs no
        noise, and is often too smooth.

    Returns
    -------
    LCurve

    Raises
    ------
    InputError
        Fewer than three strengths, or not rising.

    References
    ----------
    Hansen 1992, doi:10.1137/1034115.

    Examples
    --------
    >>> from pvsbook.qsm.inversion import closed_form_l2
    >>> rng = np.random.default_rng(0)
    >>> grid = np.indices((24, 24, 24)) - 12
    >>> mask = (grid**2).sum(0) < 100
    >>> field = dipole_field(((grid**2).sum(0) < 16) * 0.1, (1, 1, 1))
    >>> field = field + rng.normal(0, 0.002, field.shape)
    >>> curve = l_curve(
    ...     lambda s: closed_form_l2(field, mask, (1, 1, 1), regularisation=s),
    ...     [0.003, 0.01, 0.03, 0.1, 0.3, 1.0], field, mask, (1, 1, 1),
    ... )
    >>> bool(0.003 < curve.corner < 1.0)
    True
    """
    values = np.asarray(regularisation, np.float64)
    if values.size < 3 or values.min() <= 0 or (np.diff(values) <= 0).any():
        raise InputError("regularisation: give at least three positive values, rising")
    inside = np.asarray(mask, bool)
    size = np.asarray(voxel_size_mm, np.float64)
    misfits, roughness = [], []
    for value in values:
        chi = solve(float(value))
        rest = (dipole_field(chi, size, b0_direction) - np.asarray(field_ppm))[inside]
        misfits.append(float(np.sqrt(np.mean((rest - rest.mean()).astype(np.float64) ** 2))))
        steps = np.gradient(chi.astype(np.float64), *size)
        roughness.append(float(np.sqrt(sum(s**2 for s in steps))[inside].mean()))
    x, y, t = np.log(misfits), np.log(np.maximum(roughness, 1e-12)), np.log(values)
    dx, dy = np.gradient(x, t), np.gradient(y, t)
    bend = (dx * np.gradient(dy, t) - dy * np.gradient(dx, t)) / (dx**2 + dy**2 + 1e-12) ** 1.5
    corner = values[1:-1][np.argmax(bend[1:-1])]
    discrepancy = float("nan")
    if noise_ppm is not None and min(misfits) <= noise_ppm <= max(misfits):
        order = np.argsort(misfits)
        discrepancy = float(np.exp(np.interp(np.log(noise_ppm), x[order], t[order])))
    return LCurve(values, np.array(misfits), np.array(roughness), float(corner), discrepancy)
