"""Change over two visits: change scores, factorial ANOVA, mixed models."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import optimize, stats

from pvsbook._errors import InputError
from pvsbook.stats._regression import coefficients, design, regress
from pvsbook.stats.tables import Checked, check, listed, pair, required, result

__all__ = ["change_regression", "change_scores", "mixed_anova", "mixed_model"]


_WIDE = ("first", "second", "mean", "change")  # columns that `change_scores` adds


def change_scores(
    table: pd.DataFrame,
    *,
    value: str,
    group: str,
    time: str,
    person: str,
    order: Sequence,
    covariates: Sequence[str] = (),
) -> Checked:
    """Put the two visits of each participant side by side; list who has only one.

    Parameters
    ----------
    table
        One row per participant and visit.
    value, group, time, person
        Columns.
    order
        The first and the second visit.
    covariates
        Columns that do not change, taken from the first visit, or from the second where the
        first lacks one.

    Returns
    -------
    Checked
        `table` has person, group, covariates, ``first``, ``second``, ``mean`` and ``change``.

    Raises
    ------
    InputError
        As `pvsbook.stats.tables.check`, not two visits, or a column with the name of one that
        comes out.

    Examples
    --------
    >>> scans = pd.DataFrame({"person": list("aabbccddeeff"), "visit": [1, 2] * 6,
    ...     "group": ["MS"] * 6 + ["control"] * 6, "chi": np.arange(12.0)})
    >>> wide = change_scores(scans, value="chi", group="group", time="visit", person="person",
    ...                      order=(1, 2))
    >>> wide.table["change"].tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    return _wide(table, value, group, None, time, person, order, covariates)


def _wide(
    table: pd.DataFrame, value: str, group: str, groups: Sequence | None, time: str, person: str,
    order: Sequence, covariates: Any,
) -> Checked:  # fmt: skip
    required(group=group, time=time, person=person)
    order, covariates = pair("order", order), listed(covariates)
    taken = [c for c in (person, group, *covariates) if c in _WIDE]
    if taken:
        raise InputError(
            f"table: a column {', '.join(map(repr, taken))}, which is the name of a result; "
            "rename it"
        )
    checked = check(
        table, value=value, person=person, time=time, group=group, covariates=covariates,
        groups=groups, times=order, complete=True, least=2,
    )  # fmt: skip
    rows = checked.table
    first = rows[rows[time] == order[0]].set_index(person)
    second = rows[rows[time] == order[1]].set_index(person)[value].reindex(first.index)
    wide = first[[group, *covariates]].copy()
    wide["first"], wide["second"] = first[value].astype(np.float64), second.astype(np.float64)
    wide["mean"] = (wide["first"] + wide["second"]) / 2
    wide["change"] = wide["second"] - wide["first"]
    return Checked(wide.reset_index(), checked.dropped, checked.n, checked.rows)


def mixed_anova(
    table: pd.DataFrame,
    *,
    value: str,
    group: str,
    time: str,
    person: str,
    order: Sequence,
) -> pd.DataFrame:
    """Test group, time and their interaction, by type II and by type III sums of squares.

    With unequal groups the two ask different questions of *time*: type II weights the groups by
    their size, type III (SPSS's) gives each the same weight.  Neither main effect means much
    where the groups change differently: read the interaction first, which is the same in both.
    pingouin gives type II alone, and neither it nor statsmodels gives limits of eta squared.

    Parameters
    ----------
    table, value, group, time, person, order
        As in `change_scores`: two visits.

    Returns
    -------
    pandas.DataFrame
        Six rows: partial eta squared of interaction, group and time of each type, with limits by
        the noncentral F distribution.

    Raises
    ------
    InputError
        As `change_scores`.

    References
    ----------
    Type II as pingouin computes it, doi:10.21105/joss.01026.  With two visits, time of type II is
    the mean of all change scores, and of type III the intercept of the change scores on
    sum-coded groups.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> scans = pd.DataFrame({"person": np.repeat(np.arange(40), 2), "visit": [1, 2] * 40,
    ...     "group": ["MS"] * 60 + ["control"] * 20, "chi": rng.normal(size=80)})
    >>> tests = mixed_anova(scans, value="chi", group="group", time="visit", person="person",
    ...                     order=(1, 2))
    >>> tests["test"].tolist() == ["F, type II"] * 3 + ["F, type III"] * 3
    True
    """
    checked = change_scores(table, value=value, group=group, time=time, person=person, order=order)
    wide = checked.table
    codes, labels = pd.factorize(wide[group])
    coding = np.vstack([np.eye(len(labels) - 1), -np.ones(len(labels) - 1)])
    x = np.column_stack([np.ones(len(wide)), coding[codes]])  # groups coded to sum to zero
    size = wide["first"].abs().max()
    change, mean = (
        regress(wide[name], x, f"{value}, {name}", size=size) for name in ("change", "mean")
    )
    intercept, of_groups = np.eye(len(labels))[:1], np.eye(len(labels))[1:]
    interaction, between = change.f_test(of_groups), mean.f_test(of_groups)
    weighted = len(wide) * wide["change"].mean() ** 2 / change.scale
    rows = []
    for kind, of_time in (("II", weighted), ("III", change.f_test(intercept).fvalue)):
        for term, f in (
            ("interaction", interaction.fvalue), ("group", between.fvalue), ("time", of_time)
        ):  # fmt: skip
            df1 = 1 if term == "time" else len(labels) - 1
            values = (float(f), df1, change.df_resid)
            rows.append(_f_row(term, f"F, type {kind}", *values, checked.counts))
    return pd.DataFrame(rows)


