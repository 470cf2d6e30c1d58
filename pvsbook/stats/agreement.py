"""Repeatability of a measure, and the change that it lets one see.

The page on rating computes kappa, the intraclass correlation and limits of agreement of raters.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from pvsbook._errors import InputError
from pvsbook.stats.tables import result

__all__ = ["repeatability"]


def repeatability(first: ArrayLike, second: ArrayLike) -> pd.DataFrame:
    """Return the standard deviation within a participant, and the smallest detectable change.

    Parameters
    ----------
    first, second
        The same participants measured twice with nothing changed between, shape (participant,).

    Returns
    -------
    pandas.DataFrame
        Bias (second less first); standard deviation within a participant with its chi-squared
        limits; the repeatability coefficient, 1.96 times root two of it, by which two scans of
        one participant differ at most in 95 %; and its variance as a share of that between
        participants.

    Raises
    ------
    InputError
        Fewer than five pairs.

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
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1 or a.size < 5:
        raise InputError(f"first, second: {a.shape}, {b.shape}; give five or more pairs")
    change, n = b - a, a.size
    t = stats.ttest_1samp(change, 0)
    within = change.std(ddof=1) / np.sqrt(2)
    limits = within * np.sqrt((n - 1) / stats.chi2.ppf((0.975, 0.025), n - 1))
    factor = 1.96 * np.sqrt(2)
    total = np.mean([a.var(ddof=1), b.var(ddof=1)])
    return pd.DataFrame(
        [
            result(
                "bias", "mean difference", change.mean(), *t.confidence_interval(), n=n,
                test="paired t", statistic=t.statistic, df=str(n - 1), p=t.pvalue,
            ),
            result("within a participant", "standard deviation", within, *limits, n=n),
            result(
                "smallest detectable change", "repeatability coefficient", factor * within,
                *(factor * limits), n=n,
            ),
            result("error", "share of the variance", within**2 / total, n=n),
        ]
    )  # fmt: skip
