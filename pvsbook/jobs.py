"""A map over many scans that can be killed at any moment and run again.

A task is a function by name, the paths it reads and its parameters; no voxel passes through the
scheduler.  Each task writes into a folder of its own; when it is through, its files are moved to
their place, and a small JSON record is written last.  So there is a record if and only if the
work is whole.  The next run skips a task whose record carries the same fingerprint (contents of
the inputs, parameters, the code of this package) and whose files are still there.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import functools
import hashlib
import json
import logging
import os
import resource
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook._version import __version__, required

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "Record",
    "Task",
    "code_hash",
    "default_workers",
    "fingerprint",
    "outdated",
    "read_record",
    "run",
    "workers",
    "write_record",
]

MEMORY_PER_WORKER_GB = 4.0  # what a whole-head scan at 1 mm needs, with room to spare
MEMORY_SHARE = 0.8  # of this machine, for all workers together
BACKLOG = 4  # tasks that the scheduler holds for each worker: enough to keep it busy
DEATHS = 2  # how often a task may take its worker with it before it is given up
SCHEDULER_TIMEOUT_S = 10
STATE = ".pvsbook"
RACY_NS = 2_000_000_000  # a file changed this recently may change again within one clock tick
ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)  # numba's is set by a call: it refuses an environment that changed after its import

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
    seconds, peak_mb
        Wall time, and the most memory the process has ever held.  Not stored.
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
    seconds: float = 0.0
    peak_mb: float = 0.0
    log: str = ""


_NOT_STORED = ("is_cached", "seconds", "peak_mb", "log")


# --- one task ----------------------------------------------------------------------------------


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
    >>> task = Task("a", {"scan": ["x/a.nii"]}, {"k": 1})
    >>> moved = Task("a", {"scan": ["y/a.nii"]}, {"k": 1})
    >>> one, two = (fingerprint(run, t, {"x/a.nii": "1", "y/a.nii": "1"}) for t in (task, moved))
    >>> one == two
    True
    """
    content = {
        "code": code_hash(),
        "caller": _hash_of_caller(function),
        "function": f"{function.__module__}.{function.__qualname__}",
        "name": task.name,
        "parameters": task.parameters,
        "inputs": {
            role: [[Path(p).name, hashes[p]] for p in paths] for role, paths in task.inputs.items()
        },
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hash_of_caller(function: Function) -> str:
    """Hash the package of the function too, where it is not of this one."""
    top = function.__module__.partition(".")[0]
    where = getattr(sys.modules.get(top), "__file__", None)
    if top == __name__.partition(".")[0] or where is None or Path(where).name != "__init__.py":
        return ""
    return code_hash(Path(where).parent)


def _sha256(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(path: str | Path) -> list[int]:
    """Return what changes whenever a file changes: no program can set ctime back."""
    s = Path(path).stat()
    if not stat.S_ISREG(s.st_mode):  # a pipe would keep its reader waiting
        raise OSError(errno.EINVAL, "not a regular file")
    return [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino]


def _paths(task: Task) -> list[str]:
    return sorted({p for paths in task.inputs.values() for p in paths})


def _known_hashes(task: Task, folder: Path) -> dict[str, str] | None:
    """Return the hashes of an earlier run where every file is provably the same; else None."""
    try:
        seen = json.loads((folder / STATE / "seen" / f"{task.name}.json").read_text())
        return {p: seen[p][4] for p in _paths(task) if seen[p][:4] == _stamp(p)}
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None


def _hash_inputs(task: Task, folder: Path) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Hash every input, or take the hash of a file whose stamp has not changed since."""
    known = _known_hashes(task, folder)
    hashes, stamps = known or {}, {}
    for path in _paths(task):
        try:
            stamps[path] = _stamp(path)
            if path not in hashes:
                hashes[path] = _sha256(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if known is None or len(known) < len(stamps):
        now = time.time_ns()
        sure = {p: [*s, hashes[p]] for p, s in stamps.items() if now - s[2] > RACY_NS}
        _write_json(sure, folder / STATE / "seen" / f"{task.name}.json")
    return hashes, stamps


def _record_path(folder: Path, name: str) -> Path:
    return folder / STATE / "records" / f"{name}.json"


def read_record(folder: images.PathLike, name: str) -> Record | None:
    """Return how a task ended in an earlier run; None where it did not end."""
    content = _read_stored(Path(folder), name)
    if content is None or content.get("status") == "started":
        return None
    stored = {f.name for f in dataclasses.fields(Record)} - set(_NOT_STORED)
    return Record(**{k: v for k, v in content.items() if k in stored}, is_cached=True)


def _read_stored(folder: Path, name: str) -> dict[str, Any] | None:
    """Read a record as foreign input: whatever is not as we write it is no record."""
    path = _record_path(folder, name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("name") != name:
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


def _write_json(content: Any, path: Path) -> None:
    images.write_bytes((json.dumps(content, indent=1, sort_keys=True) + "\n").encode(), path)


def write_record(folder: images.PathLike, record: Record) -> None:
    """Store how a task ended, and take away files of an earlier run that it did not write."""
    folder = Path(folder)
    _remove_outputs(folder, record.name, keep=record.outputs)
    content = {k: v for k, v in dataclasses.asdict(record).items() if k not in _NOT_STORED}
    _write_json(content, _record_path(folder, record.name))


def _remove_outputs(folder: Path, name: str, *, keep: Iterable[str] = ()) -> None:
    earlier = _read_stored(folder, name) or {}
    person = name.split("_")[0]
    for path in set(earlier.get("outputs", ())) - set(keep):
        where = folder / path
        is_inside = where.parent.resolve().is_relative_to(folder.resolve())  # no link leads out
        if is_inside and where.is_file() and _is_own(person, path):
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
    parameters = json.loads(json.dumps(task.parameters))
    hashes, _ = _hash_inputs(task, Path(folder))
    by_name = {Path(path).name: value for path, value in hashes.items()}
    names = _differing_keys(record.parameters, parameters)
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


def _finished(folder: Path, name: str, digest: str) -> Record | None:
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


def _work(function: Function, task: Task, folder: str) -> Record:
    """Do a task, on a worker; no exception leaves."""
    top = Path(folder)
    start = time.perf_counter()
    try:
        hashes, stamps = _hash_inputs(task, top)
        digest = fingerprint(function, task, hashes)
        done = _finished(top, task.name, digest)
        if done is not None:
            return done
        record = _fresh(function, task, top, digest, hashes, stamps)
    except InputError as error:
        record = Record(task.name, "failed", reason=_one_line(error, task))
        write_record(top, record)
    except Exception as error:
        record = Record(
            task.name, "failed", reason=f"{type(error).__name__}: {_one_line(error, task)}",
        )  # fmt: skip
        write_record(top, record)
        record = dataclasses.replace(record, log=traceback.format_exc())
    scale = 2**20 if sys.platform == "darwin" else 1024
    return dataclasses.replace(
        record,
        seconds=time.perf_counter() - start,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale,
    )


def _one_line(error: Exception, task: Task) -> str:
    """Say it in one line, with the names of files and not their folders."""
    text = " ".join(str(error).split())
    for path in _paths(task):
        text = text.replace(path, Path(path).name)
    return text


def _fresh(
    function: Function,
    task: Task,
    top: Path,
    digest: str,
    hashes: Mapping[str, str],
    stamps: Mapping[str, list[int]],
) -> Record:
    """Call the function in a folder of its own, move what it wrote, and record it last."""
    (top / STATE / "work").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=top / STATE / "work", ignore_cleanup_errors=True) as own:
        with _one_thread():
            result = function(task.inputs, task.parameters, own)
        changed = [Path(p).name for p, stamp in stamps.items() if _stamp(p) != stamp]
        if changed:
            raise InputError(f"{', '.join(changed)}: changed while it was being read; run again")
        written = sorted(p for p in Path(own).rglob("*") if p.is_file() and p.parent != Path(own))
        names = [p.relative_to(own).as_posix() for p in written]
        outputs = {n: [p.stat().st_size, _sha256(p)] for n, p in zip(names, written, strict=True)}
        inputs = {Path(p).name: h for p, h in hashes.items()}
        # Said before the first file is moved: whoever comes after a kill knows what to remove.
        earlier = (_read_stored(top, task.name) or {}).get("outputs", {})
        started = {"name": task.name, "status": "started", "outputs": {**earlier, **outputs}}
        _write_json(started, _record_path(top, task.name))
        for name, path in zip(names, written, strict=True):
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            path.replace(top / name)
        record = Record(
            task.name, "done", digest, "", dict(result), inputs, outputs, task.parameters
        )
        write_record(top, record)
    return record


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep BLAS, OpenMP and numba to one thread, wherever the worker was started."""
    import numba
    from threadpoolctl import threadpool_limits

    before = numba.get_num_threads()
    with threadpool_limits(1):
        numba.set_num_threads(1)
        try:
            yield
        finally:
            numba.set_num_threads(before)


# --- many tasks --------------------------------------------------------------------------------


def _memory_gb() -> float:
    import psutil

    return psutil.virtual_memory().total / 2**30


def default_workers() -> int:
    """Return as many workers as this machine has cores for, and memory of 4 GB each.

    Examples
    --------
    >>> default_workers() >= 1
    True
    """
    by_memory = int(MEMORY_SHARE * _memory_gb() / MEMORY_PER_WORKER_GB)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, by_memory))


