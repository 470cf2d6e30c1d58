"""Parameters that carry their source."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["ASSUMED", "describe", "head_size", "parameter", "visible"]

ASSUMED = "assumed"


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
    >>> from pvsbook.studies import nmosd
    >>> table = describe(nmosd.Model(n_patients=40))
    >>> table.loc["n_patients", "source"]
    'set by hand (default 34)'
    """
    rows = []
    for one in fields(model):
        value, source = getattr(model, one.name), one.metadata["source"]
        if value != one.default:
            source = f"set by hand (default {one.default})"
        rows.append(
            {"parameter": one.name, "value": value, "unit": one.metadata["unit"], "source": source}
        )
    return pd.DataFrame(rows).set_index("parameter")


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
