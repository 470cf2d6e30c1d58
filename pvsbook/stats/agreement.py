"""Repeatability of a measure, and the change that it lets one see.

The page on rating computes kappa, the intraclass correlation and limits of agreement of raters.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable

import numpy as np
import pandas as pd
import pingouin as pg
from numpy.typing import ArrayLike
from scipy import stats

from pvsbook._errors import InputError
from pvsbook.stats import _guards as guard
from pvsbook.stats._regression import regress
from pvsbook.stats.tables import check, result

__all__ = ["reliability", "repeatability"]


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
        with the same limits; the error's variance as a share of the whole, without; and the
        intraclass correlation for absolute agreement of single measurements, ICC(A,1), with
        limits by the F distribution (pingouin).

    Raises
    ------
    InputError
        Fewer than five pairs, Series whose indices differ, or measures without any difference, as
        of one scan given twice.

    References
    ----------
    Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8; McGraw and Wong 1996,
    doi:10.1037/1082-989X.1.1.30.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> true = rng.normal(1.4, 0.2, 400)
    >>> table = repeatability(true + rng.normal(0, 0.05, 400), true + rng.normal(0, 0.05, 400))
    >>> table["estimate"].round(2).tolist()
    [-0.0, 0.05, 0.14, 0.05, 0.95]
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
            result("agreement", "ICC(A,1)", *_icc(a, b), interval="F", **counts),
        ]
    )  # fmt: skip


def _icc(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """ICC(A,1) of two measurements with its 95 % limits."""
    who = np.arange(len(a))
    long = pd.DataFrame({"who": [*who, *who], "when": [0] * len(a) + [1] * len(a)})
    long["value"] = np.concatenate([a, b])
    with warnings.catch_warnings():  # of pandas about pingouin's own code
        warnings.simplefilter("ignore", DeprecationWarning)
        found = pg.intraclass_corr(long, targets="who", raters="when", ratings="value")
    row = found.set_index("Type").loc["ICC(A,1)"]
    return float(row["ICC"]), *map(float, row["CI95"])  # type: ignore[return-value]


def reliability(
    table: pd.DataFrame,
    *,
    value: Hashable,
    person: Hashable = "participant_id",
    visit: Hashable = "session_id",
) -> pd.DataFrame:
    """Say how reliable a measure is, from two scans of each participant.

    Nothing may have changed between the two.

    Parameters
    ----------
    table
        One row per participant and visit, such as ``group_alps.tsv`` of ``pvsbook run``.  Rows
        whose ``status`` is ``fail``, if there is such a column, count as missing.
    value
        Column of the measure, such as ``"alps_tract_mean"``.
    person, visit
        Columns of participants and visits.

    Returns
    -------
    pandas.DataFrame
        As from `repeatability`; ``dropped`` counts the rows left out, those of participants with
        one scan included.

    Raises
    ------
    InputError
        More or fewer than two visits, fewer than five complete participants, or a table that
        `pvsbook.stats.tables.check` refuses.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> people = pd.DataFrame({"participant_id": [f"sub-{k:02d}" for k in range(40)] * 2,
    ...                        "session_id": ["ses-1"] * 40 + ["ses-2"] * 40})
    >>> people["alps"] = np.tile(rng.normal(1.4, 0.1, 40), 2) + rng.normal(0, 0.03, 80)
    >>> found = reliability(people, value="alps").set_index("term")["estimate"]
    >>> found[["within a participant", "agreement"]].round(2).tolist()
    [0.03, 0.88]
    """
    guard.columns(table, [person, visit, value])
    table = table.copy()
    if "status" in table:
        table[value] = table[value].where(table["status"] != "fail")
    visits = sorted(set(guard.strip(table[visit]).dropna()), key=str)
    if len(visits) != 2:
        labels = ", ".join(map(str, visits)) or "nothing"
        raise InputError(f"{visit}: holds {labels}; give a table of two visits")
    checked = check(table, value=value, person=person, time=visit, complete=True, least=5)
    wide = checked.table.pivot(index=person, columns=visit, values=value)
    return repeatability(wide[visits[0]], wide[visits[1]]).assign(dropped=len(checked.dropped))
