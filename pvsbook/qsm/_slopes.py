"""Change of susceptibility per year, where a person was scanned at three visits or more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pvsbook.atlas import deep_grey
from pvsbook.method import describe_columns

MIN_VISITS = 3

COLUMNS = describe_columns(
    ("region", "name of the nucleus; n/a where no slope can be given, see reason"),
    ("side", "left or right"),
    ("n_visits", "visits with a value"),
    ("years", "from the first to the last of them", "years"),
    ("slope_ppb_per_year", "slope of a straight line, visits weighted by their errors", "ppb"),
    ("se_ppb_per_year", "its standard error, by the errors of the changes, or by the scatter "
     "about the line where that is larger", "ppb"),
    ("low_ppb_per_year", "lower end of its 95 % interval", "ppb"),
    ("high_ppb_per_year", "upper end of its 95 % interval", "ppb"),
    ("scatter", "scatter about the line over what the errors let expect; near 1 where they hold"),
    ("reason", "why there is no slope"),
)  # fmt: skip


def slopes(visits: Sequence[tuple[float, Mapping[str, Any]]]) -> pd.DataFrame:
    """Fit a line to the changes of each nucleus since one first visit.

    Parameters
    ----------
    visits
        Years since the first visit, and the row of `pvsbook.qsm.change.Change`, of each later
        one.

    Returns
    -------
    pandas.DataFrame
        Columns as `COLUMNS`; a nucleus with fewer than three visits has a reason and no slope.
    """
    rows = []
    for _, region, side in deep_grey.table().itertuples(index=False):
        name = deep_grey.column(region, side)
        years, changes, errors = (
            np.array([float(v) for v in values])
            for values in zip(
                *((t, _number(row, f"{name}_change_ppb"), _number(row, f"{name}_error_ppb"))
                  for t, row in visits), strict=True,
            )
        )  # fmt: skip
        known = np.isfinite(changes) & (errors > 0)
        row: dict[str, Any] = {"region": region, "side": side, "n_visits": int(known.sum()) + 1}
        if known.sum() + 1 < MIN_VISITS:
            rows.append(row | {"reason": f"fewer than {MIN_VISITS} visits with a value"})
            continue
        fitted = fit_slope(years[known], changes[known], errors[known])
        rows.append(row | {"years": float(np.ptp([0, *years[known]]))} | fitted)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _number(row: Mapping[str, Any], column: str) -> float:
    value = row.get(column)
    return float(value) if isinstance(value, int | float) else float("nan")


def fit_slope(years: ArrayLike, changes: ArrayLike, errors: ArrayLike) -> dict[str, float]:
    """Fit a line through a first visit, whose value is zero by definition, and the changes since.

    The error of the first visit is in every change.  So the line is fitted to the values of the
    visits (zero at the first) with a free intercept: half of the smallest squared error is given
    to the first visit, and to each later one what is left of its own.  Where the values scatter
    by more than these errors, the standard error is widened by the ratio.

    Parameters
    ----------
    years, changes, errors
        Of each later visit: years since the first, change in ppb, its standard error.

    References
    ----------
    Birge 1932, doi:10.1103/PhysRev.40.207, for the widening.

    Examples
    --------
    >>> print(round(fit_slope([1, 2], [3.0, 6.0], [1.0, 1.0])["slope_ppb_per_year"], 6))
    3.0
    """
    t, y = (np.concatenate([[0.0], np.asarray(v, np.float64)]) for v in (years, changes))
    square = np.asarray(errors, np.float64) ** 2
    variance = np.concatenate([[square.min() / 2], square - square.min() / 2])
    design = np.stack([np.ones_like(t), t], 1)
    covariance = np.linalg.inv(design.T @ (design / variance[:, None]))
    line = covariance @ design.T @ (y / variance)
    chi2 = float(((y - design @ line) ** 2 / variance).sum())
    scatter = float(np.sqrt(chi2 / (len(t) - 2)))
    slope, se = float(line[1]), float(np.sqrt(covariance[1, 1])) * max(scatter, 1.0)
    return {
        "slope_ppb_per_year": slope,
        "se_ppb_per_year": se,
        "low_ppb_per_year": slope - 1.96 * se,
        "high_ppb_per_year": slope + 1.96 * se,
        "scatter": scatter,
    }
