"""Public files by name: where they come from, and verified copies of them on this machine.

``data_manifest/*.yml`` says of each data set what it is, whose it is and under which licence,
and of each file its public URL, size and checksum.  :func:`fetch` brings files into the cache
and gives a file its final name only after size and checksum agree.

The environment decides where files come from and go to:

=====================  =========================================================================
``PVSBOOK_DATA``       the cache (default: the platform's place for caches)
``PVSBOOK_MIRROR``     a folder or URL that holds ``<data set>/<path>`` and is asked first
``PVSBOOK_OFFLINE``    ``1``: never touch the network
``PVSBOOK_MANIFEST``   the folder of YAML files (default: the nearest ``data_manifest`` above the
                       package, then above the working directory)
=====================  =========================================================================

Checksums are pooch's.  The transfer is ours, because pooch 1.9 starts a broken download again
from nothing and its temporary files have random names, so an interrupted one cannot be resumed.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import functools
import hashlib
import logging
import os
import re
import reprlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import platformdirs
import pooch
import pydantic
import requests
import rich.console
import rich.progress
import yaml
from pydantic import AfterValidator, Field
from rich.filesize import decimal as _human

from pvsbook import _download
from pvsbook._errors import InputError

if sys.platform != "win32":
    import fcntl

__all__ = [
    "Dataset",
    "Fetched",
    "File",
    "Method",
    "Report",
    "Scan",
    "available_from_mirror",
    "cache",
    "cite",
    "datasets",
    "describe",
    "fetch",
    "folder",
    "offline",
    "path",
    "verify",
]

Report = Callable[[str, int, int], None]
"""A progress callback: file, bytes so far, bytes in all."""

CHUNK = 1 << 16
_log = logging.getLogger(__name__)


# --- the schema ------------------------------------------------------------------------------


def _inside(value: str) -> str:
    name = r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*"
    if not re.fullmatch(f"{name}(/{name})*", value) or value.endswith((".part", ".")):
        raise ValueError("not a path inside the data set's folder")
    return value


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"\s", value):
        raise ValueError("not a web address")
    return value


_Text = Annotated[str, Field(min_length=1)]
_Url = Annotated[str, AfterValidator(_web_address)]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class File(_Strict):
    """One file of a data set."""

    path: Annotated[str, AfterValidator(_inside)] = Field(
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


Method = Literal["pvs", "alps", "qsm"]
_PARTS: dict[str, tuple[set[str], set[str], set[str]]] = {  # needed, optional, options
    "pvs": ({"image"}, {"brain_mask", "wmh_mask"}, {"contrast"}),
    "alps": ({"bval", "bvec", "dwi"}, {"brain_mask"}, set()),
    "qsm": (
        {"magnitude", "phase"},
        {"brain_mask"},
        {"echo_times_s", "field_strength_t", "phase_period"},
    ),
}


class Scan(_Strict):
    """One scan that a method can take: which file plays which part, and what no file says."""

    method: Method = Field(description="pvs, alps or qsm")
    subject: _Text | None = Field(None, description="the label after sub-, in quotes")
    session: _Text | None = Field(None, description="the label after ses-, in quotes")
    files: dict[str, str | tuple[str, ...]] = Field(
        description="the part (image; dwi, bval, bvec; magnitude, phase; masks) and its file"
    )
    options: dict[str, str | float | tuple[float, ...]] = Field(
        default_factory=dict, description="contrast; echo_times_s, field_strength_t, phase_period"
    )
    beware: _Text | None = Field(None, description="what is assumed, and what can mislead here")

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Self:
        needed, optional, options = _PARTS[self.method]
        if not needed <= set(self.files) <= needed | optional:
            raise ValueError(
                f"{self.method} takes {', '.join(sorted(needed))}"
                f" and perhaps {', '.join(sorted(optional))}, not {', '.join(self.files)}"
            )
        if unknown := set(self.options) - options:
            raise ValueError(f"{self.method} has no option {', '.join(sorted(unknown))}")
        return self

    @property
    def label(self) -> str:
        """Subject and session as in a BIDS name."""
        pairs = (("sub", self.subject), ("ses", self.session))
        return "_".join(f"{key}-{value}" for key, value in pairs if value) or "the only one"

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that play a part."""
        parts = self.files.values()
        return tuple(f for part in parts for f in ([part] if isinstance(part, str) else part))


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
    scans: tuple[Scan, ...] = Field((), description="a list of scans that a method can take")

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Self:
        if not (self.doi or self.repository):
            raise ValueError("no source; give doi or repository")
        seen: set[str] = set()
        for file in self.files:  # some file systems do not tell A from a
            key = file.path.casefold()
            if key in seen or any(other.startswith(f"{key}/") for other in seen):
                raise ValueError(f"two files claim the place {file.path!r}; remove one")
            if any(key.startswith(f"{other}/") for other in seen):
                raise ValueError(f"{file.path!r} lies inside another file; correct its path")
            seen.add(key)
        known = {file.path for file in self.files}
        for scan in self.scans:
            if lost := [path for path in scan.paths if path not in known]:
                raise ValueError(f"scan {scan.label}: {lost[0]!r} is none of the files")
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

    def scan(
        self, method: Method, *, subject: str | None = None, session: str | None = None
    ) -> Scan:
        """Find the scan of one person for a method.

        Parameters
        ----------
        method : {"pvs", "alps", "qsm"}
            What is to be measured.
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
        wanted = [s for s in self.scans if s.method == method]
        if not wanted:
            can = sorted({s.method for s in self.scans})
            raise InputError(
                f"{self.name}: no scan for {method}; it has "
                + (f"scans for {', '.join(can)}" if can else "none for any method")
            )
        for scan in wanted:
            if (subject is None or scan.subject == subject.removeprefix("sub-")) and (
                session is None or scan.session == session.removeprefix("ses-")
            ):
                return scan
        asked = " ".join(x for x in (subject, session) if x)
        raise InputError(
            f"{self.name}: no {method} scan of {asked}; "
            f"choose from: {', '.join(s.label for s in wanted)}"
        )

    def select(
        self, files: str | Iterable[str] | None = None, *, subject: str | None = None
    ) -> tuple[File, ...]:
        """Pick files, in the order of the manifest.

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
                    known = [file.path for file in self.files]
                    near = difflib.get_close_matches(pattern, known, 3, 0.3) or known[:3]
                    raise InputError(
                        f"{self.name}: no file {pattern!r} in the manifest; "
                        f"did you mean {', '.join(near)}?"
                    )
            chosen = tuple(f for f in chosen if any(fnmatchcase(f.path, p) for p in patterns))
        if subject is not None:
            label = f"sub-{subject.removeprefix('sub-')}"
            if label not in self.subjects:
                raise InputError(
                    f"{self.name}: no subject {subject!r} in the manifest; "
                    f"choose from: {', '.join(self.subjects) or 'none, it has no subjects'}"
                )
            chosen = tuple(
                f for f in chosen if f.path.startswith(f"{label}/") or f.path[:4] != "sub-"
            )
        return chosen


