"""The comparison of the group page where the truth is known: simulated tables, no images.

    python benchmarks/group_page.py [--draws 200] [--seed 0]

Each world draws people with a value and a count, and asks the code of ``pvsbook run ... group``
for the difference.  Printed: how often the 95 % interval holds the truth (adjusted; without age
and sex; passed scans alone), how often it would if protocols were pooled and every visit counted
as a participant, and how often p is below .05.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pvsbook.bids import _compare
from pvsbook.methods import by_name

SHOWN = (
    "interval holds", "unadjusted", "passed only", "all pooled", "p < .05", "Holm < .05", "spread told",
)  # fmt: skip
PVS = by_name("pvs")
COUNT, MEAN = PVS.compared


@dataclass(frozen=True)
class World:
    """How people differ: sizes of the groups, and what else than the group moves the value."""

    sizes: tuple[int, int] = (20, 20)
    effect: float = 0.0  # residual SD; of counts the logarithm of the rate ratio is half of it
    sd: tuple[float, float] = (1.0, 1.0)
    age_gap: float = 0.0  # years that patients are older; 10 years cost .5 SD
    missing_age: float = 0.0
    scanner: tuple[float, float] = (0.0, 0.0)  # share on scanner B, which adds 1.5 SD
    visits: tuple[int, int] = (1, 1)
    warn: float = 0.1
    fail: float = 0.1


WORLDS = {
    "no effect": World(),
    "effect of .8 SD": World(effect=0.8),
    "25 and 75 % on scanner B, effect": World(scanner=(0.25, 0.75), effect=0.8),
    "1 to 3 visits each": World(visits=(1, 3)),
    "10 % of ages missing, effect": World(age_gap=4, missing_age=0.1, effect=0.8),
    "30 and 10, SD 1 and 2": World(sizes=(30, 10), sd=(1, 2)),
    "patients 8 years older": World(age_gap=8),
    "10 and 10, no effect": World(sizes=(10, 10)),
}


def draw(world: World, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw participants.tsv, and the rows that the participant level would leave."""
    n = sum(world.sizes)
    ill = np.repeat([0, 1], world.sizes)
    age = rng.normal(50 + world.age_gap * ill, 8).round(1)
    sex = rng.choice(["F", "M"], n)
    on_b = rng.random(n) < np.take(world.scanner, ill)
    level = world.effect * ill + 0.05 * (age - 50) + 0.3 * (sex == "M") + 1.5 * on_b
    level += rng.normal(0, 0.8, n) * np.take(world.sd, ill)
    rows = []
    for k in range(n):
        for visit in range(rng.integers(world.visits[0], world.visits[1], endpoint=True)):
            mean = 25 * np.exp(0.5 * (level[k] - 1))
            rows.append(
                {
                    "participant_id": f"sub-{k:03d}", "session_id": f"ses-{visit}",
                    "outcome": "done", "protocol": "AB"[int(on_b[k])],
                    "status": rng.choice(
                        ["fail", "warn", "pass"],
                        p=[world.fail, world.warn, 1 - world.fail - world.warn],
                    ),
                    MEAN: 100 + 10 * (level[k] + rng.normal(0, 0.6) * world.sd[ill[k]]),
                    COUNT: rng.poisson(mean),
                }
            )  # fmt: skip
    people = pd.DataFrame(
        {
            "group": np.where(ill, "patient", "control"),
            "age": np.where(rng.random(n) < world.missing_age, None, age.astype(str)),
            "sex": sex,
        },
        index=[f"sub-{k:03d}" for k in range(n)],
    )
    return people, pd.DataFrame(rows)


def compare(people: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Ask the code of the page."""
    groups = _compare.find_groups(people, {})
    return _compare.with_holm(_compare.compare(PVS, rows, groups)).set_index("figure")


def naive(people: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Pool protocols and count each visit as a participant."""
    apart = rows.assign(
        participant_id=[f"{p}{s}" for p, s in zip(rows["participant_id"], rows["session_id"],
                                                  strict=True)],
        protocol="A",
    )  # fmt: skip
    known = people.reindex(rows["participant_id"]).set_axis(apart["participant_id"])
    return compare(known, apart)


def holds(row: Any, truth: float, start: str = "") -> float:
    """Tell whether an interval holds the truth; NaN where there is none."""
    low, high = row[f"{start}low"], row[f"{start}high"]
    return float(low <= truth <= high) if np.isfinite(low) else np.nan


def main() -> None:
    """Print two lines for each world, as it ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    error = 100 * np.sqrt(0.95 * 0.05 / options.draws)
    print(
        f"{options.draws} draws of each world, simulated; the standard error of 95 % is {error:.1f}"
    )
    print(f"{'':34} {'':12}{''.join(f'{name:>15}' for name in SHOWN)}   (all in %)")
    for number, (name, world) in enumerate(WORLDS.items()):
        counted: dict[str, list[list[float]]] = {MEAN: [], COUNT: []}
        for k in range(options.draws):
            people, rows = draw(world, np.random.default_rng([options.seed, number, k]))
            found = compare(people, rows)
            is_pooled = rows["protocol"].nunique() > 1 or rows["participant_id"].duplicated().any()
            pooled = naive(people, rows) if is_pooled else found
            for figure, results in counted.items():
                row = found.loc[figure]
                truth = 10 * world.effect if figure == MEAN else np.exp(0.5 * world.effect)
                results.append(
                    [
                        *(holds(row, truth, start) for start in ("", "plain_", "passed_")),
                        holds(pooled.loc[figure], truth),
                        float(row["p"] < 0.05),
                        float(row["p_holm"] < 0.05),
                        float("spread" in str(row["notes"])),
                    ]
                )
        for figure, results in counted.items():
            shares = "".join(f"{100 * share:15.1f}" for share in np.nanmean(results, axis=0))
            print(f"{name:34} {figure:12}{shares}", flush=True)


if __name__ == "__main__":
    main()
