"""What many people cost: one worker against two, a person of each method, 10 000 stub tasks.

    python benchmarks/many_people.py [efficiency] [cost] [stubs] [--people 200] [--tasks 10000]
                                     [--price-per-core-hour 0.05]

Simulated people throughout.  Each part also runs alone.  The plan for 10 000 people at the end
follows from what the parts measured; money only where a price is given.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from pvsbook import _workers, images, jobs
from pvsbook.bids import app, inputs
from pvsbook.bids.measure import measure_files
from pvsbook.methods import by_name
from pvsbook.phantoms import brain, diffusion, gradient_echo, perivascular
from pvsbook_book.dataset import write_dataset

PEOPLE_PLANNED = 10_000


def stub(paths, parameters, folder):
    """Stand for a scan: write one small file, as every real task writes some."""
    images.write_bytes(parameters["n"].encode(), Path(folder, "sub-x", parameters["n"] + ".txt"))
    return {"n": parameters["n"]}


class Memory(threading.Thread):
    """Notes the most memory that this process and its children hold, ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.runner, self.workers = 0.0, 0.0
        self.over = threading.Event()

    def run(self) -> None:
        me = psutil.Process()
        while not self.over.wait(0.1):
            self.runner = max(self.runner, me.memory_info().rss / 2**20)
            for child in me.children(recursive=True):
                try:
                    self.workers = max(self.workers, child.memory_info().rss / 2**20)
                except psutil.Error:
                    continue


def efficiency(top: Path, n_people: int) -> None:
    """Measure the same people with one worker and with two."""
    bids = write_dataset(
        top / "bids",
        [f"{k:04d}" for k in range(n_people)],
        rng=np.random.default_rng(1),
        methods=["qsm"],
    )
    print(f"\n{n_people} simulated people, QSM at 4 mm; load before: {os.getloadavg()[0]:.1f}")
    walls = {}
    for n in (1, 2):
        memory = Memory()
        memory.start()
        with jobs.workers(n, memory_gb=4) as client:
            records, starts = [], time.perf_counter()
            cpu = _children_cpu_s()
            dataset = inputs.find(bids, methods=["qsm"])
            found = time.perf_counter() - starts
            first = None
            for record in app.run_participants(dataset, top / f"out{n}", client=client):
                first = first or time.perf_counter()  # numba has compiled by then
                records.append(record)
            walls[n] = time.perf_counter() - first
            cpu = _children_cpu_s() - cpu
        memory.over.set()
        assert all(r.status == "done" for r in records), [r.reason for r in records][:3]
        print(
            f"{n} worker(s): {walls[n]:7.1f} s after the first person, {cpu:7.1f} CPU s of "
            f"workers, peak {memory.workers:.0f} MB a worker, runner with scheduler "
            f"{memory.runner:.0f} MB; listing the folder took {found:.2f} s"
        )
    print(f"efficiency of two workers: {walls[1] / walls[2] / 2:.2f}")
    print(f"same bytes: {_tree(top / 'out1') == _tree(top / 'out2')}")


def _children_cpu_s() -> float:
    return sum(
        sum(p.cpu_times()[:2]) for p in psutil.Process().children(recursive=True) if p.is_running()
    )


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("sub-*")
        if p.is_file() and ".pvsbook/seen" not in p.as_posix()
    }


