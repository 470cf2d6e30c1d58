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
from scipy import stats

from pvsbook import images, jobs
from pvsbook.stats import longitudinal
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


def two_visits(
    rng: np.random.Generator, n: tuple[int, int], changes: tuple[float, float]
) -> pd.DataFrame:
    """Draw two groups at two visits: levels with an SD of 5, changes with one of 3."""
    group = np.repeat(["first", "second"], n)
    level = rng.normal(0, 5, sum(n))
    change = np.repeat(changes, n) + rng.normal(0, 3, sum(n))
    values = np.r_[level - change / 2, level + change / 2]
    columns = {"person": np.tile(np.arange(sum(n)), 2), "group": np.tile(group, 2)}
    return pd.DataFrame(columns | {"visit": np.repeat([1, 2], sum(n)), "value": values})


def share(name: str, events: int, n: int) -> dict[str, object]:
    """One row: a share with Wilson's limits."""
    low, high = stats.binomtest(events, n).proportion_ci(method="wilson")
    return {"term": name, "estimate": events / n, "low": low, "high": high, "n": n}


def types(n_studies: int) -> None:
    design = {"value": "value", "group": "group", "time": "visit", "person": "person"}
    for changes in ((1.0, -1.0), (0.0, 0.0)):
        rng = np.random.default_rng(SEED)
        hits = []
        for _ in range(n_studies):
            table = two_visits(rng, (120, 40), changes)
            tests = longitudinal.mixed_anova(table, **design, order=(1, 2))
            hits.append(tests["p"].to_numpy() < 0.05)
        names = tests["term"] + tests["test"].str.removeprefix("F")
        rows = [
            share(name, int(hit.sum()), n_studies)
            for name, hit in zip(names, np.transpose(hits), strict=True)
            if not name.startswith("group")
        ]
        print(f"\n120 and 40 people, changes {changes}, SD of a change 3, {n_studies} studies")
        print(pd.DataFrame(rows).round(3).to_string(index=False))


def curse(n_studies: int, n1: int = 20, n2: int = 5) -> None:
    n_studies = 100 * n_studies
    for d in (0.3, 0.5, 0.8, 1.2):
        rng = np.random.default_rng(SEED)
        a, b = rng.normal(d, 1, (n_studies, n1)), rng.normal(0, 1, (n_studies, n2))
        significant = stats.ttest_ind(a, b, axis=1).pvalue < 0.05
        squares = (n1 - 1) * a.var(1, ddof=1) + (n2 - 1) * b.var(1, ddof=1)
        found = (a.mean(1) - b.mean(1)) / np.sqrt(squares / (n1 + n2 - 2))
        ratio = np.abs(found[significant]) / d
        mean, half = ratio.mean(), 1.96 * stats.sem(ratio)
        limits = {"estimate": mean, "low": mean - half, "high": mean + half, "n": ratio.size}
        rows = [
            share("power", int(significant.sum()), n_studies),
            {"term": "exaggeration"} | limits,
            share("wrong sign", int((found[significant] < 0).sum()), ratio.size),
        ]
        print(f"\nd = {d}, {n1} and {n2} people")
        print(pd.DataFrame(rows).round(3).to_string(index=False))


def cost(n_studies: int) -> None:
    for study, numbers in (("nmosd", (1, 2, 60)), ("migraine", (1, 12, 23)), ("ms", (1, 2, 140))):
        for number in numbers:
            start = time.process_time()
            persons.measure_person(study, seed=SEED, number=number)
            print(f"{study} {number}: {time.process_time() - start:.1f} CPU s", flush=True)


def on_workers(n_people: int, studies: Sequence[str] = tuple(repeat.STUDIES)) -> None:
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
    parser.add_argument(
        "--study", action="append", choices=tuple(repeat.STUDIES), help="for images"
    )
    parser.add_argument("--out", type=Path, help="folder for the table of the repeats (coverage)")
    words = parser.parse_args()
    if words.part == "coverage":
        coverage(words.n, words.out)
    elif words.part == "images":
        on_workers(words.people, words.study or tuple(repeat.STUDIES))
    else:
        parts[words.part](words.n)