class Fetched(dict[str, Path]):
    """Local paths by the file's path in the data set, and how each file came.

    Attributes
    ----------
    how : dict of str to str
        ``"cached"``, ``"mirrored"`` or ``"downloaded"``.
    """

    def __init__(self, paths: Mapping[str, Path], how: Mapping[str, str]):
        super().__init__(paths)
        self.how = dict(how)


# --- reading the manifest --------------------------------------------------------------------

_Yaml: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _OneKeyOnce(_Yaml):
    """YAML itself lets the last of two equal keys win, without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice; remove one", node.start_mark
                )
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def folder() -> Path:
    """Find the folder of YAML files (see the environment above).

    The wheel carries them inside the package; in a copy of the repository they lie above it.
    """
    own = os.environ.get("PVSBOOK_MANIFEST")
    if own:
        if any(Path(own).expanduser().glob("*.yml")):
            return Path(own).expanduser()
        raise InputError(f"PVSBOOK_MANIFEST={own!r} holds no *.yml; name the data_manifest folder")
    package = Path(__file__).resolve().parent
    for parent in (package, package.parent):
        if any((parent / "data_manifest").glob("*.yml")):
            return parent / "data_manifest"
    raise InputError(
        f"no data_manifest folder in {package} or above it: this installation is broken; "
        "install pvsbook again, or set PVSBOOK_MANIFEST to a folder of manifest files"
    )


def _explain(error: pydantic.ValidationError, source: Path) -> InputError:
    lines = []
    for problem in error.errors():
        where = problem["loc"]
        parts: dict[Any, type[_Strict]] = {"files": File, "scans": Scan}
        model = parts.get(where[0], Dataset) if len(where) > 1 else Dataset
        field = next((str(p) for p in reversed(where) if isinstance(p, str)), "")
        spot = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in where).lstrip(".")
        spot = spot or "the entry"
        said = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            text = f"{spot} is missing"
        elif isinstance(problem["input"], Mapping | _Strict):
            text = f"{spot}: {said}"
        else:
            text = f"{spot} is {reprlib.repr(problem['input'])}: {said}"
        if problem["type"] == "extra_forbidden":
            text += f"; known here: {', '.join(model.model_fields)}"
        elif field in model.model_fields and model.model_fields[field].description:
            text += f"; needed: {model.model_fields[field].description}"
        lines.append(text)
    return InputError(f"{source}: " + "\n  ".join(lines))


@functools.cache
def _read(source: Path, changed_ns: int) -> Dataset:
    del changed_ns  # a part of the key: an edited file is read again
    try:
        content = yaml.load(source.read_text(encoding="utf-8"), _OneKeyOnce)
        dataset = Dataset.model_validate(content)
    except pydantic.ValidationError as error:
        raise _explain(error, source) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: not YAML: {error}; correct that line") from None
    if dataset.name != source.stem:
        raise InputError(
            f"{source}: name is {dataset.name!r}; needed: {source.stem!r}, as the file is called"
        )
    return dataset


def datasets() -> tuple[str, ...]:
    """Name the data sets of the manifest.

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
        near = difflib.get_close_matches(dataset, known, 1)
        raise InputError(
            f"no data set {dataset!r} in the manifest; "
            + (f"did you mean {near[0]!r}?" if near else f"choose from: {', '.join(known)}")
        )
    source = folder() / f"{dataset}.yml"
    return _read(source, source.stat().st_mtime_ns)


