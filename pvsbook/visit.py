"""The files of one visit: what their names say, which belong together, and sidecars."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from pvsbook import images
from pvsbook._constants import SERIES
from pvsbook._errors import InputError
from pvsbook._names import INDEX, entities_of, natural

__all__ = ["BidsFile", "Found", "Sidecars", "Visit"]

NIFTI = (".nii.gz", ".nii")
MASKS = {
    "brain": {"brain"},
    "lesion": {"lesion", "lesions", "wmh"},
}  # by desc or label of masks that other pipelines made


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

    @property
    def series(self) -> dict[str, str]:
        """Entities that tell one series of a visit from another; ``run-01`` is ``run-1``."""
        labels = {key: self.get(key) for key in SERIES if self.get(key)}
        return {k: (v.lstrip("0") or "0") if k in INDEX else v for k, v in labels.items()}

    def is_of(self, other: BidsFile) -> bool:
        """Whether this file may be made of, or belong to, another one: no entity contradicts."""
        return self.series.items() <= other.series.items()

    def closest(self, files: Sequence[BidsFile]) -> BidsFile:
        """Return the file with most entities of this one; of equals without contrast agent."""

        def rank(file: BidsFile) -> tuple:
            differing = len(self.series.items() ^ file.series.items())
            return differing, bool(file.get("ce")), natural(file.name)

        return min(files, key=rank)


@dataclass(frozen=True)
class Found:
    """What a method found in a visit.

    Attributes
    ----------
    inputs
        Paths by role; those that are there, where something is lacking.
    parameters
        What sidecars say, by the names of the method's options.
    lacks
        Why the method cannot run, each with the file; empty where it can.
    notes
        What was chosen among several, or read otherwise than BIDS says it.
    settable
        Of what lacks, the options that a setting can give instead.
    fixed
        Options that no setting changes for this scan, as another pipeline did that step before.
    """

    inputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def fill(self, settings: Mapping[str, Any]) -> Found:
        """Take from settings what sidecars lack; refuse what both say differently."""
        off = [n for n, value in self.fixed.items() if n in settings and settings[n] != value]
        settings = {name: value for name, value in settings.items() if name not in self.fixed}
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
        notes = self.notes
        if off:
            notes += (f"{', '.join(off)} of the settings left out, as that was done before",)
        parameters = {**self.parameters, **self.fixed, **given}
        return replace(self, parameters=parameters, lacks=tuple(lacks), notes=notes)


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

    def __init__(self, *tops: Path) -> None:
        self.tops = tops
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
            is_top = folder / "dataset_description.json" in self._list(folder)
            if is_top or folder in self.tops:
                return

    def maker(self, image: BidsFile) -> str:
        """Return name and version of the pipeline that made an image, by its data set."""
        top = next(folder for folder in image.path.parents if folder in self.tops)
        path = top / "dataset_description.json"
        about = images.read_json(path) if path.is_file() else {}
        makers = about.get("GeneratedBy") or [about.get("PipelineDescription")]
        maker = makers[0] if isinstance(makers, list) and isinstance(makers[0], dict) else {}
        name, version = (str(maker.get(key) or "") for key in ("Name", "Version"))
        return f"{name or top.resolve().name} {version or '(version not recorded)'}"

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
            masks = [f for f in self.derived if _is_mask(f, kind) and self._is_meant(f, scan)]
            if kind == "brain":  # of a series that the pipeline left in this folder
                masks += [f for f in self.files if _is_mask(f, kind) and f.is_of(scan)]
            masks = [f for f in masks if _in_space_of(f, scan)]
            for file in sorted(masks, key=lambda f: -len(f.series)):
                if not _on_same_grid(file.path, scan.path):
                    notes.append(f"{file.name} lies on another grid than {scan.name}: not used")
                elif option in found:
                    notes.append(f"{file.name} not used, as it is the second {kind} mask")
                else:
                    found[option] = str(file.path)
                    notes.append(f"{kind} mask of {file.name}")
        return found, notes

    def _is_meant(self, mask: BidsFile, scan: BidsFile) -> bool:
        """Whether a mask is of this scan, not of another of the visit, by their entities."""
        if mask.is_of(scan):
            return True
        contradicts = any(scan.series.get(k, v) != v for k, v in mask.series.items())
        others = (file for file in self.files if file.suffix == scan.suffix)
        return not contradicts and not any(map(mask.is_of, others))

    def beside(
        self, scan: BidsFile, files: Sequence[BidsFile]
    ) -> tuple[BidsFile | None, list[str]]:
        """Choose the other image of a visit that is most like a scan by its name; say which."""
        there = [file for file in files if file.path.exists() or not file.path.is_symlink()]
        notes = [f"{f.name} not used: a link to nowhere" for f in files if f not in there]
        if not there:
            return None, notes
        chosen = scan.closest(there)
        more = f", the closest of {len(there)} by its name" if len(there) > 1 else ""
        return chosen, [f"{chosen.name} beside it{more}", *notes]

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


def one_echo(files: Sequence[BidsFile], *, last: bool = False) -> list[BidsFile]:
    """Keep of each series the magnitude, and of its echoes the first or the last one."""
    chosen: dict[tuple, BidsFile] = {}
    for file in sorted(files, key=lambda f: natural(f.get("echo")), reverse=last):
        same = {k: v for k, v in file.entities.items() if k not in ("echo", "part")}
        if file.get("part") in ("", "mag"):
            chosen.setdefault(tuple(sorted(same.items())), file)
    return sorted(chosen.values(), key=lambda f: natural(f.name))


def _is_mask(file: BidsFile, kind: str) -> bool:
    labels = {file.get("desc").lower(), file.get("label").lower()}
    return file.suffix in ("mask", "roi") and bool(labels & MASKS[kind])


def _in_space_of(file: BidsFile, scan: BidsFile) -> bool:
    own = scan.get("space")
    return file.get("space") in ([own] if own else ["", scan.suffix, "orig", "scanner"])


def _on_same_grid(one: Path, other: Path) -> bool:
    """Tell by the headers whether two images have the same voxels in space."""
    import nibabel as nib

    try:
        images.same_grid(*(cast("nib.Nifti1Image", nib.load(path)) for path in (one, other)))
    except (InputError, OSError, nib.filebasedimages.ImageFileError):
        return False
    return True
