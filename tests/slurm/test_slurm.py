"""The script for SLURM of the page "From laptop to cluster", run on SLURM itself.

Debian's slurm-wlm and munge are started here on 127.0.0.1 with a configuration of their own, as
one node of two cores, and taken down again.  `make test-slurm` fails where they are not installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest

from pvsbook import bids
from pvsbook_book.dataset import write_dataset

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "notebooks" / "61_people_from_laptop_to_cluster.ipynb"
PEOPLE = [f"{k:02d}" for k in range(1, 7)]
SETTINGS = {"qsm": {"atlas": "none"}, "pvs": {}, "alps": {}}
TOOLS = ("munged", "slurmctld", "slurmd", "sbatch")
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
GB = 1e9
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={top}/munge.sock
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={top}/state
SlurmdSpoolDir={top}/spool
SlurmctldPidFile={top}/slurmctld.pid
SlurmdPidFile={top}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MailProg=/bin/true
KillWait=2
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=10000 State=UNKNOWN
PartitionName=all Nodes=node Default=YES MaxTime=UNLIMITED State=UP
"""


def free_ports(n: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def wait_for(condition: Callable[[], object], what: str, seconds: float = 300) -> object:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def ask(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout


def processes(variable: str, value: str) -> list[psutil.Process]:
    """List other processes by a variable of their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(variable) == value:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[Path]:
    """One node of two cores, whose jobs are killed where they use more memory than they asked."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        pytest.skip(f"SLURM WAS NOT TRIED, as {', '.join(missing)} are not installed. Debian: "
                    "apt-get install slurm-wlm munge")  # fmt: skip
    top = tmp_path_factory.mktemp("slurm")
    for folder in ("state", "spool"):
        (top / folder).mkdir()
    key = top / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    configuration = top / "slurm.conf"
    user = psutil.Process().username()
    host = socket.gethostname().partition(".")[0]
    configuration.write_text(
        CONFIGURATION.format(top=top, user=user, host=host, ports=free_ports(2))
    )
    names = {"socket": "munge.sock", "pid-file": "munge.pid", "log-file": "munge.log",
             "seed-file": "munge.seed", "key-file": "munge.key"}  # fmt: skip
    daemons = {
        "munged": ["--foreground", "--force", *(f"--{k}={top / v}" for k, v in names.items())],
        "slurmctld": ["-D"],
        "slurmd": ["-D", "-N", "node"],
    }
    started = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(configuration))
        patch.setenv("PATH", PATH)
        patch.setenv("DASK_JOBQUEUE__SLURM__INTERFACE", "lo")
        patch.setenv("PYTHONPATH", os.pathsep.join([*sys.path, str(Path(__file__).parent)]))
        try:
            for daemon, options in daemons.items():
                with (top / f"{daemon}.out").open("w") as out:
                    process = subprocess.Popen([daemon, *options], stdout=out, stderr=out)
                started.append(process)
                if daemon == "munged":
                    wait_for((top / "munge.sock").exists, "munged")
            wait_for(lambda: "idle" in ask("sinfo", "-h", "-o", "%T"), "an idle node")
            yield top
        finally:
            subprocess.run(["scancel", "--user", user], check=False, timeout=30)
            for process in reversed(started):
                process.terminate()
                process.wait(30)
            left = processes("SLURM_CONF", str(configuration))
            for process in left:
                process.terminate()
            assert not psutil.wait_procs(left, 10)[1]


def script() -> str:
    """Take the program that readers of the page see."""
    cells = nbformat.read(PAGE, as_version=4).cells
    (text,) = re.findall(r"```python\n(# SLURM.*?)```", "\n".join(c.source for c in cells), re.S)
    return text


def running() -> list[str]:
    return ask("squeue", "-h", "-t", "R", "-o", "%i").split()


def tree(folder: Path) -> dict[str, str]:
    """Hash every result of the people."""
    kept = [p for p in folder.glob("sub-*/**/*") if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept}


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """Six simulated people, and what a run that nobody disturbs makes of them."""
    top = tmp_path_factory.mktemp("people")
    write_dataset(top / "bids", PEOPLE, rng=np.random.default_rng(61), methods=["qsm"])
    (top / "settings.yaml").write_text("qsm: {atlas: none}\n")
    (top / "certificates").mkdir()
    folder = bids.find(top / "bids", methods=["qsm"])
    for record in bids.run_participants(folder, top / "undisturbed", settings=SETTINGS):
        assert record.status == "done", record.reason
    return top


