"""Order of the visits in time, and the table of participants, of a BIDS folder."""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pvsbook import images
from pvsbook._names import natural

__all__ = ["order_sessions", "read_participants", "shorten", "years_since_first"]

UNUSED = "participants.tsv is not used"  # the note's start; a reason follows
EARLY = ("pre", "baseline", "base", "bl", "before", "first", "initial", "screening")
LATE = ("post", "followup", "fu", "after", "last", "final")


def order_sessions(top: Path, person: str, sessions: Sequence[str]) -> tuple[list[str], str]:
    """Put the visits of a person in the order of time; say by what, where there are several."""
    sessions = sorted(set(sessions), key=natural)
    if len(sessions) < 2:
        return sessions, ""
    when, by = _when(top, person, sessions)
    if when:
        return sorted(sessions, key=when.__getitem__), by
    words = [session.removeprefix("ses-").casefold() for session in sessions]
    early = [s for s, w in zip(sessions, words, strict=True) if w.startswith(EARLY)]
    late = [s for s, w in zip(sessions, words, strict=True) if w.startswith(LATE)]
    if len(sessions) == 2 and len(early) == len(late) == 1:
        return [*early, *late], "the words of their labels (no acq_time or age for all of them)"
    others = [s for s in sessions if s not in early]
    kinds = {re.sub(r"\d+", "#", s.casefold()) for s in others}
    if len(early) == 1 and len(kinds) == 1 and "#" in min(kinds):
        return [
            *early,
            *others,
        ], "the words and numbers of their labels (no acq_time or age for all)"
    if len({re.sub(r"\d+", "#", word) for word in words}) == 1 and re.search(r"\d", words[0]):
        return sessions, "the numbers of their labels (no acq_time or age for all of them)"
    return sessions, (
        "the letters of their labels, which may not be that of time; give acq_time, or age, for "
        "all of them in sub-*_sessions.tsv"
    )


def years_since_first(
    top: Path, person: str, sessions: Sequence[str]
) -> tuple[dict[str, float], str]:
    """Return how many years after the earliest visit each one was, and by what.

    Nothing where the times of some visits are not known, or two are the same.
    """
    when, by = _when(top, person, sessions)
    return {session: years - min(when.values()) for session, years in when.items()}, by


def _when(top: Path, person: str, sessions: Sequence[str]) -> tuple[dict[str, float], str]:
    """Find the time of all visits in one table, in years from any origin; say which."""
    ages = _read_column(top / person / f"{person}_sessions.tsv", "session_id", "age", _ages)
    for by, times in (
        ("acq_time of sessions.tsv", _session_times(top, person)),
        ("acq_time of scans.tsv", _scan_times(top, person, sessions)),
        ("age of sessions.tsv", {_session(label): age for label, age in ages.items()}),
    ):
        known = {session: times[session] for session in sessions if session in times}
        if len(set(known.values())) == len(set(sessions)):
            return known, by
    return {}, ""


def _session(label: str) -> str:
    return f"ses-{label.strip().removeprefix('ses-')}"


def _session_times(top: Path, person: str) -> dict[str, float]:
    times = _read_column(top / person / f"{person}_sessions.tsv", "session_id", "acq_time", _years)
    return {_session(label): time for label, time in times.items()}


def _scan_times(top: Path, person: str, sessions: Sequence[str]) -> dict[str, float]:
    """Take the earliest scan of each session."""
    earliest = {}
    for session in sessions:
        table = top / person / session / f"{person}_{session}_scans.tsv"
        times = _read_column(table, "filename", "acq_time", _years)
        if times:
            earliest[session] = min(times.values())
    return earliest


def _years(stamps: pd.Series) -> pd.Series:
    times = pd.to_datetime(stamps.str.strip(), errors="coerce", format="ISO8601", utc=True)
    return (times - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=365.25)


def _ages(texts: pd.Series) -> pd.Series:
    return pd.to_numeric(texts.str.strip(), errors="coerce")


def _read_column(
    path: Path, labels: str, column: str, read: Callable[[pd.Series], pd.Series]
) -> dict[str, float]:
    """Read numbers of a column by label; nothing where the table is absent or holds none."""
    if not path.is_file():  # a pipe would keep its reader waiting
        return {}
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, na_values="n/a", encoding="utf-8-sig")
        values, names = read(table[column]), table[labels].map(str)
    except (OSError, ValueError, KeyError, AttributeError):
        return {}
    known = zip(names, values, strict=True)
    return {name: float(value) for name, value in known if np.isfinite(value)}


def shorten(names: Sequence[str]) -> str:
    """List ten names, and say how many more there are."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def _first_line(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8; save it again in that encoding"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read_participants(top: Path) -> tuple[pd.DataFrame, dict[str, Any], list[str]]:
    """Read ``participants.tsv`` and its dictionary, and say where it does not fit the folders."""
    path = top / "participants.tsv"
    empty = pd.DataFrame(index=pd.Index([], name="participant_id"))
    if not os.path.lexists(path):
        return empty, {}, []
    if not path.is_file():
        return empty, {}, [f"{UNUSED}: it is not a regular file"]
    try:
        with warnings.catch_warnings():  # pandas would cut a row that is longer than the head
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                sep="\t",
                dtype=str,
                encoding="utf-8-sig",
                index_col=False,  # else a tab at the end of each row shifts the columns
                quoting=csv.QUOTE_NONE,
                keep_default_na=False,
                na_values=["n/a", ""],
                skip_blank_lines=True,
            )
        words = path.with_suffix(".json")
        columns = images.read_json(words) if words.is_file() else {}
    except pd.errors.ParserWarning:
        return empty, {}, [f"{UNUSED}: a row has more cells than its head"]
    except (OSError, ValueError) as error:
        return empty, {}, [f"{UNUSED}: {_first_line(error)}"]
    if "participant_id" not in table:
        return empty, {}, [f"{UNUSED}: it has no column participant_id"]
    table = table[table["participant_id"].notna()].copy()
    labels = table["participant_id"].str.strip().str.removeprefix("sub-")
    odd = labels[~labels.str.fullmatch(r"[0-9A-Za-z+]+")]
    if len(odd):
        return empty, {}, [f"{UNUSED}: {odd.iloc[0]!r} is no BIDS label"]
    table["participant_id"] = "sub-" + labels
    again = table.loc[table["participant_id"].duplicated(), "participant_id"]
    if len(again):
        twice = shorten([*dict.fromkeys(again)])
        return empty, {}, [f"{UNUSED}: {twice} stands there twice"]
    folders = {p.name for p in top.glob("sub-*") if p.is_dir()}
    named = set(table["participant_id"])
    notes = []
    for what, missing in (
        ("without a row in participants.tsv", folders - named),
        ("listed in participants.tsv, without a folder", named - folders),
    ):
        if missing:
            notes.append(f"{shorten(sorted(missing, key=natural))} {what}")
    return table.set_index("participant_id"), columns, notes
