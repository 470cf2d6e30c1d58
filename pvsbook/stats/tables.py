"""Guards for tables that come in, the columns of tables that go out, and multiplicity."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pingouin
from numpy.typing import NDArray

from pvsbook._errors import InputError

__all__ = ["COLUMNS", "Checked", "adjust", "check"]

COLUMNS = (
    "term", "measure", "estimate", "low", "high", "test", "statistic", "df", "p", "n",
    "correction",
)  # fmt: skip
_NUMBER_LIKE = re.compile(r"\s*[<>=~+-]*\s*[.,]?\d")  # 45,0 and <20, but also a date
_METHODS = {"holm": "Holm", "fdr_bh": "FDR (Benjamini-Hochberg)", "bonferroni": "Bonferroni"}


@dataclass(frozen=True, eq=False)
class Checked:
    """A table that passed the guards, and what was left out of it.

    Attributes
    ----------
    table
        Complete rows, with a fresh index.
    dropped
        One row for each row or person left out: ``row`` (index in the table given), ``person``,
        ``time``, ``reason``.
    """

    table: pd.DataFrame
    dropped: pd.DataFrame


def result(
    term: str,
    measure: str,
    estimate: float,
    low: float = np.nan,
    high: float = np.nan,
    *,
    n: int,
    test: str = "",
    statistic: float = np.nan,
    df: str = "",
    p: float = np.nan,
) -> dict[str, Any]:
    """Make one row of a table of results, with the columns of `COLUMNS`.

    Examples
    --------
    >>> list(result("group", "mean difference", 1.5, 0.2, 2.8, n=40)) == list(COLUMNS)
    True
    """
    values = (term, measure, float(estimate), float(low), float(high), test, float(statistic), df)
    return dict(zip(COLUMNS, (*values, float(p), int(n), "none"), strict=True))


def coefficients(
    fit: Any, terms: Sequence[str], measure: str, *, exponential: bool = False, **about: Any
) -> list[dict[str, Any]]:
    """Make a row of each coefficient of a statsmodels fit after the intercept, as `result`."""
    values = np.column_stack([fit.params, np.asarray(fit.conf_int())])
    values = np.exp(values) if exponential else values
    return [
        result(
            term, measure, *values[k], statistic=fit.tvalues[k], p=fit.pvalues[k], **about,
        )
        for k, term in enumerate(terms, start=1)
    ]  # fmt: skip


def check(
    table: pd.DataFrame,
    *,
    value: str | Sequence[str],
    person: str | None = None,
    time: str | None = None,
    group: str | None = None,
    covariates: Sequence[str] = (),
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
        Columns that must hold numbers.
    person, time, group
        Names of the columns; `time` needs `person`.
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
        Not a table, a column that is absent or holds text, a covariate of numbers written as
        text, infinite values, a person, group or time that is missing, duplicate rows, a
        participant in two groups, fewer than two groups, or groups with fewer than `least`
        participants.  The message names column, rows and fix.

    Examples
    --------
    >>> scans = pd.DataFrame({"person": list("aabbcc"), "visit": [1, 2] * 3,
    ...                       "chi_ppb": [40.0, 41, 38, np.nan, 44, 45]})
    >>> checked = check(scans, value="chi_ppb", person="person", time="visit", complete=True)
    >>> checked.dropped["reason"].tolist()
    ['chi_ppb is missing', 'b lacks visit 2']
    """
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"table: a {type(table).__name__}; give a pandas DataFrame")
    values = [value] if isinstance(value, str) else list(value)
    keys = [c for c in (person, time, group) if c is not None]
    wanted = list(dict.fromkeys([*keys, *values, *covariates]))
    absent = [c for c in wanted if c not in table]
    if absent:
        present = ", ".join(map(str, table.columns))
        raise InputError(f"table: no column {', '.join(map(repr, absent))}; it has {present}")
    if time is not None and person is None:
        raise InputError("person: name the column of participants too, since time is given")
    table = _strip_labels(table, [*keys, *covariates])
    for column in values:
        _numbers(table, column)
    for column in covariates:
        _covariate(table, column)
    for column in keys:
        _refuse(table, table[column].isna(), f"{column}: missing", "fill it in")
    if person is not None:
        _one_row_each(table, person, time, group)
        table = _fill_covariates(table, person, covariates)
    left_out: list[tuple[Any, str]] = []
    keep = pd.Series(True, index=table.index)
    for column in (*values, *covariates):
        missing = table[column].isna() & keep
        left_out += [(row, f"{column} is missing") for row in table.index[missing]]
        keep &= ~missing
    kept = table.loc[keep, wanted].copy()
    if complete and person is not None and time is not None:
        times = set(kept[time])
        own_times = kept.groupby(person, observed=True)[time].agg(set)
        for name, own in own_times.items():
            if own != times:
                lacking = ", ".join(str(t) for t in sorted(times - own))
                row = kept.index[kept[person] == name][0]
                left_out.append((row, f"{name} lacks {time} {lacking}"))
        kept = kept[kept[person].map(own_times) == times]
    if group is not None:
        _enough(kept, person, group, least)
    elif len(kept) < least:
        raise InputError(f"table: {len(kept)} complete rows; at least {least} are needed")
    for column in (*keys, *covariates):
        if isinstance(kept[column].dtype, pd.CategoricalDtype):
            kept[column] = kept[column].cat.remove_unused_categories()
    dropped = [
        (row, *(None if c is None else table.at[row, c] for c in (person, time)), reason)
        for row, reason in left_out
    ]
    columns = ["row", "person", "time", "reason"]
    return Checked(kept.reset_index(drop=True), pd.DataFrame(dropped, columns=columns))