def cite(names: str | Iterable[str]) -> str:
    """Say how to cite data sets, as plain text and as BibTeX.

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
    for name in [names] if isinstance(names, str) else names:
        data = describe(name)
        fields = {
            "author": " and ".join(data.authors),
            "title": f"{{{data.title}}}",
            "version": data.version,
            "note": f"Licence: {data.licence}",
        }
        fields = {key: re.sub(r"([&%#_])", r"\\\1", value) for key, value in fields.items()}
        fields |= {"doi": data.doi} if data.doi else {"url": str(data.repository)}
        bibtex = ",\n".join(f"  {key} = {{{value}}}" for key, value in fields.items())
        entries.append(
            f"{name} ({data.licence}): {data.title}\n{data.citation}\n\n"
            f"@misc{{{name},\n{bibtex}\n}}"
        )
    return "\n\n".join(entries)


# --- the cache and the mirror ----------------------------------------------------------------


def cache() -> Path:
    """Name the folder that holds the verified files.

    Returns
    -------
    pathlib.Path
        ``PVSBOOK_DATA``, or the platform's place for caches.  It need not exist.
    """
    own = os.environ.get("PVSBOOK_DATA")
    if own:
        return Path(own).expanduser().absolute()
    return platformdirs.user_cache_path("pvsbook", appauthor=False) / "data"


def path(dataset: str, file: str) -> Path:
    """Say where a file lies in the cache, whether it is there yet or not.

    Parameters
    ----------
    dataset : str
        One of :func:`datasets`.
    file : str
        The file's path in the data set.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    InputError
        If the manifest does not know the file, or a link in the cache leads out of it.

    Examples
    --------
    >>> from pvsbook import manifest
    >>> manifest.path("fa_template", "MNI_FA_template.nii.gz").parts[-2:]
    ('fa_template', 'MNI_FA_template.nii.gz')
    """
    data = describe(dataset)
    if file not in {known.path for known in data.files}:
        data.select(file)  # says what there is
        raise InputError(f"{dataset}: {file!r} is a pattern; give one path")
    local = cache() / dataset / file
    if not local.resolve().is_relative_to(cache().resolve()):
        raise InputError(
            f"{local} leads out of the cache to {local.resolve()}; "
            "remove the link, or set PVSBOOK_DATA to the folder that you want to use"
        )
    return local


def verify(
    dataset: str, files: str | Iterable[str] | None = None, *, subject: str | None = None
) -> dict[str, str]:
    """Compare cached files with the manifest, by size and checksum.

    Parameters
    ----------
    dataset : str
        One of :func:`datasets`.
    files, subject
        As in :meth:`Dataset.select`.

    Returns
    -------
    dict of str to str
        ``"ok"``, ``"missing"``, or what is wrong with the file.

    Raises
    ------
    InputError
        If the manifest does not know a file, or the cache cannot be read.
    """
    chosen = describe(dataset).select(files, subject=subject)
    return {file.path: _state(path(dataset, file.path), file) for file in chosen}


def available_from_mirror() -> dict[str, tuple[str, ...]]:
    """List the manifest's files that the mirror holds.

    Returns
    -------
    dict of str to tuple of str
        File paths by data set; empty without a mirror.  Bytes are not compared here.

    Raises
    ------
    InputError
        If the mirror cannot be reached.
    """
    mirror = _mirror()
    if mirror is None or (isinstance(mirror, str) and offline()):
        return {}
    held: dict[str, tuple[str, ...]] = {}
    with _download.session() as session:
        for name in datasets():
            found = tuple(f.path for f in describe(name).files if _holds(mirror, name, f, session))
            if found:
                held[name] = found
    return held


def offline() -> bool:
    """Tell whether PVSBOOK_OFFLINE forbids the network.

    Returns
    -------
    bool

    Raises
    ------
    InputError
        The variable is neither yes nor no.
    """
    value = os.environ.get("PVSBOOK_OFFLINE", "").strip().lower()
    if value in {"", "0", "false", "no", "off"}:
        return False
    if value in {"1", "true", "yes", "on"}:
        return True
    raise InputError(f"PVSBOOK_OFFLINE={value!r} is neither yes nor no; use 1 or 0")


def _mirror() -> Path | str | None:
    value = os.environ.get("PVSBOOK_MIRROR", "").strip()
    if not value:
        return None
    if "://" in value:
        try:
            return _web_address(value).rstrip("/")
        except ValueError:
            raise InputError(
                f"PVSBOOK_MIRROR={value!r} is no http(s) address; for a folder, give its path"
            ) from None
    if not Path(value).expanduser().is_dir():
        raise InputError(f"PVSBOOK_MIRROR={value!r} is no folder; correct or unset it")
    return Path(value).expanduser().absolute()


def _holds(mirror: Path | str, dataset: str, file: File, session: requests.Session) -> bool:
    if isinstance(mirror, Path):
        with _disk(mirror / dataset / file.path):
            return (mirror / dataset / file.path).is_file()
    return _download.exists(f"{mirror}/{dataset}/{file.path}", session)


def _state(local: Path, file: File) -> str:
    with _disk(local):
        if not local.exists():
            return "missing"
        size = local.stat().st_size
        if size != file.size:
            return f"{size} bytes instead of {file.size}"
        algorithm, digest = file.checksum
        found = pooch.file_hash(str(local), alg=algorithm)
        return "ok" if found == digest else f"{algorithm} {found} instead of {digest}"


@contextlib.contextmanager
def _disk(place: Path) -> Iterator[None]:
    """Tell an error of the file system in one sentence, with the fix."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise InputError(
                f"{place}: the disk is full; free some space, or set PVSBOOK_DATA to a folder on "
                "another disk, and fetch again: what came so far is kept"
            ) from error
        raise InputError(
            f"{error.filename or place}: {error.strerror or error}; make it readable and "
            "writable, or set PVSBOOK_DATA to another folder"
        ) from error


