"""Prepare a diffusion series for the tensor: storage order, brain mask, one shell, checks."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from dipy.segment.mask import median_otsu
from numpy.typing import NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook._errors import InputError

__all__ = ["brain_mask"]

MAX_B_S_MM2 = 3000.0  # above 1500 the result warns
B_TOLERANCE = 0.03  # scanners report 1490 to 1510 for b = 1500


def brain_mask(dwi: images.Dwi) -> NDArray[np.bool_]:
    """Find the brain on the mean b=0 image by median filtering and Otsu's threshold.

    Examples
    --------
    >>> from pvsbook.phantoms.brain import make_brain
    >>> from pvsbook.phantoms.diffusion import make_diffusion
    >>> phantom = make_diffusion(make_brain(4.0), rng=np.random.default_rng(0))
    >>> bool(brain_mask(phantom.dwi)[phantom.brain.wm > 0.9].mean() > 0.99)
    True
    """
    mean = images.array(dwi.image)[..., dwi.is_b0].mean(axis=-1)
    _, mask = median_otsu(mean, median_radius=2, numpass=1)
    labels, n = ndimage.label(mask)
    if n == 0:
        raise InputError("dwi: no brain was found on the b=0 volumes; give a mask")
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return ndimage.binary_fill_holes(largest)


def canonical(dwi: images.Dwi) -> images.Dwi:
    """Bring a series into the storage order nearest to RAS; b-vectors are RAS already."""
    image = nib.as_closest_canonical(dwi.image)
    return images.Dwi(image, np.where(dwi.is_b0, 0.0, dwi.bvals_s_mm2), dwi.bvecs_ras)


def one_shell(bvals_s_mm2: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the volumes at b=0 and of the shell nearest to 1000 s/mm2 with six directions."""
    is_b0 = bvals_s_mm2 < images.B0_BELOW_S_MM2
    weighted = np.flatnonzero(~is_b0)
    order = weighted[np.argsort(bvals_s_mm2[weighted], kind="stable")]
    b = bvals_s_mm2[order]
    shells = np.split(order, np.flatnonzero(np.diff(b) > 0.1 * b[1:]) + 1)
    highest = MAX_B_S_MM2 * (1 + B_TOLERANCE)
    usable = [s for s in shells if len(s) >= 6 and bvals_s_mm2[s].max() <= highest]
    if not usable:
        listed = ", ".join(f"{len(s)} at b={np.median(bvals_s_mm2[s]):g}" for s in shells)
        raise InputError(
            f"dwi: shells are {listed}; the tensor needs six directions at one b-value up to "
            f"{MAX_B_S_MM2:g} s/mm2"
        )
    best = min(usable, key=lambda s: abs(float(np.median(bvals_s_mm2[s])) - 1000))
    return np.sort(np.concatenate([np.flatnonzero(is_b0), best]))


def check_order(
    data: NDArray[np.float32],
    mask: NDArray[np.bool_],
    bvals_s_mm2: NDArray[np.float64],
    numbers: NDArray[np.intp],
) -> None:
    """Refuse b-values in another order than the volumes: weighting only ever takes signal away.

    Parameters
    ----------
    data : ndarray, shape (x, y, z, volumes)
    mask : ndarray of bool, shape (x, y, z)
    bvals_s_mm2 : ndarray, shape (volumes,)
    numbers : ndarray of int, shape (volumes,)
        What each volume is called in the file.
    """
    brightness = data[mask].mean(axis=0, dtype=np.float64)
    is_b0 = bvals_s_mm2 < images.B0_BELOW_S_MM2
    dark, bright = np.flatnonzero(is_b0), np.flatnonzero(~is_b0)
    dark = dark[np.argmin(brightness[dark])]
    bright = bright[np.argmax(brightness[bright])]
    if bvals_s_mm2[bright] >= 500 and brightness[dark] < brightness[bright]:
        raise InputError(
            f"dwi: volume {numbers[bright]}, called b={bvals_s_mm2[bright]:g}, is brighter in the "
            f"brain than volume {numbers[dark]}, called b={bvals_s_mm2[dark]:g}; the b-values are "
            "in another order than the volumes: use the files that the same conversion wrote"
        )
