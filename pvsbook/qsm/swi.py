"""Susceptibility-weighted images, which darken veins and bleeds."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pvsbook._errors import InputError

__all__ = ["minimum_projection", "weight_by_phase"]


def weight_by_phase(
    magnitude: ArrayLike,
    phase_rad: ArrayLike,
    voxel_size_mm: ArrayLike,
    *,
    smoothing_mm: float = 8.0,
    power: int = 4,
) -> NDArray[np.float32]:
    """Darken veins and bleeds: magnitude times a mask of the high-passed phase (SWI).

    Parameters
    ----------
    magnitude, phase_rad
        One echo, shape (x, y, z); phase may be wrapped.
    voxel_size_mm
        Three numbers.
    smoothing_mm
        Width of the low-pass that is divided out.  Smaller: less background, weaker veins.
    power
        How often the mask is applied; 4 is usual at 3 T.

    Returns
    -------
    numpy.ndarray
        Shape (x, y, z), float32.  A picture for the eye: it depends on orientation and echo time,
        and a calcification may look like a bleed in it.

    References
    ----------
    Haacke et al. 2004, doi:10.1002/mrm.20198.

    Examples
    --------
    >>> phase = np.zeros((9, 9, 9)); phase[4, 4, 4] = 1.5
    >>> image = weight_by_phase(np.ones(phase.shape), phase, (1, 1, 1))
    >>> bool(image[4, 4, 4] < 0.3 < 0.9 < image[0, 0, 0])
    True
    """
    mag, phase = np.asarray(magnitude, np.float32), np.asarray(phase_rad, np.float32)
    if mag.shape != phase.shape or mag.ndim != 3:
        raise InputError(f"magnitude {mag.shape} and phase {phase.shape} must be one volume each")
    width = smoothing_mm / np.asarray(voxel_size_mm, np.float64)
    signal = mag * np.exp(1j * phase)
    slow = ndimage.gaussian_filter(signal, width)
    high = np.angle(signal * np.conj(slow))
    return (mag * np.clip(1 - high / np.pi, 0, 1) ** power).astype(np.float32)


def minimum_projection(
    image: ArrayLike, voxel_size_mm: ArrayLike, *, thickness_mm: float = 8.0, axis: int = 2
) -> NDArray[np.float32]:
    """Take the minimum over a sliding slab, which joins the parts of a vein.

    Examples
    --------
    >>> image = np.ones((3, 3, 5)); image[1, 1, 2] = 0
    >>> minimum_projection(image, (1, 1, 1), thickness_mm=3)[1, 1]
    array([1., 0., 0., 0., 1.], dtype=float32)
    """
    size = float(np.asarray(voxel_size_mm, np.float64)[axis])
    n = max(1, round(thickness_mm / size))
    return ndimage.minimum_filter1d(np.asarray(image, np.float32), n, axis=axis)
