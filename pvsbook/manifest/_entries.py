"""The entries of the manifest: their schema, the YAML files that hold them, how to cite them."""

from __future__ import annotations

import difflib
import functools
import os
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

import pydantic
from pydantic import AfterValidator, Field

from pvsbook._errors import InputError
from pvsbook._yaml import read_yaml

__all__ = ["Dataset", "File", "Scan", "cite", "datasets", "describe", "folder"]


def _relative_path(value: str) -> str:
    name = r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*"
    if not re.fullmatch(f"{name}(/{name})*", value) or value.endswith((".part", ".")):
        raise ValueError("not a path inside the data set's folder")
    return value


def web_address(value: str) -> str:
    """Refuse what is no http(s) address, with a ValueError."""
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"\s", value):
        raise ValueError("not a web address")
    return value


_Text = Annotated[str, Field(min_length=1)]
_Url = Annotated[str, AfterValidator(web_address)]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class File(_Strict):
    """One file of a data set."""

    path: Annotated[str, AfterValidator(_relative_path)] = Field(
        description="a relative path with forward slashes, names of A-Z a-z 0-9 _ . + - that do "
        "not begin with a dot"
    )
    size: int = Field(strict=True, gt=0, description="give the size in bytes as a whole number")
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="64 small hexadecimal digits, in quotes"
    )
    md5: str | None = Field(
        None, pattern="^[0-9a-f]{32}$", description="32 small hexadecimal digits, in quotes"
    )
    url: _Url | None = Field(description="the public http(s) address, or null with derived_from")
    derived_from: _Text | None = Field(
        None, description="how these bytes were made from a named public source"
    )

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Self:
        if not (self.sha256 or self.md5):
            raise ValueError("no checksum; give sha256 or md5")
        if (self.url is None) != (self.derived_from is not None):
            raise ValueError("give either url, or url: null and derived_from")
        return self

    @property
    def checksum(self) -> tuple[str, str]:
        """Algorithm and digest; sha256 where both are known."""
        return ("sha256", self.sha256) if self.sha256 else ("md5", str(self.md5))


class Scan(_Strict):
    """One scan of a data set: its method, the files by their role, and what no file says.

    The manifest knows no method: which roles and options one takes is checked where it runs.
    """

    method: _Text = Field(description="the name of a method: pvs, alps or qsm, say")
    subject: _Text | None = Field(None, description="the label after sub-, in quotes")
    session: _Text | None = Field(None, description="the label after ses-, in quotes")
    files: dict[str, str | tuple[str, ...]] = Field(
        min_length=1,
        description="the role (image; dwi, bval, bvec; magnitude, phase) and its file",
    )
    options: dict[str, str | float | tuple[float, ...]] = Field(
        default_factory=dict, description="contrast; echo_times_s, field_strength_t, phase_period"
    )
    beware: _Text | None = Field(None, description="what is assumed, and what can mislead here")

    @property
    def label(self) -> str:
        """Subject and session as in a BIDS name."""
        pairs = (("sub", self.subject), ("ses", self.session))
        return "_".join(f"{key}-{value}" for key, value in pairs if value) or "the only one"

    @property
    def paths(self) -> tuple[str, ...]:
        """All its files."""
        roles = self.files.values()
        return tuple(
            path for files in roles for path in ([files] if isinstance(files, str) else files)
        )


