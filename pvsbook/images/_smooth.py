"""Smoothing inside a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage


def smooth_within(
    values: ArrayLike,
    mask: ArrayLike,
    sigma: ArrayLike,
    *,
    default: float = 0.0,
    truncate: float = 4.0,
) -> NDArray[np.float32]:
    """Return the Gaussian mean of the voxels of a mask, everywhere (normalised convolution).

    Parameters
    ----------
    values, mask
        Shape (x, y, z).
    sigma
        Standard deviation in voxels, along each axis.
    default
        Value far from the mask.
    truncate
        Where the Gaussian ends, in standard deviations.

    References
    ----------
    Knutsson and Westin 1993, Normalized and differential convolution, Proc CVPR, 515-523.

    Examples
    --------
    >>> half = np.arange(10) < 5
    >>> smooth_within(np.where(half, 7.0, 99.0), half, 1.0).round(3)[:5].tolist()
    [7.0, 7.0, 7.0, 7.0, 7.0]
    """
    inside = np.asarray(mask, bool)
    known = np.where(inside, np.asarray(values) - default, 0).astype(np.float32)
    weight = ndimage.gaussian_filter(inside.astype(np.float32), sigma, truncate=truncate)
    total = ndimage.gaussian_filter(known, sigma, truncate=truncate)
    return (default + total / np.maximum(weight, np.float32(1e-3))).astype(np.float32)
