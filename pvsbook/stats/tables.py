"""Guards for tables that come in, the columns of tables that go out, and multiplicity."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pingouin

from pvsbook._errors import InputError
from pvsbook.stats import _guards as guard

__all__ = ["COLUMNS", "Checked", "adjust", "check"]

COLUMNS = (
    "term", "measure", "estimate", "low", "high", "interval", "test", "statistic", "df", "p",
    "n", "rows", "dropped", "correction",
)  # fmt: skip
_METHODS = {"holm": "Holm", "fdr_bh": "FDR (Benjamini-Hochberg)", "bonferroni": "Bonferroni"}
_ALTERNATIVES = (
    {"chi-squared", "chi-squared, Yates", "Fisher, exact"}, {"F, type II", "F, type III"},
)  # fmt: skip
ROUNDING = 1e-12  # of the largest value: less is no variation


@dataclass(frozen=True, eq=False)
class Checked:
    """A table that passed the guards, and what was left out of it.

    Attributes
    ----------
    table
        Complete rows, with a fresh index.
    dropped
        One row for each row left out because it is incomplete: ``row`` (index in the table
        given), ``person``, ``time``, ``reason``.  Rows of groups and visits that were not asked
        for are not listed.
    n, rows
        Participants and rows that stay.
    """

    table: pd.DataFrame
    dropped: pd.DataFrame
    n: int
    rows: int

    @property
    def counts(self) -> dict[str, Any]:
        """Participants, rows and rows left out, as each result names them."""
        return {"n": self.n, "rows": self.rows, "dropped": len(self.dropped)}


def result(
    term: str,
    measure: str,
    estimate: float,
    low: float = np.nan,
    high: float = np.nan,
    *,
    n: int,
    rows: int | None = None,
    dropped: int = 0,
    interval: str = "",
    test: str = "",
    statistic: float = np.nan,
    df: str = "",
    p: float = np.nan,
) -> dict[str, Any]:
    """Make one row of a table of results, with the columns of `COLUMNS`.

    ``interval`` names the method of the 95 % limits.

    Examples
    --------
    >>> list(result("group", "mean difference", 1.5, 0.2, 2.8, n=40)) == list(COLUMNS)
    True
    """
    numbers = (float(estimate), float(low), float(high))
    tested = (test, float(statistic), df, float(p))
    counts = (int(n), int(n if rows is None else rows), int(dropped))
    values = (term, measure, *numbers, interval, *tested, *counts, "none")
    return dict(zip(COLUMNS, values, strict=True))


def check(
    table: pd.DataFrame,
    *,
    value: Hashable | Sequence[Hashable],
    person: Hashable | None = None,
    time: Hashable | None = None,
    group: Hashable | None = None,
    groups: Sequence[Any] | None = None,
    times: Sequence[Any] | None = None,
    covariates: Hashable | Sequence[Hashable] = (),
    complete: bool = False,
    least: int = 3,
) -> Checked:
    """Check a table before statistics see it.

    The libraries beneath average duplicate rows in silence, accept a participant who is in two
    groups, and drop incomplete ones without a word.  Here these stop, or are listed.

    Parameters
    ----------
    table
        One row per participant, or per participant and time.
    value
        Columns that must hold numbers, and more than one number.
    person, time, group
        Names of the columns; `time` needs `person`.  Blanks at the ends of labels are removed.
    groups, times
        Labels to keep: other groups and visits leave before anything else is looked at.
    covariates
        Columns that must be complete: numbers, truth values, or categories.  Words are taken as
        categories; text that looks like numbers is not, unless the column has the dtype
        ``category``.  Where participants have several rows, one that lacks a covariate
        takes the participant's value if the others agree on it.
    complete
        Leave out participants who lack one of the times; otherwise their other rows stay.
    least
        Participants that each group must have.

    Raises
    ------
    InputError
        Not a table; a column that is absent, named twice, or one of two with its name; text,
        infinite values or one value only in `value`; a covariate of numbers written as text;
        labels that differ only in case; a person, group or time that is missing; duplicate rows,
        a participant in two groups, fewer than two groups, or groups with fewer than `least`
        participants.  The message names column, rows and fix.

    Warns
    -----
    UserWarning
        Rows identical in every column, more than chance gives, where no `person` tells
        participants apart; numbers such as -999 that elsewhere mean missing.

    Examples
    --------
    >>> scans = pd.DataFrame({"person": list("aabbcc"), "visit": [1, 2] * 3,
    ...                       "chi_ppb": [40.0, 41, 38, np.nan, 44, 45]})
    >>> checked = check(scans, value="chi_ppb", person="person", time="visit", complete=True)
    >>> checked.dropped["reason"].tolist()
    ['chi_ppb is missing', 'b lacks visit 2']
    """
    values, covariates = listed(value), listed(covariates)
    keys = [c for c in (person, time, group) if c is not None]
    guard.columns(table, [*keys, *values, *covariates])
    if time is not None and person is None:
        raise InputError("person: name the column of participants too, since time is given")
    if person is None:
        guard.twins(table)
    if not table.index.is_unique or table.index.nlevels > 1:
        table = table.reset_index(drop=True)
    table = table.loc[:, [*keys, *values, *covariates]].copy()
    for column in (*keys, *covariates):
        table[column] = guard.strip(table[column])
    for column, labels in ((group, groups), (time, times)):
        if column is not None:
            table = guard.select(table, column, labels)
    for column in values:
        table[column] = guard.numbers(table, column)
    for column in covariates:
        table[column] = guard.covariate(table, column)
    if person is not None:
        guard.refuse(table, table[person].isna(), f"{person}: missing", "fill it in")
        _one_row_each(table, person, time, group)
        table = _fill_covariates(table, person, covariates)
    kept, left_out = _leave_out(table, person, time if complete else None, values, covariates)
    if group is not None:
        _enough(kept, person, group, least)
    elif len(kept) < least:
        raise InputError(f"table: {len(kept)} complete rows; at least {least} are needed")
    for column in values:
        if np.ptp(kept[column]) <= ROUNDING * kept[column].abs().max():
            raise InputError(
                f"{column}: does not vary (all {kept[column].iloc[0]:g} in {len(kept)} complete "
                "rows); there is nothing to compare, take it out"
            )
    for column in (*keys, *covariates):
        if isinstance(kept[column].dtype, pd.CategoricalDtype):
            kept[column] = kept[column].cat.remove_unused_categories()
    dropped = [
        (row, *(None if c is None else table.at[row, c] for c in (person, time)), reason)
        for row, reason in left_out
    ]
    listing = pd.DataFrame(dropped, columns=["row", "person", "time", "reason"])
    n = len(kept) if person is None else kept[person].nunique()
    return Checked(kept.reset_index(drop=True), listing, n, len(kept))


def listed(names: Any) -> list[Any]:
    """Return one name, or several, as a list."""
    kinds = Sequence | np.ndarray | pd.Index | pd.Series | Iterator
    several = isinstance(names, kinds) and not isinstance(names, str)
    return list(names) if several else [names]


def required(**columns: Any) -> None:
    """Refuse None where a column must be named."""
    for role, column in columns.items():
        if column is None or (isinstance(column, list) and not column):
            raise InputError(f"{role}: {column}; name the column")


def pair(name: str, labels: Any) -> list[Any]:
    """Return two labels that differ, without blanks at their ends."""
    two = [v.strip() if isinstance(v, str) else v for v in listed(labels)]
    if len(two) != 2 or two[0] == two[1]:
        raise InputError(f"{name}: {labels!r}; name two of them that differ")
    return two


def _leave_out(
    table: pd.DataFrame, person: Any, time: Any, values: Sequence[Any], covariates: Sequence[Any]
) -> tuple[pd.DataFrame, list[tuple[Any, str]]]:
    """Return the complete rows, and row and reason of each that leaves."""
    left_out: list[tuple[Any, str]] = []
    kept = table
    for column in (*values, *covariates):
        missing = kept[column].isna()
        left_out += [(row, f"{column} is missing") for row in kept.index[missing]]
        kept = kept[~missing]
    if time is not None:
        times = set(table[time])
        lacking = {
            name: ", ".join(sorted(str(t) for t in times - set(own)))
            for name, own in kept.groupby(person, observed=True)[time]
        }
        alone = kept[person].map(lacking).astype(str) != ""
        left_out += [
            (row, f"{name} lacks {time} {lacking[name]}")
            for row, name in kept.loc[alone, person].items()
        ]
        kept = kept[~alone]
    return kept.copy(), left_out


def _fill_covariates(table: pd.DataFrame, person: Any, covariates: Sequence[Any]) -> pd.DataFrame:
    """Give a row that lacks a covariate the value on which the participant's other rows agree."""
    for column in covariates:
        lacking = table[column].isna()
        if lacking.any():
            by_person = table.groupby(person, observed=True)[column]
            alike = table[person].map(by_person.nunique()) == 1
            known = table[person].map(by_person.first())
            table.loc[lacking & alike, column] = known[lacking & alike]
    return table


