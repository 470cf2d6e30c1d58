"""Order of the visits in time, and the table of participants, of a BIDS folder."""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pvsbook import images
from pvsbook.visit import natural

__all__ = ["order_sessions", "read_participants", "shorten"]

UNUSED = "participants.tsv is not used"  # the note's start; a reason follows
EARLY = ("pre", "baseline", "base", "bl", "before", "first", "initial", "screening")
LATE = ("post", "followup", "fu", "after", "last", "final")


def order_sessions(top: Path, person: str, sessions: Sequence[str]) -> tuple[list[str], str]:
    """Put the visits of a person in the order of time; say by what, where there are several."""
    sessions = sorted(set(sessions), key=natural)
    if len(sessions) < 2:
        return sessions, ""
    for name, times in (
        ("sessions.tsv", _session_times(top, person)),
        ("scans.tsv", _scan_times(top, person, sessions)),
    ):
        known = [times.get(session) for session in sessions]
        if all(known) and len(set(known)) == len(known):
            return sorted(sessions, key=lambda session: times[session]), f"acq_time of {name}"
    words = [session.removeprefix("ses-").casefold() for session in sessions]
    early = [s for s, w in zip(sessions, words, strict=True) if w.startswith(EARLY)]
    late = [s for s, w in zip(sessions, words, strict=True) if w.startswith(LATE)]
    if len(sessions) == 2 and len(early) == len(late) == 1:
        return [*early, *late], "the words of their labels (no acq_time for all of them)"
    others = [s for s in sessions if s not in early]
    kinds = {re.sub(r"\d+", "#", s.casefold()) for s in others}
    if len(early) == 1 and len(kinds) == 1 and "#" in min(kinds):
        return [*early, *others], "the words and numbers of their labels (no acq_time for all)"
    if len({re.sub(r"\d+", "#", word) for word in words}) == 1 and re.search(r"\d", words[0]):
        return sessions, "the numbers of their labels (no acq_time for all of them)"
    return sessions, (
        "the letters of their labels, which may not be that of time; give acq_time for all of "
        "them in sub-*_sessions.tsv"
    )


def _session_times(top: Path, person: str) -> dict[str, pd.Timestamp]:
    return _times(
        top / person / f"{person}_sessions.tsv",
        "session_id",
        lambda label: f"ses-{label.strip().removeprefix('ses-')}",
    )


def _scan_times(top: Path, person: str, sessions: Sequence[str]) -> dict[str, pd.Timestamp]:
    """Take the earliest scan of each session."""
    earliest = {}
    for session in sessions:
        table = top / person / session / f"{person}_{session}_scans.tsv"
        times = _times(table, "filename", lambda name: name)
        if times:
            earliest[session] = min(times.values())
    return earliest


def _times(path: Path, column: str, clean: Callable[[str], str]) -> dict[str, pd.Timestamp]:
    """Read ``acq_time`` by a column; nothing where the table is absent or holds none."""
    if not path.is_file():  # a pipe would keep its reader waiting
        return {}
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, na_values="n/a", encoding="utf-8-sig")
        stamps = table["acq_time"].str.strip()
        times = pd.to_datetime(stamps, errors="coerce", format="ISO8601", utc=True)
        labels = table[column].map(clean)
    except (OSError, ValueError, KeyError, AttributeError):
        return {}
    known = zip(labels, times, strict=True)
    return {str(label): time for label, time in known if not pd.isna(time)}


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
        ("have no row in participants.tsv", folders - named),
        ("stand in participants.tsv and have no folder", named - folders),
    ):
        if missing:
            notes.append(f"{shorten(sorted(missing, key=natural))} {what}")
    return table.set_index("participant_id"), columns, notes
