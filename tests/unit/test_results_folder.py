"""A folder of results that holds files of the user, and runs that are stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import stubs
from test_methods import TOY

from pvsbook import InputError, derivatives, images, jobs, methods
from pvsbook._stop import Stopped, stoppable, uninterrupted
from pvsbook.bids import app, group, inputs
from pvsbook.bids.measure import measure_files
from pvsbook_book.dataset import write_dataset


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A data set of two, a method that takes no time, and a way to run it."""
    monkeypatch.setattr(methods, "ALL", (*methods.ALL, TOY))
    for label in ("a", "b"):
        cube = np.zeros((10, 10, 10), np.float32)
        cube[: 5 + (label == "b")] = 2
        images.save(
            images.make(cube, np.eye(4)),
            tmp_path / f"bids/sub-{label}/anat/sub-{label}_FLAIR.nii.gz",
        )
    return tmp_path


def scan(top: Path, label: str) -> Path:
    return top / f"bids/sub-{label}/anat/sub-{label}_FLAIR.nii.gz"


def direct(top: Path, **options):
    return measure_files(TOY, {"image": scan(top, "a")}, top / "out", **options)


def run(top: Path, **options) -> dict[str, jobs.Record]:
    folder = inputs.find(top / "bids", methods=["toy"])
    records = app.run_participants(folder, top / "out", settings={"toy": options})
    return {record.name: record for record in records}


def summarise(top: Path, **options) -> group.Group:
    folder = inputs.find(top / "bids", methods=["toy"])
    return group.summarise(folder, top / "out", settings={"toy": options})


def contents(top: Path) -> dict[str, bytes]:
    return {
        p.relative_to(top).as_posix(): p.read_bytes()
        for p in top.rglob("*")
        if p.is_file()
        and not {"logs", "seen"} & {*p.parts}
        and "prov" not in str(p.relative_to(top))
    }


RESULTS = [
    "sub-a/anat/sub-a_toy.tsv",
    "sub-a/anat/sub-a_toy.json",
    "sub-a/anat/sub-a_desc-report_toy.html",
    "sub-a/anat/sub-a_desc-sources_toy.json",
]


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("how", [direct, run])
def test_a_file_of_the_user_is_never_replaced(toy, name, how):
    mine = toy / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text('{"n": 40}')
    if how is direct:
        with pytest.raises(InputError, match=f"{mine.name}: is there, and is not as pvsbook"):
            direct(toy)
    else:
        records = run(toy)
        assert f"{mine.name}: is there, and is not as" in records["sub-a_toy"].reason
        assert records["sub-b_toy"].status == "done"
        again = run(toy)
        assert [again[n].status for n in ("sub-a_toy", "sub-b_toy")] == ["failed", "done"]
    assert mine.read_text() == '{"n": 40}'
    assert [p.name for p in mine.parent.iterdir()] == [mine.name]
    mine.rename(mine.with_name("mine.txt"))  # as the error says
    how(toy)
    assert (toy / "out" / name).is_file()


@pytest.mark.parametrize("name", ["sub-b.html"])
def test_pages_of_the_user_stop_a_run_before_it_starts(toy, name):
    mine = toy / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(InputError, match=f"{name}: is there, and is not as pvsbook wrote it"):
        run(toy)
    assert contents(toy / "out") == {name: b"mine"}
    mine.unlink()
    run(toy)
    (toy / "out" / name).write_text("edited by hand")
    with pytest.raises(InputError, match="is not as pvsbook wrote it"):
        run(toy)


@pytest.mark.parametrize("name", ["group.html", "group_toy.tsv", "group_toy.json"])
def test_tables_of_the_user_are_never_replaced(toy, name):
    run(toy)
    (toy / "out" / name).write_text("mine")
    before = contents(toy / "out")
    with pytest.raises(InputError, match=f"{name}: is there, and is not as pvsbook wrote it"):
        summarise(toy)
    assert contents(toy / "out") == before


def test_our_own_results_are_renewed(toy):
    """Whoever wrote them last, and with other options; also after a kill at any moment."""
    direct(toy, threshold=1.0)
    direct(toy, threshold=0.5)
    run(toy, threshold=0.5)
    run(toy, threshold=2.5)
    summarise(toy, threshold=2.5)
    run(toy, threshold=0.5)
    summarise(toy, threshold=0.5)
    wanted = contents(toy / "out")
    direct(toy, threshold=1.0)
    (toy / "out/.pvsbook/records/sub-a_toy.json").unlink()
    run(toy, threshold=0.5)
    summarise(toy, threshold=0.5)
    assert contents(toy / "out") == wanted


