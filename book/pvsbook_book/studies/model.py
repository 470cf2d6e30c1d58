"""What the virtual studies share: parameters with their sources, and the parts of a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = [
    "ASSUMED",
    "Study",
    "describe",
    "head_size",
    "log_ratio",
    "parameter",
    "readable",
    "visible",
]

ASSUMED = "assumed"


@dataclass(frozen=True, kw_only=True)
class Study:
    """One virtual study: what it declares, and how its people are drawn, measured and analysed.

    Attributes
    ----------
    model
        Dataclass of `parameter` fields.
    scans
        What the scans of an image-level cohort are, in words.
    draw
        ``draw(rng, model)``: people and what is true of them, in columns named ``true_...``.
    observe
        ``observe(rng, people, model)``: the table of a study, measured at the level of statistics.
    scan
        ``scan(rng, person)``: the scans of one row of `draw`.
    measure
        ``measure(scans)``: what is measured on them, by name.
    true_values
        ``true_values(known)``: by the name of each measure, what a perfect one would have given.
    from_images
        Rows of an image-level cohort, as the table that `primary` takes.
    primary
        Estimates of the primary effects: ``term``, ``estimate``, ``low``, ``high``, ``p``.
    truths
        ``truths(model)``: the declared effects by the terms of `primary`.
    compared
        Turns measures, or their true values, into the columns in which the two are compared.
    """

    model: Callable[..., Any]
    scans: Mapping[str, str]
    draw: Callable[..., pd.DataFrame]
    observe: Callable[..., pd.DataFrame]
    scan: Callable[..., Any]
    measure: Callable[[Any], dict[str, float]]
    true_values: Callable[[pd.DataFrame], pd.DataFrame]
    from_images: Callable[..., pd.DataFrame]
    primary: Callable[[pd.DataFrame], pd.DataFrame]
    truths: Callable[..., dict[str, float]]
    compared: Callable[[pd.DataFrame], pd.DataFrame] = lambda values: values


def parameter(value: Any, source: str, unit: str = "") -> Any:
    """Declare a field of a model: its value, where that comes from, and its unit.

    Parameters
    ----------
    value
        Default.
    source
        A paper, a benchmark of this repository, a calculation, or the word *assumed*.
    unit
        Unit, none for ratios and counts.
    """
    return field(default=value, metadata={"source": source, "unit": unit})


def describe(model: Any) -> pd.DataFrame:
    """List the parameters of a model with unit and source; a changed one says so.

    Examples
    --------
    >>> from pvsbook_book.studies import nmosd
    >>> table = describe(nmosd.Model(n_patients=40))
    >>> table.loc["n_patients", "source"]
    'set by hand (default 34)'
    """
    rows = []
    for field_ in fields(model):
        value, source = getattr(model, field_.name), field_.metadata["source"]
        if value != field_.default:
            source = f"set by hand (default {field_.default})"
        unit = field_.metadata["unit"]
        rows.append({"parameter": field_.name, "value": value, "unit": unit, "source": source})
    return pd.DataFrame(rows).set_index("parameter")


def readable(table: pd.DataFrame, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Write a table of results as text: three digits, and no number where there is none.

    The limits of an interval become one column, a missing or infinite value becomes ``n/a``, and a
    p-value below .001 is not written as zero.  A first column of names becomes the index.

    Parameters
    ----------
    table
        With the columns of `pvsbook.stats.tables.COLUMNS`, or some of them.
    columns
        Which to keep; all by default.  ``low`` and ``high`` follow ``estimate``.

    Examples
    --------
    >>> results = pd.DataFrame({"estimate": [4.38], "low": [1.24], "high": [15.5], "p": [0.0004]})
    >>> readable(results).to_dict("records")
    [{'estimate': '4.38', '95 % interval': '1.24 to 15.5', 'p': '< .001'}]
    """
    kept = list(columns) or [str(name) for name in table.columns]
    if "low" in table and "high" in table and "estimate" in kept:
        kept = [c for c in kept if c not in ("low", "high")]
        kept.insert(kept.index("estimate") + 1, "95 % interval")
    written: dict[str, list[str]] = {}
    for name in kept:
        if name == "95 % interval":
            pairs = zip(table["low"].astype(float), table["high"].astype(float), strict=True)
            written[name] = [
                f"{_number(low)} to {_number(high)}" if np.isfinite([low, high]).all() else "n/a"
                for low, high in pairs
            ]
        elif table[name].map(lambda v: isinstance(v, float)).any():
            is_p = name == "p" or name.startswith("p_")
            written[name] = [_probability(v) if is_p else _number(v) for v in table[name]]
        else:
            written[name] = [str(v) for v in table[name]]
    text = pd.DataFrame(written, index=table.index)
    return text.set_index(kept[0]) if kept[0] in ("term", "region", "measure") else text


def _number(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "n/a"


def _probability(value: float) -> str:
    if not np.isfinite(value):
        return "n/a"
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def log_ratio(row: pd.DataFrame, term: str) -> pd.DataFrame:
    """Put a row of results that is a ratio on the scale of its logarithm, under a new name."""
    row, limits = row.assign(term=term), ["estimate", "low", "high"]
    row[limits] = np.log(row[limits].astype(float))
    return row


def visible(people: pd.DataFrame) -> pd.DataFrame:
    """Return what a study may know of its people: nothing in a column named ``true_...``.

    Examples
    --------
    >>> list(visible(pd.DataFrame({"age_years": [30], "true_pvs": [12]})))
    ['age_years']
    """
    return people.loc[:, [not str(c).startswith("true_") for c in people]].copy()


def head_size(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return how a head differs in size from MNI's, 4 x 4: each axis by an SD of 3 %, at most 8.

    Examples
    --------
    >>> head_size(np.random.default_rng(0)).diagonal().round(2)
    array([1.  , 1.  , 1.02, 1.  ])
    """
    return np.diag([*rng.normal(1, 0.03, 3).clip(0.92, 1.08), 1.0])
