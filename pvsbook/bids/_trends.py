"""What changed per year, from the comparisons of a person's visits and the dates of these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pvsbook import jobs
from pvsbook.bids.inputs import Measurement
from pvsbook.bids.sessions import years_since_first
from pvsbook.method import Method


def trend(
    method: Method,
    root: Path,
    person: str,
    ended: Iterable[tuple[Measurement, jobs.Record | None]],
) -> pd.DataFrame:
    """Fit the slopes of one person, or say in the only row why there are none.

    Parameters
    ----------
    method
        One that compares visits and has a `trend`.
    root
        Top of the BIDS folder, for the dates.
    person
        Label.
    ended
        Each comparison with its record; those that were not made are passed over.
    """
    assert method.trend is not None
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}  # by first and later session
    for measurement, record in sorted(ended, key=lambda pair: pair[0].rank):
        row = record.result.get("row") if record is not None and record.status == "done" else None
        if measurement.method == method.name and isinstance(row, dict):  # of several series one
            rows.setdefault(measurement.first, {}).setdefault(measurement.session, row)
    first, later = max(rows.items(), key=lambda pair: len(pair[1]), default=("", {}))
    names = list(method.trend_columns)

    def none(reason: str) -> pd.DataFrame:
        return pd.DataFrame([{"reason": reason}], columns=names)

    if len(later) < 2:
        return none("fewer than three visits were compared")
    years, _ = years_since_first(root, person, [first, *later])
    if not years:
        return none(
            f"no acq_time and no age for all of {', '.join([first, *later])} in "
            f"{person}_sessions.tsv, so the time between the visits is not known; write it there"
        )
    if years[first] != 0:
        return none(
            f"the changes are since {first}, which was not the first by its date; measure again"
        )
    return method.trend([(years[session], row) for session, row in later.items()])
