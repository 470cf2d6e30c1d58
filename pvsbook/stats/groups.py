"""Compare groups: proportions, means with covariates, ranks, permutations and counts."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np
import pandas as pd
import pingouin
import statsmodels.api as sm
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import Table2x2
from statsmodels.stats.nonparametric import rank_compare_2indep
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from pvsbook._errors import InputError
from pvsbook.stats.tables import adjust, check, design, result, select

__all__ = [
    "ancova",
    "compare_counts",
    "kruskal_wallis",
    "mann_whitney",
    "negative_binomial",
    "permutation",
    "proportion",
    "welch",
    "welch_from_summary",
]


def proportion(events: int, n: int, *, name: str = "proportion") -> pd.DataFrame:
    """Return a proportion with its 95 % confidence interval by Wilson.

    Wilson's interval stays inside 0 to 1 and keeps its coverage in small groups, where the
    textbook interval (Wald's) does not.

    Raises
    ------
    InputError
        More events than people, or none at all.

    Examples
    --------
    >>> proportion(10, 34)[["low", "high"]].round(2).to_numpy().tolist()
    [[0.17, 0.46]]
    """
    _counts(events, n)
    low, high = proportion_confint(events, n, method="wilson")
    return pd.DataFrame([result(name, "proportion (Wilson CI)", events / n, low, high, n=n)])


def compare_counts(
    events: Sequence[int], n: Sequence[int], *, names: Sequence[str] = ("first", "second")
) -> pd.DataFrame:
    """Compare two proportions from their counts, by every test that a paper may have used.

    Parameters
    ----------
    events, n
        Events and people of the two groups.
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
        Not two groups, more events than people, or events in no one or in everyone.

    Examples
    --------
    >>> found = compare_counts((10, 4), (34, 46), names=("NMOSD", "controls"))
    >>> found[["test", "p"]].round(3).to_numpy().tolist()
    [['chi-squared', 0.016], ['chi-squared, Yates', 0.035], ['Fisher, exact', 0.02], ['', nan]]
    """
    if not len(events) == len(n) == len(names) == 2:
        raise InputError("events, n, names: two groups are compared; give two of each")
    for e, of in zip(events, n, strict=True):
        _counts(e, of)
    if sum(events) in (0, sum(n)):
        raise InputError(f"events: {tuple(events)} of {tuple(n)}; the groups cannot differ")
    table = np.array([[e, of - e] for e, of in zip(events, n, strict=True)])
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


def _counts(events: int, n: int) -> None:
    if not (0 <= events <= n and n > 0 and events == int(events) and n == int(n)):
        raise InputError(f"events, n: {events} of {n}; give whole numbers, 0 <= events <= n")


def welch(table: pd.DataFrame, *, value: str, group: str, order: Sequence[str]) -> pd.DataFrame:
    """Compare two means by Welch's t test; also the standardised difference d.

    Parameters
    ----------
    table
        One row a person.
    value, group
        Columns.
    order
        The two groups: first less second.

    Raises
    ------
    InputError
        As `pvsbook.stats.tables.check`, or a group of `order` that is not in the table.

    Examples
    --------
    >>> people = pd.DataFrame({"alps": [1.2, 1.3, 1.4, 1.3, 1.5, 1.6], "g": list("pppccc")})
    >>> welch(people, value="alps", group="g", order=("p", "c"))["estimate"].round(2).tolist()
    [-0.17, -1.29]
    """
    a, b = _two(table, value, group, order)
    found = stats.ttest_ind(a, b, equal_var=False)
    limits = found.confidence_interval()
    d = pingouin.compute_effsize(a, b, eftype="cohen")
    return _welch_rows(order, (a.mean() - b.mean(), *limits), found, d, len(a), len(b))


def welch_from_summary(
    mean: Sequence[float],
    sd: Sequence[float],
    n: Sequence[int],
    *,
    names: Sequence[str] = ("first", "second"),
) -> pd.DataFrame:
    """Compare two means from published means, standard deviations and numbers of people.

    Raises
    ------
    InputError
        A standard deviation that is not positive, or a group of fewer than two.

    Examples
    --------
    >>> found = welch_from_summary((1.47, 1.45), (0.10, 0.17), (39, 21))
    >>> float(found["p"][0].round(2)), float(found["estimate"][1].round(2))
    (0.62, 0.16)
    """
    if min(sd) <= 0 or min(n) < 2:
        raise InputError(f"sd, n: {tuple(sd)}, {tuple(n)}; sd must be positive, n at least 2")
    found = stats.ttest_ind_from_stats(mean[0], sd[0], n[0], mean[1], sd[1], n[1], equal_var=False)
    parts = [s**2 / k for s, k in zip(sd, n, strict=True)]
    dof = sum(parts) ** 2 / sum(p**2 / (k - 1) for p, k in zip(parts, n, strict=True))
    half = stats.t.ppf(0.975, dof) * np.sqrt(sum(parts))
    difference = mean[0] - mean[1]
    pooled = np.sqrt(((n[0] - 1) * sd[0] ** 2 + (n[1] - 1) * sd[1] ** 2) / (sum(n) - 2))
    limits = (difference, difference - half, difference + half)
    return _welch_rows(names, limits, found, difference / pooled, n[0], n[1], df=dof)


def _welch_rows(names, limits, found, d, n1, n2, df=None) -> pd.DataFrame:  # type: ignore[no-untyped-def]
    term = f"{names[0]} - {names[1]}"
    dof = found.df if df is None else df
    of_d = pingouin.compute_esci(d, n1, n2, eftype="cohen", decimals=6)
    first = result(
        term, "mean difference", *limits, n=n1 + n2, test="Welch t", statistic=found.statistic,
        df=f"{dof:.1f}", p=found.pvalue,
    )  # fmt: skip
    return pd.DataFrame([first, result(term, "Cohen d (pooled SD)", d, *of_d, n=n1 + n2)])


def _two(
    table: pd.DataFrame, value: str, group: str, order: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    _known(table, group, order)
    chosen = select(table, group, order)
    clean = check(chosen, value=value, group=group, least=2).table
    a, b = (clean.loc[clean[group] == name, value].to_numpy(np.float64) for name in order)
    return a, b


def _known(table: pd.DataFrame, group: str, names: Sequence[str]) -> None:
    if not isinstance(table, pd.DataFrame) or group not in table:
        check(table, value=group)
    labels = {v.strip() if isinstance(v, str) else v for v in table[group]}
    unknown = [name for name in names if name not in labels]
    if unknown:
        raise InputError(f"{group}: no {', '.join(map(repr, unknown))} in the table")


def ancova(
    table: pd.DataFrame,
    *,
    value: str,
    group: str,
    reference: str,
    covariates: Sequence[str] = (),
) -> pd.DataFrame:
    """Compare group means adjusted for covariates, by ordinary least squares.

    Parameters
    ----------
    table
        One row a person.
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
        As `pvsbook.stats.tables.check`, or more columns than people can carry.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> people = pd.DataFrame({"g": list("pc") * 20, "age": rng.normal(45, 10, 40)})
    >>> people["y"] = 1.5 - 0.1 * (people["g"] == "p") + 0.02 * rng.normal(size=40)
    >>> ancova(people, value="y", group="g", reference="c", covariates=["age"])["n"].tolist()
    [40, 40]
    """
    _known(table, group, [reference])
    clean = check(table, value=value, group=group, covariates=covariates, least=2).table
    x, names = design(clean, [group, *covariates], references={group: reference})
    y = clean[value].to_numpy(np.float64)
    fit = sm.OLS(y, x).fit()
    limits = fit.conf_int()
    spread = np.sqrt(fit.scale)
    rows = []
    for k in range(1, clean[group].nunique()):
        term = names[k - 1]
        given = f"adjusted for {', '.join(covariates)}" if covariates else "not adjusted"
        values = (fit.params[k], *limits[k])
        rows.append(
            result(
                term, f"mean difference, {given}", *values, n=len(clean), test="OLS t",
                statistic=fit.tvalues[k], df=f"{fit.df_resid:.0f}", p=fit.pvalues[k],
            )
        )  # fmt: skip
        scaled = [v / spread for v in values]
        rows.append(result(term, "difference in residual SD", *scaled, n=len(clean)))
    return pd.DataFrame(rows)


def kruskal_wallis(
    table: pd.DataFrame, *, value: str, group: str, rng: Generator, n_resamples: int = 999
) -> pd.DataFrame:
    """Compare several groups by ranks; the effect size is epsilon squared.

    Parameters
    ----------
    table
        One row a person.
    value, group
        Columns.
    rng
        Of the bootstrap behind the interval.
    n_resamples
        Bootstrap draws.

    Raises
    ------
    InputError
        As `pvsbook.stats.tables.check`.

    Examples
    --------
    >>> people = pd.DataFrame({"n": [1, 2, 3, 4, 5, 6, 7, 8, 9], "g": list("aaabbbccc")})
    >>> found = kruskal_wallis(people, value="n", group="g", rng=np.random.default_rng(0))
    >>> found["p"].round(3).tolist()
    [0.027]
    """
    clean = check(table, value=value, group=group).table
    samples = [part[value].to_numpy(np.float64) for _, part in clean.groupby(group, observed=True)]
    if np.ptp(np.concatenate(samples)) == 0:
        raise InputError(f"{value}: every value is the same, so there is nothing to compare")
    found = stats.kruskal(*samples)

    def epsilon_squared(*parts: np.ndarray) -> float:
        try:
            return float(stats.kruskal(*parts).statistic / (len(clean) - 1))
        except ValueError:  # a draw in which every value is the same
            return 0.0

    interval = stats.bootstrap(
        samples, epsilon_squared, n_resamples=n_resamples, rng=rng, method="percentile",
        vectorized=False,
    ).confidence_interval  # fmt: skip
    return pd.DataFrame(
        [
            result(
                group, "epsilon squared (bootstrap CI)", epsilon_squared(*samples), interval.low,
                interval.high, n=len(clean), test="Kruskal-Wallis", statistic=found.statistic,
                df=str(len(samples) - 1), p=found.pvalue,
            )
        ]
    )  # fmt: skip


def permutation(
    table: pd.DataFrame,
    *,
    value: str,
    group: str,
    order: Sequence[str],
    rng: Generator,
    most: int = 200_000,
) -> pd.DataFrame:
    """Compare two means by permuting the labels: exactly, where there are few enough ways.

    Parameters
    ----------
    table, value, group, order
        As in `welch`.
    rng
        Used only where the ways are drawn.
    most
        With more ways than this, 9999 of them are drawn; the column ``test`` says which it was.

    Raises
    ------
    InputError
        As `welch`.

    Examples
    --------
    >>> people = pd.DataFrame({"n": [5.0, 6, 7, 8, 1, 2, 3], "g": list("ppppccc")})
    >>> found = permutation(people, value="n", group="g", order="pc", rng=np.random.default_rng(0))
    >>> found["test"][0], float(found["p"][0].round(3))
    ('permutation, exact (35 ways)', 0.057)
    """
    a, b = _two(table, value, group, order)
    ways = comb(len(a) + len(b), len(a))
    exact = ways <= most
    found = stats.permutation_test(
        (a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), vectorized=True, rng=rng,
        n_resamples=np.inf if exact else 9999,
    )  # fmt: skip
    limits = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    name = f"permutation, exact ({ways} ways)" if exact else "permutation, 9999 drawn"
    return pd.DataFrame(
        [
            result(
                f"{order[0]} - {order[1]}", "mean difference (Welch CI)", a.mean() - b.mean(),
                *limits, n=len(a) + len(b), test=name, statistic=found.statistic, p=found.pvalue,
            )
        ]
    )  # fmt: skip


def mann_whitney(
    table: pd.DataFrame,
    *,
    value: str,
    group: str,
    pairs: Sequence[Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Compare groups pairwise by ranks, with Holm's correction over the pairs.

    The estimate is the chance that someone of the first group has the larger value (ties count
    half), with limits by Brunner and Munzel; the p-value is Mann and Whitney's, exact where there
    are no ties.  The two can disagree at the edge, in small groups.

    Parameters
    ----------
    table
        One row a person.
    value, group
        Columns.
    pairs
        Pairs of groups; all of them by default.

    Raises
    ------
    InputError
        As `welch`.

    Examples
    --------
    >>> people = pd.DataFrame({"n": [5.0, 6, 7, 8, 1, 2, 9], "g": list("ppppccc")})
    >>> mann_whitney(people, value="n", group="g")["estimate"].round(2).tolist()
    [0.33]
    """
    _known(table, group, [])
    names = sorted(table[group].dropna().unique())
    if pairs is None and len(names) < 2:
        raise InputError(f"{group}: {len(names)} group in the table; two are needed")
    rows = []
    for pair in itertools.combinations(names, 2) if pairs is None else pairs:
        a, b = _two(table, value, group, pair)
        if np.ptp(np.r_[a, b]) == 0:
            raise InputError(f"{value}: every value is the same, so there is nothing to compare")
        ties = len(np.unique(np.r_[a, b])) < len(a) + len(b)
        found = stats.mannwhitneyu(a, b, method="asymptotic" if ties else "exact")
        apart = a.min() > b.max() or b.min() > a.max()  # then the limits are undefined
        chance = found.statistic / (len(a) * len(b))
        limits = (np.nan, np.nan)
        if not apart:
            limits = np.clip(rank_compare_2indep(a, b, use_t=True).conf_int(), 0, 1)
        rows.append(
            result(
                f"{pair[0]} - {pair[1]}", "chance to be larger (Brunner-Munzel CI)", chance,
                *limits, n=len(a) + len(b), statistic=found.statistic, p=found.pvalue,
                test=f"Mann-Whitney, {'normal' if ties else 'exact'}",
            )
        )  # fmt: skip
    return adjust(pd.DataFrame(rows))


def negative_binomial(
    table: pd.DataFrame,
    *,
    value: str,
    group: str,
    reference: str,
    covariates: Sequence[str] = (),
) -> pd.DataFrame:
    """Compare counts by negative binomial regression: rate ratios.

    Counts of lesions or spaces vary between people more than a Poisson model allows; one that
    ignores this gives intervals that are too short.  So does Wald's z with few people: limits and
    p are by Student's t with n less the coefficients of the mean.

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
    _known(table, group, [reference])
    clean = check(table, value=value, group=group, covariates=covariates, least=2).table
    counts = clean[value]
    if (counts < 0).any() or (counts != counts.round()).any():
        raise InputError(f"{value}: not counts; give whole numbers from 0")
    none = [name for name, part in counts.groupby(clean[group], observed=True) if part.max() == 0]
    if none:
        raise InputError(
            f"{value}: every count of {none[0]} is 0, so its rate ratio has no finite estimate; "
            "use `permutation`"
        )
    x, names = design(clean, [group, *covariates], references={group: reference})
    scale = np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)  # the search needs terms alike
    fit, name = _fit_counts(counts.to_numpy(np.float64), x / scale)
    if fit is None:
        raise InputError(
            f"{value}: the negative binomial model did not converge; take out covariates, or use "
            "`permutation`"
        )
    rows = []
    df = len(clean) - x.shape[1]
    reach = stats.t.ppf(0.975, df) * fit.bse
    for k, term in enumerate(names, start=1):
        values = np.exp((fit.params[k] + np.array([0, -1, 1]) * reach[k]) / scale[k])
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
            plain = sm.Poisson(counts, x).fit(disp=0, maxiter=500)
            mean = plain.predict()
            if plain.mle_retvals["converged"] and ((counts - mean) ** 2 - counts).sum() <= 0:
                return plain, "Poisson (no overdispersion)"
            fit = sm.NegativeBinomial(counts, x).fit(disp=0, maxiter=500, method="bfgs")
        except np.linalg.LinAlgError:
            return None, ""
    usable = np.isfinite(fit.bse).all() and fit.mle_retvals["converged"]
    return (fit, "negative binomial") if usable else (None, "")
