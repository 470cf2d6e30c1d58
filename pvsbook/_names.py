"""What names of files say: entities, and whether files belong together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pvsbook._errors import InputError
from pvsbook.images import PathLike

INDEX = ("run", "echo")  # entities whose label is a number
LABELLED = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "part", *INDEX)
OF_ONE_SCAN = ("sub", "ses", "run", "dir")  # the same in all files of one scan
WRONG_PARTS = {"magnitude": ("phase", "pha"), "phase": ("mag",)}


def entities_of(name: str) -> dict[str, str]:
    """Return the entities of a BIDS file name, and its suffix under ``suffix``.

    Examples
    --------
    >>> entities_of("sub-01_echo-2_part-mag_MEGRE.nii.gz")
    {'sub': '01', 'echo': '2', 'part': 'mag', 'suffix': 'MEGRE'}
    """
    *pairs, suffix = name.split(".", 1)[0].split("_")
    entities = dict(pair.split("-", 1) for pair in pairs if "-" in pair)
    return {**entities, "suffix": suffix}


def fault_of(name: str) -> str:
    """Say what is wrong with the entities of a name that follows BIDS; empty where nothing is.

    Only entities that tell one scan from another are looked at, and only in names that begin
    with ``sub-``: other names are free.

    Examples
    --------
    >>> fault_of("sub-_T2w.nii.gz")
    'sub- has no label; write sub-01'
    >>> fault_of("sub-01_acq-1.5mm_T2w.nii.gz")
    'acq-1.5mm: a label has letters and digits only, as in acq-15mm'
    >>> fault_of("my_T2w.nii.gz"), fault_of("sub-01_T2w_brain.nii.gz")
    ('', '')
    """
    parts = re.sub(r"\.(nii|nii\.gz|json|bval|bvec|hdr|img|mgz)$", "", name).split("_")
    if not parts[0].startswith("sub-"):
        return ""
    keys = [part.partition("-")[0] for part in parts if "-" in part]
    for part in parts:
        key, dash, label = part.partition("-")
        if not key:
            return f"{part!r} between two underscores is no entity; take it out"
        if not dash:
            if found := re.fullmatch(rf"({'|'.join(LABELLED)})(\d*)", part):
                return f"{part} has no hyphen; write {found[1]}-{found[2] or '01'}"
        elif key in LABELLED:
            if not label:
                return f"{part} has no label; write {part}01"
            if key in INDEX and not re.fullmatch("[0-9]+", label):
                return f"{part}: must be a number, as in {key}-1"
            if not re.fullmatch("[0-9A-Za-z+]+", label):
                clean = re.sub("[^0-9A-Za-z+]", "", label) or "01"
                return f"{part}: a label has letters and digits only, as in {key}-{clean}"
            if keys.count(key) > 1:
                return f"{key}- stands there twice; keep one"
    return ""


def check_names(files: Mapping[str, Sequence[PathLike]], masks: Sequence[str] = ()) -> None:
    """Refuse files of one measurement whose names say that they do not belong together.

    Names without entities say nothing, and pass; where a name is silent, folders ``sub-*`` and
    ``ses-*`` above it speak for it.

    Parameters
    ----------
    files
        Paths by role.  Roles of two visits begin with ``first_`` and ``second_``.
    masks
        Paths of masks: of the same participant and session, but maybe made from another scan.

    Raises
    ------
    InputError
        A malformed name, or files of two participants, visits or runs; magnitude and phase that
        are exchanged or of different echoes; one file, or one scan, as two visits.
    """
    scans: dict[str, dict[str, list[Path]]] = {}
    for role, paths in files.items():
        visit = next((v for v in ("first", "second") if role.startswith(f"{v}_")), "")
        kind = role.removeprefix(f"{visit}_")
        scans.setdefault(visit, {})[kind] = [Path(path) for path in paths]
    every = [path for scan in scans.values() for paths in scan.values() for path in paths]
    for path in (*every, *map(Path, masks)):
        if fault := fault_of(path.name):
            raise InputError(f"{path}: {fault}; rename the file")
    for scan in scans.values():
        _check_scan(scan)
    _same_label(("sub",), every, "are of two participants")
    for mask in masks:
        for path in every:
            _same_label(("sub", "ses"), [path, Path(mask)], "do not belong together")
    if len(scans) == 2:
        _check_visits(*scans.values())


def _check_scan(scan: Mapping[str, Sequence[Path]]) -> None:
    """Compare the names of the files of one scan."""
    _same_label(OF_ONE_SCAN, [p for paths in scan.values() for p in paths], "are of two scans")
    for role, paths in scan.items():
        for path in paths:
            part = entities_of(path.name).get("part")
            if part in WRONG_PARTS.get(role, ()):
                raise InputError(
                    f"{path}: is given as {role}, but its name says part-{part}; exchange the "
                    "files, or rename them"
                )
    pairs = zip(scan.get("magnitude", ()), scan.get("phase", ()), strict=False)
    for magnitude, phase in pairs:
        _same_label(("echo",), [magnitude, phase], "are of two echoes")
        _refuse_one_file(magnitude, phase, "magnitude and phase")


def _check_visits(first: Mapping[str, list[Path]], second: Mapping[str, list[Path]]) -> None:
    """Refuse one scan that is given as two visits."""
    for role, paths in first.items():
        for path in paths:
            for other in second.get(role, ()):
                _refuse_one_file(path, other, "both visits")
                if path.name == other.name and "ses" in entities_of(path.name):
                    raise InputError(
                        f"{path} and {other} are of one visit by their names; give two visits, or "
                        "rename the files of one"
                    )


def _place_of(path: Path) -> dict[str, str]:
    """Return the entities of a file; folders give participant and session if the name does not."""
    folders = {}
    for folder in path.absolute().parts[:-1]:
        if found := re.fullmatch(r"(sub|ses)-([0-9A-Za-z+]+)", folder):
            folders[found[1]] = found[2]
    return {**folders, **entities_of(path.name)}


def _same_label(entities: Sequence[str], paths: Sequence[Path], what: str) -> None:
    first: dict[str, tuple[str, Path]] = {}  # of each entity the first file that names it
    for path in paths:
        place = _place_of(path)
        for key in (k for k in entities if k in place):
            label, one = first.setdefault(key, (place[key], path))
            if place[key] != label:
                raise InputError(
                    f"{one} and {path} {what} by their names ({key}-{label} and "
                    f"{key}-{place[key]}); give files of one, or rename them"
                )


def _refuse_one_file(one: Path, two: Path, what: str) -> None:
    if one.resolve() == two.resolve():
        raise InputError(f"{one}: is given for {what}; give a file for each")


def natural(label: str) -> list[tuple[int, int, str]]:
    """Sort labels as people count: ses-2 before ses-10.

    Examples
    --------
    >>> sorted(["ses-10", "ses-2", "ses-M12"], key=natural)
    ['ses-2', 'ses-10', 'ses-M12']
    """
    parts = re.split(r"(\d+)", label)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p.casefold()) for p in parts if p]