@pytest.mark.parametrize("n", range(1, 7))
def test_killed_while_results_are_moved(toy, monkeypatch, n):
    """Each step of the move may be the last one; the same command then goes on."""
    direct(toy, threshold=0.5)
    wanted = contents(toy / "out")
    direct(toy, threshold=2.5)
    count = 0

    replace = Path.replace

    def dying(self, target):
        nonlocal count
        if Path(target).parent.name == "anat" and ".pvsbook-" not in str(target):
            count += 1
            if count == n:
                raise SystemExit("killed")
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        if n <= 5:
            with pytest.raises(SystemExit):
                direct(toy, threshold=0.5)
        else:
            direct(toy, threshold=0.5)
    direct(toy, threshold=0.5)
    assert {
        k: v for k, v in contents(toy / "out").items() if not k.startswith("sub-a/anat/.")
    } == (wanted)


def test_a_run_does_not_replace_what_a_command_measured_of_another_scan(toy):
    measure_files(TOY, {"image": scan(toy, "b")}, toy / "out")
    (toy / "out/sub-b").rename(toy / "out/sub-a")
    for path in (toy / "out/sub-a/anat").iterdir():
        path.rename(path.with_name(path.name.replace("sub-b", "sub-a")))
    sources = toy / "out/sub-a/anat/sub-a_desc-sources_toy.json"
    sources.write_text(sources.read_text().replace("sub-b_", "sub-a_"))
    before = contents(toy / "out/sub-a")
    assert "sources_toy.json: is of another scan" in run(toy)["sub-a_toy"].reason
    assert contents(toy / "out/sub-a") == before


def test_no_line_of_the_user_is_lost(tmp_path):
    derivatives.describe(tmp_path)
    description = tmp_path / "dataset_description.json"
    content = json.loads(description.read_text())
    content["GeneratedBy"] = [
        {"Name": "fmriprep", "Version": "25"},
        {"Name": "pvsbook", "Version": "0.0", "Container": {"Tag": "x"}},
    ]
    content |= {"Name": "Mine", "License": "CC0"}
    description.write_text(json.dumps(content))
    (tmp_path / ".bidsignore").write_bytes(b"\xef\xbb\xbfmine/\r\n# *.html\r\n!group_mine.tsv")
    (tmp_path / "README").write_text("Of my own.\n")
    for _ in range(2):
        derivatives.describe(tmp_path)
    now = json.loads(description.read_text())
    assert (now["Name"], now["License"]) == ("Mine", "CC0")
    other, ours = now["GeneratedBy"]
    assert other == {"Name": "fmriprep", "Version": "25"}
    assert ours == {
        "Name": "pvsbook",
        "Version": derivatives.__version__,
        "Container": {"Tag": "x"},
    }
    text = (tmp_path / ".bidsignore").read_bytes()
    assert text.endswith(b"\nmine/\r\n# *.html\r\n!group_mine.tsv")
    assert text.splitlines().count(b"*.html") == 1
    assert (tmp_path / "README").read_text() == "Of my own.\n"


@pytest.mark.parametrize("name", ["dataset_description.json", "README", ".bidsignore"])
def test_a_pipe_at_the_top_keeps_nobody_waiting(tmp_path, name):
    os.mkfifo(tmp_path / name)
    derivatives.describe(tmp_path)
    assert not (tmp_path / name).is_file()


def test_a_record_removes_no_file_that_differs_from_what_it_says(toy):
    """Of a folder that came from somebody else, or was edited."""
    run(toy)
    mine = toy / "out/sub-a/anat/sub-a_mine.tsv"
    mine.write_text("mine")
    path = toy / "out/.pvsbook/records/sub-a_toy.json"
    record = json.loads(path.read_text())
    record["outputs"]["sub-a/anat/sub-a_mine.tsv"] = [4, "x"]
    path.write_text(json.dumps(record | {"before": ["x"]}))
    run(toy, threshold=0.5)
    assert mine.read_text() == "mine"


