"""All participants: one table per method that statistics can read, and one page."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pvsbook import derivatives, images, jobs, report
from pvsbook import methods as registry
from pvsbook._errors import InputError
from pvsbook._records import hash_inputs
from pvsbook._version import __version__
from pvsbook.bids import _compare, _group_page, app
from pvsbook.bids._group_page import OUTCOMES, OUTLYING
from pvsbook.bids._protocols import name_protocols, protocol_of
from pvsbook.bids._series import COUNTED, OF_SERIES, counted, entities_in
from pvsbook.bids._trends import trend
from pvsbook.bids.citation import methods_text
from pvsbook.bids.inputs import BidsFolder, Measurement
from pvsbook.bids.sessions import UNUSED
from pvsbook.method import Method
from pvsbook.visit import Sidecars

__all__ = ["OUTLYING", "Group", "robust_z", "summarise"]

CITATION = ("group_methods.md", "group_methods.bib")
COMPARISONS = "comparisons"  # group_comparisons.tsv
MIN_VALUES = 5
SITES = ("site", "scanner", "center", "centre")  # columns of participants.tsv
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
    "notes": {
        "Description": "what was chosen among several files, or read otherwise, and what the "
        "method notes of the result"
    },
    "protocol": {
        "Description": "letter of scans that were acquired, read and measured alike; group.html "
        "says what each is"
    },
    "outliers": {
        "Description": "columns whose value lies more than 3.5 robust standard deviations from "
        "the median of the rows for statistics of its protocol (of all where fewer than five "
        "share it), with that distance"
    },
}
LIMITS = (
    "An outlier is a value to look at, not one to drop: people differ, and so do sick ones.",
    "Distances from the median assume one group; patients among controls, or protocols of fewer "
    "than five scans, widen it and hide outliers.",
    "A difference of groups need not come from the disease: what differs between them and is not "
    "adjusted for, such as motion, vascular risk or who could be measured, is part of it.",
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
    compare: str = "",
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
    compare
        Which groups are compared: ``column`` of ``participants.tsv`` or ``column=reference``; by
        default ``group``, ``diagnosis`` or the like where it is there; ``none`` compares nothing.

    Returns
    -------
    Group

    Raises
    ------
    InputError
        Nothing was measured there yet, from the current files and with the current settings;
        ``participants.tsv`` cannot be read or has no such column or group; or a file of the user
        has the name of a table.
    """
    top = Path(out)
    _refuse_unread_table(folder)
    match = _match(folder)
    if not match:
        folder = replace(folder, participants=folder.participants.iloc[:0, :0])
    groups = _compare.find_groups(folder.participants, folder.columns, compare)
    found: dict[str, list[_Visit]] = {}
    ended: dict[str, list[tuple[Measurement, jobs.Record | None]]] = {}
    sidecars = Sidecars(folder.root)
    for measurement, task in app.plan(folder, settings or {}):
        record = _current(task, jobs.read_record(top, measurement.name), top)
        ended.setdefault(measurement.participant, []).append((measurement, record))
        visit = _visit(folder, sidecars, top, measurement, task, record)
        found.setdefault(measurement.method, []).append(visit)
    if not any(v.row["outcome"] == "done" for visits in found.values() for v in visits):
        raise InputError(
            f"{out}: nothing has been measured there with these files and settings; run the "
            "participant level first, with the same --settings, --derivatives and "
            "--bids-filter-file"
        )
    trended = [key for key in found if registry.by_name(key).trend is not None]
    names = [*found, *(f"{key}slopes" for key in trended), COMPARISONS]
    for name in (
        "group.html",
        *CITATION,
        *(f"group_{key}.{e}" for key in names for e in ("tsv", "json")),
    ):
        jobs.check_page(top / name)
    derivatives.describe(top)
    tables, files, measured = {}, [], []
    for name, visits in found.items():
        method = registry.by_name(name)
        letters, protocols = name_protocols([v.protocol for v in visits])
        done = [v.row["outcome"] == "done" for v in visits]
        letters = [
            "not known" if d and k is None else k for d, k in zip(done, letters, strict=True)
        ]
        table, z = _table(folder, method, [v.row for v in visits], letters)
        tables[name] = table
        files += _write(top, folder, method.name, method.columns, table)
        if method.trend is not None:
            people_of = {p: trend(method, folder.root, p, pairs) for p, pairs in ended.items()}
            slopes = pd.concat(people_of, names=["participant_id"]).reset_index(level=0)
            files += _write(top, folder, f"{name}slopes", method.trend_columns, slopes)
        pages = [f"{person}.html" for person in table["participant_id"]]
        rows = _group_page.MethodRows(
            method, table, z, [v.link for v in visits],
            [page if (top / page).is_file() else "" for page in pages],
            [v.reasons for v in visits], protocols,
        )  # fmt: skip
        measured.append(rows)
    contrasts = _compare.with_holm(
        [c for rows in measured for c in _compare.compare(rows.method, rows.table, groups)]
    )
    if groups.column or (top / f"group_{COMPARISONS}.tsv").exists():
        files += _write(top, folder, COMPARISONS, _compare.RESULTS, contrasts)
    sections = [
        _group_page.section(rows, groups, contrasts[contrasts["method"] == rows.method.name])
        for rows in measured
    ]
    written = methods_text(
        (method, method.settled({**method.defaults, **(settings or {}).get(key, {})}), tables[key])
        for key, method in ((key, registry.by_name(key)) for key in tables)
    )
    compared = _compare.in_words(groups, contrasts)
    if compared["methods"]:
        written = (f"{written[0]}\n{compared['methods']}\n", written[1])
    files += [jobs.write_page(t, top / n) for t, n in zip(written, CITATION, strict=True)]
    page = report.group_page(
        "All participants",
        summary=_summary(folder, tables),
        notes=folder.notes,
        overview=_overview(tables),
        groups=compared["page"],
        sections=sections,
        limits=LIMITS,
        methods=written,
    )
    where = jobs.write_page(page, top / "group.html")
    return Group(tables, tuple(files), where, match)