@contextmanager
def workers(
    n: int | None = None, *, scheduler: str | None = None, memory_gb: float | None = None
) -> Iterator[Client | None]:
    """Start worker processes on this machine, or join a Dask scheduler that runs elsewhere.

    Parameters
    ----------
    n
        Processes, each with one thread; 0 works in this process, without Dask.  By default as
        many as `default_workers` says.
    scheduler
        Address such as ``tcp://10.0.0.5:8786``; its workers must see the same files under the
        same paths and have the same version of pvsbook.
    memory_gb
        Bound of each process on this machine; one that reaches 95 % of it is ended and started
        again.  By default an equal share of 80 % of the memory.

    Yields
    ------
    distributed.Client or None
        None where the work is to be done in this process.

    Raises
    ------
    InputError
        A number below zero, less than 1 GB a worker, no scheduler at the address, another
        version there.

    Examples
    --------
    >>> with workers(0) as client:
    ...     print(client)
    None
    """
    if scheduler is not None:
        if n is not None or memory_gb is not None:
            raise InputError(
                "--scheduler: the cluster has its own workers; leave out --workers and --memory-gb"
            )
        with _joined(scheduler) as client:
            yield client
        return
    n = default_workers() if n is None else n
    if n < 0:
        raise InputError(f"--workers: {n}; give 0 (this process) or more")
    if n == 0:
        yield None
        return
    share = MEMORY_SHARE * _memory_gb() / n if memory_gb is None else memory_gb
    if share < 1:
        raise InputError(
            f"--workers: {n} leaves {share:.2g} GB each, but a scan needs from 1 GB (a crop) to "
            f"{MEMORY_PER_WORKER_GB:g} GB (a whole head at 1 mm); give fewer workers"
        )
    import dask
    from distributed import Client, LocalCluster
    from distributed.security import Security

    security = Security.temporary()  # else any user of this machine could run code in a worker
    settings = {
        "distributed.scheduler.allowed-failures": DEATHS,
        "distributed.scheduler.worker-saturation": 1.0,  # only what it works on dies with a worker
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.95,
        "distributed.worker.daemon": True,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=n,
            threads_per_worker=1,
            processes=True,
            memory_limit=int(share * 2**30),
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address=None,
            security=security,
            silence_logs=logging.CRITICAL,
            env=dict.fromkeys(ONE_THREAD, "1"),
        ) as cluster,
        Client(cluster, security=security) as client,
    ):
        client.register_plugin(_ignore_interrupts())
        yield client


