"""What a task of `pvsbook.jobs` is, how it ended, and how it is told apart from other work."""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import json
import stat
import sys
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook._version import __version__, required

STATE = ".pvsbook"
RACY_NS = 2_000_000_000  # a file changed this recently may change again within one clock tick

Function = Callable[[Mapping[str, Sequence[str]], Mapping[str, Any], str], Mapping[str, Any]]


@dataclass(frozen=True)
class Task:
    """Work on one scan, small enough to send anywhere.

    Attributes
    ----------
    name
        Unique, and part of file names: ``sub-01_ses-1_alps``.
    inputs
        Paths by role; their contents are part of the fingerprint, their folders are not.
    parameters
        Whatever JSON can hold.
    """

    name: str
    inputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """How a task ended.

    Attributes
    ----------
    name
        Of the task.
    status
        ``"done"``, ``"failed"``, or ``"skipped"`` where nothing could be tried.
    fingerprint
        Of inputs, function, parameters and code; empty where they could not be read.
    reason
        Why it failed or was skipped, in one sentence.
    result
        What the function gave back.
    inputs
        SHA-256 of each input, by file name.
    outputs
        Size and SHA-256 of each file written, by its path in the folder.
    parameters
        Of the task.
    is_cached
        Whether an earlier run had done this work.  Not stored.
    started_s, seconds, peak_mb
        When it started, in seconds since 1970; wall time; and the most memory the process has
        ever held.  Not stored.
    log
        Traceback of a failure.  Not stored.
    """

    name: str
    status: str
    fingerprint: str = ""
    reason: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    is_cached: bool = False
    started_s: float = 0.0
    seconds: float = 0.0
    peak_mb: float = 0.0
    log: str = ""


_NOT_STORED = ("is_cached", "started_s", "seconds", "peak_mb", "log")


@functools.cache
def code_hash(package: Path | None = None) -> str:
    """Return the SHA-256 of all code that a result follows from.

    Parameters
    ----------
    package
        Folder whose modules count, this package by default; with them the versions of the packages
        that it stands on.

    Examples
    --------
    >>> len(code_hash())
    64
    """
    package = Path(__file__).parent if package is None else package
    digest = hashlib.sha256(__version__.encode())
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    for name in required():
        digest.update(f"{name} {version(name)}".encode())
    return digest.hexdigest()


