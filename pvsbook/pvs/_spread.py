"""Location, spread and correlation of a sample of voxels, without its outliers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]


def robust_spread(sample: NDArray) -> tuple[float, float]:
    """Return the median, and the standard deviation from the median absolute deviation."""
    middle = float(np.median(sample))
    return middle, float(1.4826 * np.median(np.abs(sample - middle)))


def far_side(sample: Floats, spread: float, fluid: float) -> tuple[float, float]:
    """Mode of white matter, and its spread on the side away from fluid, where no cortex is."""
    width = max(spread / 8, 1e-12 * abs(fluid) + 1e-30)
    low = float(np.median(sample)) - 6 * spread
    bins = ((sample - low) / width).astype(int)
    counts = np.bincount(bins[(bins >= 0) & (bins < 96)], minlength=96)
    mode = low + (int(ndimage.gaussian_filter1d(counts.astype(float), 2.0).argmax()) + 0.5) * width
    beyond = sample[(sample > mode) == (fluid < mode)]
    return mode, float(1.4826 * np.median(np.abs(beyond - mode))) if beyond.size else spread


def correlation(residual: Floats, mask: NDArray[np.bool_], axis: int, *, lag: int) -> float:
    """Return that of voxels so many apart along an axis, both in the mask."""
    both = mask & np.roll(mask, lag, axis)
    product = (residual * np.roll(residual, lag, axis))[both].mean()
    return float(np.clip(product / residual[mask].var(), 0.0, 0.9))