def _ignore_interrupts() -> Any:
    """Make a plugin that lets workers ignore Ctrl-C, which a terminal sends to them as well."""
    from distributed import WorkerPlugin

    class IgnoreInterrupts(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    return IgnoreInterrupts()


@contextmanager
def _joined(address: str) -> Iterator[Client]:
    from distributed import Client

    try:
        client = Client(address, timeout=SCHEDULER_TIMEOUT_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"--scheduler: no Dask scheduler answers at {address} "
            f"({type(error).__name__}); start one with: dask scheduler"
        ) from error
    with client:
        if not client.nthreads():
            client.wait_for_workers(1, timeout=60)
        here = (__version__, code_hash())
        there = set(client.run(_version_and_code).values())
        if there != {here}:
            versions = ", ".join(sorted({f"{v} (code {c[:8]})" for v, c in there}))
            raise InputError(
                f"--scheduler: its workers have pvsbook {versions}, but this is {here[0]} "
                f"(code {here[1][:8]}); install the same version there"
            )
        yield client


def _version_and_code() -> tuple[str, str]:
    return __version__, code_hash()


def run(
    function: Function,
    tasks: Iterable[Task | Record],
    folder: images.PathLike,
    *,
    client: Client | None = None,
) -> Iterator[Record]:
    """Do each task that is not done yet, and give back how each ended, as it ends.

    Tasks are handed out in a window of four a worker, so that a list of ten thousand makes no
    larger graph than a list of ten.  A task that fails is recorded and stops no other.  One that
    takes its worker with it (killed, out of memory) is tried twice more, then recorded.

    Parameters
    ----------
    function
        ``function(inputs, parameters, folder)`` writes into subfolders of its folder and gives
        back what JSON can hold.  It must be importable by name.
    tasks
        May be a generator.  A record among them, of what cannot be tried, is stored and passed on.
    folder
        Where the files go.  Only one `run` at a time may write there.
    client
        From `workers`.

    Yields
    ------
    Record

    Raises
    ------
    InputError
        Another run is writing to the folder.
    """
    top = Path(folder)
    with _lock(top):
        _sweep(top)
        todo = _not_done(function, tasks, top)
        if client is None:
            for item in todo:
                yield item if isinstance(item, Record) else _work(function, item, str(top))
        else:
            yield from _spread(function, todo, str(top), client)
        _sweep(top)


def _sweep(top: Path) -> None:
    """Remove what killed workers left half-written."""
    shutil.rmtree(top / STATE / "work", ignore_errors=True)
    for record in (top / STATE / "records").glob(".*.json.*"):
        record.unlink(missing_ok=True)


@contextmanager
def _lock(top: Path) -> Iterator[None]:
    """Hold a lock that the system lets go of when the process dies, however it dies."""
    path = top / STATE / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW  # a link here would lead elsewhere
        handle = os.fdopen(os.open(path, flags, 0o666), "r+")
    except OSError as error:
        raise InputError(f"{top}: cannot be written ({error.strerror})") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{top}: another run is writing there; wait for it, or choose another folder"
            ) from error
        yield


