"""Which tissue counts as zero: susceptibility is known up to a constant only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pvsbook._errors import InputError

__all__ = ["MIN_VOXELS", "REFERENCE_COLUMNS", "Referenced", "compare_references", "refer"]

MIN_VOXELS = 20

REFERENCE_COLUMNS = {
    "reference": {"Description": "region whose mean susceptibility counts as zero"},
    "reference_value_ppb": {
        "Description": "what is subtracted, on the scale of the map as it came",
        "Units": "ppb",
    },
    "standard_error_ppb": {
        "Description": "of that value, from the spread of the region's voxels as if independent",
        "Units": "ppb",
    },
    "n_voxels": {"Description": "voxels of the region in the mask"},
    "region": {"Description": "region measured"},
    "mean_ppb": {"Description": "its mean susceptibility, by this reference", "Units": "ppb"},
}


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


def compare_references(
    chi_ppm: ArrayLike,
    mask: ArrayLike,
    references: Mapping[str, ArrayLike],
    regions: Mapping[str, ArrayLike],
) -> pd.DataFrame:
    """Tabulate regions by several references side by side, for one map.

    ``none`` (the map's own zero) and ``whole brain`` are always among them.

    Parameters
    ----------
    chi_ppm
        Shape (x, y, z).
    mask
        Where susceptibility is known.
    references
        Name to mask: ``"CSF"``, ``"white matter"``, any region of your own.
    regions
        Name to mask: what is measured.

    Returns
    -------
    pandas.DataFrame
        One row for each reference and region, columns as `REFERENCE_COLUMNS`.  Differences
        between regions are the same by every reference; only their common zero moves.

    Raises
    ------
    InputError
        As `refer`, or no region is given.

    References
    ----------
    QSM Consensus Organization Committee 2024, doi:10.1002/mrm.30006.

    Examples
    --------
    >>> chi = np.zeros((4, 4, 4)); chi[2:] = 0.05
    >>> table = compare_references(chi, chi < 9, {"low": chi == 0}, {"high": chi > 0})
    >>> table[["reference", "mean_ppb"]].round(1).to_records(index=False).tolist()
    [('none', 50.0), ('whole brain', 25.0), ('low', 50.0)]
    """
    chi, inside = np.asarray(chi_ppm, np.float64), np.asarray(mask, bool)
    if not regions:
        raise InputError("regions: none given; name at least one region to measure")
    rows = []
    for name, choice in {"none": "none", "whole brain": "whole brain", **references}.items():
        zero = refer(chi, inside, choice)
        if zero.n_voxels == 0:
            error = 0.0
        else:
            where = inside if isinstance(choice, str) else np.asarray(choice, bool) & inside
            error = 1e3 * float(chi[where].std(ddof=1)) / zero.n_voxels**0.5
        for region, at in regions.items():
            values = chi[np.asarray(at, bool) & inside]
            rows.append(
                {
                    "reference": name,
                    "reference_value_ppb": 1e3 * zero.value_ppm,
                    "standard_error_ppb": error,
                    "n_voxels": zero.n_voxels,
                    "region": region,
                    "mean_ppb": 1e3 * (values.mean() - zero.value_ppm) if values.size else np.nan,
                }
            )
    return pd.DataFrame(rows, columns=list(REFERENCE_COLUMNS))
