"""Change over two visits: factorial ANOVA, change scores, mixed models, effect sizes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pingouin
import statsmodels.api as sm
from numpy.random import Generator
from numpy.typing import ArrayLike
from scipy import optimize, stats

from pvsbook._errors import InputError
from pvsbook.stats.tables import Checked, check, design, result, select

__all__ = [
    "change_regression",
    "change_scores",
    "change_test",
    "mixed_anova",
    "mixed_model",
    "paired_effects",
    "regression_to_mean",
]


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
    """Put the two visits of each person side by side; list who has only one.

    Parameters
    ----------
    table
        One row a person and visit.
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
    >>> found = change_scores(scans, value="chi", group="group", time="visit", person="person",
    ...                       order=(1, 2))
    >>> found.table["change"].tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    if len(order) != 2:
        raise InputError(f"order: {tuple(order)}; name two visits, first and second")
    taken = [c for c in (person, group, *covariates) if c in _WIDE]
    if taken:
        raise InputError(
            f"table: a column {', '.join(map(repr, taken))}, which is the name of a result; "
            "rename it"
        )
    table = select(table, time, order)
    checked = check(
        table, value=value, person=person, time=time, group=group, covariates=covariates,
        complete=True, least=2,
    )  # fmt: skip
    rows = checked.table
    first = rows[rows[time] == order[0]].set_index(person)
    second = rows[rows[time] == order[1]].set_index(person)[value].reindex(first.index)
    wide = first[list(dict.fromkeys([group, *covariates]))].copy()
    wide["first"], wide["second"] = first[value].astype(np.float64), second.astype(np.float64)
    wide["mean"] = (wide["first"] + wide["second"]) / 2
    wide["change"] = wide["second"] - wide["first"]
    return Checked(wide.reset_index(), checked.dropped)


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

    Parameters
    ----------
    table, value, group, time, person, order
        As in `change_scores`: two visits.

    Returns
    -------
    pandas.DataFrame
        Six rows: partial eta squared of interaction, group and time of each type; `low` and
        `high` by the noncentral F distribution.

    Raises
    ------
    InputError
        As `change_scores`.

    References
    ----------
    Type II as pingouin computes it, doi:10.21105/joss.01026; with two visits, type III of time is
    the intercept of the change scores on sum-coded groups.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> scans = pd.DataFrame({"person": np.repeat(np.arange(40), 2), "visit": [1, 2] * 40,
    ...     "group": ["MS"] * 60 + ["control"] * 20, "chi": rng.normal(size=80)})
    >>> found = mixed_anova(scans, value="chi", group="group", time="visit", person="person",
    ...                     order=(1, 2))
    >>> found["test"].tolist() == ["F, type II"] * 3 + ["F, type III"] * 3
    True
    """
    checked = change_scores(table, value=value, group=group, time=time, person=person, order=order)
    wide = checked.table
    long = pd.DataFrame(  # with names of our own: the user's may be those of pingouin
        {
            "person": np.tile(np.arange(len(wide)), 2),
            "group": np.tile(pd.factorize(wide[group], sort=True)[0], 2),
            "time": np.repeat(["first", "second"], len(wide)),
            "value": np.r_[wide["first"], wide["second"]],
        }
    )
    with warnings.catch_warnings():  # pingouin 0.7 calls pandas in ways that pandas 3 deprecates
        warnings.simplefilter("ignore")
        two = pingouin.mixed_anova(long, "value", within="time", subject="person", between="group")
    two = two.set_index("Source")
    rows = [
        _f_row(name, "F, type II", row["F"], row["DF1"], row["DF2"], len(wide))
        for name, row in (
            ("interaction", two.loc["Interaction"]),
            ("group", two.loc["group"]),
            ("time", two.loc["time"]),
        )
    ]
    for name, source, of_groups in (
        ("interaction", "change", True),
        ("group", "mean", True),
        ("time", "change", False),
    ):
        row = _type_three(wide[source], wide[group], of_groups=of_groups)
        rows.append(_f_row(name, "F, type III", *row, len(wide)))
    return pd.DataFrame(rows)


def _type_three(
    values: pd.Series, groups: pd.Series, *, of_groups: bool
) -> tuple[float, float, float]:
    """F and degrees of freedom of sum-coded groups, or of their unweighted mean."""
    codes, names = pd.factorize(groups, sort=True)
    last = len(names) - 1
    x = np.ones((len(values), last + 1))
    for k in range(last):
        x[:, k + 1] = np.where(codes == k, 1.0, np.where(codes == last, -1.0, 0.0))
    fit = sm.OLS(values.to_numpy(np.float64), x).fit()
    chosen = np.eye(last + 1)[1:] if of_groups else np.eye(last + 1)[:1]
    found = fit.f_test(chosen)
    return float(found.fvalue), float(found.df_num), float(found.df_denom)


def _f_row(term: str, test: str, f: float, df1: float, df2: float, n: int) -> dict:
    limits = []
    for level in (0.975, 0.025):
        if stats.f.cdf(f, df1, df2) <= level:
            limits.append(0.0)
            continue
        solve = optimize.brentq(
            lambda nc, level=level: stats.ncf.cdf(f, df1, df2, nc) - level, 0, 10 * df1 * f + 100
        )
        limits.append(solve / (solve + df1 + df2 + 1))
    return result(
        term, "partial eta squared", f * df1 / (f * df1 + df2), *limits, n=n, test=test,
        statistic=f, df=f"{df1:.0f}, {df2:.0f}", p=float(stats.f.sf(f, df1, df2)),
    )  # fmt: skip


def _of_two(table: pd.DataFrame, group: str, groups: Sequence) -> pd.DataFrame:
    """Keep two groups, before anything is asked of the others."""
    if len(groups) != 2:
        raise InputError(f"groups: {tuple(groups)}; name two that {group!r} holds")
    return select(table, group, groups)


def change_test(
    table: pd.DataFrame,
    *,
    value: str,
    group: str,
    time: str,
    person: str,
    order: Sequence,
    groups: Sequence[str],
) -> pd.DataFrame:
    """Test the change of each of two groups, and the difference of their changes.

    Parameters
    ----------
    table, value, group, time, person, order
        As in `change_scores`.
    groups
        The two groups: first less second.

    Returns
    -------
    pandas.DataFrame
        Mean change of each group (paired t), their difference (t with equal variances, which is
        the interaction of the factorial ANOVA; and Welch's).

    Raises
    ------
    InputError
        As `change_scores`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> scans = pd.DataFrame({"person": np.repeat(np.arange(40), 2), "visit": [1, 2] * 40,
    ...     "group": ["MS"] * 60 + ["control"] * 20, "chi": rng.normal(size=80)})
    >>> change_test(scans, value="chi", group="group", time="visit", person="person",
    ...             order=(1, 2), groups=("MS", "control"))["test"].tolist()
    ['paired t', 'paired t', 't, equal variances', 'Welch t']
    """
    table = _of_two(table, group, groups)
    wide = change_scores(
        table, value=value, group=group, time=time, person=person, order=order
    ).table
    changes = [wide.loc[wide[group] == g, "change"].to_numpy() for g in groups]
    rows = []
    for name, change in zip(groups, changes, strict=True):
        found = stats.ttest_1samp(change, 0)
        rows.append(_t_row(f"{name}: change", "mean change", change.mean(), found, len(change)))
    difference = changes[0].mean() - changes[1].mean()
    for equal, name in ((True, "t, equal variances"), (False, "Welch t")):
        found = stats.ttest_ind(*changes, equal_var=equal)
        term = f"change, {groups[0]} - {groups[1]}"
        rows.append(
            _t_row(term, "difference of changes", difference, found, sum(map(len, changes)))
            | {"test": name}
        )
    return pd.DataFrame(rows)


def _t_row(term: str, measure: str, estimate: float, found, n: int) -> dict:  # type: ignore[no-untyped-def]
    return result(
        term, measure, estimate, *found.confidence_interval(), n=n, test="paired t",
        statistic=found.statistic, df=f"{found.df:.1f}", p=found.pvalue,
    )  # fmt: skip


def paired_effects(
    first: ArrayLike, second: ArrayLike, *, rng: Generator, n_resamples: int = 1999
) -> pd.DataFrame:
    """Return both standardised sizes of a change: d_av and d_z.

    d_av divides the mean change by the spread *between people* (average of both visits), d_z by
    the spread *of the changes*.  Where people keep their rank d_z is far larger: a paper that
    prints "d" must say which.

    Parameters
    ----------
    first, second
        Values of the same people, shape (person,).
    rng
        Of the bootstrap behind the limits of d_av; those of d_z come from the noncentral t.
    n_resamples
        Bootstrap draws.

    Raises
    ------
    InputError
        Fewer than five pairs, or changes that are all the same.

    Examples
    --------
    >>> found = paired_effects([1.0, 2, 3, 4, 5, 6], [1.5, 2.4, 3.6, 4.5, 5.4, 6.6],
    ...                        rng=np.random.default_rng(0))
    >>> found["estimate"].round(2).tolist()
    [0.27, 5.59]
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1 or a.size < 5:
        raise InputError(f"first, second: {a.shape}, {b.shape}; give five or more pairs")
    n, change = a.size, b - a
    if np.ptp(change) == 0:
        raise InputError("first, second: every change is the same; d_z is infinite")

    def d_av(x: np.ndarray, y: np.ndarray) -> float:
        return float(pingouin.compute_effsize(y, x, paired=True, eftype="cohen"))

    interval = stats.bootstrap(
        (a, b), d_av, paired=True, vectorized=False, rng=rng, n_resamples=n_resamples,
        method="percentile",
    ).confidence_interval  # fmt: skip
    t = stats.ttest_1samp(change, 0)
    limits = [
        optimize.brentq(
            lambda nc, q=q: stats.nct.cdf(t.statistic, n - 1, nc) - q,
            t.statistic - 10 - abs(t.statistic), t.statistic + 10 + abs(t.statistic),
        ) / np.sqrt(n)
        for q in (0.975, 0.025)
    ]  # fmt: skip
    d_z = t.statistic / np.sqrt(n)
    kind = {"test": "paired t", "statistic": t.statistic, "df": str(n - 1), "p": t.pvalue}
    return pd.DataFrame(
        [
            result("change", "d_av (bootstrap CI)", d_av(a, b), *interval, n=n, **kind),
            result("change", "d_z (noncentral t CI)", d_z, *limits, n=n, **kind),
        ]
    )


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
    groups with equal weight (type III), and the *difference of changes*.  On complete data it
    equals type III; with missing visits it is right if who is missing depends only on what was
    seen (missing at random), which the data cannot tell.

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
        variance that is between people.  `n` counts people.

    Raises
    ------
    InputError
        As `change_scores`, or no convergence.

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
    if len(order) != 2 or len(groups) != 2:
        raise InputError(f"order, groups: {tuple(order)}, {tuple(groups)}; name two of each")
    table = select(_of_two(table, group, groups), time, order)
    checked = check(
        table, value=value, person=person, time=time, group=group, covariates=covariates, least=2
    )
    rows = checked.table.copy()
    if set(rows[time]) != set(order) or set(rows[group]) != set(groups):
        raise InputError(f"{time}, {group}: not all of {tuple(order)}, {tuple(groups)} are there")
    rows["_group"] = np.where(rows[group] == groups[0], 0.5, -0.5)
    rows["_time"] = np.where(rows[time] == order[1], 0.5, -0.5)
    more, names = design(rows, covariates)
    step, later = rows.pop("_group").to_numpy(), rows.pop("_time").to_numpy()
    x = np.column_stack([np.ones(len(rows)), step, later, step * later, more[:, 1:]])
    with warnings.catch_warnings(record=True):  # convergence is asked for below
        warnings.simplefilter("always")
        model = sm.MixedLM(rows[value].to_numpy(np.float64), x, groups=rows[person].to_numpy())
        fit = model.fit(reml=True)
    if not fit.converged or not np.isfinite(fit.bse_fe).all():
        raise InputError(
            f"{value}: the mixed model did not converge; are there people with both visits, and "
            "do people differ?"
        )
    n, limits = rows[person].nunique(), fit.conf_int()
    terms = ["group", "time", "difference of changes", *names]
    found = [
        result(
            term, "mixed model coefficient", fit.fe_params[k], *limits[k], n=n,
            test="MixedLM (REML), Wald z", statistic=fit.tvalues[k], p=fit.pvalues[k],
        )
        for k, term in enumerate(terms, start=1)
    ]  # fmt: skip
    between = float(np.asarray(fit.cov_re)[0, 0])
    share = between / (between + fit.scale)
    found.append(result("intraclass correlation", "share of variance between people", share, n=n))
    return pd.DataFrame(found)


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
        As in `mixed_model`.

    Raises
    ------
    InputError
        As `change_scores`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> scans = pd.DataFrame({"person": np.repeat(np.arange(40), 2), "visit": [1, 2] * 40,
    ...     "group": ["MS"] * 60 + ["control"] * 20, "chi": rng.normal(size=80)})
    >>> len(change_regression(scans, value="chi", group="group", time="visit", person="person",
    ...                       order=(1, 2), groups=("MS", "control")))
    2
    """
    table = _of_two(table, group, groups)
    wide = change_scores(
        table, value=value, group=group, time=time, person=person, order=order,
        covariates=covariates,
    ).table  # fmt: skip
    rows = []
    for more in ((), ("first",)):
        x, _ = design(wide, [group, *covariates, *more], references={group: groups[1]})
        fit = sm.OLS(wide["change"].to_numpy(np.float64), x).fit()
        name = "adjusted for the first value" if more else "change score"
        rows.append(
            result(
                f"change, {groups[0]} - {groups[1]}", name, fit.params[1], *fit.conf_int()[1],
                n=len(wide), test="OLS t", statistic=fit.tvalues[1],
                df=f"{fit.df_resid:.0f}", p=fit.pvalues[1],
            )
        )  # fmt: skip
    return pd.DataFrame(rows)


def regression_to_mean(first: ArrayLike, second: ArrayLike, *, share: float = 0.2) -> pd.DataFrame:
    """Show how people chosen for a high first value fall back without any true change.

    Parameters
    ----------
    first, second
        Values of the same people, shape (person,).
    share
        Part of the people to choose, by their first value.

    Returns
    -------
    pandas.DataFrame
        The correlation of first value and change, the mean change of the chosen people, and the
        change that regression to the mean alone would give them.

    Raises
    ------
    InputError
        Fewer than ten pairs, or a share outside 0 to 1.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> true = rng.normal(size=200)
    >>> found = regression_to_mean(true + rng.normal(size=200), true + rng.normal(size=200))
    >>> bool(found["estimate"][1] < -0.5)
    True
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1 or a.size < 10 or not 0 < share < 1:
        raise InputError(
            f"first, second, share: {a.shape}, {b.shape}, {share}; give ten pairs, 0 < share < 1"
        )
    n = a.size
    r = stats.pearsonr(a, b - a)
    low, high = r.confidence_interval()
    chosen = a >= np.quantile(a, 1 - share)
    change = (b - a)[chosen]
    t = stats.ttest_1samp(change, 0)
    slope = stats.linregress(a, b).slope
    expected = (slope - 1) * (a[chosen].mean() - a.mean()) + (b - a).mean()
    name = f"highest {share:.0%} at first"
    return pd.DataFrame(
        [
            result(
                "first ~ change", "Pearson correlation", r.statistic, low, high, n=n,
                test="Pearson t", p=r.pvalue,
            ),
            result(
                name, "mean change", change.mean(), *t.confidence_interval(), n=int(chosen.sum()),
                test="paired t", statistic=t.statistic, df=str(chosen.sum() - 1), p=t.pvalue,
            ),
            result(name, "expected by regression to the mean", expected, n=int(chosen.sum())),
        ]
    )  # fmt: skip
