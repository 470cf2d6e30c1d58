"""The resumable map: what counts as done, what is done again, and what a kill leaves behind."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import stubs

from pvsbook import InputError, _records, _workers, jobs

ROOT = Path(__file__).resolve().parents[2]
ENV = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'unit'}"}


def run(function, tasks, folder, **options) -> dict[str, jobs.Record]:
    return {r.name: r for r in jobs.run(function, tasks, folder, **options)}


@pytest.fixture
def scans(tmp_path) -> list[Path]:
    """Three input files, old enough for their stamps to be believed."""
    paths = [tmp_path / "in" / f"{k}.nii" for k in range(3)]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_text(path.stem)
    return paths


@pytest.fixture
def believe_stamps(monkeypatch):
    """Believe the stamp of a file that was written just now."""
    monkeypatch.setattr(_records, "RACY_NS", -1)


def with_inputs(scans: list[Path], calls: Path, **more) -> list[jobs.Task]:
    return [
        jobs.Task(f"t{k}", {"scan": [str(p)]}, {"n": str(k), "calls": str(calls), **more})
        for k, p in enumerate(scans)
    ]


@pytest.mark.parametrize("racy_ns", [-1, 2_000_000_000])
def test_only_what_changed_is_done_again(tmp_path, scans, monkeypatch, racy_ns):
    """Whether a file's hash comes from its stamp or is computed anew."""
    monkeypatch.setattr(_records, "RACY_NS", racy_ns)
    calls, out = tmp_path / "calls", tmp_path / "out"

    def again(tasks=None) -> list[str]:
        calls.write_text("")
        records = run(stubs.work, tasks or with_inputs(scans, calls), out)
        assert {r.status for r in records.values()} == {"done"}
        called = calls.read_text().split()
        assert called == [name[1:] for name, r in records.items() if not r.is_cached]
        return called

    assert again() == ["0", "1", "2"]
    assert again() == []
    before = scans[1].stat()
    scans[1].write_text("X")  # same size, and its time set back: ctime tells
    os.utime(scans[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert again() == ["1"]
    (out / "sub-2" / "b.txt").write_bytes(b"short")
    assert again() == ["2"]
    (out / "sub-0" / "a.txt").unlink()
    assert again() == ["0"]
    scans[0].touch()
    assert again() == [], "a new time is no new content"
    tasks = with_inputs(scans, calls)
    tasks[2] = jobs.Task("t2", tasks[2].inputs, {**tasks[2].parameters, "k": 1})
    assert again(tasks) == ["2"]
    monkeypatch.setattr(_records, "code_hash", lambda: "of a package with another default")
    assert again(tasks) == ["0", "1", "2"]
    (out / jobs.STATE / "records" / "t1.json").write_text("{ cut")
    assert again(tasks) == ["1"]


def test_other_code_has_another_hash(tmp_path):
    module = tmp_path / "qsm" / "inversion.py"
    module.parent.mkdir()
    module.write_text("REGULARISATION = 2e-4\n")
    jobs.code_hash.cache_clear()
    before = jobs.code_hash(tmp_path)
    module.write_text("REGULARISATION = 1e-3\n")
    jobs.code_hash.cache_clear()
    assert jobs.code_hash(tmp_path) != before
    module.write_text("REGULARISATION = 2e-4\n")
    jobs.code_hash.cache_clear()
    assert jobs.code_hash(tmp_path) == before


def test_a_moved_data_set_stays_done(tmp_path, scans, believe_stamps):
    """An option that names one of the files moves with it."""
    calls, out = tmp_path / "calls", tmp_path / "out"
    run(stubs.work, with_inputs(scans, calls, options={"flair": str(scans[0])})[:1], out)
    moved = [p.rename(tmp_path / p.name) for p in scans]
    tasks = with_inputs(moved, calls, options={"flair": str(moved[0])})
    again = run(stubs.work, tasks[:1], out)
    assert all(r.is_cached for r in again.values())
    assert jobs.outdated(tasks[0], again["t0"], out) == ""
    (other,) = with_inputs(moved[:1], calls, options={"flair": None})
    assert jobs.outdated(other, again["t0"], out) == "flair"
    assert not run(stubs.work, [other], out)["t0"].is_cached


def test_failures_have_reasons_and_stop_nobody(tmp_path):
    kinds = ["", "input", "bug", ""]
    tasks = [jobs.Task(f"t{k}", {}, {"kind": kind}) for k, kind in enumerate(kinds)]
    tasks.append(jobs.Task("gone", {"scan": [str(tmp_path / "no.nii")]}))
    tasks.append(jobs.Record("skip", "skipped", reason="no T2w"))
    for _ in range(2):  # a failure is tried again
        found = run(stubs.trouble, tasks, tmp_path / "out")
        assert [found[f"t{k}"].status for k in range(4)] == ["done", "failed", "failed", "done"]
        assert found["t1"].reason == "scan.nii: is empty; export it again"
        assert found["t1"].log == ""
        assert found["t2"].reason == "ZeroDivisionError: division by zero"
        assert "Traceback" in found["t2"].log
        assert "no.nii: cannot be read" in found["gone"].reason
        assert not found["t2"].is_cached
    stored = jobs.read_record(tmp_path / "out", "t2")
    assert stored.reason == found["t2"].reason
    assert stored.log == ""
    assert jobs.read_record(tmp_path / "out", "skip").reason == "no T2w"
    assert jobs.read_record(tmp_path / "out", "nobody") is None


def test_the_package_of_the_function_counts(monkeypatch):
    """The virtual studies live in a package of their own."""
    from pvsbook_book.studies import persons

    before = jobs.fingerprint(persons.job, jobs.Task("t0"), {})
    book = Path(sys.modules["pvsbook_book"].__file__).parent
    known = jobs.code_hash
    monkeypatch.setattr(
        _records, "code_hash", lambda package=None: "new" if package == book else known(package)
    )
    assert jobs.fingerprint(persons.job, jobs.Task("t0"), {}) != before


def test_what_cannot_be_tried_any_more_keeps_its_results(tmp_path, scans):
    """Somebody removes the raw scans once they are measured."""
    out, calls = tmp_path / "out", tmp_path / "calls"
    run(stubs.work, with_inputs(scans[:1], calls), out)
    found = run(stubs.work, [jobs.Record("t0", "skipped", reason="no T2w")], out)
    assert found["t0"].status == "skipped"
    assert (out / "sub-0" / "a.txt").is_file()
    assert jobs.read_record(out, "t0").status == "done"


def test_a_failure_takes_earlier_results_away(tmp_path, scans):
    out, calls = tmp_path / "out", tmp_path / "calls"
    run(stubs.work, with_inputs(scans[:1], calls), out)
    assert (out / "sub-0" / "a.txt").is_file()
    scans[0].unlink()
    run(stubs.work, with_inputs(scans[:1], calls), out)
    assert not (out / "sub-0" / "a.txt").exists()


def test_an_input_that_changes_meanwhile_fails(tmp_path, scans):
    task = jobs.Task("t", {"scan": [str(scans[0])]}, {"kind": "change"})
    record = run(stubs.trouble, [task], tmp_path / "out")["t"]
    assert record.status == "failed"
    assert "changed while it was being read" in record.reason


def test_two_runs_do_not_share_a_folder(tmp_path):
    first = jobs.run(stubs.work, stubs.tasks(2), tmp_path)
    next(first)
    with pytest.raises(InputError, match="another run is writing there"):
        run(stubs.work, stubs.tasks(2), tmp_path)
    first.close()
    assert len(run(stubs.work, stubs.tasks(2), tmp_path)) == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        run(stubs.work, stubs.tasks(2), tmp_path / "file")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": -1}, "--workers: -1"),
        ({"n": 10_000}, r"leaves 0\.\d+ GB each"),
        ({"n": 2, "scheduler": "tcp://x"}, "cluster has its own workers"),
        ({"scheduler": "tcp://127.0.0.1:9"}, "no Dask scheduler answers"),
        ({"scheduler": "tls://127.0.0.1:9"}, r"needs certificates.*TLS__CA_FILE"),
        ({"scheduler": "nonsense://"}, "is another machine, and its connection has no TLS"),
        ({"scheduler": "10.0.0.5:8786"}, "tcp://10.0.0.5:8786 is another machine"),
        ({"scheduler": "tcp://me:secret@10.0.0.5:8786"}, r" tcp://10\.0\.0\.5:8786 is another"),
        ({"scheduler": "me:secret@no.such.host.invalid:1"}, " tcp://no.such.host.invalid:1 is "),
    ],
)
def test_bad_workers(options, message, monkeypatch):
    monkeypatch.setattr(_workers, "SCHEDULER_TIMEOUT_S", 1)
    n = options.pop("n", None)
    with pytest.raises(InputError, match=message), jobs.workers(n, **options):
        pass


