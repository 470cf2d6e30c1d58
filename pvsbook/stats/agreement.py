"""Repeatability of a measure, and the change that it lets one see.

The page on rating computes kappa, the intraclass correlation and limits of agreement of raters.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from pvsbook._errors import InputError
from pvsbook.stats._regression import regress
from pvsbook.stats.tables import check, result

__all__ = ["repeatability"]


def repeatability(first: ArrayLike, second: ArrayLike) -> pd.DataFrame:
    """Return the standard deviation within a participant, and the smallest detectable change.

    Parameters
    ----------
    first, second
        The same participants measured twice with nothing changed between, shape (participant,).
        A pair with NaN is left out.

    Returns
    -------
    pandas.DataFrame
        Bias (second less first) with limits by Student's t; standard deviation within a
        participant with limits by the chi-squared distribution; the repeatability coefficient,
        1.96 times root two of it, by which two scans of one participant differ at most in 95 %,
        with the same limits; and the error's variance as a share of the whole, without.

    Raises
    ------
    InputError
        Fewer than five pairs, Series whose indices differ, or measures without any difference, as
        of one scan given twice.

    References
    ----------
    Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> true = rng.normal(1.4, 0.2, 400)
    >>> table = repeatability(true + rng.normal(0, 0.05, 400), true + rng.normal(0, 0.05, 400))
    >>> table["estimate"].round(2).tolist()
    [-0.0, 0.05, 0.14, 0.05]
    """
    sizes = [np.shape(values) for values in (first, second)]
    if sizes[0] != sizes[1] or len(sizes[0]) != 1 or sizes[0][0] < 5:
        raise InputError(f"first, second: {sizes[0]}, {sizes[1]}; give five or more pairs")
    indices = [values.index for values in (first, second) if isinstance(values, pd.Series)]
    if len(indices) == 2 and not indices[0].equals(indices[1]):
        raise InputError("first, second: their indices differ; put the pairs in one order")
    columns = {"first": list(first), "second": list(second)}  # type: ignore[arg-type]
    checked = check(pd.DataFrame(columns), value=["first", "second"], least=5)
    a, b = (checked.table[name].to_numpy() for name in ("first", "second"))
    change, n, counts = b - a, checked.n, checked.counts
    regress(pd.Series(change), np.ones((n, 1)), "first, second", size=np.abs(a).max())
    t = stats.ttest_1samp(change, 0)
    within = change.std(ddof=1) / np.sqrt(2)
    limits = within * np.sqrt((n - 1) / stats.chi2.ppf((0.975, 0.025), n - 1))
    factor = 1.96 * np.sqrt(2)
    total = np.mean([a.var(ddof=1), b.var(ddof=1)])
    return pd.DataFrame(
        [
            result(
                "bias", "mean difference", change.mean(), *t.confidence_interval(),
                interval="t", test="paired t", statistic=t.statistic, df=str(n - 1), p=t.pvalue,
                **counts,
            ),
            result(
                "within a participant", "standard deviation", within, *limits,
                interval="chi-squared", **counts,
            ),
            result(
                "smallest detectable change", "repeatability coefficient", factor * within,
                *(factor * limits), interval="chi-squared", **counts,
            ),
            result("error", "share of the variance", within**2 / total, **counts),
        ]
    )  # fmt: skip