def _not_done(
    function: Function, tasks: Iterable[Task | Record], top: Path
) -> Iterator[Task | Record]:
    """Pass on tasks, or the record of what is done without asking a worker."""
    for task in tasks:
        if isinstance(task, Record):
            write_record(top, task)
            yield task
            continue
        hashes = _known_hashes(task, top)
        if hashes is not None and len(hashes) == len(_paths(task)):
            done = _finished(top, task.name, fingerprint(function, task, hashes))
            if done is not None:
                yield done
                continue
        yield task


def _spread(
    function: Function, todo: Iterator[Task | Record], top: str, client: Client
) -> Iterator[Record]:
    """Keep a bounded number of tasks with the scheduler."""
    from distributed import as_completed

    prefix = f"scan-{uuid.uuid4().hex}"  # of this run: a scheduler that lives on forgets nothing
    running = as_completed(raise_errors=False)
    held: dict[Any, Task] = {}
    looked, room, count = -1e9, 0, 0
    ended = False
    try:
        while True:
            if time.monotonic() - looked > 5:  # a cluster may grow while we wait
                room = BACKLOG * max(2, sum(client.nthreads().values()))
                looked = time.monotonic()
            while not ended and len(held) < room:
                item = next(todo, None)
                if item is None:
                    ended = True
                elif isinstance(item, Record):
                    yield item
                else:
                    key = (prefix, count)
                    count += 1
                    future = client.submit(_work, function, item, top, key=key, pure=False)
                    held[future] = item
                    running.add(future)
            if not held:
                return
            future = next(running)
            task = held.pop(future)
            yield _outcome(future, task, Path(top))
            future.release()
    finally:
        for future in held:
            future.cancel()


def _outcome(future: Any, task: Task, top: Path) -> Record:
    """Turn a future into a record, whatever befell it."""
    error = future.exception() if future.status == "error" else None
    if future.status == "finished":
        return future.result()
    if type(error).__name__ == "KilledWorker":
        reason = (
            f"its worker process died {DEATHS + 1} times, killed or out of memory; "
            "give it more memory (fewer --workers, or --memory-gb)"
        )
    else:
        reason = (
            f"lost by the scheduler ({future.status}: {_one_line(error or Exception(), task)})"
        )
    record = Record(task.name, "failed", reason=reason)
    write_record(top, record)
    return record
