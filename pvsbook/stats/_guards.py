"""Guards for the columns of a table, one question each."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from pvsbook._errors import InputError

_NUMBER_LIKE = re.compile(r"\s*[<>=~+-]*\s*[.,]?\d")  # 45,0 and <20, but also a date
_MISSING_CODES = (-9, -99, -999, -9999, 999, 9999, 99999)
_CHANCE = 1e-6  # of as many identical rows; of 10 kinds of them all even it is 1e-3


def columns(table: pd.DataFrame, wanted: Sequence[Any]) -> None:
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"table: a {type(table).__name__}; give a pandas DataFrame")
    columns = list(table.columns)
    if table.columns.nlevels > 1:
        raise InputError("table: its columns have several levels; give each column one name")
    absent = [c for c in wanted if c not in columns]
    if absent:
        present = ", ".join(map(str, columns))
        raise InputError(f"table: no column {', '.join(map(repr, absent))}; it has {present}")
    for column in wanted:
        if columns.count(column) > 1:
            raise InputError(
                f"table: {columns.count(column)} columns are called {column!r}; rename all but one"
            )
        if wanted.count(column) > 1:
            raise InputError(
                f"covariates: {column!r} stands there twice, or is the value, the group, the time "
                "or the person too; name each column once"
            )
        cells = table[column]
        if pd.api.types.is_object_dtype(cells.dtype):
            single = cells.map(lambda v: isinstance(v, Hashable)).astype(bool)
            refuse(table, ~single, f"{column}: a list or the like", "give one value per row")


def twins(table: pd.DataFrame) -> None:
    """Warn of rows that are the same in every column, more than columns alike give by chance."""
    text = table.astype(str).reset_index(drop=True)
    if not text.duplicated().any():
        return
    once, n, alike = ~text.duplicated(), len(text), 1.0
    for k in range(text.shape[1]):
        counts, column = text.iloc[:, k].value_counts(), table.iloc[:, k]
        own = pd.api.types.is_float_dtype(column.dtype) and (column.dropna() % 1 != 0).any()
        if own and text.loc[once].iloc[:, k].is_unique:  # no two participants share this number
            alike = 0.0
        alike *= (counts * (counts - 1)).sum() / (n * (n - 1))
    sizes = pd.Series([tuple(row) for row in text.to_numpy()]).value_counts()
    pairs, alike = (sizes * (sizes - 1)).sum() / 2, alike * n * (n - 1) / 2
    doubled = len(sizes) >= 10 and (sizes % 2 == 0).all()
    if doubled or stats.poisson.sf(pairs - 1, alike) < _CHANCE:
        rows = [str(i) for i in table.index[text.duplicated(keep=False).to_numpy()]]
        warnings.warn(
            f"table: rows {', '.join(rows[:6])} of {len(rows)} are the same in every column, more "
            "than chance gives; a participant counted twice makes p too small "
            "(table.drop_duplicates()), and if they are different participants, name their "
            "column as person",
            stacklevel=5,
        )


def strip(column: pd.Series) -> pd.Series:
    """Take blanks off the ends of labels: ``"MS "`` is ``"MS"``; an empty one is missing."""
    kind = column.dtype
    if isinstance(kind, pd.CategoricalDtype):
        same = [not isinstance(v, str) or (v == v.strip() != "") for v in kind.categories]
        return column if all(same) else strip(column.astype(object)).astype("category")
    if pd.api.types.is_object_dtype(kind) or pd.api.types.is_string_dtype(kind):
        return column.map(lambda v: (v.strip() or None) if isinstance(v, str) else v)
    return column


def select(table: pd.DataFrame, column: Any, labels: Sequence[Any] | None) -> pd.DataFrame:
    """Keep the rows with these labels; refuse missing labels, and ones that look alike."""
    refuse(table, table[column].isna(), f"{column}: missing", "fill it in")
    look_alike(table, column)
    if labels is None:
        return table
    present = list(table[column].unique())
    absent = [label for label in labels if label not in present]
    if absent:
        raise InputError(
            f"{column}: no {', '.join(map(repr, absent))} in the table; it has "
            f"{', '.join(repr(v) for v in present[:6])}"
        )
    return table[table[column].isin(list(labels))].copy()


def look_alike(table: pd.DataFrame, column: Any) -> None:
    spelled: dict[str, Any] = {}
    for label in table[column].dropna().unique():
        plain = unicodedata.normalize("NFKC", str(label)).casefold()
        if spelled.setdefault(plain, label) != label:
            raise InputError(
                f"{column}: {spelled[plain]!r} and {label!r} are different labels; write them "
                "alike if they mean the same, or less alike"
            )


def numbers(table: pd.DataFrame, column: Any) -> pd.Series:
    kind = table[column].dtype
    if pd.api.types.is_complex_dtype(kind):
        raise InputError(f"{column}: complex numbers; give magnitude, phase, real or imaginary")
    numbers = pd.to_numeric(table[column], errors="coerce")
    text = numbers.isna() & table[column].notna()
    if not text.any():
        text |= not pd.api.types.is_numeric_dtype(kind)
    refuse(
        table, text, f"{column}: not a number",
        f"turn the column ({kind}) into numbers, with NaN where a value is missing",
    )  # fmt: skip
    numbers = pd.Series(numbers.to_numpy(np.float64, na_value=np.nan), table.index)
    refuse(table, numbers.abs() == np.inf, f"{column}: infinite", "correct them or set NaN")
    for code in _MISSING_CODES:
        others = numbers[numbers != code].dropna()
        coded = len(others) < numbers.count() and len(others) > 0
        if coded and (abs(code) > 3 * others.abs().max() or (code < 0 <= others.min())):
            warnings.warn(
                f"{column}: {code} stands {numbers.count() - len(others)} times among values of "
                f"{others.min():g} to {others.max():g}; if it means missing, set NaN",
                stacklevel=5,
            )
    return numbers


def refuse(table: pd.DataFrame, wrong: pd.Series, fault: str, fix: str) -> None:
    """Name the rows that are wrong, if there are any, and say what to do."""
    rows = [str(i) for i in table.index[wrong.to_numpy(bool)]]
    if rows:
        more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        raise InputError(f"{fault} in rows {', '.join(rows[:5])}{more}; {fix}")


def covariate(table: pd.DataFrame, column: Any) -> pd.Series:
    """Refuse numbers that are written as text: each would become a category of its own."""
    kind = table[column].dtype
    if isinstance(kind, pd.CategoricalDtype):
        return table[column]
    if pd.api.types.is_numeric_dtype(kind):
        return numbers(table, column)
    text = table[column].map(lambda v: isinstance(v, str)).astype(bool)
    words = table[column].map(lambda v: isinstance(v, str) and not _NUMBER_LIKE.match(v))
    wrong = ~words.astype(bool) & table[column].notna()
    if wrong.any() and text.any() and not (wrong & text).any():
        wrong = text  # words among numbers
    example = next(iter(table.loc[wrong, column]), None)
    refuse(
        table, wrong, f"{column}: text, such as {example!r},",
        "turn the column into numbers (pandas.to_numeric), or, where its values are categories, "
        f"say so: table[{column!r}].astype('category')",
    )  # fmt: skip
    look_alike(table, column)
    if table[column].nunique() > max(2, len(table) // 4):
        raise InputError(
            f"{column}: {table[column].nunique()} different words in {len(table)} rows; as "
            "categories they leave nothing to estimate, so leave the column out"
        )
    return table[column]