def test_a_scheduler_with_tls(tmp_path, monkeypatch):
    """The certificates of Dask's configuration are used; those of another authority are not."""
    import dask
    from distributed import LocalCluster
    from distributed.security import Security

    monkeypatch.setattr(_workers, "SCHEDULER_TIMEOUT_S", 2)
    security, other = Security.temporary(), Security.temporary()

    def config(known: Security) -> dict[str, str]:
        values = {
            "ca-file": known.tls_ca_file,
            "client.cert": known.tls_client_cert,
            "client.key": known.tls_client_key,
        }
        return {f"distributed.comm.tls.{key}": value for key, value in values.items()}

    with LocalCluster(
        n_workers=1,
        processes=False,
        protocol="tls",
        security=security,
        dashboard_address=None,
        silence_logs=logging.CRITICAL,
    ) as cluster:
        address = cluster.scheduler_address
        with dask.config.set(config(security)), jobs.workers(scheduler=address) as client:
            found = run(stubs.trouble, [jobs.Task("t", {}, {"kind": ""})], tmp_path, client=client)
            assert found["t"].status == "done"
        for words, wrong in (("with these certificates", other), ("no Dask scheduler", None)):
            there = address if wrong else address.replace("tls", "tcp")
            with (
                dask.config.set(config(wrong or security)),
                pytest.raises(InputError, match=words) as refused,
                jobs.workers(scheduler=there),
            ):
                pass
            assert "BEGIN" not in str(refused.value)