def _numbers(table: pd.DataFrame, column: str) -> None:
    if table[column].dtype == bool:
        return
    numbers = pd.to_numeric(table[column], errors="coerce")
    text = numbers.isna() & table[column].notna()
    if not text.any():
        text |= not pd.api.types.is_numeric_dtype(table[column])
    kind = table[column].dtype
    _refuse(
        table, text, f"{column}: not a number",
        f"turn the column ({kind}) into numbers, with NaN where a value is missing",
    )  # fmt: skip
    infinite = pd.Series(np.isinf(numbers.to_numpy(np.float64)), table.index)
    _refuse(table, infinite, f"{column}: infinite", "correct them or set NaN")


def _refuse(table: pd.DataFrame, wrong: pd.Series, fault: str, fix: str) -> None:
    """Name the rows that are wrong, if there are any, and say what to do."""
    rows = [str(i) for i in table.index[wrong.to_numpy()]]
    if rows:
        more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        raise InputError(f"{fault} in rows {', '.join(rows[:5])}{more}; {fix}")


def _strip_labels(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Take blanks off the ends of labels: ``"MS "`` is ``"MS"``; a repeated index is made anew."""
    table = table.copy() if table.index.is_unique else table.reset_index(drop=True)
    for column in columns:
        if table[column].dtype == object or pd.api.types.is_string_dtype(table[column].dtype):
            table[column] = table[column].map(lambda v: v.strip() if isinstance(v, str) else v)
    return table


def _covariate(table: pd.DataFrame, column: str) -> None:
    """Refuse numbers that are written as text: each would become a category of its own."""
    kind = table[column].dtype
    if isinstance(kind, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(kind):
        return
    if pd.api.types.is_numeric_dtype(kind):
        _numbers(table, column)
        return
    words = table[column].map(lambda v: isinstance(v, str) and not _NUMBER_LIKE.match(v))
    wrong = ~words & table[column].notna()
    example = next(iter(table.loc[wrong, column]), None)
    _refuse(
        table, wrong, f"{column}: text, such as {example!r},",
        "turn the column into numbers (pandas.to_numeric), or, where its values are categories, "
        f"say so: table[{column!r}].astype('category')",
    )  # fmt: skip
    if table[column].nunique() > max(2, len(table) // 4):
        raise InputError(
            f"{column}: {table[column].nunique()} different words in {len(table)} rows; as "
            "categories they leave nothing to estimate, so leave the column out"
        )


def _fill_covariates(table: pd.DataFrame, person: str, covariates: Sequence[str]) -> pd.DataFrame:
    """Give a row that lacks a covariate the value on which the participant's other rows agree."""
    for column in covariates:
        lacking = table[column].isna()
        if not lacking.any():
            continue
        by_person = table.groupby(person, observed=True)[column]
        alike = table[person].map(by_person.nunique()) == 1
        known = table[person].map(by_person.first())
        table.loc[lacking & alike, column] = known[lacking & alike]
    return table


def design(
    table: pd.DataFrame, columns: Sequence[str], *, references: Mapping[str, Any] | None = None
) -> tuple[NDArray[np.float64], list[str]]:
    """Make the columns of a regression: an intercept, numbers as they are, categories as 0 and 1.

    No formula is written, so that a name or label may hold anything.

    Parameters
    ----------
    table
        From `check`, complete.
    columns
        To put in, in this order.
    references
        By column, the level that the others are compared with; by default the first in order.
        A column that is named here is taken as categories, whatever it holds.

    Returns
    -------
    tuple of numpy.ndarray and list
        Shape (row, term), the first all ones; and a name for each term but the first.

    Examples
    --------
    >>> people = pd.DataFrame({"sex": ["F", "M", "F", "M"], "age": [30.0, 40, 50, 45]})
    >>> x, names = design(people, ["sex", "age"])
    >>> x[1].tolist(), names
    ([1.0, 1.0, 40.0], ['sex: M - F', 'age'])
    """
    references = references or {}
    terms, names = [np.ones(len(table))], []
    repeated = [c for c in columns if list(columns).count(c) > 1]
    if repeated:
        raise InputError(f"covariates: {repeated[0]!r} stands there twice, or is the group")
    for column in columns:
        values = table[column]
        if column not in references and (
            values.dtype == bool or pd.api.types.is_numeric_dtype(values.dtype)
        ):
            terms.append(values.to_numpy(np.float64))
            names.append(column)
            continue
        levels = sorted(values.unique(), key=lambda v: (str(type(v)), v))
        first = references.get(column, levels[0])
        for level in levels:
            if level != first:
                terms.append((values == level).to_numpy(np.float64))
                names.append(f"{level} - {first}" if column in references
                             else f"{column}: {level} - {first}")  # fmt: skip
    x = np.column_stack(terms)
    spread = x.std(axis=0)
    flat = [name for name, s in zip(names, spread[1:], strict=True) if s == 0]
    if flat:
        raise InputError(f"covariates: {', '.join(flat)} does not vary; take it out")
    scaled = (x[:, 1:] - x[:, 1:].mean(axis=0)) / spread[1:]  # nanometres beside years
    # Without covariates there is nothing to rank, which numpy before 2.4 refuses.
    if len(x) <= x.shape[1] or (names and np.linalg.matrix_rank(scaled) < len(names)):
        raise InputError(
            f"covariates: {', '.join(names)} with {len(x)} rows leave nothing to estimate, or "
            "repeat each other; take some out"
        )
    return x, names


def select(table: pd.DataFrame, column: str, labels: Sequence[Any]) -> pd.DataFrame:
    """Keep the rows of some groups or visits, whatever blanks their labels end in.

    Raises
    ------
    InputError
        A label that no row has.

    Examples
    --------
    >>> table = pd.DataFrame({"group": ["MS ", "control", "other"]})
    >>> select(table, "group", ["MS", "control"])["group"].tolist()
    ['MS', 'control']
    """
    if not isinstance(table, pd.DataFrame) or column not in table:
        check(table, value=column)
    clean = _strip_labels(table, [column])
    absent = [label for label in labels if label not in set(clean[column])]
    if absent:
        raise InputError(f"{column}: no {', '.join(map(repr, absent))} in the table")
    return clean[clean[column].isin(list(labels))]


def _one_row_each(table: pd.DataFrame, person: str, time: str | None, group: str | None) -> None:
    keys = [person] if time is None else [person, time]
    _refuse(
        table, table.duplicated(keys, keep=False), f"{' and '.join(keys)}: the same",
        f"keep one row per participant{'' if time is None else ' and time'} "
        "(average repeated scans before)",
    )  # fmt: skip
    if group is not None:
        groups = table.groupby(person, observed=True)[group].nunique()
        _refuse(
            table, table[person].isin(groups.index[groups > 1]),
            f"{group}: changes within a participant", "a participant belongs to one group",
        )  # fmt: skip


def _enough(table: pd.DataFrame, person: str | None, group: str, least: int) -> None:
    participants = table if person is None else table.drop_duplicates(person)
    sizes = participants[group].value_counts()
    sizes = sizes[sizes > 0]
    if len(sizes) < 2:
        raise InputError(f"{group}: {len(sizes)} group in the complete rows; two are needed")
    if (sizes < least).any():
        small = ", ".join(f"{name!r} has {size}" for name, size in sizes[sizes < least].items())
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
        An unknown method, or no p-value at all.

    Examples
    --------
    >>> rows = pd.DataFrame([result(t, "d", 0, n=20, p=p) for t, p in (("a", .01), ("b", .04))])
    >>> adjust(rows)["p_adjusted"].tolist()
    [0.02, 0.04]
    """
    if method not in _METHODS:
        raise InputError(f"method: {method!r}; one of {', '.join(_METHODS)}")
    parts = [results] if isinstance(results, pd.DataFrame) else list(results)
    if not parts:
        raise InputError("results: no table; there is nothing to adjust")
    every = pd.concat(parts, ignore_index=True)
    tested = every["p"].notna()
    if not tested.any():
        raise InputError("results: no row has a p-value; there is nothing to adjust")
    every["p_adjusted"] = np.nan
    p = every.loc[tested, "p"].to_numpy(np.float64)
    every.loc[tested, "p_adjusted"] = pingouin.multicomp(p, method=method)[1]
    every.loc[tested, "correction"] = f"{_METHODS[method]} over {int(tested.sum())}"
    return every
