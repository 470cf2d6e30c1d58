"""Susceptibility of labelled regions, and the noise in it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.qsm.pipeline import QsmResult, invert_field
from pvsbook.qsm.reference import MIN_VOXELS

__all__ = ["erode_labels", "measure_regions", "noise_ppb", "phase_sign_agrees"]

MIN_REGION_VOXELS = 8

_COLUMNS = (
    "label", "region", "side", "n_voxels", "volume_mm3", "mean_ppb", "median_ppb", "sd_ppb",
)  # fmt: skip


def erode_labels(labels: ArrayLike, *, n_voxels: int = 1) -> NDArray[np.int32]:
    """Take the rim off every label, so that a shift of the labels costs little.

    Examples
    --------
    >>> labels = np.zeros((5, 5, 5), int); labels[1:4, 1:4, 1:4] = 7
    >>> erode_labels(labels).sum()
    np.int64(7)
    """
    values = np.asarray(labels).astype(np.int32)
    faces = ndimage.generate_binary_structure(3, 1)  # a voxel and its six neighbours
    for _ in range(n_voxels):
        low, high = (
            extreme(values, footprint=faces, mode="constant", cval=0)
            for extreme in (ndimage.minimum_filter, ndimage.maximum_filter)
        )
        values = np.where(low == high, values, 0)
    return values


def measure_regions(
    chi_ppm: ArrayLike,
    labels: ArrayLike,
    table: pd.DataFrame,
    mask: ArrayLike,
    voxel_size_mm: ArrayLike,
    *,
    erode: int = 1,
) -> pd.DataFrame:
    """Measure each labelled region.

    Parameters
    ----------
    chi_ppm
        Shape (x, y, z).
    labels
        Label numbers, same shape.
    table
        Columns ``label``, ``region``, ``side`` (`pvsbook.atlas.deep_grey.table`).
    mask
        Where susceptibility is known.
    voxel_size_mm
        Three numbers.
    erode
        Voxels taken off each region's rim.  0 measures more voxels and trusts the labels more.

    Returns
    -------
    pandas.DataFrame
        Number, name and side of each label; ``n_voxels`` measured; ``volume_mm3`` of the label
        before erosion; ``mean_ppb``, ``median_ppb`` and standard deviation over voxels
        (``sd_ppb``) of susceptibility, NaN where fewer than 8 voxels are left.

    Examples
    --------
    >>> labels = np.zeros((6, 6, 6), int); labels[1:5, 1:5, 1:5] = 1
    >>> table = pd.DataFrame({"label": [1], "region": ["caudate"], "side": ["left"]})
    >>> row = measure_regions(labels * 0.05, labels, table, labels > 0, (1, 1, 2)).iloc[0]
    >>> print(int(row["n_voxels"]), row["volume_mm3"], row["mean_ppb"])
    8 128.0 50.0
    """
    chi, numbers, known = np.asarray(chi_ppm), np.asarray(labels), np.asarray(mask, bool)
    if not (chi.shape == numbers.shape == known.shape):
        raise InputError(
            f"labels: have shape {numbers.shape}, but susceptibility has {chi.shape}; bring them "
            "to the scan with pvsbook.atlas.registration.resample_labels"
        )
    core = erode_labels(numbers, n_voxels=erode)
    voxel_mm3 = float(np.prod(np.asarray(voxel_size_mm, np.float64)))
    rows = []
    for label, region, side in table[["label", "region", "side"]].itertuples(index=False):
        values = 1e3 * chi[(core == label) & known].astype(np.float64)
        volume_mm3 = voxel_mm3 * int((numbers == label).sum())
        enough = values.size >= MIN_REGION_VOXELS
        found = (values.mean(), np.median(values), values.std(ddof=1)) if enough else (np.nan,) * 3
        rows.append((label, region, side, values.size, volume_mm3, *map(float, found)))
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def noise_ppb(
    gre: images.Gre,
    result: QsmResult,
    labels: ArrayLike,
    table: pd.DataFrame,
    rng: np.random.Generator,
    *,
    n_repeats: int = 4,
    erode: int = 1,
) -> NDArray[np.float64]:
    """Propagate the field's standard error to the mean of each region.

    The field is disturbed by noise of its own standard error, background removal and inversion
    are repeated, and the spread of each region's mean is taken, over the repeats and pooled with
    the typical spread, since a few repeats alone would be a poor estimate.

    Parameters
    ----------
    gre, result
        Scan and its reconstruction.
    labels, table, erode
        As in `measure_regions`.
    rng
        Draws the noise.
    n_repeats
        More give a steadier estimate; each costs one inversion.

    Returns
    -------
    numpy.ndarray
        Standard error of each row of `table`, ppb.  It holds thermal noise only: not the labels'
        error, motion, or what background removal leaves.
    """
    known = result.local_field.mask

    def measure(chi_ppm: NDArray) -> pd.DataFrame:
        return measure_regions(chi_ppm, labels, table, known, gre.voxel_size_mm, erode=erode)

    return noise_of(gre, result, measure, rng, n_repeats)


def noise_of(
    gre: images.Gre,
    result: QsmResult,
    measure: Callable[[NDArray], pd.DataFrame],
    rng: np.random.Generator,
    n_repeats: int,
) -> NDArray[np.float64]:
    """Do what `noise_ppb` does, for any ``measure(chi_ppm)`` that gives n_voxels and mean_ppb."""
    base = measure(result.susceptibility.chi_ppm)
    spread = np.zeros(len(base))
    error = result.field.standard_error_hz
    if not np.isfinite(error[result.mask]).all():
        raise InputError("gre: fewer than three echoes, so the field's standard error is unknown")
    for _ in range(n_repeats):
        noise = rng.standard_normal(error.shape, np.float32) * error
        again = measure(invert_field(gre, result, result.field.field_hz + noise))
        spread += (again["mean_ppb"].to_numpy() - base["mean_ppb"].to_numpy()) ** 2 / n_repeats
    n = base["n_voxels"].to_numpy()
    common = np.nanmedian(spread * n)  # noise of a mean falls with the voxels in it
    return np.sqrt(0.5 * spread + 0.5 * common / np.maximum(n, 1))


def phase_sign_agrees(result: QsmResult, diamagnetic: ArrayLike, paramagnetic: ArrayLike) -> bool:
    """Check that known tissue has the sign that it must have.

    Parameters
    ----------
    result
        From `pvsbook.qsm.pipeline.reconstruct`.
    diamagnetic, paramagnetic
        Masks: white matter or a calcification; pallidum, veins or a bleed.

    Returns
    -------
    bool
        False: reconstruct again with ``phase_sign=-1``.

    Examples
    --------
    >>> from pvsbook.phantoms.gradient_echo import make_gre
    >>> from pvsbook.qsm.pipeline import reconstruct
    >>> head = make_gre(np.random.default_rng(0), voxel_size_mm=4)
    >>> pallidum, white = np.isin(head.labels, (5, 6)), head.chi_ppm < -0.02
    >>> phase_sign_agrees(reconstruct(head.gre, mask=head.brain), white & head.brain, pallidum)
    True
    """
    known = result.local_field.mask
    masks = [np.asarray(m, bool) & known for m in (diamagnetic, paramagnetic)]
    for name, region in zip(("diamagnetic", "paramagnetic"), masks, strict=True):
        if region.shape != known.shape or region.sum() < MIN_VOXELS:
            raise InputError(f"{name}: fewer than {MIN_VOXELS} voxels of it lie in the map")
    low, high = (float(np.median(result.susceptibility.chi_ppm[m])) for m in masks)
    return low < high
