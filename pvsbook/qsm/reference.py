"""Which tissue counts as zero: susceptibility is known up to a constant only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvsbook._errors import InputError

__all__ = ["MIN_VOXELS", "Referenced", "refer"]

MIN_VOXELS = 20


@dataclass(frozen=True, eq=False)
class Referenced:
    """Susceptibility relative to a named region.

    Attributes
    ----------
    chi_ppm
        Shape (x, y, z), float32; zero outside the mask.
    reference
        What counts as zero; it belongs beside every number.
    value_ppm
        What was subtracted.
    n_voxels
        Voxels in the reference.
    """

    chi_ppm: NDArray[np.float32]
    reference: str
    value_ppm: float
    n_voxels: int


def refer(
    chi_ppm: ArrayLike, mask: ArrayLike, reference: str | ArrayLike = "whole brain"
) -> Referenced:
    """Subtract the mean of a reference region.

    Parameters
    ----------
    chi_ppm
        Shape (x, y, z).
    mask
        Where susceptibility is known.
    reference
        ``"whole brain"`` (the mask), ``"none"`` (leave the inversion's own zero), or a mask of a
        region, shape (x, y, z).  The whole brain is there in every scan and has the least noise;
        a small region such as ventricular CSF adds its own error to every value, and whole-brain
        change hides in the whole brain.

    Returns
    -------
    Referenced

    Raises
    ------
    InputError
        Another name, a region of another shape, or one with fewer than 20 voxels in the mask.

    References
    ----------
    QSM Consensus Organization Committee 2024, doi:10.1002/mrm.30006.

    Examples
    --------
    >>> chi = np.full((3, 3, 3), 0.05, np.float32)
    >>> refer(chi, np.ones(chi.shape)).chi_ppm.max()
    np.float32(0.0)
    """
    chi, inside = np.asarray(chi_ppm, np.float32), np.asarray(mask, bool)
    if isinstance(reference, str):
        if reference == "none":
            return Referenced(np.where(inside, chi, np.float32(0)), "none", 0.0, 0)
        if reference != "whole brain":
            raise InputError(
                f"reference: {reference!r}; give 'whole brain', 'none', or a mask of a region"
            )
        region, name = inside, reference
    else:
        region, name = np.asarray(reference, bool), "custom region"
        if region.shape != chi.shape:
            raise InputError(
                f"reference: has shape {region.shape}, but susceptibility has {chi.shape}; "
                "resample it to the scan (nearest neighbour)"
            )
        region = region & inside
    n = int(region.sum())
    if n < MIN_VOXELS:
        raise InputError(
            f"reference: {n} voxels lie inside the mask, but {MIN_VOXELS} are needed; "
            "give a larger region, or refer to the whole brain"
        )
    value = float(chi[region].mean(dtype=np.float64))
    return Referenced(np.where(inside, chi - np.float32(value), np.float32(0)), name, value, n)
