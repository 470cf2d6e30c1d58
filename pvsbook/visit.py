"""The files of one visit in a BIDS folder: entities of a name, and the sidecars that apply."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pvsbook import images

__all__ = ["BidsFile", "Found", "Sidecars", "Visit", "entities_of", "natural"]

NIFTI = (".nii.gz", ".nii")


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
    """

    files: Sequence[BidsFile]
    sidecars: Sidecars

    def select(self, datatype: str, *suffixes: str) -> list[BidsFile]:
        """Return the images of a data type with one of the suffixes."""
        return [f for f in self.files if f.datatype == datatype and f.suffix in suffixes]