class Dataset(_Strict):
    """One data set: what it is, whose it is, and its files."""

    name: str = Field(
        pattern="^[a-z0-9][a-z0-9_-]*$", description="the name of the YAML file, without .yml"
    )
    title: _Text = Field(description="one line")
    description: _Text = Field(description="what it holds, and what to beware of")
    licence: _Text = Field(description="an SPDX identifier, or the terms in words")
    citation: _Text = Field(description="what to cite, as plain text")
    authors: tuple[_Text, ...] = Field(min_length=1, description="a list of names")
    version: _Text = Field(description="release or commit, in quotes")
    doi: str | None = Field(
        None, pattern=r"^10\.\d{4,9}/\S+$", description="10.1234/abc, without https:// or doi:"
    )
    repository: _Url | None = Field(None, description="an http(s) address")
    files: tuple[File, ...] = Field(min_length=1, description="a list of files")
    scans: tuple[Scan, ...] = Field((), description="a list of scans to measure")

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Self:
        if not (self.doi or self.repository):
            raise ValueError("no source; give doi or repository")
        paths = [file.path for file in self.files]
        places = [path.casefold() for path in paths]  # some file systems do not tell A from a
        folders = {str(folder) for place in places for folder in PurePosixPath(place).parents}
        for path, place in zip(paths, places, strict=True):
            if places.count(place) > 1 or place in folders:
                raise ValueError(f"two files claim the place {path!r}; remove one")
        for scan in self.scans:
            if unknown := set(scan.paths) - set(paths):
                raise ValueError(f"scan {scan.label}: {min(unknown)!r} is none of the files")
        return self

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def subjects(self) -> tuple[str, ...]:
        """BIDS subjects, as ``sub-<label>``."""
        tops = (file.path.split("/")[0] for file in self.files)
        return tuple(sorted({top for top in tops if top.startswith("sub-")}))

    def scan(self, method: str, *, subject: str | None = None, session: str | None = None) -> Scan:
        """Find the scan of one person for a method.

        Parameters
        ----------
        method : str
            What is to be measured: ``"pvs"``, ``"alps"``, ``"qsm"``.
        subject, session : str, optional
            Labels, with or without ``sub-`` and ``ses-``; the first one by default.

        Returns
        -------
        Scan

        Raises
        ------
        InputError
            If the data set has no such scan; the message lists those that it has.

        Examples
        --------
        >>> from pvsbook import manifest
        >>> manifest.describe("gre_small_romeo").scan("qsm").files["phase"]
        'Phase.nii'
        """
        candidates = [s for s in self.scans if s.method == method]
        if not candidates:
            methods = ", ".join(sorted({s.method for s in self.scans})) or "no method"
            raise InputError(f"{self.name}: no scan for {method}; it has scans for {methods}")
        for scan in candidates:
            if (subject is None or scan.subject == subject.removeprefix("sub-")) and (
                session is None or scan.session == session.removeprefix("ses-")
            ):
                return scan
        labels = " ".join(x for x in (subject, session) if x)
        raise InputError(
            f"{self.name}: no {method} scan of {labels}; "
            f"choose from: {', '.join(s.label for s in candidates)}"
        )

    def files_of(self, scan: Scan) -> list[File]:
        """List the files of a scan, with the sidecars beside them."""
        known = {file.path: file for file in self.files}
        sidecars = (p.removesuffix(".gz").removesuffix(".nii") + ".json" for p in scan.paths)
        return [known[path] for path in dict.fromkeys([*scan.paths, *sidecars]) if path in known]

    def select(
        self, files: str | Iterable[str] | None = None, *, subject: str | None = None
    ) -> tuple[File, ...]:
        """Select files, in the order of the manifest.

        Parameters
        ----------
        files : str or iterable of str, optional
            Paths or patterns (``"*_dwi.*"``); all files by default.
        subject : str, optional
            ``"sub-1003"`` or ``"1003"``: this person's files, and those that belong to nobody
            (``dataset_description.json``).

        Returns
        -------
        tuple of File

        Raises
        ------
        InputError
            For a pattern without a file, or an unknown subject.

        Examples
        --------
        >>> from pvsbook import manifest
        >>> [file.path for file in manifest.describe("fa_template").select("*.nii.gz")]
        ['MNI_FA_template.nii.gz']
        """
        chosen = self.files
        if files is not None:
            patterns = [files] if isinstance(files, str) else list(files)
            for pattern in patterns:
                if not any(fnmatchcase(file.path, pattern) for file in chosen):
                    raise _unknown("file", pattern, [file.path for file in chosen], self.name)
            chosen = tuple(f for f in chosen if any(fnmatchcase(f.path, p) for p in patterns))
        if subject is not None:
            label = f"sub-{subject.removeprefix('sub-')}"
            if label not in self.subjects:
                raise _unknown("subject", label, self.subjects, self.name)
            others = set(self.subjects) - {label}
            chosen = tuple(f for f in chosen if f.path.split("/")[0] not in others)
        return chosen


def _unknown(what: str, name: str, known: Sequence[str], where: str) -> InputError:
    """Answer an unknown name with the ones that are like it, else with all."""
    near = difflib.get_close_matches(name, known)
    hint = f"did you mean {', '.join(near)}?" if near else f"choose from: {', '.join(known[:20])}"
    return InputError(f"{where}: no {what} {name!r} in the manifest; {hint}")


# --- the YAML files --------------------------------------------------------------------------