def test_after_a_kill_and_a_failure_no_earlier_result_is_left(tmp_path):
    """Killed between two moves, then failed: neither the old nor the new file stays."""
    task = jobs.Task("t0", {}, {"n": "0"})
    list(jobs.run(stubs.work, [task], tmp_path))
    path = tmp_path / ".pvsbook/records/t0.json"
    known = json.loads(path.read_text())["outputs"]
    started = {"name": "t0", "status": "started", "outputs": {n: [1, "x"] for n in known}}
    path.write_text(json.dumps(started | {"before": {n: [h] for n, (_, h) in known.items()}}))
    list(jobs.run(stubs.trouble, [jobs.Task("t0", {}, {"kind": "bug"})], tmp_path))
    assert not list(tmp_path.glob("sub-0/*"))


@pytest.mark.parametrize("name", [".pvsbook", ".pvsbook/work", ".pvsbook/records"])
def test_a_state_folder_that_is_a_link_is_refused(toy, name):
    elsewhere = toy / "elsewhere"
    (elsewhere / "work").mkdir(parents=True)
    link = toy / "out" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    with pytest.raises(InputError, match="is a link; remove it"):
        run(toy)
    assert [p.name for p in elsewhere.iterdir()] == ["work"]


@pytest.mark.parametrize("make", [os.mkfifo, lambda p: p.write_text("mine")])
def test_a_file_in_place_of_the_folder_of_logs_is_refused(toy, make):
    (toy / "out").mkdir()
    make(toy / "out/logs")
    with pytest.raises(InputError, match="logs: is no folder; remove it"):
        run(toy)
    (toy / "out/logs").unlink()
    run(toy)


# --- stopped -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def six(tmp_path_factory) -> Path:
    top = tmp_path_factory.mktemp("six") / "bids"
    people = [f"{k:02d}" for k in range(1, 7)]
    write_dataset(top, people, rng=np.random.default_rng(3), methods=["qsm"])
    return top


def stop(words: list[object], number: int, ready) -> tuple[int, str, str]:
    """Start the command in a group of its own, send the group a signal, wait for its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pvsbook", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for _ in range(600):
        if ready():
            break
        time.sleep(0.1)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_says_how_to_go_on(six, tmp_path, number, code):
    out = tmp_path / "out"
    words = ["run", six, out, "participant", "--methods", "qsm", "--workers", 2, "--memory-gb", 1]

    def ended() -> bool:
        return any(" done (" in log.read_text() for log in out.glob("logs/*.log"))

    stopped, said, error = stop(words, number, ended)
    assert (stopped, said) == (code, "")
    assert error.count("\n") == 1, error
    assert "of 6 scans done; run the same command again to go on" in error
    assert not [p for p in out.glob("sub-*/**/*") if p.is_file() and "sub-" not in p.name]
    records = {r.name: r for r in run_again(six, out)}
    assert {r.status for r in records.values()} == {"done"}
    assert any(r.is_cached for r in records.values())
    assert not (out / ".pvsbook/work").exists()


def run_again(top: Path, out: Path) -> list[jobs.Record]:
    return list(app.run_participants(inputs.find(top, methods=["qsm"]), out))


def test_a_command_that_is_stopped_leaves_nothing(six, tmp_path):
    anat, out = six / "sub-01/anat", tmp_path / "out"
    files = [["--" + role, *sorted(anat.glob(f"*part-{part}*.nii.gz"))]
             for role, part in (("magnitude", "mag"), ("phase", "phase"))]  # fmt: skip
    scanner = ["--echo-times", "0.006,0.012,0.018", "--field-strength", 3]
    start = time.monotonic()
    words = ["qsm", *files[0], *files[1], "--out", out, *scanner]
    code, said, error = stop(words, signal.SIGTERM, lambda: time.monotonic() - start > 3)
    assert (code, said) == (143, "")
    assert error == "pvsbook: stopped; run the same command again to go on\n"
    assert not out.exists() or not [p for p in out.rglob("*") if "sub-" in p.name]


def test_a_signal_waits_for_the_end_of_a_move():
    done = []

    def move() -> None:
        with stoppable():
            with uninterrupted():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("moved")
            done.append("never")

    with pytest.raises(Stopped) as stopped:
        move()
    assert done == ["moved"]
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_the_shell_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_worker_that_is_stopped_in_this_process_records_no_failure(tmp_path, heeds_interrupts):
    steps = jobs.run(stubs.work, stubs.tasks(3, seconds=0.2), tmp_path)

    def go() -> None:
        with stoppable():
            for _ in steps:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped):
        go()
    steps.close()
    assert [r.status for r in jobs.read_records(tmp_path, "t0000")] == []
    assert jobs.read_record(tmp_path, "t0000").status == "done"
    assert jobs.read_record(tmp_path, "t0001") is None
