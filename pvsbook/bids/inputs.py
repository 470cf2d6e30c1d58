"""What a BIDS folder holds for each method, and what it lacks."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pathspec

from pvsbook import images
from pvsbook import methods as registry
from pvsbook._errors import INVALID_BIDS, NO_INPUT, NOTHING_SELECTED, USAGE, InputError
from pvsbook.bids.sessions import order_sessions, read_participants, shorten
from pvsbook.method import Method
from pvsbook.visit import NIFTI, BidsFile, Found, Sidecars, Visit, fault_of, natural

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
    """

    participant: str
    session: str
    method: str
    found: Found = field(default_factory=Found)
    order: str = ""
    first: str = ""

    @property
    def name(self) -> str:
        """Participant, session (and the one before) and method, as in file names."""
        first = self.first.replace("ses-", "from-")
        return "_".join(p for p in (self.participant, self.session, first, self.method) if p)

    @classmethod
    def from_name(cls, name: str) -> Measurement:
        """Read participant, sessions and method from a name.

        Examples
        --------
        >>> Measurement.from_name("sub-01_ses-3_from-2_qsmchange").first
        'ses-2'
        """
        label, *sessions, method = name.split("_")
        known = {part.split("-")[0]: part for part in sessions}
        first = known.get("from", "").replace("from-", "ses-")
        return cls(label, known.get("ses", ""), method, first=first)

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
    files = _index(top, [_label(p, "sub") for p in participants])
    wanted = {_label(s, "ses") for s in sessions}
    existing = {f"ses-{f.get('ses')}" for f in files if f.get("ses")}
    if wanted - existing:
        raise InputError(
            f"--session-label: {', '.join(sorted(wanted - existing))} not in {root}; "
            f"it has {', '.join(sorted(existing)) or 'no sessions'}",
            code=NOTHING_SELECTED,
        )
    files = _filtered(files, filters or {})
    sidecars = Sidecars(top)
    table, columns, notes = read_participants(top)
    ignored = _Ignored(top)
    files, misplaced, left_out = _sort_out(top, files, ignored)
    notes += left_out
    notes += [text for texts in misplaced.values() for text in texts]
    visits: dict[tuple[str, str], list[BidsFile]] = {}
    for file in sorted(files, key=lambda f: f.name):
        visits.setdefault(file.visit, []).append(file)
    derived: dict[tuple[str, str], list[BidsFile]] = {}
    for made in derivatives:
        if not Path(made).is_dir():
            raise InputError(f"--derivatives: {made} does not exist", code=NO_INPUT)
        for file in sorted(_index(Path(made), ()), key=lambda f: f.name):
            derived.setdefault(file.visit, []).append(file)
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
                if members:
                    of_all = derived.get((label, ""), []) if session else []
                    made_of = [*derived.get((label, session), []), *of_all]
                    found = _find(known[name], Visit(members, sidecars, made_of))
                else:
                    found = Found(lacks=lacks)
                measurements.append(Measurement(label, session, name, found, order))
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


def _find(method: Method, visit: Visit) -> Found:
    """Find what a method needs; whatever is wrong with these files stops nobody else."""
    assert method.find is not None
    try:
        return method.find(visit)
    except InputError as error:
        return Found(lacks=(str(error),))
    except Exception as error:
        return Found(lacks=(f"its files cannot be read ({type(error).__name__}: {error})",))


def _sessions(
    top: Path,
    label: str,
    visits: Mapping[tuple[str, str], Sequence[BidsFile]],
    ignored: _Ignored,
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
    ignored: _Ignored,
) -> list[str]:
    """List who should be there: asked for; else every folder, and who participants.tsv names."""
    if asked:
        return sorted({_label(p, "sub") for p in asked}, key=natural)
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


def _sort_out(
    top: Path, files: Iterable[BidsFile], ignored: _Ignored
) -> tuple[list[BidsFile], dict[str, list[str]], list[str]]:
    """Keep images with sound names that agree with their folder; say what else there is."""
    kept: list[BidsFile] = []
    misplaced: dict[str, list[str]] = {}
    left_out: set[str] = set()
    for file in files:
        inside = file.path.relative_to(top)
        label = inside.parts[0]
        if ignored(inside):
            left_out.add(label if ignored(Path(label)) else str(inside))
            continue
        if fault := fault_of(file.name):
            misplaced.setdefault(label, []).append(f"{file.name}: {fault}; rename the file")
            continue
        place = (*(part for part in file.visit if part), file.datatype)
        if inside.parts[:-1] == place:
            kept.append(file)
        elif inside.parts[:-1][: len(place)] != place:  # else: deeper than BIDS has it
            misplaced.setdefault(label, []).append(
                f"{file.name} lies in {inside.parent.as_posix()}/: folder and name disagree, "
                "so it is nobody's; rename one of them"
            )
    notes = [f"left out by .bidsignore: {', '.join(sorted(left_out, key=natural))}"]
    return kept, misplaced, notes if left_out else []


class _Ignored:
    """Tells what ``.bidsignore`` leaves out; its patterns are those of ``.gitignore``."""

    def __init__(self, top: Path) -> None:
        path = top / ".bidsignore"
        try:
            if path.exists() and not path.is_file():
                raise OSError("not a regular file")
            lines = path.read_text(encoding="utf-8-sig").splitlines() if path.exists() else []
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read ({error}), so nobody can tell who is to be left out; "
                "repair it"
            ) from error
        self.spec = pathspec.GitIgnoreSpec.from_lines(lines)

    def __call__(self, path: Path) -> bool:
        """Ask for a file, or for a folder as a whole."""
        name = path.as_posix()
        return self.spec.match_file(name) or self.spec.match_file(f"{name}/")


def _label(text: str, entity: str) -> str:
    """Return ``sub-01`` for ``sub-01`` and ``01``."""
    label = text.removeprefix(f"{entity}-")
    if not re.fullmatch(r"[0-9A-Za-z+]+", label):
        raise InputError(
            f"{text!r}: a BIDS label has letters and digits only, as {entity}-01",
            code=USAGE,
        )
    return f"{entity}-{label}"


def _index(top: Path, labels: Sequence[str]) -> list[BidsFile]:
    """List the images of a data set with their entities."""
    import bids2table

    existing = {p.name for p in top.glob("sub-*") if p.is_dir()}
    if not existing:
        raise InputError(
            f"{top}: has no sub-* folder; give the top of a BIDS folder, not a folder within",
            code=INVALID_BIDS,
        )
    missing = [label for label in labels if label not in existing]
    if missing:
        raise InputError(
            f"--participant-label: {', '.join(missing)} not in {top} "
            f"({len(existing)} participants there)",
            code=NOTHING_SELECTED,
        )
    log = logging.getLogger("bids2table")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        # bids2table reads no folder with a dot in its name, and takes brackets for a pattern.
        with tempfile.TemporaryDirectory(prefix="pvsbook") as folder:
            link = Path(folder, "dataset")
            link.symlink_to(top.resolve(), target_is_directory=True)
            table = bids2table.index_dataset(link, list(labels) or None)
    finally:
        log.setLevel(level)
    files = []
    for path in table.column("path").to_pylist():
        if path.endswith(NIFTI):
            known = bids2table.parse_bids_entities(path)
            datatype = known.pop("datatype", "")
            entities = {"suffix": "", **{k: v for k, v in known.items() if k != "ext"}}
            files.append(BidsFile(top / path, datatype, entities))
    return files
