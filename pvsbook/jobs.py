"""A map over many scans that can be killed at any moment and run again.

A task is a function by name, the paths it reads and its parameters; no voxel passes through the
scheduler.  Each task writes into a folder of its own; when it is through, its files are moved to
their place, and a small JSON record is written last.  So there is a record if and only if the
work is whole.  The next run skips a task whose record carries the same fingerprint (contents of
the inputs, parameters, the code of this package) and whose files are still there.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvsbook import images
from pvsbook._environment import WINDOWS
from pvsbook._errors import CANNOT_CREATE, TRY_AGAIN, InputError
from pvsbook._ours import check_page, keep_edited, refuse_foreign, write_page
from pvsbook._records import (
    STATE,
    Function,
    Record,
    Task,
    code_hash,
    fingerprint,
    finished,
    hash_inputs,
    known_hashes,
    outdated,
    paths_of,
    read_record,
    read_records,
    read_stored,
    record_path,
    sha256,
    stamp,
    write_json,
    write_record,
)
from pvsbook._stop import uninterrupted
from pvsbook._workers import default_workers, workers

if sys.platform == "win32":
    raise InputError(WINDOWS)
import fcntl
import resource

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "Record",
    "Task",
    "check_page",
    "code_hash",
    "default_workers",
    "fingerprint",
    "outdated",
    "read_record",
    "read_records",
    "run",
    "workers",
    "write_page",
    "write_record",
]

FOLDERS = ("records", "seen", "pages", "work")  # of the state
BACKLOG = 4  # tasks that the scheduler holds for each worker: enough to keep it busy


def _work(function: Function, task: Task, folder: str) -> Record:
    """Do a task, on a worker; no exception leaves."""
    top = Path(folder)
    started_s, start = time.time(), time.perf_counter()
    try:
        hashes, stamps = hash_inputs(task, top)
        digest = fingerprint(function, task, hashes)
        done = finished(top, task.name, digest)
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
        started_s=started_s,
        seconds=time.perf_counter() - start,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale,
    )


def _one_line(error: Exception, task: Task) -> str:
    """Say it in one line, with the names of files and not their folders."""
    text = " ".join(str(error).split())
    for path in paths_of(task):
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
        changed = [Path(p).name for p, before in stamps.items() if stamp(p) != before]
        if changed:
            raise InputError(f"{', '.join(changed)}: changed while it was being read; run again")
        written = sorted(p for p in Path(own).rglob("*") if p.is_file() and p.parent != Path(own))
        names = [p.relative_to(own).as_posix() for p in written]
        contents = dict(zip(names, map(sha256, written), strict=True))
        outputs = {n: [Path(own, n).stat().st_size, h] for n, h in contents.items()}
        inputs = {Path(p).name: h for p, h in hashes.items()}
        # Said before the first file is moved: whoever comes after a kill knows what to remove.
        stored = read_stored(top, task.name) or {}
        earlier, before = stored.get("outputs", {}), stored.get("before")
        before = before if isinstance(before, dict) else {}
        # After a kill among the moves, a result is the earlier one or the one that was on its way.
        ours = {
            name: [digest, *(b if isinstance(b := before.get(name), list) else [])]
            for name, (_, digest) in earlier.items()
        }
        accepted = refuse_foreign(top, contents, recorded=earlier, draft=Path(own))
        started = {
            "name": task.name,
            "status": "started",
            "outputs": {**earlier, **outputs},
            "before": ours,
        }
        record = Record(
            task.name, "done", digest, "", dict(result), inputs, outputs, task.parameters
        )
        with uninterrupted():
            write_json(started, record_path(top, task.name))
            for name, path in zip(names, written, strict=True):
                known = [contents[name], accepted.get(name), *ours.get(name, ())]
                keep_edited(top / name, known)
                (top / name).parent.mkdir(parents=True, exist_ok=True)
                path.replace(top / name)
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
        May be a generator.  A record among them, of what cannot be tried, is stored and passed on;
        the results of an earlier run stay.
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
    for folder in (path.parent, *(path.parent / name for name in FOLDERS)):
        if folder.is_symlink():
            raise InputError(f"{folder}: is a link; remove it, or choose another folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW  # a link here would lead elsewhere
        handle = os.fdopen(os.open(path, flags, 0o666), "r+")
    except OSError as error:
        raise InputError(
            f"{top}: cannot be written ({error.strerror})", code=CANNOT_CREATE
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{top}: another run is writing there; wait for it, or choose another folder",
                code=TRY_AGAIN,
            ) from error
        yield


def _not_done(
    function: Function, tasks: Iterable[Task | Record], top: Path
) -> Iterator[Task | Record]:
    """Pass on tasks, or the record of what is done without asking a worker."""
    for task in tasks:
        if isinstance(task, Record):
            earlier = read_record(top, task.name)
            if earlier is None or earlier.status != "done":  # else its files stay, and are whole
                write_record(top, task)
            yield task
            continue
        hashes = known_hashes(task, top)
        if hashes is not None and len(hashes) == len(paths_of(task)):
            done = finished(top, task.name, fingerprint(function, task, hashes))
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
    if error is not None and type(error).__name__ == "KilledWorker":
        reason = (
            f"its worker process died {error.allowed_failures + 1} times, killed or out of "
            "memory; give it more memory (fewer --workers, or --memory-gb)"
        )
    else:
        reason = (
            f"lost by the scheduler ({future.status}: {_one_line(error or Exception(), task)})"
        )
    record = Record(task.name, "failed", reason=reason)
    write_record(top, record)
    return record
