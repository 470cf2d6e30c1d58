"""Prepare a diffusion series for the tensor: brain mask, one shell, volumes that can be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

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
FEW = 3  # volumes; no protocol measures a shell by fewer
SAME_B0 = 0.85  # correlation of b = 0 volumes within the brain; real ones reach 0.96 and more
LOST_SIGNAL = 0.6  # of what the other volumes have in a slice; directions alone change less
MOST_LOST = 1 / 3  # of the weighted volumes that may be left out
FASTEST_MM2_S = 4e-3  # free water at body temperature has 3e-3; no signal falls faster
MOST_LOW = 0.05  # of the voxels of the regions
LOWEST_SIGNAL = 1e-3  # of the signal at b = 0, below which a sample is noise alone


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
    bvals = np.where(dwi.is_b0, 0.0, dwi.bvals_s_mm2)
    return replace(dwi, image=image, bvals_s_mm2=bvals)


def one_shell(bvals_s_mm2: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the volumes at b=0 and of the shell nearest to 1000 s/mm2 with six directions."""
    is_b0 = bvals_s_mm2 < images.B0_BELOW_S_MM2
    shells = _shells(bvals_s_mm2)
    highest = MAX_B_S_MM2 * (1 + B_TOLERANCE)
    usable = [s for s in shells if len(s) >= 6 and bvals_s_mm2[s].max() <= highest]
    if not usable:
        listed = _listed(bvals_s_mm2, shells)
        raise InputError(
            f"dwi: shells are {listed}; the tensor needs six directions at one b-value up to "
            f"{MAX_B_S_MM2:g} s/mm2"
        )
    best = min(usable, key=lambda s: abs(float(np.median(bvals_s_mm2[s])) - 1000))
    return np.sort(np.concatenate([np.flatnonzero(is_b0), best]))