@dataclass(frozen=True)
class _Visit:
    """A row of the table of a method, and what the page says beside it."""

    row: Mapping[str, Any]
    protocol: Mapping[str, Any] | None = None
    link: str = ""
    reasons: Sequence[str] = ()


def _visit(
    folder: BidsFolder,
    sidecars: Sidecars,
    top: Path,
    measurement: Measurement,
    task: jobs.Task | jobs.Record,
    record: jobs.Record | None,
) -> _Visit:
    """Collect what is known of one method at one visit."""
    notes = measurement.found.notes
    if record is None or record.status != "done":
        return _Visit(_row(measurement, notes, record))
    protocol = None
    if isinstance(task, jobs.Record):
        notes = (*notes, f"measured before; now {task.reason}")
    else:
        protocol = protocol_of(measurement.found, sidecars)
        for column in folder.participants:
            if str(column).strip().casefold() in SITES:
                value = folder.participants[column].get(measurement.participant)
                protocol["site"] = value if isinstance(value, str) else None
        hashes, _ = hash_inputs(task, top)
        is_new = jobs.fingerprint(app.measure_task, task, hashes) == record.fingerprint
        protocol["measured by"] = f"pvsbook {__version__}" if is_new else "other code of pvsbook"
    link: Any = app.link_to_page(measurement.name, record.result)
    return _Visit(
        _row(measurement, notes, record),
        protocol,
        link["href"] if isinstance(link, dict) else "",
        app.texts(record.result.get("reasons")),
    )


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
    said = values.get("notes")  # of the method, beside those on files
    if isinstance(said, str) and said != "none":
        row["notes"] = "; ".join([*notes, said])
    return row | {k: v for k, v in values.items() if k not in row and _is_plain(v)}


def _is_plain(value: Any) -> bool:
    """Tell what a table can hold from what a record of another maker may hold."""
    return value is None or (
        isinstance(value, str | bool | int | float)
        and not (isinstance(value, int) and abs(value) > 2**53)
    )


def _table(
    folder: BidsFolder,
    method: Method,
    rows: Sequence[Mapping[str, Any]],
    protocols: Sequence[str | None],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make the table of a method; return it and the robust distance of what is drawn."""
    own = ["outcome", "outcome_reason", "notes", COUNTED]
    names = ["participant_id", "session_id", *entities_in(rows), *own]
    measured = [c for c in method.columns if c not in names and any(c in row for row in rows)]
    table = pd.DataFrame(list(rows), columns=[*names, *measured])
    drawn = _group_page.drawn_of(method, table)
    for column in {*drawn, *method.compared} & set(table):  # another maker's record may hold text
        table[column] = pd.to_numeric(table[column], errors="coerce")
    table["protocol"] = letters = pd.Series(list(protocols), table.index, dtype=object)
    table[COUNTED] = counted(table)
    counts = table[[*drawn]].where(table[COUNTED])
    z = pd.DataFrame({c: _distances(counts[c], letters) for c in drawn}, index=table.index)
    outliers = [
        "; ".join(
            f"{c} {v:+.1f}" for c, v in zip(z.columns, row, strict=True) if abs(v) > OUTLYING
        )
        for row in z.to_numpy(dtype=float)
    ]
    table.insert(len(names), "outliers", [text or None for text in outliers])
    table.insert(len(names) + 1, "protocol", table.pop("protocol"))
    known = folder.participants.reindex(table["participant_id"]).reset_index(drop=True)
    known.columns = [f"participant_{c}" if c in table else c for c in known.columns]
    n = len(names) + 2
    whole = pd.concat([table.iloc[:, :n], known, table.iloc[:, n:]], axis=1)
    return whole, z


def _distances(values: pd.Series, protocols: pd.Series) -> pd.Series:
    """Take the distance among scans of one protocol, where there are enough of them."""
    z = pd.Series(robust_z(values), values.index)
    for _, own in values.groupby(protocols):
        if own.notna().sum() >= MIN_VALUES:
            z[own.index] = robust_z(own)
    return z


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
