"""Compare groups: two proportions from their counts, means with covariates, and counts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import Table2x2
from statsmodels.stats.proportion import confint_proportions_2indep

from pvsbook._errors import InputError
from pvsbook.stats._regression import coefficients, design, regress
from pvsbook.stats.tables import Checked, check, listed, required, result

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
        Odds ratio with limits by Wald (none where a count is 0) and the chi-squared test,
        without and with Yates' correction; odds ratio by conditional likelihood with exact
        limits (Clopper-Pearson on the noncentral hypergeometric distribution) and Fisher's test;
        difference of the proportions with limits by Newcombe's hybrid of Wilson scores.  The
        three tests ask one question: `pvsbook.stats.tables.adjust` takes one of them.

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
    events, n, names = listed(events), listed(n), listed(names)
    if not len(events) == len(n) == len(names) == 2:
        raise InputError("events, n, names: two groups are compared; give two of each")
    events, n = _whole(events, n)
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
                interval="Wald" if table.all() else "",
                statistic=chi2.statistic, df="1", p=chi2.pvalue,
            )
        )  # fmt: skip
    exact = stats.contingency.odds_ratio(table)
    interval = exact.confidence_interval()
    rows.append(
        result(
            term, "odds ratio (conditional, exact CI)", exact.statistic, interval.low,
            interval.high, n=total, test="Fisher, exact", p=stats.fisher_exact(table).pvalue,
            interval="exact",
        )
    )  # fmt: skip
    low, high = confint_proportions_2indep(
        events[0], n[0], events[1], n[1], compare="diff", method="newcomb"
    )
    difference = events[0] / n[0] - events[1] / n[1]
    measure = "difference of proportions (Newcombe CI)"
    rows.append(result(term, measure, difference, low, high, n=total, interval="Newcombe"))
    return pd.DataFrame(rows)


def _whole(events: Sequence[Any], n: Sequence[Any]) -> tuple[list[int], list[int]]:
    try:
        pairs = [(float(e), float(size)) for e, size in zip(events, n, strict=True)]
    except (TypeError, ValueError):
        pairs = [(np.nan, np.nan)]
    for e, size in pairs:
        if not (0 <= e <= size and size > 0 and e.is_integer() and size.is_integer()):
            raise InputError(
                f"events, n: {list(events)} of {list(n)}; give whole numbers, 0 <= events <= n"
            )
    return [int(e) for e, _ in pairs], [int(size) for _, size in pairs]


def ancova(
    table: pd.DataFrame,
    *,
    value: str,
    group: str,
    reference: Any,
    covariates: Sequence[str] = (),
    person: str | None = None,
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
    person
        Column of participants; one who stands in two rows is then refused by name.

    Returns
    -------
    pandas.DataFrame
        For each other group the adjusted difference of means with limits by Student's t, and the
        same in units of the residual standard deviation (without covariates that is Cohen's d,
        pooled) with limits by the noncentral t distribution.

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
    checked, x, names, _ = _design(table, value, group, reference, covariates, person)
    fit = regress(checked.table[value], x, str(value))
    named = ", ".join(map(str, listed(covariates)))
    others = names[: checked.table[group].nunique() - 1]
    few = slice(1, len(others) + 1)
    rows = []
    for row, error in zip(
        coefficients(
            fit.params[few], fit.bse[few], others,
            f"mean difference, {f'adjusted for {named}' if named else 'not adjusted'}",
            df=fit.df_resid, test="OLS t", **checked.counts,
        ),
        fit.bse[few], strict=True,
    ):  # fmt: skip
        unit = error / np.sqrt(fit.scale)  # of t, in residual standard deviations
        limits = _noncentral_t(row["statistic"], fit.df_resid)
        scaled = [unit * t for t in (row["statistic"], *limits)]
        about: dict[str, Any] = {"interval": "noncentral t", **checked.counts}
        rows += [row, result(row["term"], "difference in residual SD", *scaled, **about)]
    return pd.DataFrame(rows)


def _noncentral_t(t: float, df: float) -> list[float]:
    """Limits of the noncentrality of which `t` is at the 97.5th and at the 2.5th percentile.

    The distribution is integrated over the standard deviation; scipy's gives NaN here and there.
    """
    nodes, weights = np.polynomial.legendre.leggauss(200)
    spread = np.sqrt(stats.chi2.ppf((nodes + 1) / 2, df) / df)
    reach = 10 * np.sqrt(1 + t**2 / (2 * df))

    def beyond(noncentrality: float, level: float) -> float:
        return weights @ stats.norm.cdf(t * spread - noncentrality) / 2 - level

    return [
        optimize.brentq(beyond, t - reach, t + reach, args=(level,)) for level in (0.975, 0.025)
    ]


def _design(
    table: pd.DataFrame, value: str, group: str, reference: Any, covariates: Any, person: Any
) -> tuple[Checked, NDArray[np.float64], list[str], NDArray[np.float64]]:
    """Check the table and make the columns of a regression on groups and covariates."""
    required(group=group)
    checked = check(table, value=value, group=group, covariates=covariates, person=person, least=2)
    base = reference.strip() if isinstance(reference, str) else reference
    present = list(checked.table[group].unique())
    if base not in present:
        raise InputError(
            f"{group}: no {base!r} in the table; it has {', '.join(map(repr, present))}"
        )
    columns = [group, *listed(covariates)]
    return checked, *design(checked.table, columns, references={group: base})


def negative_binomial(
    table: pd.DataFrame,
    *,
    value: str,
    group: str,
    reference: Any,
    covariates: Sequence[str] = (),
    person: str | None = None,
) -> pd.DataFrame:
    """Compare counts by negative binomial regression: rate ratios.

    Counts of lesions or PVS vary between participants more than a Poisson model allows; one that
    ignores this gives intervals that are too short.  So does Wald's z with few participants:
    limits and p are by Student's t with n less the coefficients of the mean.

    Parameters
    ----------
    table, group, reference, covariates, person
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
    checked, x, names, scale = _design(table, value, group, reference, covariates, person)
    clean = checked.table
    counts = clean[value]
    if (counts < 0).any() or (counts != counts.round()).any():
        raise InputError(f"{value}: not counts; give whole numbers from 0")
    empty = [name for name, part in counts.groupby(clean[group], observed=True) if part.max() == 0]
    if empty:
        raise InputError(
            f"{value}: every count of {empty[0]} is 0, so its rate ratio has no finite estimate; "
            "use scipy.stats.permutation_test"
        )
    fit, name = _fit_counts(counts.to_numpy(np.float64), x)
    if fit is None:
        raise InputError(
            f"{value}: the negative binomial model did not converge; take out covariates, or use "
            "scipy.stats.permutation_test"
        )
    few = slice(1, len(names) + 1)
    rows = coefficients(
        fit.params[few] / scale[1:], fit.bse[few] / scale[1:], names, "rate ratio",
        df=len(clean) - x.shape[1], exponential=True, test=f"{name}, t", **checked.counts,
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