def cost(top: Path) -> dict[str, tuple[float, float, float]]:
    """Measure one person of each method at the size of a research scan, alone in a process."""
    print("\none simulated person at the size of a research scan, one thread")
    found = {}
    for method in ("pvs", "alps", "qsm"):
        out = subprocess.run(
            [sys.executable, __file__, "--one", method, str(top / f"one-{method}")],
            env={**os.environ, **dict.fromkeys(_workers.ONE_THREAD, "1")},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        *_, line = out.strip().splitlines()
        cpu, peak, stored, words = line.split("|")
        found[method] = float(cpu), float(peak), float(stored)
        print(f"{method:5} {words}: {cpu} CPU s, peak {peak} MB, results {stored} MB", flush=True)
    return found


def one(method: str, top: Path) -> None:
    """Simulate a scan, measure a crop-free person twice, report the second (compiled) time."""
    rng = np.random.default_rng(1)
    if method == "pvs":
        scan = perivascular.make_phantom(rng, voxel_size_mm=0.8).scans["T2w"]
        path = images.save(scan, top / "sub-1_T2w.nii.gz")
        words = f"T2w 0.8 mm {scan.shape}"

        def go(out: Path) -> None:
            measure_files(by_name("pvs"), {"image": path}, out)
    elif method == "alps":
        bvals, bvecs = diffusion.gradient_scheme(30, rng=rng, n_b0=3)
        scan = diffusion.make_diffusion(
            brain.make_brain(2.0), rng=rng, bvals_s_mm2=bvals, bvecs_ras=bvecs
        )
        files = [top / f"sub-1_dwi.{e}" for e in ("nii.gz", "bval", "bvec")]
        images.save(scan.dwi.image, files[0])
        np.savetxt(files[1], bvals[None])
        np.savetxt(files[2], diffusion.fsl_bvecs(scan.dwi))
        words = f"dwi 2 mm {scan.dwi.image.shape}"

        def go(out: Path) -> None:
            inputs = dict(zip(("dwi", "bval", "bvec"), files, strict=True))
            measure_files(by_name("alps"), inputs, out)
    else:
        gre = gradient_echo.make_gre(rng, voxel_size_mm=1.0).gre
        parts = [
            images.save(images.make(a, gre.affine), top / f"sub-1_part-{p}_MEGRE.nii.gz")
            for p, a in (("mag", gre.magnitude), ("phase", gre.phase_rad))
        ]
        words = f"gradient echo 1 mm {gre.magnitude.shape}"

        def go(out: Path) -> None:
            measure_files(
                by_name("qsm"),
                {"magnitude": parts[0], "phase": parts[1]},
                out,
                echo_times_s=gre.echo_times_s,
                field_strength_t=3,
            )

    peaks = Memory()
    peaks.start()
    for k in range(2):
        start = time.process_time()
        go(top / f"out{k}")
        cpu = time.process_time() - start
    peaks.over.set()
    size = sum(p.stat().st_size for p in (top / "out1").rglob("*") if p.is_file()) / 2**20
    print(f"{cpu:.1f}|{peaks.runner:.0f}|{size:.1f}|{words}")


def _held(dask_scheduler) -> int:
    return len(dask_scheduler.tasks)


def stubs(top: Path, n_tasks: int) -> float:
    """Run stub work through the real code path; look for growth with the number of tasks."""
    print(f"\n{n_tasks} stub tasks, two workers; load before: {os.getloadavg()[0]:.1f}")
    tasks = (jobs.Task(f"t{k:06d}", {}, {"n": str(k)}) for k in range(n_tasks))
    stamps, cpus, graph, rss = [], [], [], []
    with jobs.workers(2, memory_gb=2) as client:
        for record in jobs.run(stub, tasks, top / "stubs", client=client):
            assert record.status == "done", record.reason
            stamps.append(time.perf_counter())
            cpus.append(time.process_time())
            if len(stamps) % 500 == 0:
                graph.append(
                    client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
                )
                rss.append(psutil.Process().memory_info().rss / 2**20)
    k = min(1000, n_tasks // 3)

    def each(values: list[float]) -> tuple[float, float]:
        return tuple(
            1e3 * (b - a) / k for a, b in ((values[0], values[k]), (values[-k - 1], values[-1]))
        )

    wall, cpu = each(stamps), each(cpus)
    print(f"wall a task: first {k}: {wall[0]:.2f} ms, last {k}: {wall[1]:.2f} ms")
    print(f"CPU of runner and scheduler a task: first {cpu[0]:.2f} ms, last {cpu[1]:.2f} ms")
    print(f"tasks that the scheduler held at most: {max(graph)}")
    print(f"runner and scheduler: {rss[0]:.0f} MB after 500 tasks, {rss[-1]:.0f} MB at the end")
    start = time.perf_counter()
    again = (jobs.Task(f"t{k:06d}", {}, {"n": str(k)}) for k in range(n_tasks))
    done = sum(r.is_cached for r in jobs.run(stub, again, top / "stubs"))
    print(f"second run: {done} recognised as done in {time.perf_counter() - start:.1f} s")
    print(
        f"peak of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB"
    )
    return cpu[1]


def plan(
    costs: dict[str, tuple[float, float, float]], runner_ms: float, price: float | None
) -> None:
    """Say what the measured costs mean for 10 000 people, one visit and all methods each."""
    core_s = sum(c[0] for c in costs.values())
    hours = PEOPLE_PLANNED * core_s / 3600
    peak_gb = max(c[1] for c in costs.values()) / 1024
    stored = sum(c[2] for c in costs.values())
    print(f"\nplan for {PEOPLE_PLANNED} people, each with all methods, from the figures above")
    print(f"work: {core_s:.0f} core-seconds a person, {hours:.0f} core-hours in all")
    for n in (8, 64, 512):
        load = runner_ms * len(costs) * n / core_s / 1e3
        print(
            f"  {n:4} workers: {hours / n:8.1f} hours, {n * peak_gb:7.0f} GB of memory in all, "
            f"runner and scheduler busy {100 * load:.1f} %"
        )
    print(f"results: {stored:.0f} MB a person, {PEOPLE_PLANNED * stored / 1e6:.2f} TB in all")
    if price is not None:
        print(f"cost: {hours * price:.0f} at {price:g} a core-hour")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["efficiency", "cost", "stubs"])
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--price-per-core-hour", type=float)
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "FOLDER"), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        one(words.one[0], Path(words.one[1]))
        return
    top = Path(tempfile.mkdtemp(prefix="many_people_"))
    try:
        if "efficiency" in words.parts:
            efficiency(top, words.people)
        costs = cost(top) if "cost" in words.parts else None
        runner_ms = stubs(top, words.tasks) if "stubs" in words.parts else None
        if costs and runner_ms:
            plan(costs, runner_ms, words.price_per_core_hour)
    finally:
        shutil.rmtree(top, ignore_errors=True)


if __name__ == "__main__":
    main()
