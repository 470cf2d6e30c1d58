"""Coverage of the virtual studies, the type II and III demonstration, cost of a person.

python benchmarks/studies.py coverage      # 200 virtual studies each, statistics level
python benchmarks/studies.py types         # 1000 studies, type II v type III
python benchmarks/studies.py curse         # what significance selects
python benchmarks/studies.py cost          # scans of single people, made and measured
python benchmarks/studies.py images        # the same people on one worker and on two
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pvsbook import images, jobs
from pvsbook.stats import power
from pvsbook_book.studies import cohorts, persons, repeat

SEED = repeat.SEED
pd.set_option("display.width", 200, "display.max_columns", 30)


def coverage(n_studies: int, out: Path | None = None) -> None:
    parts = []
    for setting, (study, _) in repeat.SETTINGS.items():
        start = time.process_time()
        rows = repeat.repeat(study, n_studies=n_studies, seed=SEED, model=repeat.declared(setting))
        seconds = (time.process_time() - start) / n_studies
        print(f"\n{setting}: {n_studies} virtual studies, {seconds:.2f} CPU s each")
        print(repeat.recovery(rows).round(3).to_string(index=False), flush=True)
        parts.append(rows.assign(setting=setting))
    if out is not None:
        names = ["setting", "study", "term", "truth", "estimate", "low", "high", "p"]
        text = pd.concat(parts)[names].to_csv(
            sep="\t", index=False, na_rep="n/a", float_format="%.6g", lineterminator="\n"
        )
        images.write_bytes(text.encode(), out / "repeats.tsv")


def types(n_studies: int) -> None:
    for changes in ((1.0, -1.0), (0.0, 0.0)):
        rng = np.random.default_rng(SEED)
        found = power.type_two_and_three(rng, changes=changes, n_studies=n_studies)
        print(f"\n120 and 40 people, changes {changes}, SD of a change 3, {n_studies} studies")
        print(found[["term", "estimate", "low", "high", "n"]].round(3).to_string(index=False))


def curse(n_studies: int) -> None:
    for d in (0.3, 0.5, 0.8, 1.2):
        rng = np.random.default_rng(SEED)
        found = power.winners_curse(d, 20, 5, rng=rng, n_studies=100 * n_studies)
        print(f"\nd = {d}, 20 and 5 people")
        print(found[["term", "estimate", "low", "high", "n"]].round(3).to_string(index=False))


def cost(n_studies: int) -> None:
    for study, numbers in (("nmosd", (1, 2, 60)), ("migraine", (1, 12, 23)), ("ms", (1, 2, 140))):
        for number in numbers:
            start = time.process_time()
            persons.measure_person(study, seed=SEED, number=number)
            print(f"{study} {number}: {time.process_time() - start:.1f} CPU s", flush=True)


def on_workers(n_people: int, studies: Sequence[str] = repeat.STUDIES) -> None:
    """Make a few people of each study on one worker and on two, all warm."""
    for study in studies:
        walls, peaks = {}, {}
        load = os.getloadavg()[0]
        for n in (1, 2):
            with tempfile.TemporaryDirectory() as out, jobs.workers(n, memory_gb=2) as client:
                # numba and the templates, in every worker
                list(cohorts.make(study, out, seeds=[SEED], first=2 * n, client=client))
                start = time.perf_counter()
                records = list(
                    cohorts.make(study, out, seeds=[SEED + 1], first=n_people, client=client)
                )
                walls[n] = time.perf_counter() - start
            peaks[n] = max(r.peak_mb for r in records)
            assert all(r.status == "done" for r in records)
        whole = len(cohorts.people_of(study, seed=SEED))
        print(
            f"{study}: {n_people} people in {walls[1]:.0f} s on one worker, {walls[2]:.0f} s on "
            f"two: efficiency {walls[1] / walls[2] / 2:.2f}; {max(peaks.values()):.0f} MB a "
            f"worker; {whole} people on two: {whole * walls[2] / n_people / 60:.1f} min "
            f"(load before: {load:.1f})",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"types": types, "curse": curse, "cost": cost}
    parser.add_argument(
        "part", nargs="?", default="coverage", choices=[*parts, "coverage", "images"]
    )
    parser.add_argument("--n", type=int, default=200, help="virtual studies")
    parser.add_argument("--people", type=int, default=6, help="of each study, for images")
    parser.add_argument("--study", action="append", choices=repeat.STUDIES, help="for images")
    parser.add_argument("--out", type=Path, help="folder for the table of the repeats (coverage)")
    words = parser.parse_args()
    if words.part == "coverage":
        coverage(words.n, words.out)
    elif words.part == "images":
        on_workers(words.people, words.study or repeat.STUDIES)
    else:
        parts[words.part](words.n)
