"""Visual rating: Potter grades from counts, simulated raters, and how far raters agree."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pingouin
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa

from pvsbook._errors import InputError
from pvsbook.pvs.pipeline import PvsResult

__all__ = [
    "BlandAltman",
    "Kappa",
    "bland_altman",
    "grade",
    "intraclass_correlation",
    "is_high_grade",
    "rate",
    "simulate_raters",
    "weighted_kappa",
]

POTTER_LIMITS = (0, 10, 20, 40)  # the largest count of grades 0 to 3


@dataclass(frozen=True)
class Kappa:
    """Agreement of two raters beyond chance: estimate and confidence limits."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class BlandAltman:
    """Difference of two raters: mean with its confidence limits, and limits of agreement."""

    mean: float
    mean_low: float
    mean_high: float
    lower: float
    upper: float


def grade(count: ArrayLike) -> NDArray[np.int64]:
    """Return Potter's grade of counts in the centrum semiovale or the basal ganglia.

    0 none, 1 one to 10, 2 eleven to 20, 3 twenty-one to 40, 4 more than 40, on the slice and in
    the hemisphere that show most.  The midbrain has 0 and 1 only: use ``count > 0``.

    Raises
    ------
    InputError
        A negative count or NaN.

    References
    ----------
    Potter et al. 2015, doi:10.1159/000375153.

    Examples
    --------
    >>> grade([0, 1, 10, 11, 20, 21, 40, 41]).tolist()
    [0, 1, 1, 2, 2, 3, 3, 4]
    """
    counts = np.asarray(count, np.float64)
    if not np.all(counts >= 0):
        raise InputError(f"count: {count!r} holds a negative number or NaN; count from 0")
    return np.searchsorted(POTTER_LIMITS, counts, side="left")


def is_high_grade(count: ArrayLike, *, above: int = 20) -> NDArray[np.bool_]:
    """Tell which counts are called severe, or high grade.

    Parameters
    ----------
    count
        Spaces on the worst slice of the worse hemisphere.
    above
        The cut-off.  More than 10 and more than 20 are both in use, and the groups that a study
        compares change with it: say which, and show the other.

    Examples
    --------
    >>> is_high_grade([8, 15, 25]).tolist(), is_high_grade([8, 15, 25], above=10).tolist()
    ([False, False, True], [False, True, True])
    """
    return np.asarray(count) > above


def rate(result: PvsResult, *, slice_mm: float | None = None) -> pd.DataFrame:
    """Rate a measured scan as a reader would: the worst slice of the worse hemisphere.

    Parameters
    ----------
    result
        From `pvsbook.pvs.measure`.
    slice_mm
        Thickness of the slices that the reader looks at.  Thin slices cut fewer spaces each: the
        same brain has lower grades at 1 mm than at 5 mm.  Default: the slices of the scan.

    Returns
    -------
    pandas.DataFrame
        One row a region (``cso``, ``bg``, ``midbrain``): side, slice (index of the first slice of
        the scan), count on it, grade; the count is missing where the region was not seen.

    Raises
    ------
    InputError
        Slices thinner than those of the scan.
    """
    labels = np.asarray(result.labels.dataobj)
    affine = result.labels.affine
    axis = int(np.flatnonzero(io_orientation(affine)[:, 0] == 2)[0])
    step = float(voxel_sizes(affine)[axis])
    together = 1 if slice_mm is None else round(slice_mm / step)
    if together < 1:
        raise InputError(f"slice_mm: {slice_mm} mm is thinner than the scan's {step:.2g} mm")
    chosen = result.objects["class"] == "pvs"
    places = np.argwhere(labels > 0)
    number = labels[tuple(places.T)] - 1
    shown = pd.DataFrame(
        {
            "region": result.objects["region"].to_numpy()[number],
            "slice": places[:, axis] // together,
            "object": number,
        }
    )[chosen.to_numpy()[number]]
    per_slice = shown.groupby(["region", "slice"])["object"].nunique()
    row, rows = result.to_row(), []
    for group in ("cso", "bg", "midbrain"):
        side, where, most = "", -1, np.nan
        for name in (f"{group}_left", f"{group}_right"):
            if np.isnan(row[f"n_{name}"]):
                continue
            here = per_slice[per_slice.index.get_level_values("region") == name]
            count = int(here.max()) if len(here) else 0
            if np.isnan(most) or count > most:
                where = int(here.idxmax()[1]) * together if len(here) else -1
                side, most = name.split("_")[1], count
        rows.append({"region": group, "side": side, "slice": where, "count": most})
    table = pd.DataFrame(rows)
    seen = table["count"].notna()
    table["grade"] = pd.array([pd.NA] * 3, dtype="Int64")
    table.loc[seen, "grade"] = grade(table.loc[seen, "count"])
    middle = seen & (table["region"] == "midbrain")
    table.loc[middle, "grade"] = (table.loc[middle, "count"] > 0).astype(int)
    return table


