"""What the page of all participants says of one method."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from pvsbook._constants import SERIES
from pvsbook.bids import _plots
from pvsbook.bids._compare import Groups, one_row_each
from pvsbook.bids._series import COUNTED, of_several
from pvsbook.method import Method

OUTCOMES = ("failed", "skipped", "not run", "out of date")  # that leave no number
OUTLYING = 3.5
NUMBER = re.compile(r"(?<![\w.-])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")
NAMED = 10  # participants that a cell names; the tables have all
DOTS = (
    "Every visit is a dot that leads to the participant's page (its height means nothing; arrow "
    "keys go from dot to dot), with the median and, shaded, the middle half of the visits. "
    "Diamonds lie beyond 3.5 robust standard deviations, among scans of one protocol where five "
    "share it; rings failed their checks."
)
INTERVALS = (
    "Thick: the estimate with its 95 % interval. Thin: not adjusted for age and sex. Dashed: "
    "scans that passed, without those that warned. The line is no difference."
)


@dataclass(frozen=True, eq=False)
class MethodRows:
    """What is known of the visits of one method, each in the same order.

    Attributes
    ----------
    table
        As it is written, with a fresh index.
    z
        Robust distance of each value that is drawn.
    scans, people
        Pages of the scan and of the participant; empty where there is none.
    reasons
        What the quality checks found.
    protocols
        For each letter what its scans are, by field.
    """

    method: Method
    table: pd.DataFrame
    z: pd.DataFrame
    scans: Sequence[str]
    people: Sequence[str]
    reasons: Sequence[Sequence[str]]
    protocols: Mapping[str, Mapping[str, str]]


def section(rows: MethodRows, groups: Groups, contrasts: pd.DataFrame) -> dict[str, Any]:
    """Make the section of a method, as `pvsbook.report.group_page` takes it."""
    method, table, title = rows.method, rows.table, rows.method.title
    done = table["outcome"] == "done"
    counts = done & table[COUNTED]
    texts = [text for text in (of_several(table, method),) if text]
    texts += [] if done.any() else ["Nothing was measured."]
    drawn = drawn_of(method, table)
    estimated = contrasts[contrasts["estimate"].notna()]
    forests = _forests(method, estimated) if len(estimated) else []
    plots = [_dots(rows, groups, c, label) for c, label in drawn.items()] if done.any() else []
    not_done = [
        [*_who(rows, i), table.at[i, "outcome"], table.at[i, "outcome_reason"] or ""]
        for i in table.index[~done]
    ]
    noted = [[*_who(rows, i), table.at[i, "notes"]] for i in table.index[table["notes"].notna()]]
    comparison = []
    if groups.column and method.compared:
        comparison = [
            _table(f"{title}: groups", GROUPS_HEAD, _group_rows(rows, groups)),
            _table(f"{title}: comparison", COMPARISON_HEAD, _contrast_rows(estimated, drawn)),
            _table(
                f"{title}: not compared",
                ["Contrast", "Figures", "Why"],
                _refused_rows(contrasts[contrasts["estimate"].isna()], drawn),
            ),
        ]
    quartiles = [
        [label, *(quantile(table.loc[counts, c], q) for q in (0, 0.25, 0.5, 0.75, 1))]
        for c, label in drawn.items()
    ]
    return {
        "id": method.name,
        "title": title,
        "texts": texts,
        "plots": [
            *((plot, INTERVALS * (k == len(forests) - 1)) for k, plot in enumerate(forests)),
            *((plot, DOTS * (k == len(plots) - 1)) for k, plot in enumerate(plots)),
        ],
        "tables": [
            *comparison,
            _table(f"{title}: protocols", ["Protocol", "Visits", "What it is", "Who"],
                   _protocol_rows(rows, groups)),
            _table(
                f"{title}: distribution",
                ["Value", "Least", "Lower quarter", "Median", "Upper quarter", "Most"],
                quartiles if done.any() else [],
            ),
            _table(f"{title}: outliers",
                   ["Participant", "Value, and robust standard deviations from the median"],
                   _outlier_rows(rows, drawn)),
            _table(f"{title}: what quality checks found", ["Reason", "Visits", "Who"],
                   _reason_rows(rows)),
            _table(f"{title}: {', '.join(OUTCOMES)}", ["Visit", "Outcome", "Reason"], not_done),
            _table(f"{title}: deviations from the BIDS specification, and choices",
                   ["Visit", "Note"], noted),
        ],
    }  # fmt: skip


GROUPS_HEAD = [
    "Group", "Participants", "Compared", "Pass", "Warn", "Failed checks only", "No value",
    "Age, mean (SD)", "Sex", "Protocols",
]  # fmt: skip
COMPARISON_HEAD = [
    "Figure", "Contrast", "n", "Estimate (95 % interval)", "In residual SD", "p", "p, Holm",
    "Not adjusted", "Pass only", "Adjusted for; who was left out, and why",
]  # fmt: skip


def drawn_of(method: Method, table: pd.DataFrame) -> dict[str, str]:
    return {c: label for c, label in method.key_columns.items() if c in table}


def quantile(values: pd.Series, q: float) -> str:
    known = pd.to_numeric(values, errors="coerce").dropna()
    return f"{known.quantile(q):.3g}" if len(known) else "n/a"


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    return {"caption": caption, "head": head, "rows": rows}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", table.to_dict("records"))


def _visit(rows: MethodRows, i: int) -> str:
    session = rows.table.at[i, "session_id"]
    known = ((key, rows.table.at[i, key]) for key in SERIES if key in rows.table)
    series = [f"{key}-{label}" for key, label in known if isinstance(label, str)]
    return " ".join([str(rows.table.at[i, "participant_id"]), *_text(session), *series])


def _text(value: Any) -> list[str]:
    return [value] if isinstance(value, str) and value else []


def _who(rows: MethodRows, i: int) -> list[Any]:
    name = _visit(rows, i)
    return [{"text": name, "href": rows.scans[i]} if rows.scans[i] else name]


def _several(rows: MethodRows, places: Sequence[int]) -> list[Any]:
    """Name some visits in a cell, with links."""
    more = [f"and {len(places) - NAMED} more"] if len(places) > NAMED else []
    return [*(_who(rows, i)[0] for i in places[:NAMED]), *more]


def _dots(rows: MethodRows, groups: Groups, column: str, label: str) -> dict[str, Any]:
    """Draw the visits of each group, or all in one row where there are no groups."""
    table = rows.table[(rows.table["outcome"] == "done") & rows.table[COUNTED]]
    lanes = pd.Series("", table.index)
    if groups.column:
        known = groups.people["group"].reindex(table["participant_id"]).to_numpy()
        lanes = pd.Series(known, table.index, dtype=object).fillna("no group")
        order = [groups.reference, *groups.others, "no group"]
        table = table.loc[lanes.map(order.index).sort_values(kind="stable").index]
        lanes = lanes[table.index]
    far = rows.z[column].abs() > OUTLYING
    failed = table["status"] == "fail" if "status" in table else pd.Series(False, table.index)
    return _plots.dots(
        label,
        table[column],
        lanes=lanes,
        names=[_visit(rows, i) for i in table.index],
        links=[rows.people[i] or rows.scans[i] for i in table.index],
        kinds=["failed" if failed[i] else "odd" if far[i] else "plain" for i in table.index],
    )


def _forests(method: Method, estimated: pd.DataFrame) -> list[dict[str, Any]]:
    """Draw the contrasts of the figures that share a unit on one axis."""
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in _records(estimated):
        unit = method.columns[row["figure"]].get("Units", "")
        label = method.key_columns.get(row["figure"], row["figure"])
        kinds = {"main": ""} | {k: f"{k}_" for k in ("plain", "passed")}
        intervals = {
            kind: tuple(row[f"{start}{end}"] for end in ("estimate", "low", "high"))
            for kind, start in kinds.items()
            if np.isfinite(row[f"{start}estimate"])
        }
        entry = {"name": f"{label}: {row['contrast']}", "intervals": intervals}
        panels.setdefault((row["measure"], unit), []).append(entry)
    return [
        _plots.forest(measure.capitalize(), entries, is_ratio=measure == "rate ratio")
        for (measure, _), entries in panels.items()
    ]


def _joined(rows: MethodRows, groups: Groups) -> pd.DataFrame:
    """Put group, age and sex beside what became of each visit."""
    about = ["participant_id", "session_id", "outcome", "status", "protocol", COUNTED]
    return rows.table.reindex(columns=about).join(groups.people, on="participant_id")


def _group_rows(rows: MethodRows, groups: Groups) -> list[list[Any]]:
    """Count, of each group, who was compared and who was not."""
    table = _joined(rows, groups)
    taken = one_row_each(table)
    lines = []
    for label in [groups.reference, *groups.others, None]:
        own = table[table["group"].isna() if label is None else table["group"] == label]
        used = own[own.index.isin(taken.index)]
        people = own.drop_duplicates("participant_id")
        if label is None and people.empty:
            continue
        value = own[own["outcome"] == "done"]["participant_id"].unique()
        failed = set(value) - set(used["participant_id"])
        status = used["status"].value_counts()
        age = used["age"].dropna() if "age" in used else pd.Series(dtype=float)
        sexes = used["sex"].value_counts() if "sex" in used else pd.Series(dtype=int)
        letters = used["protocol"].value_counts().sort_index()
        spread = f" ({age.std():.1f})" if len(age) > 1 else ""
        lines.append(
            [
                ("no group" if label is None else label)
                + (" (reference)" if label == groups.reference else ""),
                len(people),
                len(used) if label is not None else 0,
                *(int(status.get(s, 0)) for s in ("pass", "warn")),
                len(failed),
                len(people) - len(value),
                f"{age.mean():.1f}{spread}, n = {len(age)}" if len(age) else "not known",
                ", ".join(f"{n} {s}" for s, n in sexes.items()) or "not known",
                ", ".join(f"{n} {letter}" for letter, n in letters.items()),
            ]
        )
    return lines


def _contrast_rows(contrasts: pd.DataFrame, drawn: Mapping[str, str]) -> list[list[Any]]:
    lines = []
    for row in _records(contrasts):
        adjusted = [f"adjusted for {a}" for a in _text(row["adjusted_for"])]
        lines.append(
            [
                drawn.get(row["figure"], row["figure"]),
                f"{row['contrast']}, {row['measure']}",
                f"{row['n_other']:.0f} and {row['n_reference']:.0f}",
                *(_interval(row, start) for start in ("", "sd_")),
                *(f"{row[p]:.3g}" if np.isfinite(row[p]) else "" for p in ("p", "p_holm")),
                *(_interval(row, start) for start in ("plain_", "passed_")),
                "; ".join([*(adjusted or ["not adjusted"]), *_text(row["notes"])]),
            ]
        )
    return lines


def _refused_rows(contrasts: pd.DataFrame, drawn: Mapping[str, str]) -> list[list[Any]]:
    """Say why there is no estimate, once for the figures of which the same is true."""
    figures: dict[tuple[str, str], list[str]] = {}
    for row in _records(contrasts):
        reason = "; ".join([*_text(row["reason"]), *_text(row["notes"])])
        label = drawn.get(row["figure"], row["figure"])
        figures.setdefault((f"{row['other']} and {row['reference']}", reason), []).append(label)
    return [[groups, ", ".join(names), reason] for (groups, reason), names in figures.items()]


def _interval(row: Mapping[str, Any], start: str) -> str:
    values = [row[f"{start}{end}"] for end in ("estimate", "low", "high")]
    if not np.isfinite(values[0]):
        return ""
    estimate, low, high = (f"{v:.3g}" for v in values)
    return f"{estimate} ({low} to {high})"


def _protocol_rows(rows: MethodRows, groups: Groups) -> list[list[Any]]:
    """Describe each protocol; what all share is said once."""
    letters = rows.table["protocol"]
    counts = letters.value_counts()
    fields = dict.fromkeys(name for fields in rows.protocols.values() for name in fields)
    texts = {name: {p.get(name, "") for p in rows.protocols.values()} for name in fields}
    shared = [name for name in fields if len(texts[name]) == 1]
    known = _joined(rows, groups)
    lines = []
    for letter in counts.index:
        fields_of = rows.protocols.get(letter, {})
        own = [n for n in fields_of if n not in shared or len(rows.protocols) == 1]
        words = "; ".join(f"{name} {fields_of[name]}" for name in own)
        places = list(rows.table.index[letters == letter])
        who: Any = _several(rows, places) if len(places) <= NAMED < len(letters) else []
        if groups.column:
            people = known.loc[places].drop_duplicates("participant_id")
            sizes = people["group"].fillna("no group").value_counts()
            who = [*(f"{n} {g}" for g, n in sizes.items()), *who]
        elif len(counts) > 1 and not who:
            who = _several(rows, places) if len(places) <= NAMED else []
        lines.append([letter, len(places), words or "not known", who])
    if len(rows.protocols) > 1 and shared:
        words = "; ".join(f"{name} {texts[name].copy().pop()}" for name in shared)
        lines.append(["all", int(counts.sum()), words, ""])
    return lines


def _outlier_rows(rows: MethodRows, drawn: Mapping[str, str]) -> list[list[Any]]:
    """Name each participant with outlying values once, with all of them."""
    far = rows.z.abs() > OUTLYING
    said: dict[str, list[str]] = {}
    first: dict[str, int] = {}
    for i in rows.table.index[far.any(axis=1)]:
        person = str(rows.table.at[i, "participant_id"])
        first.setdefault(person, i)
        session = "".join(f" at {s}" for s in _text(rows.table.at[i, "session_id"]))
        for column in far.columns[far.loc[i]]:
            value, z = (cast("float", t.at[i, column]) for t in (rows.table, rows.z))
            said.setdefault(person, []).append(f"{drawn[column]} {value:.4g} ({z:+.1f}){session}")
    return [
        [
            {"text": person, "href": page}
            if (page := rows.people[i] or rows.scans[i])
            else person,
            "; ".join(said[person]),
        ]
        for person, i in first.items()
    ]


def _reason_rows(rows: MethodRows) -> list[list[Any]]:
    """Count reasons that differ in their numbers only, with the range of each number."""
    alike: dict[str, list[tuple[int, str]]] = {}
    for i, texts in enumerate(rows.reasons):
        for text in dict.fromkeys(texts):
            alike.setdefault(NUMBER.sub("…", text), []).append((i, text))
    lines = []
    for found in sorted(alike.values(), key=lambda v: -len(v)):
        numbers = zip(*(NUMBER.findall(text) for _, text in found), strict=True)
        first, *between = NUMBER.split(found[0][1])
        filled = zip((_range(values) for values in numbers), between, strict=True)
        text = first + "".join(number + words for number, words in filled)
        places = list(dict.fromkeys(i for i, _ in found))
        lines.append([text, len(places), _several(rows, places)])
    return lines


def _range(values: Sequence[str]) -> str:
    low, high = min(values, key=float), max(values, key=float)
    return low if float(low) == float(high) else f"{low} to {high}"
