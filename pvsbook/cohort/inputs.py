"""What a BIDS folder holds for each method, and what it lacks."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

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
    """

    participant: str
    session: str
    method: str
    inputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

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
    """

    root: Path
    scans: tuple[Scan, ...]
    participants: pd.DataFrame
    columns: Mapping[str, Mapping[str, Any]]

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
    scans = []

    def visit(file: _File) -> tuple[str, str]:
        session = file.get("ses")
        return f"sub-{file.get('sub')}", f"ses-{session}" if session else ""

    files.sort(key=lambda f: (*visit(f), f.path.name))
    for (participant, session), group in groupby(files, key=visit):
        if wanted and session not in wanted:
            continue
        held = list(group)
        for method in methods:
            scan = Scan(participant, session, method)
            try:
                scans.append(_FINDERS[method](scan, held, look))
            except InputError as error:  # a sidecar that is not JSON stops this person only
                scans.append(_with(scan, lacks=(str(error),)))
    if not scans:
        raise InputError(f"{root}: holds no image under sub-*/; is it a BIDS folder?")
    table, columns = _participants(top)
    return Dataset(top, tuple(scans), table, columns)


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
        table = bids2table.index_dataset(top.resolve(), list(people) or None)
    finally:
        log.setLevel(level)
    paths = table.column("path").to_pylist()
    if not paths and "." in top.resolve().name:
        raise InputError(
            f"{top}: bids2table reads no folder with a dot in its name; rename it, or give a link"
        )
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
                self._read[path] = _json_object(path)
            merged |= self._read[path]
        return merged


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name}: is not JSON ({error}); repair it") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path.name}: holds a {type(content).__name__}, not an object; repair it"
        )
    return content


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
        values = [float(b) for b in bval.read_text().split()] if bval else []
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
        held.sort(key=lambda f: (int(f.get("echo") or 0), f.path.name))
    echoes = {part: [f.get("echo") for f in held] for part, held in parts.items()}
    if echoes["mag"] != echoes["phase"]:
        seen = {k: ",".join(v) or "none" for k, v in echoes.items()}
        return _with(
            scan, lacks=(f"{example}: echoes {seen['mag']} of mag, but {seen['phase']} of phase",)
        )
    times: list[float] = []
    lacks, fields = [], set()
    for file in parts["phase"]:
        meta = look.sidecar(file)
        absent = [k for k in ("EchoTime", "MagneticFieldStrength") if k not in meta]
        if absent:
            lacks.append(f"{file.path.name}: no {' and no '.join(absent)} in its sidecars")
            continue
        time = meta["EchoTime"]
        times += time if isinstance(time, list) else [time]
        fields.add(meta["MagneticFieldStrength"])
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
    return Scan(
        scan.participant,
        scan.session,
        scan.method,
        inputs or {},
        parameters or {},
        lacks,
        notes,
    )


def _participants(top: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read ``participants.tsv`` and its dictionary."""
    path = top / "participants.tsv"
    empty = pd.DataFrame(index=pd.Index([], name="participant_id"))
    if not path.is_file():
        return empty, {}
    try:
        table = pd.read_csv(path, sep="\t", dtype={"participant_id": str}, na_values="n/a")
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name}: cannot be read ({error})") from error
    if "participant_id" not in table or table["participant_id"].duplicated().any():
        raise InputError(f"{path.name}: needs a column participant_id with each person once")
    table["participant_id"] = "sub-" + table["participant_id"].str.removeprefix("sub-")
    words = path.with_suffix(".json")
    return table.set_index("participant_id"), _json_object(words) if words.is_file() else {}
