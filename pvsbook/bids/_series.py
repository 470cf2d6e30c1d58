"""Several series of a visit in the tables of a group: what tells them apart, and which counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from pvsbook._constants import SERIES
from pvsbook.method import Method

COUNTED = "for_statistics"
_LABELS = {
    "task": "task",
    "acq": "acquisition",
    "ce": "contrast agent",
    "rec": "reconstruction",
    "dir": "direction of phase encoding",
    "run": "run",
}
OF_SERIES: Mapping[str, Mapping[str, Any]] = {
    **{
        key: {"Description": f"{words}, of the name of the scan"} for key, words in _LABELS.items()
    },
    COUNTED: {
        "Description": "the one row of a visit that statistics take: of several series the first "
        "that was measured and whose quality is not fail; of these one of the protocol that most "
        "scans have, then in the order of notes"
    },
}


def entities_in(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the entities that the rows of a table need to be told apart."""
    rows = list(rows)
    return [key for key in SERIES if any(row.get(key) for row in rows)]


def counted(table: pd.DataFrame) -> pd.Series:
    """Tell which row of each visit statistics take, from the place of each among its series.

    Without this, a person with two series would count as two people.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": ["sub-1"] * 2, "session_id": None, COUNTED: [0, 1],
    ...                      "outcome": "done", "status": ["fail", "warn"]})
    >>> counted(rows).tolist()
    [False, True]
    """
    is_done = table["outcome"] == "done"
    failed = table["status"] == "fail" if "status" in table else ~is_done
    order = table.assign(worse=2 - is_done.astype(int) - (is_done & ~failed).astype(int))
    letters = order.get("protocol", pd.Series(dtype=object))  # like with like
    order["rare"] = -letters.map(letters[order["worse"] == 0].value_counts()).reindex(order.index)
    order = order.sort_values(["worse", "rare", COUNTED], kind="stable")
    first = ~order.duplicated(["participant_id", "session_id"])
    return first.reindex(table.index)


def of_several(table: pd.DataFrame, method: Method) -> str:
    """Say how many series were left out of statistics, and by which rule; else nothing."""
    left = table[~table[COUNTED].astype(bool)] if COUNTED in table else table.iloc[:0]
    if left.empty:
        return ""
    n = left[["participant_id", "session_id"]].drop_duplicates().shape[0]
    return (
        f"{n} {'visit' if n == 1 else 'visits'} had several series: each has a row, and "
        f"statistics take one a visit (of those whose quality is not fail one of the most common "
        f"protocol, then by {method.preference}), so {len(left)} of {len(table)} series are left "
        "out of them."
    )