def fingerprint(function: Function, task: Task, hashes: Mapping[str, str]) -> str:
    """Return the SHA-256 of all that a result follows from.

    Parameters
    ----------
    function
        Its name counts, and the code of the whole package (`code_hash`).
    task
        Names of files count, their folders do not, so that a moved data set stays done.
    hashes
        SHA-256 of each input, by path.

    Examples
    --------
    >>> task = Task("a", {"scan": ["x/a.nii"]}, {"mask": "x/a.nii"})
    >>> moved = Task("a", {"scan": ["y/a.nii"]}, {"mask": "y/a.nii"})
    >>> known = {"x/a.nii": "1", "y/a.nii": "1"}
    >>> one, two = (fingerprint(code_hash, t, known) for t in (task, moved))
    >>> one == two
    True
    """
    content = {
        "code": code_hash(),
        "caller": _hash_of_caller(function),
        "function": f"{function.__module__}.{function.__qualname__}",
        "name": task.name,
        "parameters": _without_folders(task.parameters, {Path(p).name for p in hashes}),
        "inputs": {
            role: [[Path(p).name, hashes[p]] for p in paths] for role, paths in task.inputs.items()
        },
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _without_folders(values: Any, names: Container[str]) -> Any:
    """Write an option that is one of the input files as its name."""
    if isinstance(values, Mapping):
        return {key: _without_folders(value, names) for key, value in values.items()}
    name = Path(values).name if isinstance(values, str) else ""
    return name if name in names else values


def _hash_of_caller(function: Function) -> str:
    """Hash the package of the function too, where it is not of this one."""
    top = function.__module__.partition(".")[0]
    where = getattr(sys.modules.get(top), "__file__", None)
    if top == __name__.partition(".")[0] or where is None or Path(where).name != "__init__.py":
        return ""
    return code_hash(Path(where).parent)


def sha256(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: str | Path) -> list[int]:
    """Return what changes whenever a file changes: no program can set ctime back."""
    s = Path(path).stat()
    if not stat.S_ISREG(s.st_mode):  # a pipe would keep its reader waiting
        raise OSError(errno.EINVAL, "not a regular file")
    return [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino]


def paths_of(task: Task) -> list[str]:
    return sorted({p for paths in task.inputs.values() for p in paths})


def known_hashes(task: Task, folder: Path) -> dict[str, str] | None:
    """Return the hashes of an earlier run where every file is provably the same; else None."""
    try:
        seen = images.read_json(folder / STATE / "seen" / f"{task.name}.json")
        return {p: seen[p][4] for p in paths_of(task) if seen[p][:4] == stamp(p)}
    except (OSError, InputError, KeyError, TypeError, IndexError):
        return None


def hash_inputs(task: Task, folder: Path) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Hash every input, or take the hash of a file whose stamp has not changed since."""
    known = known_hashes(task, folder)
    hashes, stamps = known or {}, {}
    for path in paths_of(task):
        try:
            stamps[path] = stamp(path)
            if path not in hashes:
                hashes[path] = sha256(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if known is None or len(known) < len(stamps):
        now = time.time_ns()
        sure = {p: [*s, hashes[p]] for p, s in stamps.items() if now - s[2] > RACY_NS}
        write_json(sure, folder / STATE / "seen" / f"{task.name}.json")
    return hashes, stamps


def record_path(folder: Path, name: str) -> Path:
    return folder / STATE / "records" / f"{name}.json"


def read_record(folder: images.PathLike, name: str) -> Record | None:
    """Return how a task ended in an earlier run; None where it did not end."""
    content = read_stored(Path(folder), name)
    if content is None or content.get("status") == "started":
        return None
    stored = {f.name for f in dataclasses.fields(Record)} - set(_NOT_STORED)
    return Record(**{k: v for k, v in content.items() if k in stored}, is_cached=True)


def read_records(folder: images.PathLike, label: str) -> list[Record]:
    """Return how every task about a participant ended in earlier runs, by name."""
    paths = sorted((Path(folder) / STATE / "records").glob(f"{label}_*.json"))
    records = (read_record(folder, path.stem) for path in paths)
    return [record for record in records if record is not None]


def read_stored(folder: Path, name: str) -> dict[str, Any] | None:
    """Read a record as foreign input: whatever is not as we write it is no record."""
    try:
        content = images.read_json(record_path(folder, name))
    except InputError:
        return None
    if content.get("name") != name:
        return None
    kinds = {"status": str, "fingerprint": str, "reason": str, "result": dict, "inputs": dict,
             "parameters": dict}  # fmt: skip
    if any(not isinstance(content.get(k, kind()), kind) for k, kind in kinds.items()):
        return None
    outputs = content.get("outputs", {})
    if not isinstance(outputs, dict) or not all(_is_output(*item) for item in outputs.items()):
        return None
    return content


def _is_output(path: str, known: Any) -> bool:
    """Tell whether an entry of a record is a file below the folder, with its size and hash."""
    inside = PurePosixPath(path)
    below = not inside.is_absolute() and ".." not in inside.parts and len(inside.parts) > 1
    plain = path.isprintable() and path.isascii() and max(map(len, inside.parts)) < 256
    size_and_hash = isinstance(known, list) and len(known) == 2 and isinstance(known[0], int)
    return below and plain and inside.parts[0].startswith("sub-") and size_and_hash


def write_json(content: Any, path: Path) -> None:
    images.write_bytes((json.dumps(content, indent=1, sort_keys=True) + "\n").encode(), path)


def write_record(folder: images.PathLike, record: Record) -> None:
    """Store how a task ended, and take away files of an earlier run that it did not write."""
    folder = Path(folder)
    _remove_outputs(folder, record.name, keep=record.outputs)
    content = {k: v for k, v in dataclasses.asdict(record).items() if k not in _NOT_STORED}
    write_json(content, record_path(folder, record.name))


def _remove_outputs(folder: Path, name: str, *, keep: Iterable[str] = ()) -> None:
    earlier = read_stored(folder, name) or {}
    person = name.split("_")[0]
    before = earlier.get("before")  # of a run that was killed while it moved files
    before = before if isinstance(before, dict) else {}
    for path, known in earlier.get("outputs", {}).items():
        where = folder / path
        is_inside = where.parent.resolve().is_relative_to(folder.resolve())  # no link leads out
        if path in set(keep) or not (is_inside and where.is_file() and _is_own(person, path)):
            continue
        if sha256(where) in (known[1], *before.get(path, ())):  # else the user changed it
            where.unlink()


def _is_own(person: str, path: str) -> bool:
    """Tell whether a file lies in the folder of the person that a task is about."""
    folder = PurePosixPath(path).parts[0]
    return not person.startswith("sub-") or folder == person


def outdated(task: Task, record: Record, folder: images.PathLike) -> str:
    """List the parameters and input files in which a record differs from a task.

    Parameters
    ----------
    task
        What is asked for now.
    record
        Of the task's name, from `read_record`.
    folder
        Where the record lies.

    Returns
    -------
    str
        Names of the parameters and files that differ; empty if none does.  The code is not
        compared: results of an earlier version may stand in a table, though `run` repeats them.

    Raises
    ------
    InputError
        An input that cannot be read.
    """
    # What a record of an earlier version does not name, as the addresses of inputs, is equal.
    compared = {key: value for key, value in task.parameters.items() if key in record.parameters}
    parameters = json.loads(json.dumps(compared))
    hashes, _ = hash_inputs(task, Path(folder))
    by_name = {Path(path).name: value for path, value in hashes.items()}
    names = _differing_keys(
        _without_folders(record.parameters, record.inputs), _without_folders(parameters, by_name)
    )
    return ", ".join([*names, *_differing_keys(record.inputs, by_name)])


def _differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the keys whose values differ; nested mappings are compared key by key."""
    names: list[str] = []
    for key in sorted({*one, *other}):
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += _differing_keys(a, b)
        elif a != b or (key in one) != (key in other):
            names.append(str(key))
    return names


def finished(folder: Path, name: str, digest: str) -> Record | None:
    """Return the record of finished work: same fingerprint, every file there in full size."""
    record = read_record(folder, name)
    if record is None or record.status != "done" or record.fingerprint != digest:
        return None
    for path, (size, _) in record.outputs.items():
        try:
            if (folder / path).stat().st_size != size:
                return None
        except OSError:
            return None
    return record
