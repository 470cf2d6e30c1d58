"""Stub work for the tests of `pvsbook.jobs`, in a module that worker processes can import.

`main` runs N tasks, as a runner that a test can kill; ``python -c 'import stubs; stubs.main()'``
with OUT, N and WORKERS.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

from pvsbook import InputError, images, jobs


def work(inputs, parameters, folder):
    """Write two files, slowly enough to be killed between them; note the call elsewhere."""
    if "calls" in parameters:
        with Path(parameters["calls"]).open("a") as file:
            file.write(parameters["n"] + "\n")
    text = "".join(Path(p).read_text() for paths in inputs.values() for p in paths)
    top = Path(folder, "sub-" + parameters["n"])
    images.write_bytes((text + parameters["n"]).encode() * 1000, top / "a.txt")
    time.sleep(parameters.get("seconds", 0))
    images.write_bytes(parameters["n"].encode() * 2000, top / "b.txt")
    return {"n": int(parameters["n"])}


def trouble(inputs, parameters, folder):
    """Do what a parameter says."""
    kind = parameters.get("kind", "")
    if kind == "input":
        raise InputError("scan.nii: is empty;\n export it again")
    if kind == "bug":
        raise ZeroDivisionError("division by zero")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "change":
        (path,) = inputs["scan"]
        Path(path).write_text("changed")
    if kind == "threads":
        import numba
        from threadpoolctl import threadpool_info

        return {
            "numba": numba.get_num_threads(),
            "pools": max([p["num_threads"] for p in threadpool_info()], default=1),
        }
    return {}


def tasks(n: int, **parameters) -> list[jobs.Task]:
    return [jobs.Task(f"t{k:04d}", {}, {"n": str(k), **parameters}) for k in range(n)]


def tree(folder: Path) -> dict[str, str]:
    """Hash every result and record; not the cache of file stamps, the lock, or what has times."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {
        name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if not (name := p.relative_to(folder).as_posix()).startswith(
            (".pvsbook/seen/", ".pvsbook/pages/prov", ".pvsbook/lock", "logs/", "prov/")
        )
    }


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    out, n, processes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    try:
        with jobs.workers(processes) as client:
            print("started", flush=True)
            for record in jobs.run(work, tasks(n, seconds=0.05), out, client=client):
                print(record.name, not record.is_cached, flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
