"""Counts and summaries that were printed, and what they give when they are computed again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pvsbook._errors import InputError
from pvsbook.stats import groups

__all__ = [
    "ALPS_WITHOUT_LESIONS",
    "NMOSD_SEVERE",
    "YUAN",
    "YUAN_PRINTED",
    "Counts",
    "possible_counts",
    "recompute_yuan",
]


@dataclass(frozen=True)
class Counts:
    """Events among people, by group, and where they were printed."""

    events: Mapping[str, int]
    n: Mapping[str, int]
    source: str


NMOSD_SEVERE = Counts(
    {"NMOSD": 10, "controls": 4},
    {"NMOSD": 34, "controls": 46},
    "Cacciaguerra et al. 2022, doi:10.1002/ana.26419: 29.4 % of 34 and 8.7 % of 46",
)

_YUAN_N = {"controls": 57, "episodic": 59, "chronic": 115}
_YUAN = "Yuan et al. 2023, doi:10.1002/acn3.51798; counts recovered from the percentages"
YUAN: Mapping[str, Counts] = {
    "centrum semiovale": Counts({"controls": 24, "episodic": 41, "chronic": 72}, _YUAN_N, _YUAN),
    "midbrain": Counts({"controls": 17, "episodic": 30, "chronic": 67}, _YUAN_N, _YUAN),
}

# region, first group, second group, percentages and p as printed
YUAN_PRINTED = (
    ("centrum semiovale", "migraine", "controls", "64.94", "42.11", "0.002"),
    ("midbrain", "migraine", "controls", "55.75", "29.82", "0.001"),
    ("centrum semiovale", "episodic", "chronic", "69.94", "", "0.368"),
    ("midbrain", "episodic", "chronic", "", "", "0.351"),
)

# Zhang et al. 2025, doi:10.3389/fimmu.2025.1698986: NMOSD with AQP4 antibodies and no overt brain
# lesions, and controls: means, SDs, people
ALPS_WITHOUT_LESIONS = {"mean": (1.47, 1.45), "sd": (0.10, 0.17), "n": (39, 21), "p_printed": 0.20}


def possible_counts(percent: str, n: int) -> list[int]:
    """List the counts that give a percentage as it was printed.

    Parameters
    ----------
    percent
        As printed, so that its digits count: ``"42.11"``.
    n
        People.

    Raises
    ------
    InputError
        Not a percentage, or no people.

    Examples
    --------
    >>> possible_counts("42.11", 57), possible_counts("69.94", 59)
    ([24], [])
    """
    try:
        value = float(percent)
    except ValueError:
        value = np.nan
    if not 0 <= value <= 100 or n < 1:
        raise InputError(f"percent, n: {percent!r}, {n}; give text such as '42.11', and people")
    digits = len(percent.partition(".")[2])
    half = 0.5 * 10.0**-digits + 1e-9
    return [k for k in range(n + 1) if abs(100 * k / n - value) <= half]


def recompute_yuan() -> pd.DataFrame:
    """Recompute the group comparisons of Yuan et al. from the counts.

    Returns
    -------
    pandas.DataFrame
        One row per comparison: percentages, the p-value of the uncorrected chi-squared test, and
        ``printed``; also Yates' and Fisher's, which were not printed.

    Examples
    --------
    >>> (recompute_yuan()["p"].round(3).astype(str) == recompute_yuan()["p_printed"]).tolist()
    [True, True, True, True]
    """
    rows = []
    for region, first, second, *_, printed in YUAN_PRINTED:
        events, n = dict(YUAN[region].events), dict(YUAN[region].n)
        for counts in (events, n):
            counts["migraine"] = counts["episodic"] + counts["chronic"]
        pair = (events[first], events[second]), (n[first], n[second])
        tests = groups.compare_counts(*pair, names=(first, second)).set_index("test")
        rows.append(
            {
                "region": region,
                "groups": f"{first} - {second}",
                "percent_first": 100 * pair[0][0] / pair[1][0],
                "percent_second": 100 * pair[0][1] / pair[1][1],
                "odds_ratio": tests.loc["chi-squared", "estimate"],
                "low": tests.loc["chi-squared", "low"],
                "high": tests.loc["chi-squared", "high"],
                "p": tests.loc["chi-squared", "p"],
                "p_yates": tests.loc["chi-squared, Yates", "p"],
                "p_fisher": tests.loc["Fisher, exact", "p"],
                "p_printed": printed,
            }
        )
    return pd.DataFrame(rows)