@contextlib.contextmanager
def _alone(dataset: str, file: File) -> Iterator[None]:
    """Let one process at a time bring a file; the kernel frees the lock of one that dies.

    Where there are no such locks (Windows, some network disks), two at once may spoil each
    other's transfer; the checksum then refuses it.
    """
    name = hashlib.sha256(f"{dataset}/{file.path}".encode()).hexdigest()
    lock = cache() / ".locks" / name[:16]
    with _disk(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = lock.open("a")
    with handle:
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# --- bringing files --------------------------------------------------------------------------


def fetch(
    dataset: str,
    files: str | Iterable[str] | None = None,
    *,
    subject: str | None = None,
    progress: Report | None = None,
    command: str | None = None,
) -> Fetched:
    """Bring files into the cache, verified.

    A file that is there already is checked and kept.  Others come from the mirror, or else from
    their public address; an interrupted transfer goes on where it stopped.

    Parameters
    ----------
    dataset : str
        One of :func:`datasets`.
    files : str or iterable of str, optional
        Paths or patterns (``"*_dwi.*"``); all files by default.
    subject : str, optional
        ``"sub-1003"`` or ``"1003"``: this person's files, and those that belong to nobody.
    progress : callable, optional
        Called with the file's path, the bytes so far and the bytes in all.  By default, a
        progress bar where standard error is a terminal, and nothing elsewhere.
    command : str, optional
        The command that a message tells to run where files are out of reach; by default the one
        that fetches the data set, or the subject.

    Returns
    -------
    Fetched
        A dict from the file's path in the data set to its local path; its ``how`` says of each
        file whether it was cached, mirrored or downloaded.

    Raises
    ------
    InputError
        If a file cannot be had: offline, wrong bytes, no such address, a full disk, a server
        that keeps failing.  Nothing is then left under the file's name.

    Examples
    --------
    >>> from pvsbook import manifest
    >>> paths = manifest.fetch("ds004856", "*ses-wave1*_dwi.*")  # doctest: +SKIP
    >>> paths.how  # doctest: +SKIP
    {'sub-1003/ses-wave1/dwi/sub-1003_ses-wave1_acq-DTI_run-1_dwi.bval': 'downloaded', ...}
    """
    chosen = describe(dataset).select(files, subject=subject)
    states = {file.path: _state(path(dataset, file.path), file) for file in chosen}
    wanted = [file for file in chosen if states[file.path] != "ok"]
    sources = {file.path: _sources(dataset, file) for file in wanted}
    stranded = [file for file in wanted if not sources[file.path]]
    if stranded:
        if command is None:
            command = f"pvsbook data fetch {dataset}" + f" --subject {subject}" * bool(subject)
        raise _out_of_reach(dataset, stranded, states, command)
    how = {file.path: "cached" for file in chosen}
    if wanted:
        _check_room(dataset, wanted)
        with _download.session() as session, _shown(dataset, wanted, progress) as report:
            for file in wanted:
                how[file.path] = _bring(dataset, file, sources[file.path], session, report)
    return Fetched({file.path: path(dataset, file.path) for file in chosen}, how)


def _sources(dataset: str, file: File) -> list[tuple[str, Path | str]]:
    """List where to get a file from, in order, each with the word for `Fetched.how`."""
    mirror, barred = _mirror(), offline()
    found: list[tuple[str, Path | str]] = []
    if isinstance(mirror, Path):
        copy = mirror / dataset / file.path
        with _disk(copy):
            if copy.is_file() and copy.resolve() != path(dataset, file.path).resolve():
                return [("mirrored", copy)]
    elif mirror and not barred:
        found.append(("mirrored", f"{mirror}/{dataset}/{file.path}"))
    if file.url and not barred:
        found.append(("downloaded", file.url))
    return found


def _out_of_reach(
    dataset: str, files: list[File], states: Mapping[str, str], command: str
) -> InputError:
    lines = [
        f"{dataset}: {len(files)} files ({_human(sum(f.size for f in files))}) are not in the "
        f"cache {cache() / dataset}"
        + (", nor in PVSBOOK_MIRROR" if _mirror() else "")
        + (", and PVSBOOK_OFFLINE forbids the network:" if offline() else ":")
    ]
    for file in files:
        state = states[file.path]
        damaged = "" if state == "missing" else f"  (damaged in the cache: {state})"
        source = file.url or f"no public address: {file.derived_from}"
        lines.append(f"  {file.path}  {_human(file.size)}  {source}{damaged}")
    if any(file.url for file in files):
        lines.append(f"With a network: PVSBOOK_OFFLINE=0 {command}")
    lines.append(f"With a copy: set PVSBOOK_MIRROR to a folder that holds {dataset}/<path>")
    return InputError("\n".join(lines))


def _part(local: Path) -> Path:
    return local.with_name(f"{local.name}.part")


def _check_room(dataset: str, files: list[File]) -> None:
    folder = cache()
    with _disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        parts = [_part(path(dataset, file.path)) for file in files]
        have = sum(part.stat().st_size for part in parts if part.exists())
        free = shutil.disk_usage(folder).free
    need = sum(file.size for file in files) - have
    if need > free:
        raise InputError(
            f"{dataset} needs {_human(need)} in {folder}, where {_human(free)} are free; make "
            "room, or set PVSBOOK_DATA to a folder on another disk"
        )


@contextlib.contextmanager
def _shown(dataset: str, files: list[File], progress: Report | None) -> Iterator[Report]:
    if progress is not None or not sys.stderr.isatty():
        yield progress or (lambda file, done, total: None)
        return
    console = rich.console.Console(stderr=True)
    total = sum(file.size for file in files)
    console.print(
        f"{dataset}: {len(files)} files, {_human(total)}, into {cache() / dataset}",
        highlight=False,
    )
    with rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
        console=console,
    ) as bar:
        task = bar.add_task(dataset, total=total)
        counts: dict[str, int] = {}

        def report(file: str, done: int, total: int) -> None:
            counts[file] = done
            name = file.rsplit("/", 1)[-1]
            bar.update(task, completed=sum(counts.values()), description=name)

        yield report


