"""All participants: one table per method that statistics can read, and one page."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pvsbook import derivatives, images, jobs, report
from pvsbook import methods as registry
from pvsbook._constants import SERIES
from pvsbook._errors import InputError
from pvsbook.bids import app
from pvsbook.bids._series import COUNTED, OF_SERIES, counted, entities_in, of_several
from pvsbook.bids._trends import trend
from pvsbook.bids.citation import methods_text
from pvsbook.bids.inputs import BidsFolder, Measurement
from pvsbook.bids.sessions import UNUSED
from pvsbook.figures import people
from pvsbook.method import Method

__all__ = ["OUTLYING", "Group", "robust_z", "summarise"]

OUTCOMES = ("failed", "skipped", "not run", "out of date")  # that leave no number
OUTLYING = 3.5
CITATION = ("group_methods.md", "group_methods.bib")
MIN_VALUES = 5
OWN: Mapping[str, Mapping[str, Any]] = {
    "participant_id": {"Description": "participant"},
    "session_id": {"Description": "visit; n/a where there is only one"},
    **OF_SERIES,
    "outcome": {
        "Description": "what came of it",
        "Levels": {
            "done": "measured; look at status before the numbers are used",
            "failed": "could not be measured; outcome_reason says why",
            "skipped": "inputs are missing; outcome_reason says which",
            "not run": "not processed yet by the participant level",
            "out of date": "measured from files or with settings that are not the current ones",
        },
    },
    "outcome_reason": {"Description": "why it failed or was skipped"},
    "notes": {"Description": "what was chosen among several files, or read otherwise"},
    "outliers": {
        "Description": "columns whose value lies more than 3.5 robust standard deviations from "
        "the median of the rows for statistics, with that distance"
    },
}
LIMITS = (
    "An outlier is a value to look at, not one to drop: people differ, and so do sick ones.",
    "Distances from the median assume one group; two scanners or patients among controls widen "
    "it and hide outliers.",
    "What failed or was skipped is not missing at random: who cannot lie still is often older or "
    "sicker.",
)


@dataclass(frozen=True, eq=False)
class Group:
    """Tables and page of all participants.

    Attributes
    ----------
    tables
        One table per method, one row per participant, visit and series.
    files
        Paths of the tables.
    report
        Path of the page.
    participants_match
        False where ``participants.tsv`` is there, but names nobody of the folders; its columns
        are then left out.
    """

    tables: Mapping[str, pd.DataFrame]
    files: tuple[Path, ...]
    report: Path
    participants_match: bool = True


def robust_z(values: ArrayLike) -> NDArray[np.float64]:
    """Return how many robust standard deviations each value lies from the median.

    The deviation is 1.4826 times the median absolute deviation.  It stays bounded while fewer than
    half of the values are odd, but they widen it: with a third of odd values on one side many of
    them are not marked.  NaN where there are fewer than five values, or where more than half are
    equal.

    References
    ----------
    Iglewicz and Hoaglin 1993, How to detect and handle outliers, who mark what is beyond 3.5.

    Examples
    --------
    >>> robust_z([1, 2, 3, 4, 5, 60]).round(1)
    array([-1.1, -0.7, -0.2,  0.2,  0.7, 25.4])
    """
    x = np.asarray(values, dtype=np.float64)
    known = x[np.isfinite(x)]
    if known.size < MIN_VALUES:
        return np.full(x.shape, np.nan)
    middle = np.median(known)
    scale = 1.4826 * np.median(np.abs(known - middle))
    return (x - middle) / scale if scale > 0 else np.full(x.shape, np.nan)


def summarise(
    folder: BidsFolder,
    out: images.PathLike,
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Group:
    """Collect what the participant level left in a folder into tables and a page.

    Parameters
    ----------
    folder
        From `pvsbook.bids.inputs.find`: who should be there.
    out
        The folder that `pvsbook.bids.app.run_participants` filled.
    settings
        As given there.

    Returns
    -------
    Group

    Raises
    ------
    InputError
        Nothing was measured there yet, from the current files and with the current settings;
        ``participants.tsv`` cannot be read; or a file of the user has the name of a table.
    """
    top = Path(out)
    _refuse_unread_table(folder)
    match = _match(folder)
    if not match:
        folder = replace(folder, participants=folder.participants.iloc[:0, :0])
    rows: dict[str, list[dict[str, Any]]] = {}
    links: dict[str, list[str]] = {}
    reasons: dict[str, list[str]] = {}
    ended: dict[str, list[tuple[Measurement, jobs.Record | None]]] = {}
    for measurement, task in app.plan(folder, settings or {}):
        name, key = measurement.name, measurement.method
        record = _current(task, jobs.read_record(top, name), top)
        ended.setdefault(measurement.participant, []).append((measurement, record))
        notes = measurement.found.notes
        if isinstance(task, jobs.Record) and record is not None and record.status == "done":
            notes = (*notes, f"measured before; now {task.reason}")
        rows.setdefault(key, []).append(_row(measurement, notes, record))
        reasons.setdefault(key, [])
        link: Any = ""
        if record is not None and record.status == "done":
            reasons[key] += app.texts(record.result.get("reasons"))
            link = app.link_to_page(name, record.result)
        links.setdefault(key, []).append(link["href"] if isinstance(link, dict) else "")
    if not any(row["outcome"] == "done" for entries in rows.values() for row in entries):
        raise InputError(
            f"{out}: nothing has been measured there with these files and settings; run the "
            "participant level first, with the same --settings, --derivatives and "
            "--bids-filter-file"
        )
    trended = [key for key in rows if registry.by_name(key).trend is not None]
    names = [*rows, *(f"{key}slopes" for key in trended)]
    for name in (
        "group.html",
        *CITATION,
        *(f"group_{key}.{e}" for key in names for e in ("tsv", "json")),
    ):
        jobs.check_page(top / name)
    derivatives.describe(top)
    tables, files, sections = {}, [], []
    for name, entries in rows.items():
        method = registry.by_name(name)
        table, z = _table(folder, method, entries)
        tables[name] = table
        files += _write(top, folder, method.name, method.columns, table)
        if method.trend is not None:
            people_of = {p: trend(method, folder.root, p, pairs) for p, pairs in ended.items()}
            slopes = pd.concat(people_of, names=["participant_id"]).reset_index(level=0)
            files += _write(top, folder, f"{name}slopes", method.trend_columns, slopes)
        sections.append(_section(method, table, z, links[name], reasons[name]))
    written = methods_text(
        (method, method.settled({**method.defaults, **(settings or {}).get(key, {})}), tables[key])
        for key, method in ((key, registry.by_name(key)) for key in tables)
    )
    files += [jobs.write_page(t, top / n) for t, n in zip(written, CITATION, strict=True)]
    page = report.group_page(
        "All participants",
        summary=_summary(folder, tables),
        notes=folder.notes,
        overview=_overview(tables),
        sections=sections,
        limits=LIMITS,
        methods=written,
    )
    for section in sections:
        for figure, _, _ in section["figures"]:
            plt.close(figure)
    where = jobs.write_page(page, top / "group.html")
    return Group(tables, tuple(files), where, match)


def _match(folder: BidsFolder) -> bool:
    """Tell whether ``participants.tsv``, where it is there, names anybody of the folders."""
    named = set(folder.participants.index)
    return not named or bool(named & set(folder.labels))


def _refuse_unread_table(folder: BidsFolder) -> None:
    """Refuse to write tables without the columns of a ``participants.tsv`` that is there."""
    for note in folder.notes:
        if note.startswith(UNUSED):
            raise InputError(f"{folder.root / note}; correct it, as every table needs its columns")


def _current(
    task: jobs.Task | jobs.Record, record: jobs.Record | None, top: Path
) -> jobs.Record | None:
    """Return a record without values if its files or settings are not the current ones."""
    if record is None or record.status != "done" or isinstance(task, jobs.Record):
        return record
    try:
        differing = jobs.outdated(task, record, top)
    except InputError as error:
        differing = str(error)
    if not differing:
        return record
    reason = f"measured with another {differing}; run the participant level again"
    return jobs.Record(record.name, "out of date", reason=reason)


def _row(
    measurement: Measurement, notes: Sequence[str], record: jobs.Record | None
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "participant_id": measurement.participant,
        "session_id": measurement.session or None,
        "outcome": "not run" if record is None else record.status,
        "outcome_reason": record.reason if record is not None and record.reason else None,
        "notes": "; ".join(notes) or None,
        COUNTED: measurement.rank,
        **measurement.entities,
    }
    values = record.result.get("row") if record is not None else None
    if not isinstance(values, dict):
        return row
    return row | {k: v for k, v in values.items() if k not in row and _is_plain(v)}


def _is_plain(value: Any) -> bool:
    """Tell what a table can hold from what a record of another maker may hold."""
    return value is None or (
        isinstance(value, str | bool | int | float)
        and not (isinstance(value, int) and abs(value) > 2**53)
    )


def _table(
    folder: BidsFolder, method: Method, rows: Sequence[Mapping[str, Any]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make the table of a method; return it and the robust distance of what is drawn."""
    own = ["outcome", "outcome_reason", "notes", COUNTED]
    names = ["participant_id", "session_id", *entities_in(rows), *own]
    measured = [c for c in method.columns if any(c in row for row in rows)]
    table = pd.DataFrame(list(rows), columns=[*names, *measured])
    for column in _drawn(method, table):  # a record of another maker may hold text
        table[column] = pd.to_numeric(table[column], errors="coerce")
    table[COUNTED] = counted(table)
    drawn = table[[*_drawn(method, table)]].where(table[COUNTED])
    z = pd.DataFrame({c: robust_z(drawn[c]) for c in drawn}, index=table.index)
    outliers = [
        "; ".join(
            f"{c} {v:+.1f}" for c, v in zip(z.columns, row, strict=True) if abs(v) > OUTLYING
        )
        for row in z.to_numpy(dtype=float)
    ]
    table.insert(len(names), "outliers", [text or None for text in outliers])
    known = folder.participants.reindex(table["participant_id"]).reset_index(drop=True)
    known.columns = [f"participant_{c}" if c in table else c for c in known.columns]
    n = len(names) + 1
    whole = pd.concat([table.iloc[:, :n], known, table.iloc[:, n:]], axis=1)
    return whole, z


