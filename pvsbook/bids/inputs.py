"""What a BIDS folder holds for each method, and what it lacks."""

from __future__ import annotations

import csv
import logging
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import pathspec

from pvsbook import images
from pvsbook._errors import InputError

__all__ = ["METHODS", "Dataset", "Scan", "find"]

METHODS = ("pvs", "alps", "qsm")
NIFTI = (".nii.gz", ".nii")
PARTS = {"mag": "mag", "": "mag", "phase": "phase", "pha": "phase"}
GRADIENT_ECHO = ("MEGRE", "T2starw", "GRE")


@dataclass(frozen=True)
class Scan:
    """One method's inputs for one visit of one person.

    Attributes
    ----------
    participant, session
        Labels, ``sub-01`` and ``ses-1``; the session is empty where there is none.
    method
        One of `METHODS`.
    inputs
        Paths by role, such as ``dwi``, ``bval`` and ``bvec``.
    parameters
        What sidecars say, such as the echo times.
    lacks
        Why the method cannot run, each with the file; empty where it can.
    notes
        What was chosen or taken otherwise than BIDS says it.
    order
        How the visits of this person were put in order; empty where there is one.
    """

    participant: str
    session: str
    method: str
    inputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    order: str = ""

    @property
    def name(self) -> str:
        """Participant, session and method, as in file names."""
        return "_".join(p for p in (self.participant, self.session, self.method) if p)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A BIDS folder as the methods see it.

    Attributes
    ----------
    root
        Top of the folder.
    scans
        One entry a visit and method, in the order of the labels.
    participants
        ``participants.tsv`` with its index, or an empty table.
    columns
        ``participants.json``: what its columns mean.
    notes
        What was left out, what does not fit together, and how visits were ordered.
    """

    root: Path
    scans: tuple[Scan, ...]
    participants: pd.DataFrame
    columns: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...] = ()

    @property
    def people(self) -> list[str]:
        """Labels of the people, in order."""
        return list(dict.fromkeys(scan.participant for scan in self.scans))


@dataclass(frozen=True)
class _File:
    path: Path
    suffix: str
    datatype: str
    entities: Mapping[str, str]

    def get(self, entity: str) -> str:
        return self.entities.get(entity, "")

    @property
    def visit(self) -> tuple[str, str]:
        session = self.get("ses")
        return f"sub-{self.get('sub')}", f"ses-{session}" if session else ""


def find(
    root: images.PathLike,
    *,
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    methods: Sequence[str] = METHODS,
) -> Dataset:
    """Find what each method needs, for every person and visit.

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
        Of `METHODS`.

    Returns
    -------
    Dataset

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
    unknown = [m for m in methods if m not in METHODS]
    if unknown or not methods:
        raise InputError(
            f"--methods: {', '.join(unknown) or 'none'}; choose from {','.join(METHODS)}"
        )
    if not top.is_dir():
        raise InputError(f"{root}: does not exist; give the top of a BIDS folder (with sub-*)")
    files = _index(top, [_label(p, "sub") for p in participants])
    wanted = {_label(s, "ses") for s in sessions}
    there = {f"ses-{f.get('ses')}" for f in files if f.get("ses")}
    if wanted - there:
        raise InputError(
            f"--session-label: {', '.join(sorted(wanted - there))} not in {root}; "
            f"it has {', '.join(sorted(there)) or 'no sessions'}"
        )
    look = _Inheritance(top)
    table, columns, notes = _participants(top)
    files, misplaced, left_out = _sorted_out(top, files)
    notes += left_out
    notes += [text for texts in misplaced.values() for text in texts]
    ignored = _Ignored(top)
    scans: list[Scan] = []
    held: dict[tuple[str, str], list[_File]] = {}
    for file in sorted(files, key=lambda f: f.path.name):
        held.setdefault(file.visit, []).append(file)
    people = _expected(top, participants, table, held)
    orders: dict[tuple[str, str], list[str]] = {}
    for person in people:
        sessions_there = {session for who, session in held if who == person}
        sessions_there |= {
            p.name
            for p in (top / person).glob("ses-*")
            if p.is_dir() and not ignored(Path(person, p.name))
        }
        if wanted:
            sessions_there = set(wanted)
        ordered, how = _ordered(top, person, list(sessions_there))
        if how:
            orders.setdefault((", ".join(ordered), how), []).append(person)
        for session in ordered or [""]:
            lacks = tuple(t for t in misplaced.get(person, ()) if not session or session in t)
            here = held.get((person, session), [])
            if not here:
                lacks = lacks or (_without_images(top, person, session),)
            for method in methods:
                scan = Scan(person, session, method, lacks=lacks)
                scans.append(_found(scan, here, look) if here else scan)
                if how and here:
                    words = f"visits ordered by {how}: {', '.join(ordered)}"
                    scans[-1] = replace(scans[-1], order=words)
    for (order, how), whose in orders.items():
        notes.append(f"visits in the order {order}, by {how} ({_some(whose)})")
    if not held:
        wrong = [text for texts in misplaced.values() for text in texts]
        why = f" that is in its place ({wrong[0]})" if wrong else "; is it a BIDS folder?"
        raise InputError(f"{root}: holds no image under sub-*/{why}")
    return Dataset(top, tuple(scans), table, columns, tuple(notes))


