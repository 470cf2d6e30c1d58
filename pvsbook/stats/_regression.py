"""Columns of a regression, its fit, and its coefficients as rows of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from pvsbook._errors import InputError
from pvsbook.stats.tables import ROUNDING, result


def coefficients(
    estimates: ArrayLike,
    errors: ArrayLike,
    terms: Sequence[str],
    measure: str,
    *,
    df: float | Sequence[float],
    exponential: bool = False,
    **about: Any,
) -> list[dict[str, Any]]:
    """Make a row of each coefficient and its standard error, tested by Student's t.

    With infinite `df` that is the normal distribution.
    """
    b, se = np.asarray(estimates, np.float64), np.asarray(errors, np.float64)
    dfs = np.broadcast_to(np.asarray(df, np.float64), b.shape)
    half = stats.t.ppf(0.975, dfs) * se
    values = np.column_stack([b, b - half, b + half])
    values = np.exp(values) if exponential else values
    t = b / se
    return [
        result(
            term, measure, *values[k], interval="t" if np.isfinite(dfs[k]) else "Wald",
            statistic=t[k], df=f"{dfs[k]:.0f}" if np.isfinite(dfs[k]) else "",
            p=2 * stats.t.sf(abs(t[k]), dfs[k]), **about,
        )
        for k, term in enumerate(terms)
    ]  # fmt: skip


def design(
    table: pd.DataFrame,
    columns: Sequence[Any],
    *,
    references: Mapping[Any, Any] | None = None,
    first: Mapping[str, NDArray[np.float64]] | None = None,
) -> tuple[NDArray[np.float64], list[str], NDArray[np.float64]]:
    """Make the columns of a regression: an intercept, numbers, and categories as 0 and 1.

    No formula is written, so that a name or label may hold anything.  Numbers are put in standard
    deviations from their mean, so that nanometres stand beside years.

    Parameters
    ----------
    table
        From `check`, complete.
    columns
        To put in, in this order.
    references
        By column, the level that the others are compared with; by default the first in order.
        A column that is named here is taken as categories, whatever it holds.
    first
        Terms to put before the columns, as they are, by name.

    Returns
    -------
    tuple of numpy.ndarray, list and numpy.ndarray
        Shape (row, term), the first all ones; a name for each term but the first; and what the
        coefficient of each term is divided by to be per unit.

    Examples
    --------
    >>> people = pd.DataFrame({"sex": ["F", "M", "F", "M"], "age": [30.0, 40, 50, 40]})
    >>> x, names, scale = design(people, ["sex", "age"])
    >>> x[1].tolist(), names, scale.round(1).tolist()
    ([1.0, 1.0, 0.0], ['sex: M - F', 'age'], [1.0, 1.0, 7.1])
    """
    references = references or {}
    terms, scale = [np.ones(len(table)), *(first or {}).values()], [1.0]
    names = list(first or {})
    scale += [1.0] * len(names)
    for column in columns:
        values = table[column]
        if column not in references and pd.api.types.is_numeric_dtype(values.dtype):
            numbers = values.to_numpy(np.float64)
            spread = numbers.std()
            if spread <= ROUNDING * np.abs(numbers).max():
                raise InputError(f"covariates: {column} does not vary; take it out")
            terms.append((numbers - numbers.mean()) / spread)
            names.append(str(column))
            scale.append(spread)
            continue
        levels = sorted(values.unique(), key=lambda v: (str(type(v)), v))
        if len(levels) == 1:
            raise InputError(f"covariates: {column} does not vary; take it out")
        base = references.get(column, levels[0])
        others = [level for level in levels if level != base]
        terms += [(values == level).to_numpy(np.float64) for level in others]
        scale += [1.0] * len(others)
        names += [f"{'' if column in references else f'{column}: '}{v} - {base}" for v in others]
    x = np.column_stack(terms)
    if len(x) <= x.shape[1] or np.linalg.matrix_rank(x) < x.shape[1]:
        raise InputError(
            f"covariates: {', '.join(names)} with {len(x)} rows leave nothing to estimate, or "
            "repeat each other; take some out"
        )
    return x, names, np.array(scale)


def regress(value: pd.Series, x: NDArray[np.float64], name: str, *, size: float = 0.0) -> Any:
    """Fit by ordinary least squares; refuse what leaves nothing unexplained.

    `size` is that of the numbers of which the value is a difference.
    """
    y = value.to_numpy(np.float64)
    fit = sm.OLS(y, x).fit()
    if fit.scale <= max(1e-9 * y.std(), ROUNDING * max(np.abs(y).max(), size)) ** 2:
        raise InputError(
            f"{name}: nothing is left to vary; are the values computed from group and covariates, "
            "or the same in all of a group or at both times?"
        )
    return fit