def _one_row_each(table: pd.DataFrame, person: Any, time: Any, group: Any) -> None:
    keys = [person] if time is None else [person, time]
    guard.refuse(
        table, table.duplicated(keys, keep=False), f"{' and '.join(map(str, keys))}: the same",
        f"keep one row per participant{'' if time is None else ' and time'} "
        "(average repeated scans before; of a group table keep the rows with for_statistics)",
    )  # fmt: skip
    if group is not None:
        groups = table.groupby(person, observed=True)[group].nunique()
        guard.refuse(
            table, table[person].isin(groups.index[groups > 1]),
            f"{group}: changes within a participant", "a participant belongs to one group",
        )  # fmt: skip


def _enough(table: pd.DataFrame, person: Any, group: Any, least: int) -> None:
    participants = table if person is None else table.drop_duplicates(person)
    sizes = participants[group].value_counts()
    sizes = sizes[sizes > 0]
    if len(sizes) < 2:
        raise InputError(f"{group}: {len(sizes)} group in the complete rows; two are needed")
    if (sizes < least).any():
        few = sizes[sizes < least].head(5)
        small = ", ".join(f"{name!r} has {size}" for name, size in few.items())
        raise InputError(f"{group}: {small}; at least {least} participants are needed in each")


def adjust(
    results: pd.DataFrame | Iterable[pd.DataFrame], *, method: str = "holm"
) -> pd.DataFrame:
    """Adjust the p-values of one family of tests; the family is what you pass.

    Parameters
    ----------
    results
        A table of results, or several: all structures and all contrasts of one question.  A
        library's own correction covers one call only.
    method
        ``"holm"`` keeps the chance of one false finding in the family below alpha,
        ``"fdr_bh"`` keeps the share of false findings among the findings below it.

    Returns
    -------
    pandas.DataFrame
        All rows, with ``p_adjusted``, and in ``correction`` the method and the size of the
        family.  Rows without a test are left as they are.

    Raises
    ------
    InputError
        An unknown method, no p-value at all, or several tests of one question in one table
        (chi-squared and Fisher; types II and III): choose one before you look.

    Examples
    --------
    >>> rows = pd.DataFrame([result(t, "d", 0, n=20, p=p) for t, p in (("a", .01), ("b", .04))])
    >>> adjust(rows)["p_adjusted"].tolist()
    [0.02, 0.04]
    """
    if method not in _METHODS:
        raise InputError(f"method: {method!r}; one of {', '.join(_METHODS)}")
    parts = [results] if isinstance(results, pd.DataFrame) else listed(results)
    if not parts:
        raise InputError("results: no table; there is nothing to adjust")
    for part in parts:
        known = isinstance(part, pd.DataFrame) and {"term", "test", "p"} <= set(part)
        if not known or not pd.api.types.is_numeric_dtype(part["p"]):
            raise InputError("results: not a table of results; give those of pvsbook.stats")
        _one_test_each(part[part["p"].notna()])
    every = pd.concat(parts, ignore_index=True)
    tested = every["p"].notna()
    if not tested.any():
        raise InputError("results: no row has a p-value; there is nothing to adjust")
    for wrong in every.loc[tested & ~every["p"].between(0, 1), "p"]:
        raise InputError(f"results: p: {wrong:g}; a p-value is from 0 to 1")
    every["p_adjusted"] = np.nan
    p = every.loc[tested, "p"].to_numpy(np.float64)
    every.loc[tested, "p_adjusted"] = pingouin.multicomp(p, method=method)[1]
    every.loc[tested, "correction"] = f"{_METHODS[method]} over {int(tested.sum())}"
    return every


def _one_test_each(results: pd.DataFrame) -> None:
    for term, rows in results.groupby("term", sort=False):
        for names in _ALTERNATIVES:
            several = list(dict.fromkeys(rows.loc[rows["test"].isin(names), "test"]))
            if len(several) > 1:
                raise InputError(
                    f"results: {' and '.join(several)} test one question, {term!r}, and would "
                    "count as a family; choose one before you look: "
                    f"results[results['test'] == {several[0]!r}]"
                )