def _found(scan: Scan, files: Sequence[_File], look: _Inheritance) -> Scan:
    """Find what a method needs; whatever is wrong with a person's files stops nobody else."""
    try:
        return _FINDERS[scan.method](replace(scan, lacks=()), files, look)
    except InputError as error:
        return replace(scan, lacks=(str(error),))
    except Exception as error:
        return replace(
            scan, lacks=(f"its files cannot be read ({type(error).__name__}: {error})",)
        )


def _expected(
    top: Path,
    asked: Sequence[str],
    table: pd.DataFrame,
    held: Mapping[tuple[str, str], Sequence[_File]],
) -> list[str]:
    """List who should be there: asked for; else every folder, and who participants.tsv names."""
    if asked:
        return sorted({_label(p, "sub") for p in asked}, key=natural)
    ignored = _Ignored(top)
    folders = {p.name for p in top.glob("sub-*") if p.is_dir() and not ignored(Path(p.name))}
    named = {str(p) for p in table.index if not ignored(Path(str(p)))}
    if not named & folders:  # the table speaks of other labels, which is said elsewhere
        named = set()
    return sorted(folders | named | {person for person, _ in held}, key=natural)


def _without_images(top: Path, person: str, session: str) -> str:
    """Say why nothing can be measured in a person, or at a visit."""
    if session:
        return f"no image (.nii, .nii.gz) that can be read under {person}/{session}/"
    if (top / person).is_dir():
        return f"no image (.nii, .nii.gz) that can be read under {person}/"
    return f"named in participants.tsv, but there is no folder {person}/"


def _sorted_out(
    top: Path, files: Iterable[_File]
) -> tuple[list[_File], dict[str, list[str]], list[str]]:
    """Keep the images whose folder and name agree; say what was ignored or lies elsewhere."""
    ignored = _Ignored(top)
    kept: list[_File] = []
    misplaced: dict[str, list[str]] = {}
    left_out: set[str] = set()
    for file in files:
        inside = file.path.relative_to(top)
        person = inside.parts[0]
        if ignored(inside):
            left_out.add(person if ignored(Path(person)) else str(inside))
            continue
        participant, session = file.visit
        place = (participant, session, file.datatype) if session else (participant, file.datatype)
        if inside.parts[:-1] == place:
            kept.append(file)
        elif inside.parts[:-1][: len(place)] != place:  # else: deeper than BIDS has it
            misplaced.setdefault(person, []).append(
                f"{file.path.name} lies in {inside.parent.as_posix()}/: folder and name disagree, "
                "so it is nobody's; rename one of them"
            )
    notes = [f"left out by .bidsignore: {', '.join(sorted(left_out, key=natural))}"]
    return kept, misplaced, notes if left_out else []


class _Ignored:
    """Tells what ``.bidsignore`` leaves out; its patterns are those of ``.gitignore``."""

    def __init__(self, top: Path) -> None:
        path = top / ".bidsignore"
        try:
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


def natural(label: str) -> list[tuple[int, int, str]]:
    """Sort labels as people count: ses-2 before ses-10.

    Examples
    --------
    >>> sorted(["ses-10", "ses-2", "ses-M12"], key=natural)
    ['ses-2', 'ses-10', 'ses-M12']
    """
    parts = re.split(r"(\d+)", label)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p.casefold()) for p in parts if p]