def test_an_open_scheduler_elsewhere_is_accepted_on_request(monkeypatch):
    import dask

    monkeypatch.setattr(_workers, "SCHEDULER_TIMEOUT_S", 0.1)
    with (
        dask.config.set({"distributed.comm.require-encryption": False}),
        pytest.raises(InputError, match=r"no Dask scheduler answers at tcp://192\.0\.2\.1:8786"),
        jobs.workers(scheduler="tcp://192.0.2.1:8786"),
    ):
        pass


@pytest.mark.parametrize(
    ("place", "is_here"),
    [
        ("127.0.0.1:8786", True),
        ("localhost:8786", True),
        ("[::1]:8786", socket.has_ipv6 and Path("/proc/net/if_inet6").is_file()),
        ("192.0.2.1:8786", False),
        ("no.such.host.invalid:8786", False),
    ],
)
def test_which_addresses_are_of_this_machine(place, is_here):
    assert _workers._is_here(place) == is_here


@pytest.fixture(scope="module")
def client():
    """Two worker processes for the tests of this module."""
    with jobs.workers(2, memory_gb=1) as client:
        yield client


def test_many_tasks_in_a_small_window(tmp_path, client):
    """300 tasks; the scheduler never holds more than the window, and results equal in-process."""
    most, done = 0, 0
    for record in jobs.run(stubs.work, stubs.tasks(300), tmp_path / "a", client=client):
        done += record.status == "done"
        if done % 50 == 0:
            held = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
            most = max(most, held)
    assert done == 300
    assert 0 < most <= jobs.BACKLOG * 2 + 2
    run(stubs.work, stubs.tasks(300), tmp_path / "b")
    assert stubs.tree(tmp_path / "a") == stubs.tree(tmp_path / "b")


def test_each_worker_has_one_thread(tmp_path, client):
    record = run(
        stubs.trouble, [jobs.Task("t", {}, {"kind": "threads"})], tmp_path, client=client
    )["t"]
    assert record.result == {"numba": 1, "pools": 1}
    assert record.peak_mb > 10


def test_a_task_that_kills_its_worker_is_recorded_and_the_rest_goes_on(tmp_path, client):
    kinds = ["", "kill", *[""] * 8]
    tasks = [jobs.Task(f"t{k}", {}, {"kind": kind}) for k, kind in enumerate(kinds)]
    found = run(stubs.trouble, tasks, tmp_path, client=client)
    assert found["t1"].status == "failed"
    assert "died 3 times" in found["t1"].reason
    assert [r.status for n, r in found.items() if n != "t1"] == ["done"] * 9
    assert jobs.read_record(tmp_path, "t1").status == "failed"


def runner(out: Path, n: int, processes: int = 2) -> subprocess.Popen[str]:
    """Start a runner in a process group of its own; wait until its workers are there."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import stubs; stubs.main()",
            str(out),
            str(n),
            str(processes),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENV,
        start_new_session=True,
    )
    assert process.stdout.readline() == "started\n", process.communicate()[1]
    return process


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for the end; return all it said, also what already lay in the buffer of `readline`."""
    lines = process.stdout.read()
    return lines, process.communicate(timeout=60)[1]


def test_killed_runner_and_workers_leave_no_half_work(tmp_path):
    """Kill the runner twice and a worker once, at random moments; then let it finish."""
    n, out, rng = 24, tmp_path / "out", np.random.default_rng(5)
    run(stubs.work, stubs.tasks(n, seconds=0.05), tmp_path / "undisturbed")
    for _ in range(2):
        process = runner(out, n)
        for _ in range(rng.integers(1, 6)):
            assert process.stdout.readline()
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        process.communicate()
        for record in (out / jobs.STATE / "records").glob("t*.json"):
            stored = json.loads(record.read_text())
            if stored["status"] == "done":
                for path, (size, _) in stored["outputs"].items():
                    assert (out / path).stat().st_size == size
    process = runner(out, n)
    time.sleep(rng.uniform(0, 0.3))
    victims = [
        p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())
    ]
    victims[0].kill()
    lines, errors = finish(process)
    assert process.returncode == 0, errors
    assert len(lines.splitlines()) == n
    assert "False" in lines, "nothing of the killed runs was taken over"
    assert stubs.tree(out) == stubs.tree(tmp_path / "undisturbed")


