"""Worker processes of `pvsbook.jobs`: on this machine, or those of a Dask cluster."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pvsbook._errors import InputError
from pvsbook._records import code_hash
from pvsbook._version import __version__
from pvsbook.manifest._download import without_password

if TYPE_CHECKING:
    from distributed import Client

MEMORY_PER_WORKER_GB = 4.0  # what a whole-head scan at 1 mm needs, with room to spare
MEMORY_SHARE = 0.8  # of this machine, for all workers together
DEATHS = 2  # how often a task may take its worker with it before it is given up
SCHEDULER_TIMEOUT_S = 10
TLS = ("CA_FILE", "CLIENT__CERT", "CLIENT__KEY")
ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)  # numba's is set by a call: it refuses an environment that changed after its import


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
        Address such as ``tls://10.0.0.5:8786``; its workers must see the same files under the
        same paths and have the same version of pvsbook.  The certificates are those of Dask's
        configuration (``distributed.comm.tls``).  An address without TLS is accepted on this
        machine only, unless that configuration says that encryption is not required.
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
        A number below zero, less than 1 GB a worker, no scheduler at the address, one that
        everybody on the network can use, another version there.

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

    shown = without_password(address if "://" in address else f"tcp://{address}")
    security = _security(address, shown)
    try:
        client = Client(address, timeout=SCHEDULER_TIMEOUT_S, security=security)
    except Exception as error:  # what answers there may be anything
        certificates = " with these certificates" if address.startswith("tls:") else ""
        raise InputError(
            f"--scheduler: no Dask scheduler answers at {shown}{certificates} "
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


def _security(address: str, shown: str) -> Any:
    """Read the certificates of Dask's configuration; refuse an open scheduler elsewhere.

    Whoever reaches a scheduler without TLS can run code in its workers, and whoever is on the
    way can run code here, as results are pickled.
    """
    import dask
    from distributed.comm.addressing import parse_address
    from distributed.security import Security

    scheme, place = parse_address(address)
    if scheme in ("tls", "wss"):
        try:
            security = Security()
            security.get_connection_args("client")["ssl_context"].get_ca_certs()
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(
                f"--scheduler: {shown} needs certificates, and those of Dask's configuration "
                f"cannot be used ({type(error).__name__}); name the files in "
                + ", ".join(f"DASK_DISTRIBUTED__COMM__TLS__{name}" for name in TLS)
            ) from None
        return security
    if dask.config.get("distributed.comm.require-encryption", None) is not False and not (
        _is_here(place)
    ):
        raise InputError(
            f"--scheduler: {shown} is another machine, and its connection has no TLS: anyone on "
            "the network could run code in the workers and here; start scheduler and workers with "
            "TLS and give its tls:// address, or, in a network that you trust, set "
            "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=False"
        )
    return None


def _is_here(place: str) -> bool:
    """Tell whether an address, host and port, is one of this machine's."""
    host = place.rpartition("@")[2].rpartition(":")[0].strip("[]") or place
    try:
        known = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    for family, kind, protocol, _, where in known:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(where)
        except OSError:
            return False
    return True