def folder() -> Path:
    """Find the folder of YAML files (see the environment above).

    The wheel carries them inside the package; in a copy of the repository they lie above it.
    """
    own = os.environ.get("PVSBOOK_MANIFEST")
    package = Path(__file__).resolve().parents[1]
    above = [parent / "data_manifest" for parent in (package, package.parent)]
    for place in [Path(own).expanduser()] if own else above:
        if any(place.glob("*.yml")):
            return place
    if own:
        raise InputError(f"PVSBOOK_MANIFEST={own!r} holds no *.yml; name the data_manifest folder")
    raise InputError(
        f"no data_manifest folder in {package} or above it: this installation is broken; "
        "install pvsbook again, or set PVSBOOK_MANIFEST to a folder of manifest files"
    )


def _explain(problem: Mapping[str, Any]) -> str:
    """Name field and value beside what pydantic says, and what is needed."""
    where, value = problem["loc"], problem["input"]
    models: dict[Any, type[_Strict]] = {"files": File, "scans": Scan} if where[1:] else {}
    model = models.get(where[0], Dataset) if where else Dataset
    spot = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)
    name = next((part for part in reversed(where) if isinstance(part, str)), "")
    field = model.model_fields.get(name)
    shown = "" if isinstance(value, Mapping | _Strict) else f" is {reprlib.repr(value)}"
    fault = problem["msg"].removeprefix("Value error, ")
    text = f"{spot.lstrip('.') or 'the entry'}{shown}: {fault}"
    if problem["type"] == "extra_forbidden":
        return f"{text}; known here: {', '.join(model.model_fields)}"
    return f"{text}; needed: {field.description}" if field else text


@functools.cache
def _read(source: Path, changed_ns: int) -> Dataset:
    del changed_ns  # a part of the key: an edited file is read again
    try:
        dataset = Dataset.model_validate(read_yaml(source.read_text(encoding="utf-8")))
    except pydantic.ValidationError as error:
        faults = "\n  ".join(_explain(problem) for problem in error.errors())
        raise InputError(f"{source}: {faults}") from None
    except ValueError as error:
        raise InputError(f"{source}: not YAML: {error}; correct that line") from None
    if dataset.name != source.stem:
        raise InputError(
            f"{source}: name is {dataset.name!r}; needed: {source.stem!r}, as the file is called"
        )
    return dataset


def datasets() -> tuple[str, ...]:
    """List the data sets of the manifest.

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> from pvsbook import manifest
    >>> "ds004958" in manifest.datasets()
    True
    """
    return tuple(sorted(source.stem for source in folder().glob("*.yml")))


def describe(dataset: str) -> Dataset:
    """Read a data set's entry.

    Parameters
    ----------
    dataset : str
        One of :func:`datasets`.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        If there is no such entry, or it breaks the schema.

    Examples
    --------
    >>> from pvsbook import manifest
    >>> manifest.describe("fa_template").licence
    'Apache-2.0'
    """
    known = datasets()
    if dataset not in known:
        raise _unknown("data set", dataset, known, str(folder()))
    source = folder() / f"{dataset}.yml"
    return _read(source, source.stat().st_mtime_ns)


def cite(names: str | Iterable[str]) -> str:
    """Return how to cite data sets, as plain text and as BibTeX.

    Parameters
    ----------
    names : str or iterable of str
        Data sets.

    Returns
    -------
    str

    Examples
    --------
    >>> from pvsbook import manifest
    >>> print(manifest.cite("gre_small_romeo").splitlines()[0])
    gre_small_romeo (MIT): ROMEO.jl test data: a crop of a three-echo gradient-echo brain scan
    """
    entries = []
    for data in map(describe, [names] if isinstance(names, str) else names):
        fields = {
            "author": " and ".join(data.authors),
            "title": f"{{{data.title}}}",
            "version": data.version,
            "note": f"Licence: {data.licence}",
        }
        fields = {key: re.sub(r"([&%#_])", r"\\\1", value) for key, value in fields.items()}
        fields |= {"doi": data.doi} if data.doi else {"url": str(data.repository)}
        bibtex = ",\n".join(f"  {key} = {{{value}}}" for key, value in fields.items())
        head = f"{data.name} ({data.licence}): {data.title}\n{data.citation}"
        entries.append(f"{head}\n\n@misc{{{data.name},\n{bibtex}\n}}")
    return "\n\n".join(entries)
