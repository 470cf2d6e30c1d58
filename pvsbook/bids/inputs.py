"""What a BIDS folder holds for each method, and what it lacks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from pvsbook import images
from pvsbook import methods as registry
from pvsbook._constants import SERIES
from pvsbook._errors import NO_INPUT, NOTHING_SELECTED, USAGE, InputError
from pvsbook._names import entities_of, fault_of, natural
from pvsbook.bids._listing import Ignored, full_label, list_images, sort_out, unused
from pvsbook.bids.sessions import order_sessions, read_participants, shorten
from pvsbook.derivatives import label as letters
from pvsbook.method import Method
from pvsbook.visit import BidsFile, Found, Sidecars, Visit

__all__ = ["BidsFolder", "Measurement", "find", "read_filters"]

Filters = Mapping[str, Mapping[str, Any]]
ENTITY = {  # as PyBIDS names them in a filter file
    "subject": "sub", "session": "ses", "acquisition": "acq", "ceagent": "ce",
    "reconstruction": "rec", "direction": "dir", "inversion": "inv",
}  # fmt: skip
MEANT = re.compile("(?i:sub)(?:[-_][0-9a-zA-Z+]+|[0-9][0-9a-zA-Z]*)")  # a participant's folder


@dataclass(frozen=True)
class Measurement:
    """A method at one visit of one participant, with what was found for it.

    Attributes
    ----------
    participant, session
        Labels, ``sub-01`` and ``ses-1``; the session is empty where there is none.
    method
        Its name.
    found
        Inputs, parameters, what is lacking, and notes.
    order
        How the visits of this participant were put in order; empty where there is one.
    first
        Session that this one is compared with; empty where a method measures one visit.
    series
        What of its name tells the scan from others of the visit, as ``acq-iso_run-1``.
    rank
        Its place among the series of the visit, in the order in which statistics take them.
    """

    participant: str
    session: str
    method: str
    found: Found = field(default_factory=Found)
    order: str = ""
    first: str = ""
    series: str = ""
    rank: int = 0

    @property
    def name(self) -> str:
        """Participant, session, series (and the session before) and method, as in file names."""
        first = self.first.replace("ses-", "from-")
        parts = (self.participant, self.session, self.series, first, self.method)
        return "_".join(part for part in parts if part)

    @property
    def prefix(self) -> str:
        """The name without the method: how results begin."""
        return self.name.removesuffix(f"_{self.method}")

    @classmethod
    def from_name(cls, name: str) -> Measurement:
        """Read participant, sessions and method from a name.

        Examples
        --------
        >>> read = Measurement.from_name("sub-01_ses-3_run-1_from-2_qsmchange")
        >>> read.first, read.series
        ('ses-2', 'run-1')
        """
        label, *parts, method = name.split("_")
        known = {part.split("-")[0]: part for part in parts}
        session, first = known.pop("ses", ""), known.pop("from", "").replace("from-", "ses-")
        return cls(label, session, method, first=first, series="_".join(known.values()))

    @property
    def entities(self) -> dict[str, str]:
        """The series, by the entities of file names."""
        pairs = (part.partition("-") for part in self.series.split("_") if part)
        return {key: label for key, _, label in pairs}

    @property
    def lacks(self) -> tuple[str, ...]:
        """Why the method cannot run; empty where it can."""
        return self.found.lacks


@dataclass(frozen=True, eq=False)
class BidsFolder:
    """A BIDS folder as the methods see it.

    Attributes
    ----------
    root
        Top of the folder.
    measurements
        One entry per visit and method, in the order of the labels.
    participants
        ``participants.tsv`` with its index, or an empty table.
    columns
        ``participants.json``: what its columns mean.
    notes
        What was left out, what does not fit together, and how visits were ordered.
    """

    root: Path
    measurements: tuple[Measurement, ...]
    participants: pd.DataFrame
    columns: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> list[str]:
        """Labels of the participants, in order."""
        return list(dict.fromkeys(m.participant for m in self.measurements))


def find(
    root: images.PathLike,
    *,
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    methods: Sequence[str] | None = None,
    filters: Filters | None = None,
    derivatives: Sequence[images.PathLike] = (),
) -> BidsFolder:
    """Find what each method needs, for every participant and visit.

    Files are listed by bids2table.  Sidecars, b-values and b-vectors are looked up here by the
    inheritance principle: bids2table passes over a sidecar that is not JSON and remembers old
    ones, and a folder under repair needs neither.

    Parameters
    ----------
    root
        Top of a BIDS data set.
    participants, sessions
        Labels to keep, with or without ``sub-`` and ``ses-``; by default all.
    methods
        Names of `pvsbook.methods.ALL`; by default all that measure one scan.
    filters
        From `read_filters`.
    derivatives
        Folders of other pipelines (BIDS-Derivatives), whose brain and lesion masks are taken
        where they lie on the grid of a scan.

    Returns
    -------
    BidsFolder

    Raises
    ------
    InputError
        No BIDS data set there, a label or method that does not exist, a table that cannot be
        read.

    Examples
    --------
    >>> find("no/such/folder")
    Traceback (most recent call last):
    pvsbook._errors.InputError: no/such/folder: does not exist; give the top of a BIDS folder...
    """
    top = Path(root)
    known = {m.name: m for m in registry.ALL if m.find is not None}
    names = list(known) if methods is None else list(methods)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InputError(
            f"--methods: {', '.join(unknown) or 'none'}; choose from {','.join(known)}", code=USAGE
        )
    if not top.is_dir():
        raise InputError(
            f"{root}: does not exist; give the top of a BIDS folder (with sub-*)", code=NO_INPUT
        )
    files = list_images(top, [full_label(p, "sub") for p in participants])
    wanted = {full_label(s, "ses") for s in sessions}
    existing = {f"ses-{f.get('ses')}" for f in files if f.get("ses")}
    if wanted - existing:
        raise InputError(
            f"--session-label: {', '.join(sorted(wanted - existing))} not in {root}; "
            f"it has {', '.join(sorted(existing)) or 'no sessions'}",
            code=NOTHING_SELECTED,
        )
    files = _filtered(files, filters or {})
    sidecars = Sidecars(top, *map(Path, derivatives))
    table, columns, notes = read_participants(top)
    ignored = Ignored(top)
    files, misplaced, left_out = sort_out(top, files, ignored)
    notes += left_out
    notes += [text for texts in misplaced.values() for text in texts]
    visits: dict[tuple[str, str], list[BidsFile]] = {}
    for file in sorted(files, key=lambda f: f.name):
        visits.setdefault(file.visit, []).append(file)
    derived: dict[tuple[str, str], list[BidsFile]] = {}
    for made in derivatives:
        if not Path(made).is_dir():
            raise InputError(f"--derivatives: {made} does not exist", code=NO_INPUT)
        try:
            images_made = list_images(Path(made), ())
        except InputError as error:
            raise InputError(f"--derivatives: {error}", code=NO_INPUT) from error
        for file in sorted(images_made, key=lambda f: f.name):
            derived.setdefault(file.visit, []).append(file)
        notes += unused(Path(made))
    measurements: list[Measurement] = []
    orders: dict[tuple[str, str], list[str]] = {}
    for label in _expected(top, participants, table, visits, ignored):
        labels = set(wanted) or _sessions(top, label, visits, ignored)
        ordered, how = order_sessions(top, label, list(labels))
        if how:
            orders.setdefault((", ".join(ordered), how), []).append(label)
        for session in ordered or [""]:
            members = visits.get((label, session), [])
            lacks = tuple(t for t in misplaced.get(label, ()) if not session or session in t)
            if not members:
                lacks = lacks or (_without_images(top, label, session),)
            order = f"visits ordered by {how}: {', '.join(ordered)}" if how and members else ""
            for name in names:
                several: Sequence[Found] = [Found(lacks=lacks)]
                if members:
                    of_all = derived.get((label, ""), []) if session else []
                    made_of = [*derived.get((label, session), []), *of_all]
                    several = _find(known[name], Visit(members, sidecars, made_of))
                for rank, (series, found) in enumerate(_told_apart(known[name], several)):
                    entry = Measurement(label, session, name, found, order, "", series, rank)
                    measurements.append(entry)
    for (order, how), labelled in orders.items():
        notes.append(f"visits in the order {order}, by {how} ({shorten(labelled)})")
    if not visits:
        wrong = [text for texts in misplaced.values() for text in texts]
        why = f" that is in its place ({wrong[0]})" if wrong else "; is it a BIDS folder?"
        raise InputError(f"{root}: holds no image under sub-*/{why}", code=NO_INPUT)
    return BidsFolder(top, tuple(measurements), table, columns, tuple(notes))


def read_filters(path: images.PathLike | None) -> dict[str, dict[str, Any]]:
    """Read which scans to take, from a filter file as fMRIPrep has it.

    Parameters
    ----------
    path
        JSON: for a suffix in small letters the entities that its files must have, by their long
        names or as in file names, as ``{"t2w": {"acquisition": "iso", "run": [1, null]}}``.  null
        stands for a file without the entity.

    Raises
    ------
    InputError
        Not such a file, or an entity that BIDS does not have.

    Examples
    --------
    >>> read_filters(None)
    {}
    """
    if path is None:
        return {}
    import bids2table

    if not Path(path).exists():
        raise InputError(f"--bids-filter-file: {path} does not exist")
    content = images.read_json(path)
    if not all(isinstance(v, dict) for v in content.values()):
        raise InputError(
            f'--bids-filter-file: {path} must hold entities by suffix, as {{"t2w": {{"run": 1}}}}'
        )
    filters = {
        str(suffix).lower(): {ENTITY.get(name, name): wanted for name, wanted in entities.items()}
        for suffix, entities in content.items()
    }
    known = {c.value for c in bids2table.get_column_names()} - {"ext", "path", "root", "dataset"}
    unknown = sorted({name for wanted in filters.values() for name in wanted} - known)
    if unknown:
        raise InputError(
            f"--bids-filter-file: {path}: {', '.join(unknown)}: BIDS has no such entity; "
            f"known are {', '.join(ENTITY)} and those of file names, as run or part"
        )
    return filters


def _filtered(files: list[BidsFile], filters: Filters) -> list[BidsFile]:
    """Keep files that have the entities asked of their suffix; other suffixes stay."""

    def fits(file: BidsFile) -> bool:
        known = {"suffix": file.suffix, "datatype": file.datatype}
        for name, wanted in filters.get(file.suffix.lower(), {}).items():
            found = known.get(name) or file.get(name)
            values = wanted if isinstance(wanted, list) else [wanted]
            if not any(_same(found, "" if value is None else str(value)) for value in values):
                return False
        return True

    unknown = set(filters) - {file.suffix.lower() for file in files}
    kept = [file for file in files if fits(file)]
    nothing = [key for key in filters if not any(f.suffix.lower() == key for f in kept)]
    if nothing:
        why = "has no file of this suffix" if set(nothing) <= unknown else "selects no file"
        raise InputError(f"--bids-filter-file: {', '.join(nothing)} {why}", code=NOTHING_SELECTED)
    return kept


def _same(found: str, wanted: str) -> bool:
    """Compare labels; those of runs and echoes are numbers."""
    both = found.isdigit() and wanted.isdigit()
    return int(found) == int(wanted) if both else found == wanted


def _find(method: Method, visit: Visit) -> Sequence[Found]:
    """Find what a method needs; whatever is wrong with these files stops nobody else."""
    assert method.find is not None
    try:
        found = method.find(visit)
    except InputError as error:
        found = Found(lacks=(str(error),))
    except Exception as error:
        found = Found(lacks=(f"its files cannot be read ({type(error).__name__}: {error})",))
    return [found] if isinstance(found, Found) else found


def _told_apart(method: Method, several: Sequence[Found]) -> list[tuple[str, Found]]:
    """Give each series of a visit what tells it apart in names, and say which one counts."""
    scans = [Path(next(iter(f.inputs.get(method.inputs[0].name, ())), "")).name for f in several]
    known = [{"suffix": "", **entities_of(scan)} for scan in scans]
    labels = [
        "_".join(f"{key}-{letters(entities[key])}" for key in SERIES if key in entities)
        for entities in known
    ]
    for name in {text for text in labels if labels.count(text) > 1}:
        # Names of results keep no other entity, nor the suffix of the scan: acq- gets them.
        alike = [k for k, text in enumerate(labels) if text == name]
        shared = set.intersection(*(set(known[k].items()) for k in alike))
        for k in alike:
            own = [v if key == "suffix" else key + v for key, v in known[k].items()
                   if (key, v) not in shared and key not in ("echo", "part")]  # fmt: skip
            acq = "acq-" + letters("".join([known[k].get("acq", ""), *own]))
            rest = [part for part in name.split("_") if part and not part.startswith("acq-")]
            labels[k] = "_".join([acq, *rest])
    if len(several) < 2:
        return list(zip(labels, several, strict=True))
    first = f"the first of {len(several)} series for statistics, by: {method.preference}"
    other = f"one of {len(several)} series; {scans[0]} comes before it in statistics"
    notes = [first, *[other] * (len(several) - 1)]
    pairs = zip(labels, several, notes, strict=True)
    return [(text, replace(f, notes=(note, *f.notes))) for text, f, note in pairs]


def _sessions(
    top: Path,
    label: str,
    visits: Mapping[tuple[str, str], Sequence[BidsFile]],
    ignored: Ignored,
) -> set[str]:
    """Return the sessions of a participant, with images or without."""
    folders = (p.name for p in (top / label).glob("ses-*") if p.is_dir())
    empty = {name for name in folders if not ignored(Path(label, name))}
    return empty | {session for participant, session in visits if participant == label}


def _expected(
    top: Path,
    asked: Sequence[str],
    table: pd.DataFrame,
    visits: Mapping[tuple[str, str], Sequence[BidsFile]],
    ignored: Ignored,
) -> list[str]:
    """List who should be there: asked for; else every folder, and who participants.tsv names."""
    if asked:
        return sorted({full_label(p, "sub") for p in asked}, key=natural)
    folders = {p.name for p in top.glob("sub-*") if p.is_dir() and not ignored(Path(p.name))}
    named = {str(p) for p in table.index if not ignored(Path(str(p)))}
    if not named & folders:  # the table speaks of other labels, which is said elsewhere
        named = set()
    meant = {p.name for p in top.iterdir() if p.is_dir() and MEANT.fullmatch(p.name)} - folders
    meant = {name for name in meant if not ignored(Path(name))}
    return sorted(folders | named | meant | {label for label, _ in visits}, key=natural)


def _without_images(top: Path, person: str, session: str) -> str:
    """Say why nothing can be measured in a person, or at a visit."""
    if not person.startswith("sub-"):
        label = re.sub("(?i)^sub[-_]?", "", person)
        return f"the folder {person} is no BIDS name; rename it sub-{label}, and the files in it"
    if fault := fault_of("_".join(filter(None, (person, session)))):
        return f"{fault}; rename the folder and the files in it"
    if session:
        return f"no image (.nii, .nii.gz) that can be read under {person}/{session}/"
    if (top / person).is_dir():
        return f"no image (.nii, .nii.gz) that can be read under {person}/"
    return f"named in participants.tsv, but there is no folder {person}/"