def _shells(bvals_s_mm2: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Group weighted volumes whose measured b-values lie within a tenth of each other."""
    weighted = np.flatnonzero(bvals_s_mm2 >= images.B0_BELOW_S_MM2)
    order = weighted[np.argsort(bvals_s_mm2[weighted], kind="stable")]
    b = bvals_s_mm2[order]
    return np.split(order, np.flatnonzero(np.diff(b) > 0.1 * b[1:]) + 1)


def _listed(bvals_s_mm2: NDArray[np.float64], shells: list[NDArray[np.intp]]) -> str:
    return ", ".join(f"{len(s)} at b={np.median(bvals_s_mm2[s]):g}" for s in shells)


def lone(bvals_s_mm2: NDArray[np.float64]) -> dict[int, str]:
    """Name the volumes of shells of one or two beside larger ones, as a wrong b-value makes them.

    Examples
    --------
    >>> list(lone(np.array([0, *[1000] * 6, 700.0])))
    [7]
    """
    shells = _shells(bvals_s_mm2)
    few = [shell for shell in shells if len(shell) < FEW]
    if not any(len(shell) >= images.MIN_DIRECTIONS for shell in shells):
        return {}
    return {
        int(k): f"has b={bvals_s_mm2[k]:g}, which few or no other volumes have (a wrong b-value, "
        "or a mean image)"
        for shell in few
        for k in shell
    }


def shells_in_words(bvals_s_mm2: NDArray[np.float64]) -> str:
    """List the shells of a series.

    Examples
    --------
    >>> shells_in_words(np.array([0, 5, 995, 1000, 1005, 2000.0]))
    '2 at b=0, 3 at b=1000, 1 at b=2000'
    """
    n_b0 = int((bvals_s_mm2 < images.B0_BELOW_S_MM2).sum())
    return f"{n_b0} at b=0, {_listed(bvals_s_mm2, _shells(bvals_s_mm2))}"


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


def unusable(
    data: NDArray[np.float32],
    mask: NDArray[np.bool_],
    is_b0: NDArray[np.bool_],
    bvecs: NDArray[np.float64],
) -> dict[int, str]:
    """Find volumes that are no measurement of the signal: maps among b=0, and lost signal.

    Parameters
    ----------
    data : ndarray, shape (x, y, z, volumes)
    mask : ndarray of bool, shape (x, y, z)
    is_b0 : ndarray of bool, shape (volumes,)
    bvecs : ndarray, shape (volumes, 3)

    Returns
    -------
    dict of int to str
        What each such volume is.  Of weighted volumes no more than leave six directions, and two
        thirds of the series.
    """
    found = _maps(data[mask], is_b0)
    lost = _lost_signal(data, mask, is_b0)
    rest = [k for k in np.flatnonzero(~is_b0) if k not in lost]
    enough = images.count_directions(bvecs[rest]) >= images.MIN_DIRECTIONS
    if enough and len(lost) <= MOST_LOST * (~is_b0).sum():
        found |= lost
    return found


def _maps(signals: NDArray[np.float32], is_b0: NDArray[np.bool_]) -> dict[int, str]:
    """Find b=0 volumes that look like no other b=0 volume, as an ADC map does."""
    b0 = np.flatnonzero(is_b0)
    if len(b0) < 2:
        return {}
    mean = signals[:, ~is_b0].mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # an empty volume is like no other
        correlations = np.corrcoef(signals[:, b0].T)
        alike = np.nan_to_num([np.corrcoef(signals[:, k], mean)[0, 1] for k in b0], nan=-1.0)
    best = np.sort(correlations, axis=0)[-2]  # with the volume that is most like it
    odd = np.flatnonzero(~(best >= SAME_B0))
    if len(odd) == len(b0):  # of two, the true one has more in common with the weighted volumes
        odd = np.delete(odd, int(np.argmax(alike)))
    return {
        int(b0[k]): f"looks like no other b=0 volume (correlation {best[k]:.2f}), so it may be a "
        "map that the scanner made, such as ADC"
        for k in odd
    }


def _lost_signal(
    data: NDArray[np.float32], mask: NDArray[np.bool_], is_b0: NDArray[np.bool_]
) -> dict[int, str]:
    """Find weighted volumes with slices that have far less signal than in the others."""
    weighted = data[..., ~is_b0] * mask[..., None]
    counts = mask.sum(axis=(0, 1))
    slices = np.flatnonzero(counts > 0.2 * counts.max())  # slices through enough of the brain
    means = weighted.sum(axis=(0, 1))[slices] / counts[slices, None]
    share = means / np.maximum(np.median(means, axis=1, keepdims=True), 1e-12)
    numbers = np.flatnonzero(~is_b0)
    words = {}
    for k in np.flatnonzero((share < LOST_SIGNAL).any(axis=0)):
        lost = slices[share[:, k] < LOST_SIGNAL]
        words[int(numbers[k])] = (
            f"has down to {100 * share[:, k].min():.0f} % of the signal that the others have, in "
            f"{len(lost)} slices (the {lost[0] + 1}. to {lost[-1] + 1}. from below), as motion "
            "during the pulse leaves it"
        )
    return words


def raised(
    data: NDArray[np.float32], bvals_s_mm2: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Raise samples that no diffusion explains, as zero and negative ones, before a logarithm.

    Interpolation, denoising and unbiasing leave samples at or below zero.  The logarithm of a
    sample just above zero would outweigh all others, so each is raised to what a medium of
    4e-3 mm2/s would leave of the voxel's b=0 signal, or to a thousandth of it.

    Returns
    -------
    data : ndarray, shape (x, y, z, volumes)
    was_low : ndarray of bool, shape (x, y, z)
        Voxels with a sample at or below zero.
    """
    is_b0 = bvals_s_mm2 < images.B0_BELOW_S_MM2
    s0 = np.maximum(data[..., is_b0].mean(axis=-1), 0)
    share = np.maximum(np.exp(-FASTEST_MM2_S * bvals_s_mm2), LOWEST_SIGNAL)
    least = s0[..., None] * np.where(is_b0, LOWEST_SIGNAL, share).astype(np.float32)
    return np.maximum(data, least), np.asarray((data <= 0).any(axis=-1))


def doubts(left_out: Mapping[int, str], low: float) -> list[str]:
    """Say which volumes were left out, and whether many samples of the regions were raised."""
    said = [f"volume {k} {what}; it is left out" for k, what in left_out.items()]
    if low > MOST_LOW:
        said.append(
            f"samples at or below zero in {low:.0%} of the voxels of the regions: an interpolated "
            "or unbiased series; use the series before that step where you have it"
        )
    return said