EARLY = ("pre", "baseline", "base", "bl", "before", "first", "initial", "screening")
LATE = ("post", "followup", "fu", "after", "last", "final")


def _ordered(top: Path, person: str, sessions: Sequence[str]) -> tuple[list[str], str]:
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
    found = {}
    for session in sessions:
        table = top / person / session / f"{person}_{session}_scans.tsv"
        times = _times(table, "filename", lambda name: name)
        if times:
            found[session] = min(times.values())
    return found


def _times(path: Path, column: str, clean: Callable[[str], str]) -> dict[str, pd.Timestamp]:
    """Read ``acq_time`` by a column; nothing where the table is absent or holds none."""
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, na_values="n/a", encoding="utf-8-sig")
        stamps = table["acq_time"].str.strip()
        times = pd.to_datetime(stamps, errors="coerce", format="ISO8601", utc=True)
        labels = table[column].map(clean)
    except (OSError, ValueError, KeyError, AttributeError):
        return {}
    known = zip(labels, times, strict=True)
    return {str(label): time for label, time in known if not pd.isna(time)}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def _label(text: str, entity: str) -> str:
    """Return ``sub-01`` for ``sub-01`` and ``01``."""
    label = text.removeprefix(f"{entity}-")
    if not re.fullmatch(r"[0-9A-Za-z+]+", label):
        raise InputError(f"{text!r}: a BIDS label has letters and digits only, as {entity}-01")
    return f"{entity}-{label}"


def _index(top: Path, people: Sequence[str]) -> list[_File]:
    """List the images of a data set with their entities."""
    import bids2table

    there = {p.name for p in top.glob("sub-*") if p.is_dir()}
    if not there:
        raise InputError(
            f"{top}: has no sub-* folder; give the top of a BIDS folder, not a folder within"
        )
    missing = [p for p in people if p not in there]
    if missing:
        raise InputError(
            f"--participant-label: {', '.join(missing)} not in {top} ({len(there)} people there)"
        )
    log = logging.getLogger("bids2table")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        # bids2table reads no folder with a dot in its name, and takes brackets for a pattern.
        with tempfile.TemporaryDirectory(prefix="pvsbook") as folder:
            link = Path(folder, "dataset")
            link.symlink_to(top.resolve(), target_is_directory=True)
            table = bids2table.index_dataset(link, list(people) or None)
    finally:
        log.setLevel(level)
    paths = table.column("path").to_pylist()
    files = []
    for path in paths:
        if path.endswith(NIFTI):
            entities = bids2table.parse_bids_entities(path)
            files.append(
                _File(
                    top / path, entities.get("suffix", ""), entities.get("datatype", ""), entities
                )
            )
    return files


