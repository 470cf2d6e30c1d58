"""Groups of `participants.tsv` compared in the main figures of each method."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from pvsbook._errors import USAGE, InputError
from pvsbook._names import natural
from pvsbook.bids._series import COUNTED
from pvsbook.bids.sessions import shorten
from pvsbook.method import Method, describe_columns
from pvsbook.stats import _guards as guard
from pvsbook.stats import groups as statistics
from pvsbook.stats.tables import adjust

COLUMNS = (
    "group", "diagnosis", "dx", "diagnostic_group", "condition", "disease", "pathology", "case",
)  # fmt: skip
CONTROL = re.compile(
    "(healthy|normal|cognitivelynormal|unaffected)?(control(s|group)?|con|ctrls?|ctl|volunteers?)"
    "|healthy|normal|hcs?|hvs?|ncs?|cn|cu|td"
)
AGE, SEX = ("age",), ("sex", "gender")
SEXES = {"male": "m", "female": "f", "other": "o"}  # as BIDS spells them
LEAST = 5  # participants of each group, with a value that can be used
SPREAD = 2.0  # ratio of the groups' SDs (of counts: of their logarithms) that is told
KNOWN = 0.8  # of each group: less, and the figures are not adjusted for this covariate
RESULTS = describe_columns(
    ("method", "method that measured"),
    ("figure", "column of the method's table"),
    ("contrast", "what is estimated: a group less (or over) the reference"),
    ("reference", "group that the other is compared with"),
    ("other", "the other group"),
    ("n_reference", "participants of the reference that were compared, one row each"),
    ("n_other", "participants of the other group that were compared, one row each"),
    ("measure", "difference of means, in the unit of the figure; rate ratio for counts"),
    ("estimate", "the estimate"),
    ("low", "lower end of its 95 % interval"),
    ("high", "upper end of its 95 % interval"),
    ("interval", "how the interval was made"),
    ("test", "how p was found"),
    ("df", "degrees of freedom"),
    ("p", "p-value of this contrast alone"),
    ("p_holm", "p-value adjusted by Holm for all contrasts of this table"),
    ("adjusted_for", "covariates; protocol where several hold both groups"),
    *(
        (f"{name}_{end}", f"{words}: {what}")
        for name, words in (
            ("sd", "the difference in residual standard deviations"),
            ("plain", "not adjusted for age and sex"),
            ("passed", "scans with the status pass alone"),
        )
        for end, what in (("estimate", "estimate"), ("low", "lower end"), ("high", "upper end"))
    ),
    ("notes", "who was left out, what was not adjusted for, and what the guards warned of"),
    ("reason", "why there is no estimate"),
)
RULES = (
    "Each participant counts once: the first visit with a scan that passed or warned, and of "
    "several series of that visit the one with the most common protocol. Scans that failed their "
    "checks are left out.",
    "Only scans of alike protocols are compared: a protocol that holds one of two groups only is "
    "left out, and where several hold both, the difference is adjusted for the protocol.",
    f"Age and sex are adjusted for where participants.tsv gives them for {100 * KNOWN:.0f} % of "
    f"each group. At least {LEAST} participants of each group are needed.",
    "Counts are compared by negative binomial regression (rate ratio), other figures by least "
    "squares (difference of means); intervals are 95 %, by Student's t.",
)


@dataclass(frozen=True)
class Groups:
    """Who belongs to which group.

    Attributes
    ----------
    column
        Of ``participants.tsv``; empty where no groups are compared.
    people
        By participant: ``group`` (NaN where there is none), and ``age`` and ``sex`` where known.
    reference, others
        Labels.
    words
        What was chosen and why, or why no groups are compared.
    """

    column: str
    people: pd.DataFrame
    reference: str = ""
    others: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def find_groups(
    participants: pd.DataFrame, dictionary: Mapping[str, Mapping[str, Any]], asked: str = ""
) -> Groups:
    """Find the column of groups, the reference, age and sex in ``participants.tsv``.

    Parameters
    ----------
    participants, dictionary
        From `pvsbook.bids.inputs.find`.
    asked
        ``column`` or ``column=reference``; by default the first of `COLUMNS` that is there.
        ``none`` compares nothing.

    Raises
    ------
    InputError
        `asked` names a column or a label that is not there.
    """
    nobody = pd.DataFrame(index=participants.index)
    names = {str(c).strip().casefold(): c for c in reversed(list(participants.columns))}
    if asked == "none":
        return Groups("", nobody, words=("Groups are not compared, as was asked.",))
    wanted, _, base = asked.partition("=")
    if wanted and wanted.strip().casefold() not in names:
        raise InputError(
            f"--compare: participants.tsv has no column {wanted}; "
            f"it has {', '.join(map(str, names.values())) or 'none'}",
            code=USAGE,
        )
    there = [names[c] for c in ([wanted.strip().casefold()] if wanted else COLUMNS) if c in names]
    several = [c for c in there if _labels(participants[c]).nunique() > 1]
    if not several:
        what = f"the column {there[0]} holds one group" if there else "no column of groups"
        text = f"No groups are compared: participants.tsv has {what}"
        return Groups("", nobody, words=(f"{text} ({', '.join(COLUMNS)}, or --compare COLUMN).",))
    column = several[0]
    labels = _labels(participants[column])
    people = pd.DataFrame({"group": labels})
    for role, candidates in (("age", AGE), ("sex", SEX)):
        found = next((names[c] for c in candidates if c in names and names[c] != column), None)
        if found is not None:
            people[role] = _covariate(participants[found], role)
    words = [f"Groups are those of the column {column} of participants.tsv."]
    if several[1:]:
        words.append(f"Not looked at: {', '.join(several[1:])} (--compare COLUMN takes another).")
    try:
        guard.look_alike(people, "group")
    except InputError as error:
        return Groups("", nobody, words=(*words, f"They are not compared: {error}."))
    levels = dictionary.get(str(column), {}).get("Levels", {})
    reference, why = _reference(labels, levels if isinstance(levels, dict) else {}, base.strip())
    words.append(f"The reference is {reference}, {why}.")
    others = sorted(set(labels.dropna()) - {reference}, key=natural)
    return Groups(str(column), people, reference, tuple(others), tuple(words))


def _labels(column: pd.Series) -> pd.Series:
    text = column.astype(object).where(column.notna(), "").map(lambda v: str(v).strip())
    return text.mask(text.str.casefold().isin(["", "n/a", "nan"]))


def _covariate(column: pd.Series, role: str) -> pd.Series:
    text = _labels(column).str.casefold()
    if role == "age":  # BIDS lets 89 and older be written 89+
        return pd.to_numeric(text.str.rstrip("+"), errors="coerce")
    return text.replace(SEXES)


def _reference(labels: pd.Series, levels: Mapping[str, Any], base: str) -> tuple[str, str]:
    """Choose the group that the others are compared with, and say why this one."""
    sizes = labels.value_counts()
    present = sorted(sizes.index, key=natural)
    if base:
        if base not in present:
            raise InputError(
                f"--compare: no group {base}; there are {', '.join(present)}", code=USAGE
            )
        return base, "as was asked"

    def reads_like_controls(label: str) -> bool:
        meant = [label, str(levels.get(label, ""))]
        return any(CONTROL.fullmatch(re.sub(r"[\W_]", "", m.casefold())) for m in meant)

    controls = [label for label in present if reads_like_controls(label)]
    if len(controls) == 1:
        return controls[0], "by its name (--compare COLUMN=LABEL takes another)"
    first = next((label for label in levels if label in present), None)
    if first is not None:
        return first, "the first level in participants.json (--compare COLUMN=LABEL takes another)"
    largest = max(present, key=lambda label: sizes[label])
    return largest, "the largest group (--compare COLUMN=LABEL takes another)"


def one_row_each(rows: pd.DataFrame) -> pd.DataFrame:
    """Take one row of each participant that can be used, so that nobody counts twice.

    The first visit whose row for statistics (see `pvsbook.bids._series`) passed or warned.
    """
    counts = rows[COUNTED].astype("boolean").fillna(True)
    usable = rows[counts & (rows["outcome"] == "done") & rows["status"].isin(["pass", "warn"])]
    return usable.drop_duplicates("participant_id")


def compare(method: Method, rows: pd.DataFrame, groups: Groups) -> list[dict[str, Any]]:
    """Compare each group with the reference in each main figure of a method.

    Parameters
    ----------
    method
        Its `compared` says which figures, and which of them are counts.
    rows
        The table of the group, with ``protocol``.
    groups
        From `find_groups`.

    Returns
    -------
    list of dict
        One for each contrast, with the columns of `RESULTS`; ``reason`` says why there is no
        estimate.
    """
    names = ["participant_id", "session_id", "outcome", "status", "protocol", COUNTED]
    values = [c for c in method.compared if c in rows]
    taken = one_row_each(rows.reindex(columns=[*names, *values])).set_index("participant_id")
    taken = taken[[*values, "status", "protocol"]]
    taken = taken.join(groups.people)
    results = []
    for column, kind in method.compared.items():
        for other in groups.others if column in taken else ():
            contrast = {
                "method": method.name,
                "figure": column,
                "contrast": f"{other} {'/' if kind == 'count' else '-'} {groups.reference}",
                "reference": groups.reference,
                "other": other,
            }
            people = taken[taken["group"].isin([groups.reference, other])]
            results.append(contrast | _contrast(people, column, kind, groups.reference, other))
    return results


def _contrast(
    people: pd.DataFrame, column: str, kind: str, reference: str, other: str
) -> dict[str, Any]:
    """Estimate one difference, and the same in other choices of participants and covariates."""
    known = people[people[column].notna()]
    notes = [f"{len(people) - len(known)} without a value"] if len(known) < len(people) else []
    covariates, notes = _covariates(known, notes)
    complete = known.dropna(subset=covariates)
    if len(complete) < len(known):
        who = shorten(sorted(known.index.difference(complete.index), key=natural))
        notes.append(f"left out for want of {' or '.join(covariates)}: {who}")
    used, alone = _shared(complete)
    if alone:
        notes.append(f"left out, as their protocol holds one of the groups only: {alone}")
    sizes = {label: int((used["group"] == label).sum()) for label in (reference, other)}
    about: dict[str, Any] = {"n_reference": sizes[reference], "n_other": sizes[other]}
    if complete["group"].nunique() == 2 and used.empty:
        return about | {
            "notes": "; ".join(notes),
            "reason": "each protocol holds one of the two groups only, so that a difference of "
            "the groups cannot be told from one of the protocols",
        }
    small = [f"{label} has {n}" for label, n in sizes.items() if n < LEAST]
    if small:
        reason = (
            f"{' and '.join(small)} with a value that can be used; at least {LEAST} are needed"
        )
        return about | {"notes": "; ".join(notes), "reason": reason}
    size = np.log1p(used[column].clip(lower=0)) if kind == "count" else used[column]
    spread = size.groupby(used["group"]).std()
    if spread.max() > SPREAD * spread.min():
        notes.append(
            f"the spread of {spread.idxmax()} is {spread.max() / spread.min():.1f} times that of "
            f"{spread.idxmin()}: the interval takes them for equal and may be too narrow"
        )
    try:
        main, said = _estimate(used, column, kind, covariates, reference)
    except InputError as error:
        return about | {"notes": "; ".join(notes), "reason": str(error)}
    more: dict[str, Any] = {}
    plain, _ = _shared(known)
    passed, _ = _shared(complete[complete["status"] == "pass"])
    for name, part, adjusted in (("plain", plain, ()), ("passed", passed, covariates)):
        if part["group"].value_counts().reindex(list(sizes), fill_value=0).min() >= LEAST:
            try:
                row, _ = _estimate(part, column, kind, adjusted, reference)
                more |= {f"{name}_{end}": row[end] for end in ("estimate", "low", "high")}
            except InputError:
                continue
    adjusted = [*covariates, *(["protocol"] if used["protocol"].nunique() > 1 else [])]
    about |= {"adjusted_for": ", ".join(adjusted) or None, "notes": "; ".join([*notes, *said])}
    return about | main | more


def _covariates(people: pd.DataFrame, notes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take age and sex where most of each group have them and they vary."""
    taken, notes = [], list(notes)
    for name in ("age", "sex"):
        if name not in people:
            continue
        shares = people[name].notna().groupby(people["group"]).mean()
        if len(shares) and shares.min() < KNOWN:
            few = f"{100 * shares.min():.0f} % of {shares.idxmin()} have it"
            notes.append(f"not adjusted for {name}: {few}, less than {100 * KNOWN:.0f} %")
        elif people[name].nunique() > 1:
            taken.append(name)
    return taken, notes