def _drawn(method: Method, table: pd.DataFrame) -> dict[str, str]:
    return {c: label for c, label in method.key_columns.items() if c in table}


def _write(
    top: Path,
    folder: BidsFolder,
    method: str,
    columns: Mapping[str, Mapping[str, Any]],
    table: pd.DataFrame,
) -> list[Path]:
    """Write the table of a method as TSV, and beside it what its columns mean."""
    meanings: dict[str, Mapping[str, Any]] = {}
    for name in map(str, table.columns):
        key = name if name in OWN else name.removeprefix("participant_")
        meanings[name] = (
            OWN.get(name)
            or columns.get(name)
            or folder.columns.get(key)
            or {"Description": "from participants.tsv"}
        )
    text = table.to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n")
    path = jobs.write_page(text, top / f"group_{method}.tsv")
    jobs.write_page(_json(meanings), path.with_suffix(".json"))
    return [path]


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, default=derivatives.plain) + "\n"


def _summary(folder: BidsFolder, tables: Mapping[str, pd.DataFrame]) -> str:
    outcomes = Counter(itertools.chain.from_iterable(t["outcome"] for t in tables.values()))
    counts = ", ".join(f"{n} {outcome}" for outcome, n in outcomes.most_common())
    return f"{len(folder.labels)} participants; of their scans and methods {counts}."


