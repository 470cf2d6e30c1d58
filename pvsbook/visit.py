"""The files of one visit: entities of names, whether they belong together, and sidecars."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from pvsbook import images
from pvsbook._errors import InputError

__all__ = [
    "BidsFile", "Found", "Sidecars", "Visit", "check_names", "entities_of", "fault_of", "natural",
]  # fmt: skip

NIFTI = (".nii.gz", ".nii")
MASKS = {
    "brain": {"brain"},
    "lesion": {"lesion", "lesions", "wmh"},
}  # by desc or label of masks that other pipelines made
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


def check_names(files: Mapping[str, Sequence[images.PathLike]], masks: Sequence[str] = ()) -> None:
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


@dataclass(frozen=True)
class BidsFile:
    """An image in a BIDS folder.

    Attributes
    ----------
    path
        Where it lies.
    datatype
        The folder that it lies in: ``anat``, ``dwi`` ...
    entities
        From `entities_of`.
    """

    path: Path
    datatype: str
    entities: Mapping[str, str]

    @property
    def name(self) -> str:
        """File name."""
        return self.path.name

    @property
    def suffix(self) -> str:
        """BIDS suffix."""
        return self.entities["suffix"]

    def get(self, entity: str) -> str:
        """Return the label of an entity, empty where there is none."""
        return self.entities.get(entity, "")

    @property
    def visit(self) -> tuple[str, str]:
        """Participant and session by the name; the session may be empty."""
        session = self.get("ses")
        return f"sub-{self.get('sub')}", f"ses-{session}" if session else ""


@dataclass(frozen=True)
class Found:
    """What a method found in a visit.

    Attributes
    ----------
    inputs
        Paths by role.
    parameters
        What sidecars say, by the names of the method's options.
    lacks
        Why the method cannot run, each with the file; empty where it can.
    notes
        What was chosen among several, or read otherwise than BIDS says it.
    settable
        Of what lacks, the options that a setting can give instead.
    """

    inputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def fill(self, settings: Mapping[str, Any]) -> Found:
        """Take from settings what sidecars lack; refuse what both say differently."""
        lacks = [
            text
            for text in self.lacks
            if not all(name in settings for name in self.settable.get(text, (None,)))
        ]
        for name, known in self.parameters.items():
            if name in settings and not _agree(known, settings[name]):
                lacks.append(
                    f"{name} is {_in_words(settings[name])} in the settings, but the files of "
                    f"this scan say {_in_words(known)}; correct the one that is wrong"
                )
        given = {
            n: settings[n] for names in self.settable.values() for n in names if n in settings
        }
        return replace(self, parameters={**self.parameters, **given}, lacks=tuple(lacks))


def _agree(known: Any, given: Any) -> bool:
    """Tell whether a setting is what files say (1 % for numbers); None where they say nothing."""
    if isinstance(known, list):
        values = given if isinstance(given, list | tuple) else [given]
        nothing = all(value is None for value in known)
        return nothing or (len(known) == len(values) and all(map(_agree, known, values)))
    if known is None or known == given:
        return True
    are_numbers = all(isinstance(v, int | float) for v in (known, given))
    return are_numbers and math.isclose(known, given, rel_tol=0.01)


def _in_words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value))
    return "nothing" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


class Sidecars:
    """Looks up files that apply to an image: in its folder, then upwards (BIDS inheritance)."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._listings: dict[Path, list[Path]] = {}
        self._contents: dict[Path, dict[str, Any]] = {}

    def _list(self, folder: Path) -> list[Path]:
        if folder not in self._listings:
            ends = (".json", ".bval", ".bvec")
            self._listings[folder] = sorted(p for p in folder.iterdir() if p.name.endswith(ends))
        return self._listings[folder]

    def files(self, image: BidsFile, extension: str) -> Iterator[Path]:
        """Yield the files with this extension that apply, nearest and most specific first."""
        for folder in (image.path.parent, *image.path.parent.parents):
            matches = []
            for path in self._list(folder):
                if path.name.endswith(f"{image.suffix}{extension}"):
                    entities = entities_of(path.name)
                    if entities.items() <= image.entities.items():
                        matches.append((-len(entities), path))
            yield from (path for _, path in sorted(matches))
            if folder == self.top:
                return

    def read(self, image: BidsFile) -> dict[str, Any]:
        """Merge the JSON files that apply; the nearest wins."""
        merged: dict[str, Any] = {}
        for path in reversed(list(self.files(image, ".json"))):
            if path not in self._contents:
                self._contents[path] = images.read_json(path)
            merged |= self._contents[path]
        return merged


@dataclass(frozen=True)
class Visit:
    """The images of one participant at one visit.

    Attributes
    ----------
    files
        Sorted by name.
    sidecars
        Of the data set.
    derived
        Images that other pipelines made of this visit, sorted by name.
    """

    files: Sequence[BidsFile]
    sidecars: Sidecars
    derived: Sequence[BidsFile] = ()

    def masks(self, scan: BidsFile, **options: str) -> tuple[dict[str, str], list[str]]:
        """Find masks that other pipelines made on the grid of a scan.

        Parameters
        ----------
        scan
            Whose grid they must have.
        **options
            Name of the option for each kind: ``brain`` (``desc-brain_mask``) or ``lesion``
            (``label-lesion`` or ``label-WMH``, or such a ``desc``; suffix ``mask`` or ``roi``).

        Returns
        -------
        dict
            Their paths by the names of the options.
        list of str
            What was taken, and what was not and why.
        """
        found: dict[str, str] = {}
        notes = []
        for kind, option in options.items():
            for file in self.derived:
                labels = {file.get("desc").lower(), file.get("label").lower()}
                is_here = file.get("space") in ("", scan.suffix, "orig", "scanner")
                is_mask = file.suffix in ("mask", "roi") and bool(labels & MASKS[kind])
                if not (is_here and is_mask):
                    continue
                if not _on_same_grid(file.path, scan.path):
                    notes.append(f"{file.name} lies on another grid than {scan.name}: not used")
                elif option in found:
                    notes.append(f"{file.name} not used, as it is the second {kind} mask")
                else:
                    found[option] = str(file.path)
                    notes.append(f"{kind} mask of {file.name}")
        return found, notes

    def select(self, datatype: str, *suffixes: str) -> list[BidsFile]:
        """Return the images of a data type with one of the suffixes."""
        chosen = [f for f in self.files if f.datatype == datatype and f.suffix in suffixes]
        stems = [images.stem(f.path) for f in chosen]
        for stem, file in zip(stems, chosen, strict=True):
            if stems.count(stem) > 1:
                raise InputError(
                    f"{file.name}: the same name stands there with another ending; keep one of "
                    ".nii and .nii.gz"
                )
        return chosen


def _on_same_grid(one: Path, other: Path) -> bool:
    """Tell by the headers whether two images have the same voxels in space."""
    import nibabel as nib

    try:
        images.same_grid(*(cast("nib.Nifti1Image", nib.load(path)) for path in (one, other)))
    except (InputError, OSError, nib.filebasedimages.ImageFileError):
        return False
    return True
