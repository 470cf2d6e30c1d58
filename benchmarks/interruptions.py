"""Kill a run over people twenty times at random moments; do the results stay the same?

    python benchmarks/interruptions.py [--kills 20] [--people 12] [--seed 1]

Simulated people, the real command, kill -9.  Every second kill takes a worker, the others the
runner; after each, the same command is run again.  At the end it finishes undisturbed, and every
file is compared with a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from pvsbook_book.dataset import write_dataset


def start(bids: Path, out: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "pvsbook", "run", bids, out, "participant"]
    return subprocess.Popen(
        [*map(str, words), "--methods", "qsm,alps", "--workers", "2", "--memory-gb", "4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PVSBOOK_DEBUG": "1"},
    )


def tree(folder: Path) -> dict[str, str]:
    """Hash all files; not the log and the stamps of the inputs, which hold times, nor the lock."""
    left_out = re.compile(r"^(logs/|prov/|\.pvsbook/(seen/|lock|work/|pages/prov))")
    return {
        name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not left_out.match(name := p.relative_to(folder).as_posix())
    }


def finished(out: Path) -> int:
    records = (out / ".pvsbook" / "records").glob("*.json")
    return sum('"status": "done"' in p.read_text() for p in records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    top = Path(tempfile.mkdtemp(prefix="interruptions_"))
    people = [f"{k:02d}" for k in range(options.people)]
    bids = write_dataset(top / "bids", people, rng=rng, methods=["qsm", "alps"])
    clock = time.perf_counter()
    process = start(bids, top / "undisturbed")
    print(process.communicate()[0].splitlines()[0])
    whole = time.perf_counter() - clock
    expected = tree(top / "undisturbed")
    out = top / "out"
    process = None
    for k in range(options.kills):
        if finished(out) == len(people) * 2:  # all is done: begin again, the count goes on
            if process is not None:
                process.communicate()
            same = tree(out) == expected
            print(f"      finished between kills; identical: {same}")
            assert same
            shutil.rmtree(out)
            process = None
        if process is None or process.poll() is not None:
            process = start(bids, out)
            time.sleep(rng.uniform(0.1, 0.5) * whole)
        else:
            time.sleep(rng.uniform(0.02, 0.2) * whole)
        victim = "worker" if k % 2 else "runner"
        workers = []
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                try:
                    if "spawn_main" in " ".join(child.cmdline()):
                        workers.append(child)
                except psutil.Error:
                    continue
        if victim == "worker" and workers:
            workers[int(rng.integers(len(workers)))].kill()
        else:
            victim = "runner"
            process.kill()
            process.communicate()
        print(f"kill {k + 1:2}: {victim}, {finished(out)} of {2 * len(people)} done", flush=True)
    if process.poll() is None:
        print(process.communicate()[0].splitlines()[0])
    process = start(bids, out)
    print(process.communicate()[0].splitlines()[0])
    print(f"files compared: {len(expected)}; identical: {tree(out) == expected}")
    different = {
        k for k in expected.keys() | tree(out).keys() if expected.get(k) != tree(out).get(k)
    }
    for name in sorted(different)[:10]:
        print(f"  differs: {name}")
    left = len(list(out.glob(".pvsbook/work/*")))
    print(f"left in the folder of unfinished work: {left}")
    shutil.rmtree(top)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
