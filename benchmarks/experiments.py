"""Command line of a benchmark that is a set of experiments: functions that yield rows."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

Experiments = Mapping[str, Callable[[], Iterator[dict[str, Any]]]]


def parser(doc: str, experiments: Experiments) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("experiments", nargs="+", choices=experiments)
    made.add_argument("--out", type=Path, help="folder for one TSV an experiment")
    return made


def run(chosen: argparse.Namespace, experiments: Experiments) -> None:
    """Print the rows of each chosen experiment as they come, and write its table."""
    for name in chosen.experiments:
        rows = []
        for row in experiments[name]():
            rows.append(row)
            shown = {
                k: round(float(v), 7 if "change" in k else 4) if isinstance(v, float) else v
                for k, v in row.items()
            }
            print(name, shown, flush=True)
        if chosen.out:
            chosen.out.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_csv(chosen.out / f"alps_{name}.tsv", sep="\t", index=False)