class _Inheritance:
    """Looks up files that apply to an image: in its folder, then upwards to the top."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._listed: dict[Path, list[Path]] = {}
        self._read: dict[Path, dict[str, Any]] = {}

    def _folder(self, folder: Path) -> list[Path]:
        if folder not in self._listed:
            ends = (".json", ".bval", ".bvec")
            self._listed[folder] = sorted(p for p in folder.iterdir() if p.name.endswith(ends))
        return self._listed[folder]

    def files(self, image: _File, extension: str) -> Iterator[Path]:
        """Yield the files with this extension that apply, nearest and most specific first."""
        for folder in (image.path.parent, *image.path.parent.parents):
            found = []
            for path in self._folder(folder):
                if path.name.endswith(f"{image.suffix}{extension}"):
                    *pairs, suffix = path.name.removesuffix(extension).split("_")
                    wants = dict(pair.partition("-")[::2] for pair in pairs)
                    if suffix == image.suffix and wants.items() <= image.entities.items():
                        found.append((-len(wants), path))
            yield from (path for _, path in sorted(found))
            if folder == self.top:
                return

    def sidecar(self, image: _File) -> dict[str, Any]:
        """Merge the JSON files that apply; the nearest wins."""
        merged: dict[str, Any] = {}
        for path in reversed(list(self.files(image, ".json"))):
            if path not in self._read:
                self._read[path] = images.read_json(path)
            merged |= self._read[path]
        return merged


def _raw(files: Iterable[_File], datatype: str, *suffixes: str) -> list[_File]:
    return [f for f in files if f.datatype == datatype and f.suffix in suffixes]


def _chosen(files: Sequence[_File], why: str) -> tuple[str, ...]:
    if len(files) < 2:
        return ()
    return (f"{files[0].path.name} taken of {len(files)}, {why}",)


def _find_pvs(scan: Scan, files: Sequence[_File], look: _Inheritance) -> Scan:
    """Take the T2w scan, and the T1w scan where there is none."""
    for suffix, contrast in (("T2w", "t2"), ("T1w", "t1")):
        raw = [f for f in _raw(files, "anat", suffix) if not _is_flair(f)]
        found = [f for f in raw if PARTS.get(f.get("part")) == "mag"]
        if found:
            return _with(
                scan,
                {"image": [str(found[0].path)]},
                {"contrast": contrast},
                notes=_chosen(found, "the first by name")
                + (("no T2w, so T1w: fewer spaces are seen",) if contrast == "t1" else ()),
            )
    flair = " (FLAIR alone does not show them)" if any(map(_is_flair, files)) else ""
    return _with(scan, lacks=(f"no T2w and no T1w in anat/{flair}",))


def _is_flair(file: _File) -> bool:
    """Tell FLAIR by its suffix, or by its label where it is filed as T2w."""
    return file.suffix == "FLAIR" or "flair" in file.get("acq").lower()


def _find_alps(scan: Scan, files: Sequence[_File], look: _Inheritance) -> Scan:
    """Take the diffusion series with the most weighted volumes, with its gradients."""
    found = [f for f in _raw(files, "dwi", "dwi") if PARTS.get(f.get("part")) == "mag"]
    if not found:
        return _with(scan, lacks=("no *_dwi.nii.gz in dwi/",))
    sets, lacks = [], []
    for file in found:
        gradients = {e: next(look.files(file, f".{e}"), None) for e in ("bval", "bvec")}
        absent = [e for e, path in gradients.items() if path is None]
        if absent:
            lacks.append(f"{file.path.name}: no .{' and no .'.join(absent)}")
        else:
            sets.append((file, gradients))
    if not sets:
        return _with(scan, lacks=tuple(lacks))
    sets.sort(key=lambda s: -_weighted(s[1]["bval"]))
    file, gradients = sets[0]
    return _with(
        scan,
        {"dwi": [str(file.path)], **{e: [str(p)] for e, p in gradients.items()}},
        notes=_chosen([s[0] for s in sets], "the one with the most weighted volumes")
        + tuple(lacks),
    )


def _weighted(bval: Path | None) -> int:
    """Count weighted volumes; a file that cannot be read has none, and fails at the door."""
    try:
        text = bval.read_text(encoding="utf-8-sig") if bval else ""
        values = [float(b) for b in text.replace(",", " ").split()]
    except (OSError, ValueError):
        return 0
    return sum(b >= images.B0_BELOW_S_MM2 for b in values)


def _find_qsm(scan: Scan, files: Sequence[_File], look: _Inheritance) -> Scan:
    """Take magnitude and phase of every echo of the first gradient echo that has both."""
    found = _raw(files, "anat", *GRADIENT_ECHO)
    if not found:
        return _with(scan, lacks=(f"no {', '.join(GRADIENT_ECHO)} in anat/",))

    def series(file: _File) -> tuple:
        left = {k: v for k, v in file.entities.items() if k not in ("part", "echo", "ext")}
        return (GRADIENT_ECHO.index(file.suffix), *sorted(left.items()))

    found.sort(key=series)
    tried = [_read_series(scan, list(g), look) for _, g in groupby(found, key=series)]
    whole = [s for s in tried if not s.lacks]
    if not whole:
        return _with(scan, lacks=tuple(dict.fromkeys(text for s in tried for text in s.lacks)))
    note = (f"first of {len(tried)} gradient echoes by name",) if len(tried) > 1 else ()
    first = whole[0]
    return _with(scan, first.inputs, first.parameters, notes=first.notes + note)


def _read_series(scan: Scan, files: Sequence[_File], look: _Inheritance) -> Scan:
    """Sort one gradient echo into magnitude and phase, and read what its sidecars say."""
    parts: dict[str, list[_File]] = {"mag": [], "phase": []}
    for file in files:
        part = PARTS.get(file.get("part"))
        if part:
            parts[part].append(file)
    example = files[0].path.name
    if not parts["phase"] or not parts["mag"]:
        missing = "phase (part-phase)" if parts["mag"] else "magnitude (part-mag)"
        return _with(scan, lacks=(f"{example}: no {missing} beside it",))
    for held in parts.values():
        held.sort(key=lambda f: (natural(f.get("echo")), f.path.name))
    echoes = {part: [f.get("echo") for f in held] for part, held in parts.items()}
    if echoes["mag"] != echoes["phase"]:
        seen = {k: ",".join(v) or "none" for k, v in echoes.items()}
        return _with(
            scan, lacks=(f"{example}: echoes {seen['mag']} of mag, but {seen['phase']} of phase",)
        )
    times: list[float] = []
    lacks: list[str] = []
    fields: set[float] = set()
    for magnitude, file in zip(parts["mag"], parts["phase"], strict=True):
        meta = look.sidecar(file)
        images.same_acquisition(
            look.sidecar(magnitude), meta, name=magnitude.path.name, other_name=file.path.name
        )
        absent = [k for k in ("EchoTime", "MagneticFieldStrength") if k not in meta]
        if absent:
            lacks.append(f"{file.path.name}: no {' and no '.join(absent)} in its sidecars")
            continue
        times += images.number(meta, "EchoTime", source=file.path.name)
        fields |= set(images.number(meta, "MagneticFieldStrength", source=file.path.name))
    if len(fields) > 1:
        lacks.append(f"{example}: echoes with different MagneticFieldStrength")
    if lacks:
        return _with(scan, lacks=tuple(lacks))
    odd = [f.path.name for f in parts["phase"] if f.get("part") == "pha"]
    return _with(
        scan,
        {
            k: [str(f.path) for f in parts[p]]
            for k, p in (("magnitude", "mag"), ("phase", "phase"))
        },
        {"echo_times_s": times, "field_strength_t": fields.pop()},
        notes=(f"{odd[0]}: part-pha, which BIDS calls part-phase, read as phase",) if odd else (),
    )


_FINDERS = {"pvs": _find_pvs, "alps": _find_alps, "qsm": _find_qsm}


def _with(
    scan: Scan,
    inputs: Mapping[str, Sequence[str]] | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    lacks: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Scan:
    return replace(
        scan, inputs=inputs or {}, parameters=parameters or {}, lacks=lacks, notes=notes
    )


def _participants(top: Path) -> tuple[pd.DataFrame, dict[str, Any], list[str]]:
    """Read ``participants.tsv`` and its dictionary, and say where it does not fit the folders."""
    path = top / "participants.tsv"
    empty = pd.DataFrame(index=pd.Index([], name="participant_id"))
    if not path.is_file():
        return empty, {}, []
    try:
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
    except (OSError, ValueError) as error:
        return empty, {}, [f"participants.tsv is not used: {str(error).splitlines()[0]}"]
    if "participant_id" not in table:
        return empty, {}, ["participants.tsv is not used: it has no column participant_id"]
    table = table[table["participant_id"].notna()].copy()
    labels = table["participant_id"].str.strip().str.removeprefix("sub-")
    odd = labels[~labels.str.fullmatch(r"[0-9A-Za-z+]+")]
    if len(odd):
        return empty, {}, [f"participants.tsv is not used: {odd.iloc[0]!r} is no BIDS label"]
    table["participant_id"] = "sub-" + labels
    again = table.loc[table["participant_id"].duplicated(), "participant_id"]
    if len(again):
        return empty, {}, [f"participants.tsv is not used: {', '.join(again)} stands there twice"]
    folders = {p.name for p in top.glob("sub-*") if p.is_dir()}
    named = set(table["participant_id"])
    notes = []
    for what, missing in (
        ("have no row in participants.tsv", folders - named),
        ("stand in participants.tsv and have no folder", named - folders),
    ):
        if missing:
            notes.append(f"{_some(sorted(missing, key=natural))} {what}")
    return table.set_index("participant_id"), columns, notes