def _f_row(term: str, test: str, f: float, df1: float, df2: float, counts: dict[str, Any]) -> dict:
    """Partial eta squared of an F, with limits from the noncentral F distribution."""
    limits = []
    for level in (0.975, 0.025):
        if stats.f.cdf(f, df1, df2) <= level:
            limits.append(0.0)
            continue
        noncentrality = optimize.brentq(
            lambda nc, level=level: stats.ncf.cdf(f, df1, df2, nc) - level, 0, 10 * df1 * f + 100
        )
        limits.append(noncentrality / (noncentrality + df1 + df2 + 1))
    return result(
        term, "partial eta squared", f * df1 / (f * df1 + df2), *limits, test=test,
        interval="noncentral F", statistic=f, df=f"{df1:.0f}, {df2:.0f}",
        p=float(stats.f.sf(f, df1, df2)), **counts,
    )  # fmt: skip


def mixed_model(
    table: pd.DataFrame,
    *,
    value: str,
    group: str,
    time: str,
    person: str,
    order: Sequence,
    groups: Sequence[str],
    covariates: Sequence[str] = (),
) -> pd.DataFrame:
    """Fit a random-intercept model by REML: everyone counts, with one visit or two.

    Group and time are sum-coded with a step of one, so that each coefficient is a difference in
    the unit of the value: *group* at the average of the visits, *time* averaged over the two
    groups with equal weight (type III), and the *difference of changes*.  With missing visits it
    is right if who is missing depends only on what was seen (missing at random), which the data
    cannot tell.

    Limits and p are by Student's t with between-within degrees of freedom (Schluchter and
    Elashoff 1990).  What varies within participants (time, difference of changes, a covariate
    that changes) has those with both visits, less these terms; what does not (group, other
    covariates) has all participants, less intercept and these terms.  On complete data without
    covariates that is n - 2, and estimates, t and p are those of type III wherever participants
    differ at all.  With the normal distribution, 7 to 9 % of null studies of 10 to 25 people
    come out below .05 (``benchmarks/stats.py``); Kenward and Roger's degrees of freedom,
    finer with missing visits, are not in statsmodels.

    Parameters
    ----------
    table, value, group, time, person, order, covariates
        As in `change_scores`.
    groups
        The two groups: first less second.

    Returns
    -------
    pandas.DataFrame
        Rows ``group``, ``time``, ``difference of changes``, covariates, and the share of the
        variance that is between participants (no limits).  `n` counts participants.

    Raises
    ------
    InputError
        As `change_scores`, too few participants with both visits, or no convergence.

    References
    ----------
    Schluchter and Elashoff 1990, doi:10.1080/00949659008811295.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> people = np.repeat(rng.normal(0, 3, 40), 2)
    >>> scans = pd.DataFrame({"person": np.repeat(np.arange(40), 2), "visit": [1, 2] * 40,
    ...     "group": ["MS"] * 60 + ["control"] * 20, "chi": people + rng.normal(size=80)})
    >>> mixed_model(scans[:-1], value="chi", group="group", time="visit", person="person",
    ...             order=(1, 2), groups=("MS", "control"))["term"].tolist()
    ['group', 'time', 'difference of changes', 'intraclass correlation']
    """
    required(group=group, time=time, person=person)
    order, groups = pair("order", order), pair("groups", groups)
    checked = check(
        table, value=value, person=person, time=time, group=group, covariates=covariates,
        groups=groups, times=order, least=2,
    )  # fmt: skip
    rows = checked.table
    if set(rows[time]) != set(order) or set(rows[group]) != set(groups):
        raise InputError(f"{time}, {group}: not all of {order}, {groups} are in complete rows")
    is_first = np.where(rows[group] == groups[0], 0.5, -0.5)
    is_later = np.where(rows[time] == order[1], 0.5, -0.5)
    effects = {"group": is_first, "time": is_later, "difference of changes": is_first * is_later}
    x, names, scale = design(rows, listed(covariates), first=effects)
    who = pd.factorize(rows[person])[0]
    df = _between_within(x, who)
    unit = rows[value].std()
    y = (rows[value].to_numpy(np.float64) - rows[value].mean()) / unit
    fit = _fit_mixed(sm.MixedLM(y, x, groups=who))
    if fit is None or fit.scale < 1e-18:
        raise InputError(
            f"{value}: the mixed model did not converge; are there participants with "
            "both visits, and do their values differ?"
        )
    per = unit / scale[1:]
    results = coefficients(
        fit.fe_params[1:] * per, fit.bse_fe[1:] * per, names, "mixed model coefficient",
        df=df, test="MixedLM (REML), t", **checked.counts,
    )  # fmt: skip
    between = float(np.asarray(fit.cov_re)[0, 0])
    share = between / (between + fit.scale)
    measure = "share of variance between participants"
    results.append(result("intraclass correlation", measure, share, **checked.counts))
    return pd.DataFrame(results)