def simulate_raters(
    rng: Generator,
    counts: ArrayLike,
    *,
    sensitivity: ArrayLike = (0.9, 0.8),
    false_per_scan: ArrayLike = (0.5, 1.0),
) -> NDArray[np.int64]:
    """Simulate readers who miss some spaces and see some that are none.

    Parameters
    ----------
    rng
        Random numbers.
    counts
        True counts, shape (scan,).
    sensitivity
        Chance of each reader to see a space, shape (reader,).
    false_per_scan
        Mean number of false spaces of each reader, shape (reader,).

    Returns
    -------
    ndarray, shape (scan, reader)
        Counts of the readers.

    Raises
    ------
    InputError
        Chances outside 0 to 1, or one reader more in one list.

    Examples
    --------
    >>> simulate_raters(np.random.default_rng(0), [0, 20], sensitivity=[1, 1],
    ...                 false_per_scan=[0, 0]).tolist()
    [[0, 0], [20, 20]]
    """
    seen = np.atleast_1d(np.asarray(sensitivity, np.float64))
    extra = np.atleast_1d(np.asarray(false_per_scan, np.float64))
    if seen.shape != extra.shape:
        raise InputError(
            f"sensitivity and false_per_scan: {seen.size} and {extra.size} readers; give one each"
        )
    if np.any((seen < 0) | (seen > 1)) or np.any(extra < 0):
        raise InputError("sensitivity must lie in 0 to 1, and false_per_scan cannot be negative")
    true = np.asarray(counts, np.int64)[:, None]
    return rng.binomial(true, seen) + rng.poisson(np.broadcast_to(extra, (len(true), extra.size)))


def weighted_kappa(first: ArrayLike, second: ArrayLike, *, n_grades: int = 5) -> Kappa:
    """Return quadratic-weighted kappa of two raters with its 95 % confidence interval.

    Parameters
    ----------
    first, second
        Grades 0..n_grades-1 of the same scans, shape (scan,).
    n_grades
        Grades of the scale, used or not.

    Raises
    ------
    InputError
        Lists of different length, grades outside the scale, or all grades the same.

    References
    ----------
    Cohen 1968, doi:10.1037/h0026256; confidence interval by Fleiss, Cohen and Everitt 1969.

    Examples
    --------
    >>> weighted_kappa([0, 1, 2, 3], [0, 1, 2, 3]).value
    1.0
    """
    a, b = np.asarray(first, np.int64), np.asarray(second, np.int64)
    if a.shape != b.shape or a.ndim != 1 or a.size < 2:
        raise InputError(f"first and second: {a.shape} and {b.shape}; give two or more pairs")
    both = np.concatenate([a, b])
    if both.min() < 0 or both.max() >= n_grades:
        raise InputError(f"first, second: grades {both.min()} to {both.max()}, but {n_grades=}")
    if both.min() == both.max():
        raise InputError(f"first, second: every grade is {both[0]}; kappa is undefined")
    table = np.zeros((n_grades, n_grades))
    np.add.at(table, (a, b), 1)
    found = cohens_kappa(table, wt="quadratic")
    low, high = np.clip([found.kappa_low, found.kappa_upp], -1, 1)
    return Kappa(float(found.kappa), float(low), float(high))


def intraclass_correlation(counts: ArrayLike) -> pd.Series:
    """Return the ICC for absolute agreement of single raters (two-way random), with its 95 % CI.

    Parameters
    ----------
    counts
        Shape (scan, rater).

    Returns
    -------
    pandas.Series
        ``icc``, ``low``, ``high``.

    Raises
    ------
    InputError
        Fewer than five scans or two raters.

    References
    ----------
    Shrout and Fleiss 1979, doi:10.1037/0033-2909.86.2.420, ICC(2,1).

    Examples
    --------
    >>> pairs = np.array([[9, 8], [1, 2], [5, 6], [20, 18], [12, 11], [3, 3]])
    >>> float(intraclass_correlation(pairs)["icc"].round(2))
    0.98
    """
    table = np.asarray(counts, np.float64)
    if table.ndim != 2 or table.shape[0] < 5 or table.shape[1] < 2:
        raise InputError(f"counts: shape {table.shape}; give at least 5 scans and 2 raters")
    scan, rater = np.indices(table.shape)
    long = pd.DataFrame({"scan": scan.ravel(), "rater": rater.ravel(), "count": table.ravel()})
    with warnings.catch_warnings():  # pingouin 0.7 calls pandas in ways that pandas 3 deprecates
        warnings.simplefilter("ignore")
        found = pingouin.intraclass_corr(long, targets="scan", raters="rater", ratings="count")
    one = found.set_index("Type").loc["ICC(A,1)"]
    low, high = one["CI95"]
    return pd.Series({"icc": float(one["ICC"]), "low": float(low), "high": float(high)})


def bland_altman(first: ArrayLike, second: ArrayLike) -> BlandAltman:
    """Return mean difference and limits of agreement of two raters' counts.

    Parameters
    ----------
    first, second
        Counts of the same scans, shape (scan,).

    Raises
    ------
    InputError
        Fewer than three pairs.

    References
    ----------
    Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8.

    Examples
    --------
    >>> bland_altman([3, 5, 7], [2, 4, 6])
    BlandAltman(mean=1.0, mean_low=1.0, mean_high=1.0, lower=1.0, upper=1.0)
    """
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    if difference.ndim != 1 or difference.size < 3:
        raise InputError(f"first, second: {difference.size} pairs; give three or more")
    mean, sd = float(difference.mean()), float(difference.std(ddof=1))
    half = float(stats.t.ppf(0.975, difference.size - 1) * sd / np.sqrt(difference.size))
    return BlandAltman(mean, mean - half, mean + half, mean - 1.96 * sd, mean + 1.96 * sd)


GRADE_TEXT: Mapping[int, str] = {0: "none", 1: "1-10", 2: "11-20", 3: "21-40", 4: "more than 40"}
