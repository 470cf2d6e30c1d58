"""Compare groups: two proportions from their counts, means with covariates, and counts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import Table2x2
from statsmodels.stats.proportion import confint_proportions_2indep

from pvsbook._errors import InputError
from pvsbook.stats.tables import check, coefficients, design, result, select

__all__ = ["ancova", "compare_counts", "negative_binomial"]


def compare_counts(
    events: Sequence[int], n: Sequence[int], *, names: Sequence[str] = ("first", "second")
) -> pd.DataFrame:
    """Compare two proportions from their counts, by every test that a paper may have used.

    Parameters
    ----------
    events, n
        Participants with the event, and all participants, of the two groups.
    names
        Of the groups.

    Returns
    -------
    pandas.DataFrame
        Odds ratio by Wald with the chi-squared test, without and with Yates' correction; odds
        ratio by conditional likelihood with exact limits and Fisher's test; difference of the
        proportions with Newcombe's limits.

    Raises
    ------
    InputError
        Not two groups, more events than participants, or events in no one or in everyone.

    Examples
    --------
    >>> table = compare_counts((10, 4), (34, 46), names=("NMOSD", "controls"))
    >>> table[["test", "p"]].round(3).to_numpy().tolist()
    [['chi-squared', 0.016], ['chi-squared, Yates', 0.035], ['Fisher, exact', 0.02], ['', nan]]
    """
    if not len(events) == len(n) == len(names) == 2:
        raise InputError("events, n, names: two groups are compared; give two of each")
    for e, size in zip(events, n, strict=True):
        if not (0 <= e <= size and size > 0 and e == int(e) and size == int(size)):
            raise InputError(f"events, n: {e} of {size}; give whole numbers, 0 <= events <= n")
    if sum(events) in (0, sum(n)):
        raise InputError(f"events: {tuple(events)} of {tuple(n)}; the groups cannot differ")
    table = np.array([[e, size - e] for e, size in zip(events, n, strict=True)])
    term, total = f"{names[0]} - {names[1]}", sum(n)
    wald = Table2x2(table, shift_zeros=False)
    with np.errstate(divide="ignore", invalid="ignore"):
        limits = wald.oddsratio_confint() if table.all() else (np.nan, np.nan)
        ratio = wald.oddsratio
    rows = []
    for yates, name in ((False, "chi-squared"), (True, "chi-squared, Yates")):
        chi2 = stats.chi2_contingency(table, correction=yates)
        rows.append(
            result(
                term, "odds ratio (Wald CI)", ratio, *limits, n=total, test=name,
                statistic=chi2.statistic, df="1", p=chi2.pvalue,
            )
        )  # fmt: skip
    exact = stats.contingency.odds_ratio(table)
    interval = exact.confidence_interval()
    rows.append(
        result(
            term, "odds ratio (conditional, exact CI)", exact.statistic, interval.low,
            interval.high, n=total, test="Fisher, exact", p=stats.fisher_exact(table).pvalue,
        )
    )  # fmt: skip
    low, high = confint_proportions_2indep(
        events[0], n[0], events[1], n[1], compare="diff", method="newcomb"
    )
    difference = events[0] / n[0] - events[1] / n[1]
    rows.append(
        result(term, "difference of proportions (Newcombe CI)", difference, low, high, n=total)
    )
    return pd.DataFrame(rows)


def ancova(
    table: pd.DataFrame,
    *,
    value: str,
    group: str,
    reference: Any,
    covariates: Sequence[str] = (),
) -> pd.DataFrame:
    """Compare group means adjusted for covariates, by ordinary least squares.

    Parameters
    ----------
    table
        One row per participant.
    value, group
        Columns.
    reference
        The group that the others are compared with.
    covariates
        Columns of numbers or categories, as in `pvsbook.stats.tables.check`.  Only what comes
        before the disease belongs here: adjusting for its consequences (lesions, atrophy) asks
        another question.

    Returns
    -------
    pandas.DataFrame
        For each other group the adjusted difference of means, and the same in units of the
        residual standard deviation.

    Raises
    ------
    InputError
        As `pvsbook.stats.tables.check`, no such `reference`, or more columns than the
        participants can estimate.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> people = pd.DataFrame({"g": list("pc") * 20, "age": rng.normal(45, 10, 40)})
    >>> people["y"] = 1.5 - 0.1 * (people["g"] == "p") + 0.02 * rng.normal(size=40)
    >>> ancova(people, value="y", group="g", reference="c", covariates=["age"])["n"].tolist()
    [40, 40]
    """
    clean, x, names = _design(table, value, group, reference, covariates)
    fit = sm.OLS(clean[value].to_numpy(np.float64), x).fit()
    adjustment = f"adjusted for {', '.join(covariates)}" if covariates else "not adjusted"
    others, n = names[: clean[group].nunique() - 1], len(clean)
    rows = []
    for row in coefficients(
        fit, others, f"mean difference, {adjustment}", n=n, test="OLS t", df=f"{fit.df_resid:.0f}"
    ):
        scaled = [row[key] / np.sqrt(fit.scale) for key in ("estimate", "low", "high")]
        rows += [row, result(row["term"], "difference in residual SD", *scaled, n=n)]
    return pd.DataFrame(rows)


def _design(
    table: pd.DataFrame, value: str, group: str, reference: Any, covariates: Sequence[str]
) -> tuple[pd.DataFrame, NDArray[np.float64], list[str]]:
    """Check the table and make the columns of a regression on groups and covariates."""
    select(table, group, [reference])  # a reference that is not there is named
    clean = check(table, value=value, group=group, covariates=covariates, least=2).table
    return clean, *design(clean, [group, *covariates], references={group: reference})


def negative_binomial(
    table: pd.DataFrame,
    *,
    value: str,
    group: str,
    reference: Any,
    covariates: Sequence[str] = (),
) -> pd.DataFrame:
    """Compare counts by negative binomial regression: rate ratios.

    Counts of lesions or PVS vary between participants more than a Poisson model allows; one that
    ignores this gives intervals that are too short.  So does Wald's z with few participants:
    limits and p are by Student's t with n less the coefficients of the mean.

    Parameters
    ----------
    table, group, reference, covariates
        As in `ancova`.
    value
        Column of counts.

    Returns
    -------
    pandas.DataFrame
        Rate ratio of each other group and of each covariate (per unit).  Where the counts vary
        no more than Poisson's, the model is Poisson's, and `test` says so.

    Raises
    ------
    InputError
        Values that are not counts, a group without any, or a model that does not converge.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> people = pd.DataFrame({"g": ["p"] * 40 + ["c"] * 40})
    >>> people["n"] = rng.negative_binomial(3, 3 / (3 + np.r_[[20.0] * 40, [10.0] * 40]))
    >>> negative_binomial(people, value="n", group="g", reference="c")["term"].tolist()
    ['p - c']
    """
    clean, x, names = _design(table, value, group, reference, covariates)
    counts = clean[value]
    if (counts < 0).any() or (counts != counts.round()).any():
        raise InputError(f"{value}: not counts; give whole numbers from 0")
    empty = [name for name, part in counts.groupby(clean[group], observed=True) if part.max() == 0]
    if empty:
        raise InputError(
            f"{value}: every count of {empty[0]} is 0, so its rate ratio has no finite estimate; "
            "use scipy.stats.permutation_test"
        )
    scale = np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)  # the search needs terms alike
    fit, name = _fit_counts(counts.to_numpy(np.float64), x / scale)
    if fit is None:
        raise InputError(
            f"{value}: the negative binomial model did not converge; take out covariates, or use "
            "scipy.stats.permutation_test"
        )
    rows = []
    df = len(clean) - x.shape[1]
    half = stats.t.ppf(0.975, df) * fit.bse
    for k, term in enumerate(names, start=1):
        values = np.exp((fit.params[k] + np.array([0, -1, 1]) * half[k]) / scale[k])
        rows.append(
            result(
                term, "rate ratio", *values, n=len(clean), test=f"{name}, t",
                statistic=fit.tvalues[k], df=str(df),
                p=2 * stats.t.sf(abs(fit.tvalues[k]), df),
            )
        )  # fmt: skip
    return pd.DataFrame(rows)


def _fit_counts(counts: NDArray[np.float64], x: NDArray[np.float64]) -> tuple[Any, str]:
    """Fit a negative binomial model; where counts vary no more than Poisson's, that is Poisson's.

    The slope of the likelihood at dispersion 0 is half the sum of (y - mu)^2 - y.  Where it is not
    positive, the best dispersion is 0, and a search for it does not end.
    """
    with warnings.catch_warnings(record=True):  # convergence is asked for
        warnings.simplefilter("always")
        try:
            poisson = sm.Poisson(counts, x).fit(disp=0, maxiter=500)
            mean = poisson.predict()
            if poisson.mle_retvals["converged"] and ((counts - mean) ** 2 - counts).sum() <= 0:
                return poisson, "Poisson (no overdispersion)"
            fit = sm.NegativeBinomial(counts, x).fit(disp=0, maxiter=500, method="bfgs")
        except np.linalg.LinAlgError:
            return None, ""
    usable = np.isfinite(fit.bse).all() and fit.mle_retvals["converged"]
    return (fit, "negative binomial") if usable else (None, "")