def _shared(people: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Keep protocols that hold both groups: others say nothing on the difference."""
    both = people.groupby("protocol")["group"].nunique() > 1
    inside = people["protocol"].map(both).fillna(False).astype(bool)
    counts = people[~inside].groupby(["protocol", "group"]).size()
    places = cast("list[tuple[str, str]]", list(counts.index))
    alone = [f"{counts[place]} of {place[1]} ({place[0]})" for place in places]
    return people[inside], ", ".join(alone)


def _estimate(
    people: pd.DataFrame, column: str, kind: str, covariates: Sequence[str], reference: str
) -> tuple[dict[str, Any], list[str]]:
    """Ask `pvsbook.stats`; return the difference, and what its guards warned of."""
    table = people.reset_index()
    adjusted = list(covariates)
    if table["protocol"].nunique() > 1:
        adjusted.append("protocol")
    for name in ("sex", "protocol"):
        table[name] = table[name].astype("category") if name in adjusted else None
    options: dict[str, Any] = {
        "value": column, "group": "group", "reference": reference, "covariates": adjusted,
        "person": "participant_id",
    }  # fmt: skip
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if kind == "count":
            rows = statistics.negative_binomial(table, **options)
        else:
            rows = statistics.ancova(table, **options)
    main = rows.iloc[0]
    wanted = ("measure", "estimate", "low", "high", "interval", "test", "df", "p")
    found: dict[str, Any] = {name: main[name] for name in wanted}
    found["measure"] = "rate ratio" if kind == "count" else "difference of means"
    if kind != "count":
        scaled = rows.iloc[1]
        found |= {f"sd_{end}": scaled[end] for end in ("estimate", "low", "high")}
    return found, [str(warning.message) for warning in said]


def with_holm(results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Put all contrasts in a table, and adjust their p-values as one family (Holm)."""
    table = pd.DataFrame(list(results)).reindex(columns=list(RESULTS))
    tested = table["p"].notna()
    if tested.any():
        family = table[tested].assign(term=table["contrast"])
        table.loc[tested, "p_holm"] = adjust(family)["p_adjusted"].to_numpy()
    return table


def in_words(groups: Groups, contrasts: pd.DataFrame) -> dict[str, Any]:
    """Say how groups were compared: sentences for the page, and a paragraph for a paper."""
    if not groups.column:
        return {"page": list(groups.words), "methods": ""}
    tested = int(contrasts["p"].notna().sum())
    family = (
        f"{tested} differences are tested on this page; their p-values are given as they are, and "
        "adjusted by Holm for all of them."
    )
    if not tested:
        return {"page": [*groups.words, *RULES, "No difference could be tested."], "methods": ""}
    estimated = contrasts[contrasts["estimate"].notna()]
    covariates = dict.fromkeys(
        name for text in estimated["adjusted_for"].dropna() for name in text.split(", ")
    )
    adjusted = f", adjusted for {', '.join(covariates)}" if covariates else ""
    words = (
        f"{', '.join(dict.fromkeys(estimated['other']))} and {groups.reference} were compared, "
        "with one scan per participant, without scans that failed the checks of quality, within "
        "protocols: counts by negative binomial regression, other figures by least squares"
        f"{adjusted}. Intervals are 95 %; p-values were adjusted by Holm's method for {tested} "
        "tests."
    )
    return {"page": [*groups.words, *RULES, family], "methods": words}