def test_a_cancelled_job_loses_and_doubles_nothing(slurm, people):
    assert len(script().splitlines()) <= 20
    (people / "on_slurm.py").write_text(script())

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "on_slurm.py"],
            cwd=people,
            stdout=subprocess.PIPE,
            text=True,
        )

    first = start()
    lines = [first.stdout.readline() for _ in range(2)]
    victim = wait_for(running, "a running job")[0]
    ask("scancel", victim)
    print(f"cancelled job {victim} after:", *map(str.strip, lines), sep="\n  ")
    lines.append(first.stdout.readline())
    later = wait_for(lambda: [j for j in running() if int(j) > int(victim)], "a job in its place")
    print("jobs in its place:", *later)
    first.send_signal(signal.SIGKILL)  # and then the whole run
    first.wait()
    first.stdout.close()
    done = sum("done" in line for line in lines)
    ask("scancel", "--name", "dask-worker")  # else its workers wait a minute for it
    wait_for(lambda: not ask("squeue", "-h").strip(), "an empty queue")

    second = start()
    out, _ = second.communicate(timeout=1200)
    print("second run:", out, sep="\n")
    assert second.returncode == 0
    words = [line.split() for line in out.splitlines()]
    assert sorted(w[0] for w in words) == [f"sub-{p}_qsm" for p in PEOPLE]
    assert {w[1] for w in words} == {"done"}
    assert tree(people / "out") == tree(people / "undisturbed")
    log = sorted((people / "out" / "logs").glob("run-*.log"))[-1].read_text()
    taken_over = len(re.findall(r"_qsm was done", log))
    print(f"taken over: {taken_over}; done and logged in the first run: {done}")
    assert done <= taken_over < len(PEOPLE)
    bids.summarise(bids.find(people / "bids", methods=["qsm"]), people / "out", settings=SETTINGS)
    rows = pd.read_csv(people / "out" / "group_qsm.tsv", sep="\t")
    assert list(rows["participant_id"]) == [f"sub-{p}" for p in PEOPLE]
    wait_for(lambda: not ask("squeue", "-h").strip(), "an empty queue: jobs are cancelled")


def eat(inputs, parameters, folder) -> dict[str, float]:
    """Use so much memory, a tenth of a second for each 100 MB, and hold it for a second."""
    held = []
    for _ in range(round(parameters["gb"] * 10)):
        held.append(np.ones(int(1e8) // 8))
        time.sleep(0.1)
    time.sleep(1)
    return {"gb": sum(part.nbytes for part in held) / GB}


EAT = """
    import test_slurm
    from pvsbook import jobs

    tasks = [jobs.Task(f"t{{k}}", {{}}, {{"gb": gb}}) for k, gb in enumerate({sizes})]
    for record in jobs.run(test_slurm.eat, tasks, "out", client=client):
        print(record.name, record.status, record.peak_mb, record.reason, flush=True)
"""


def test_memory_asked_for_is_memory_used(slurm, tmp_path):
    """The worker ends its scan before SLURM ends the job, and has most of what was asked."""
    text = script()
    memory_gb = float(re.search(r'memory="([\d.]+)GB"', text)[1])
    (tmp_path / "certificates").mkdir()
    sizes = [0.7 * memory_gb, 1.2 * memory_gb]
    program = text[: text.index("    folder = ")] + EAT.format(sizes=sizes)
    (tmp_path / "eat.py").write_text(program)
    process = subprocess.Popen(
        [sys.executable, "eat.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    asked: dict[str, float] = {}
    peak: dict[str, float] = {}
    while process.poll() is None:
        for job in running():
            if job not in asked:
                found = re.search(
                    r"MinMemoryNode=([\d.]+)([MG])", ask("scontrol", "show", "job", job)
                )
                asked[job] = float(found[1]) * {"M": 1, "G": 1024}[found[2]]
            used = 0
            for member in processes("SLURM_JOB_ID", job):
                with suppress(psutil.Error):  # it has ended
                    used += member.memory_info().rss
            peak[job] = max(peak.get(job, 0), used / 2**20)
        time.sleep(0.2)
    out = process.stdout.read()
    process.stdout.close()
    assert process.returncode == 0
    print(out)
    for job, mb in peak.items():
        print(f"job {job}: asked for {asked[job]:.0f} MiB, used at most {mb:.0f} MiB")
    records = {line.split()[0]: line.split(maxsplit=3) for line in out.splitlines()}
    assert [records[f"t{k}"][1] for k in range(2)] == ["done", "failed"]
    assert "died 3 times, killed or out of memory" in records["t1"][3]
    assert float(records["t0"][2]) >= sizes[0] * GB / 2**20, "this much can be used"
    assert all(mb < asked[job] for job, mb in peak.items())
    log = (slurm / "slurmd.out").read_text()
    assert "exceeded" not in log.lower(), "SLURM itself had to end a job"
