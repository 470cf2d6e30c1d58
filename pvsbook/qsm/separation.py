"""Iron and myelin told apart: chi-separation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvsbook._constants import RELAXIVITY_HZ_PPM
from pvsbook._errors import InputError

__all__ = ["Sources", "separate"]


@dataclass(frozen=True, eq=False)
class Sources:
    """Paramagnetic and diamagnetic susceptibility, both counted positive.

    Attributes
    ----------
    iron_ppm, myelin_ppm
        Shape (x, y, z), float32; zero outside the mask.  Named after what makes most of them in
        tissue: the measurement knows para- and diamagnetic, not iron and myelin.
    share_clipped
        Share of the mask where an equation asked for a negative source, which was set to zero.
    """

    iron_ppm: NDArray[np.float32]
    myelin_ppm: NDArray[np.float32]
    share_clipped: float


def separate(
    chi_ppm: ArrayLike,
    r2_prime_hz: ArrayLike,
    mask: ArrayLike,
    *,
    field_strength_t: float = 3.0,
    relaxivity_hz_ppm: float = RELAXIVITY_HZ_PPM,
    zero_ppm: float = 0.0,
) -> Sources:
    r"""Split susceptibility by the decay that both kinds of source add to.

    .. math:: \chi = \chi_+ - \chi_-, \qquad R_2' = D_r (\chi_+ + \chi_-)

    Parameters
    ----------
    chi_ppm
        Susceptibility, shape (x, y, z).
    r2_prime_hz
        R2* less R2, in 1/s.  Where R2 was not measured, R2* less an assumed R2 may stand in; say
        so, since an error of 1/s moves both sources by 4 ppb.
    mask
        Where to separate.
    field_strength_t
        The relaxivity grows in proportion to it.
    relaxivity_hz_ppm
        D_r at 3 T.  It is taken to be the same for both sources and all tissue, which holds at
        best roughly: the result is only as right as this number.
    zero_ppm
        Susceptibility of tissue without sources on the scale of `chi_ppm`: the CSF's value where
        that is at hand.  A map referred to the whole brain is off by it.

    Returns
    -------
    Sources

    Raises
    ------
    InputError
        Shapes differ, or numbers that are not positive.

    References
    ----------
    Shin et al. 2021, doi:10.1016/j.neuroimage.2021.118371.

    Examples
    --------
    >>> one = np.ones((1, 1, 1))
    >>> sources = separate(0.02 * one, 137 * 0.08 * one, one)
    >>> print(sources.iron_ppm.round(3), sources.myelin_ppm.round(3))
    [[[0.05]]] [[[0.03]]]
    """
    chi = np.asarray(chi_ppm, np.float64) - zero_ppm
    decay, inside = np.asarray(r2_prime_hz, np.float64), np.asarray(mask, bool)
    if not (chi.shape == decay.shape == inside.shape):
        raise InputError(
            f"chi_ppm {chi.shape}, r2_prime_hz {decay.shape}, mask {inside.shape}: one grid is "
            "needed; resample R2 to the susceptibility map"
        )
    if not (field_strength_t > 0 and relaxivity_hz_ppm > 0) or not inside.any():
        raise InputError("field strength and relaxivity must be positive, and the mask not empty")
    total = decay / (relaxivity_hz_ppm * field_strength_t / 3.0)
    iron, myelin = (total + chi) / 2, (total - chi) / 2
    clipped = float(((iron < 0) | (myelin < 0))[inside].mean())
    iron, myelin = (np.where(inside, np.maximum(s, 0), 0) for s in (iron, myelin))
    return Sources(iron.astype(np.float32), myelin.astype(np.float32), clipped)