def _bring(
    dataset: str,
    file: File,
    sources: list[tuple[str, Path | str]],
    session: requests.Session,
    report: Report,
) -> str:
    local = path(dataset, file.path)
    with _alone(dataset, file):
        state = _state(local, file)
        if state == "ok":  # another process was faster
            return "cached"
        if state != "missing":
            _log.warning("%s: %s: damaged, so fetched again", local, state)
        with _disk(local):
            local.parent.mkdir(parents=True, exist_ok=True)
            local.unlink(missing_ok=True)
        reasons = []
        if _mirror() and sources[0][0] != "mirrored":
            reasons.append("the mirror does not hold it")
        for how, source in sources:
            if reasons:
                _log.warning("%s/%s: %s; asking %s", dataset, file.path, reasons[-1], source)
            try:
                _transfer(file, source, local, session, report)
            except _download.Absent as absent:
                reasons.append(str(absent))
            else:
                return how
    raise InputError(
        f"{dataset}/{file.path}: {'; '.join(reasons)}; the file has moved or the manifest errs: "
        "set PVSBOOK_MIRROR to a folder or address that holds it, and tell the project"
    )


def _transfer(
    file: File, source: Path | str, local: Path, session: requests.Session, report: Report
) -> None:
    """Fill the .part file from one source, check it, and give it its final name."""
    part = _part(local)
    for last_try in (False, True):
        with _disk(part):
            if last_try or isinstance(source, Path):
                part.unlink(missing_ok=True)
            resumed = part.exists()
            if isinstance(source, Path):
                _copy(file, source, part, report)
            else:
                told = functools.partial(report, file.path)
                _download.download(source, part, file.size, session, told)
            state = _state(part, file)
            if state == "ok":
                part.replace(local)
                return
            part.unlink()
        if not resumed:  # else the beginning may be at fault: once more, from nothing
            break
    raise InputError(f"{source}: {state}; {_download.OTHER_FILE}")


def _copy(file: File, source: Path, part: Path, report: Report) -> None:
    with source.open("rb") as original, part.open("wb") as out:
        while chunk := original.read(CHUNK):
            out.write(chunk)
            report(file.path, min(out.tell(), file.size), file.size)