def _overview(tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Count outcomes and quality of each method."""
    rows = []
    for name, table in tables.items():
        quality = table.get("status", pd.Series(dtype=object))
        rows.append(
            [
                {"text": registry.by_name(name).title, "href": f"#{name}"},
                len(table),
                *[int((quality == q).sum()) for q in ("pass", "warn", "fail")],
                *[int((table["outcome"] == o).sum()) for o in OUTCOMES],
            ]
        )
    head = ["Method", "Scans", "Pass", "Warn", "Fail (quality)"]
    head += [outcome.capitalize() for outcome in OUTCOMES]
    return {"head": head, "rows": rows}


def _section(
    method: Method,
    table: pd.DataFrame,
    z: pd.DataFrame,
    links: Sequence[str],
    found: Sequence[str],
) -> dict[str, Any]:
    done = table["outcome"] == "done"
    counts = done & table[COUNTED]
    drawn = _drawn(method, table)
    several = of_several(table, method)
    texts, figures = [several] if several else [], []
    if done.any():
        far = z.abs() > OUTLYING
        figure = people.distributions(table[counts], drawn, outlying=far[counts])
        words = [_words(table.loc[counts, c], label) for c, label in drawn.items()]
        figures.append(
            (
                figure,
                f"One dot per visit. {' '.join(words)} "
                f"{int(far.to_numpy().sum())} outlying values.",
                "Every visit as a dot (its height means nothing), the median as a line, half of "
                "the visits within the bar; crosses lie beyond 3.5 robust standard deviations.",
            )
        )
    else:
        texts.append("Nothing was measured.")

    def who(i: Any) -> list[Any]:
        session = table.at[i, "session_id"]
        visit = [
            str(table.at[i, "participant_id"]),
            *([session] if isinstance(session, str) else []),
            *(f"{k}-{table.at[i, k]!s}" for k in SERIES if pd.notna(table.get(k, {}).get(i))),
        ]
        cell = " ".join(visit)
        return [{"text": cell, "href": links[i]} if links[i] else cell]

    numbers = [
        [label, *(_quantile(table.loc[counts, c], q) for q in (0, 0.25, 0.5, 0.75, 1))]
        for c, label in drawn.items()
    ]
    # numbers differ from scan to scan; without them, like reasons can be counted
    reasons = Counter(re.sub(r"[-+]?\d+(\.\d+)?", "…", text) for text in found)
    outlying = [[*who(i), table.at[i, "outliers"]] for i in table.index[table["outliers"].notna()]]
    not_done = [
        [*who(i), table.at[i, "outcome"], table.at[i, "outcome_reason"] or ""]
        for i in table.index[~done]
    ]
    noted = [[*who(i), table.at[i, "notes"]] for i in table.index[table["notes"].notna()]]
    title = method.title
    return {
        "id": method.name,
        "title": title,
        "texts": texts,
        "figures": figures,
        "tables": [
            {
                "caption": f"{title}: distribution",
                "head": ["Value", "Least", "Lower quarter", "Median", "Upper quarter", "Most"],
                "rows": numbers if done.any() else [],
            },
            {
                "caption": f"{title}: outliers",
                "head": ["Visit", "Robust standard deviations from the median"],
                "rows": outlying,
            },
            {
                "caption": f"{title}: what quality checks found",
                "head": ["Reason", "Visits"],
                "rows": [[reason, n] for reason, n in reasons.most_common(12)],
            },
            {
                "caption": f"{title}: {', '.join(OUTCOMES)}",
                "head": ["Visit", "Outcome", "Reason"],
                "rows": not_done,
            },
            {
                "caption": f"{title}: deviations from the BIDS specification, and choices",
                "head": ["Visit", "Note"],
                "rows": noted,
            },
        ],
    }


def _quantile(values: pd.Series, q: float) -> str:
    known = pd.to_numeric(values, errors="coerce").dropna()
    return f"{known.quantile(q):.3g}" if len(known) else "n/a"


def _words(values: pd.Series, label: str) -> str:
    low, middle, high = (_quantile(values, q) for q in (0, 0.5, 1))
    return f"{label}: median {middle}, from {low} to {high}."