def test_interrupt_stops_cleanly(tmp_path):
    """Ctrl-C reaches the runner and its workers at once, as from a terminal."""
    process = runner(tmp_path / "out", 200)
    assert process.stdout.readline().endswith(" True\n")
    os.killpg(process.pid, signal.SIGINT)
    lines, errors = finish(process)
    assert process.returncode == 130
    assert "Traceback" not in errors, errors
    assert len(lines.splitlines()) < 199


def test_scheduler_address_with_two_worker_processes(tmp_path):
    """A scheduler and two workers that the user started, on this machine's own address."""
    commands, processes = tmp_path / "address.json", []

    def start(*words: str) -> None:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=ENV,
                cwd=tmp_path,
            )
        )

    file = ["--scheduler-file", str(commands)]
    try:
        start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *file)
        for _ in range(2):
            start("dask_worker", "--nthreads", "1", "--no-dashboard", "--no-nanny", *file)
        for _ in range(300):
            if commands.is_file() and commands.read_text().endswith("}"):
                break
            time.sleep(0.1)
        address = json.loads(commands.read_text())["address"]
        with jobs.workers(scheduler=address) as client:
            client.wait_for_workers(2, timeout=30)
            found = run(stubs.work, stubs.tasks(20), tmp_path / "out", client=client)
        assert [r.status for r in found.values()] == ["done"] * 20
        run(stubs.work, stubs.tasks(20), tmp_path / "here")
        assert stubs.tree(tmp_path / "out") == stubs.tree(tmp_path / "here")
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=20)


# --- a results folder that came from somebody else ----------------------------------------------


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: [],
        lambda r: {},
        lambda r: r | {"name": "other"},
        lambda r: r | {"outputs": ["sub-0/a.txt"]},
        lambda r: r | {"outputs": {"sub-0/a.txt": None}},
        lambda r: r | {"result": None},
        lambda r: r | {"status": 7},
        lambda r: r | {"fingerprint": None},
        lambda r: r | {"outputs": {"../victim.txt": [1, "x"]}},
        lambda r: r | {"outputs": {"/etc/hostname": [1, "x"]}},
    ],
)
def test_a_malformed_record_is_measured_again_and_removes_nothing(tmp_path, scans, spoil):
    calls, out = tmp_path / "calls", tmp_path / "out"
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    run(stubs.work, with_inputs(scans, calls), out)
    path = out / jobs.STATE / "records" / "t0.json"
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    assert jobs.read_record(out, "t0") is None
    again = run(stubs.work, with_inputs(scans, calls), out)
    assert [name for name, record in again.items() if not record.is_cached] == ["t0"]
    assert victim.read_text() == "mine"


def test_no_link_is_followed(tmp_path, scans):
    calls, out = tmp_path / "calls", tmp_path / "out"
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (out / jobs.STATE).mkdir(parents=True)
    (out / jobs.STATE / "lock").symlink_to(victim)
    with pytest.raises(InputError, match="cannot be written"):
        run(stubs.work, with_inputs(scans, calls), out)
    assert victim.read_text() == "mine"
    (out / jobs.STATE / "lock").unlink()
    run(stubs.work, with_inputs(scans, calls), out)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("mine")
    (out / "sub-9").symlink_to(tmp_path / "elsewhere")
    path = out / jobs.STATE / "records" / "t0.json"
    record = json.loads(path.read_text())
    record["outputs"]["sub-9/a.txt"] = [4, "x"]
    path.write_text(json.dumps(record | {"fingerprint": "of other inputs"}))
    run(stubs.work, with_inputs(scans, calls), out)
    assert (tmp_path / "elsewhere" / "a.txt").read_text() == "mine"


def test_a_pipe_is_no_scan_and_keeps_nobody_waiting(tmp_path):
    os.mkfifo(tmp_path / "scan.nii")
    task = jobs.Task("t", {"scan": [str(tmp_path / "scan.nii")]}, {"kind": ""})
    record = run(stubs.trouble, [task], tmp_path / "out")["t"]
    assert record.status == "failed"
    assert "not a regular file" in record.reason


def test_a_stranger_on_this_machine_cannot_reach_the_workers():
    """Another user knows the address from the list of open ports, and nothing more."""
    from distributed import Client

    with jobs.workers(1, memory_gb=1) as client:
        address = client.scheduler_info()["address"]
        assert address.startswith("tls://127.0.0.1")
        for protocol in ("tls", "tcp"):
            with pytest.raises((OSError, TypeError, ValueError)):
                Client(address.replace("tls", protocol), timeout=1)