def _fit_mixed(model: Any) -> Any:
    """Search with the gradient; where that stops at no variance between participants, without."""
    for method in (None, ["powell"]):
        with warnings.catch_warnings(record=True):  # convergence is asked for
            warnings.simplefilter("always")
            try:
                fit = model.fit(reml=True, method=method)
            except np.linalg.LinAlgError:
                continue
        if fit.converged and np.isfinite(fit.bse_fe).all():
            return fit
    return None


def _between_within(x: NDArray[np.float64], who: NDArray[np.int64]) -> list[float]:
    """Degrees of freedom of each term after the intercept, by whether it varies in a person."""
    means = np.column_stack([np.bincount(who, column) for column in x.T])[who]
    varies = np.abs(x - means / np.bincount(who)[who, None]).max(axis=0) > 1e-9
    n = who.max() + 1
    within, between = len(who) - n - varies.sum(), n - (~varies).sum()
    if within < 1 or between < 1:
        raise InputError(
            f"person: {len(who) - n} of {n} participants have both visits, for "
            f"{x.shape[1] - 1} terms; more are needed, or fewer covariates"
        )
    return list(np.where(varies, within, between)[1:])


def change_regression(
    table: pd.DataFrame,
    *,
    value: str,
    group: str,
    time: str,
    person: str,
    order: Sequence,
    groups: Sequence[str],
    covariates: Sequence[str] = (),
) -> pd.DataFrame:
    """Regress the change on group, without and with the first value.

    The two ask different questions and can differ in sign where groups differ at the start
    (Lord's paradox).  Adjusting for a first value that is measured with error makes a difference
    at the start look like a difference of change; in observational groups the change score is
    the safer one.

    Parameters
    ----------
    table, value, group, time, person, order, groups, covariates
        As in `mixed_model`.  Participants of other groups are left out before anything is fitted.

    Returns
    -------
    pandas.DataFrame
        Two rows: the difference of change scores, and the same adjusted for the first value, with
        limits by Student's t.

    Raises
    ------
    InputError
        As `change_scores`, or not two groups that are there.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> scans = pd.DataFrame({"person": np.repeat(np.arange(40), 2), "visit": [1, 2] * 40,
    ...     "group": ["MS"] * 60 + ["control"] * 20, "chi": rng.normal(size=80)})
    >>> len(change_regression(scans, value="chi", group="group", time="visit", person="person",
    ...                       order=(1, 2), groups=("MS", "control")))
    2
    """
    groups = pair("groups", groups)
    checked = _wide(table, value, group, groups, time, person, order, covariates)
    wide, term = checked.table, f"change, {groups[0]} - {groups[1]}"
    if set(wide[group]) != set(groups):
        raise InputError(f"{group}: not both of {groups} are in complete rows")
    rows = []
    for measure, more in (("change score", ()), ("adjusted for the first value", ("first",))):
        columns = [group, *listed(covariates), *more]
        x, _, _ = design(wide, columns, references={group: groups[1]})
        size = wide["first"].abs().max()
        fit = regress(wide["change"], x, f"{value}, change", size=size)
        rows += coefficients(
            fit.params[1:2], fit.bse[1:2], [term], measure, df=fit.df_resid, test="OLS t",
            **checked.counts,
        )  # fmt: skip
    return pd.DataFrame(rows)
