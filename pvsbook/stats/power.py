"""Power, precision, and what significance selects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pingouin
from numpy.random import Generator
from scipy import stats
from statsmodels.stats.power import TTestIndPower

from pvsbook._errors import InputError
from pvsbook.stats.longitudinal import mixed_anova
from pvsbook.stats.tables import result

__all__ = [
    "change_power",
    "detectable",
    "half_width",
    "power",
    "two_visits",
    "type_two_and_three",
    "winners_curse",
]


def power(d: float, n1: int, n2: int, *, alpha: float = 0.05) -> float:
    """Return the power of a two-sided t test of two groups.

    Parameters
    ----------
    d
        Difference in standard deviations.
    n1, n2
        People in each group.
    alpha
        Level of the test.

    Examples
    --------
    >>> round(power(0.8, 20, 5), 2), round(power(0.8, 10, 5), 2)
    (0.34, 0.27)
    """
    _sizes(n1, n2)
    return float(TTestIndPower().power(d, n1, alpha, ratio=n2 / n1))


def detectable(n1: int, n2: int, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Return the difference, in standard deviations, that a study finds with the given power.

    Examples
    --------
    >>> round(detectable(20, 5), 2), round(detectable(10, 5), 2)
    (1.46, 1.66)
    """
    _sizes(n1, n2)
    found = TTestIndPower().solve_power(
        effect_size=None, nobs1=n1, alpha=alpha, power=power, ratio=n2 / n1
    )
    return float(np.squeeze(found))


def half_width(d: float, n1: int, n2: int) -> float:
    """Return half the width of the 95 % interval that a study will print around d.

    Precision does not depend on the truth being kind: plan with it beside power.

    Examples
    --------
    >>> round(half_width(0.8, 20, 5), 2)
    1.06
    """
    _sizes(n1, n2)
    low, high = pingouin.compute_esci(d, n1, n2, eftype="cohen", decimals=6)
    return float(high - low) / 2


def change_power(
    difference: float,
    n1: int,
    n2: int,
    *,
    within_sd: float,
    true_change_sd: float = 0.0,
    alpha: float = 0.05,
) -> float:
    """Return the power for a difference of changes, given the repeatability of the measure.

    Parameters
    ----------
    difference
        Difference of the two groups' mean changes, in the unit of the measure.
    n1, n2
        People in each group.
    within_sd
        Standard deviation within a person (`pvsbook.stats.agreement.repeatability`).  Two visits
        carry it twice.
    true_change_sd
        Spread of true changes between people.
    alpha
        Level of the test.

    Raises
    ------
    InputError
        No spread at all, or a group of fewer than two.

    Examples
    --------
    >>> round(change_power(2.0, 120, 40, within_sd=2.5, true_change_sd=2.0), 2)
    0.76
    """
    sd = np.sqrt(2 * within_sd**2 + true_change_sd**2)
    if not sd > 0 or min(within_sd, true_change_sd) < 0:
        raise InputError(f"within_sd, true_change_sd: {within_sd}, {true_change_sd}; no spread")
    return power(difference / sd, n1, n2, alpha=alpha)


def _sizes(n1: int, n2: int) -> None:
    if min(n1, n2) < 2:
        raise InputError(f"n1, n2: {n1}, {n2}; each group needs two people")


def winners_curse(
    d: float, n1: int, n2: int, *, rng: Generator, n_studies: int = 10_000, alpha: float = 0.05
) -> pd.DataFrame:
    """Repeat a study many times and look at the significant ones, which get published.

    Parameters
    ----------
    d
        True difference in standard deviations, not zero.
    n1, n2
        People in each group.
    rng
        Random numbers.
    n_studies
        How many studies.
    alpha
        Level.

    Returns
    -------
    pandas.DataFrame
        Power; mean size of the significant estimates over the true one (exaggeration); share of
        them with the wrong sign.  Limits are those of the simulation.

    Raises
    ------
    InputError
        A true difference of zero, or a group of fewer than two.

    References
    ----------
    Gelman and Carlin 2014, Perspect Psychol Sci 9:641.

    Examples
    --------
    >>> found = winners_curse(0.5, 10, 5, rng=np.random.default_rng(0), n_studies=4000)
    >>> bool(found["estimate"][1] > 2)
    True
    """
    _sizes(n1, n2)
    if d == 0:
        raise InputError("d: 0; an exaggeration needs a true difference")
    a, b = rng.normal(d, 1, (n_studies, n1)), rng.normal(0, 1, (n_studies, n2))
    p = stats.ttest_ind(a, b, axis=1).pvalue
    dof = n1 + n2 - 2
    pooled = np.sqrt(((n1 - 1) * a.var(1, ddof=1) + (n2 - 1) * b.var(1, ddof=1)) / dof)
    found = (a.mean(1) - b.mean(1)) / pooled
    hit = p < alpha
    if hit.sum() < 2:
        raise InputError(f"n_studies: {n_studies}, of which {hit.sum()} significant; make more")
    ratio = np.abs(found[hit]) / abs(d)
    half = 1.96 * ratio.std(ddof=1) / np.sqrt(hit.sum())
    wrong = int((np.sign(found[hit]) != np.sign(d)).sum())
    of_power = stats.binomtest(int(hit.sum()), n_studies).proportion_ci(method="wilson")
    of_wrong = stats.binomtest(wrong, int(hit.sum())).proportion_ci(method="wilson")
    mean = ratio.mean()
    return pd.DataFrame(
        [
            result("power", "share significant", hit.mean(), *of_power, n=n_studies),
            result("exaggeration", "mean |d| over true d, significant studies", mean, mean - half,
                   mean + half, n=int(hit.sum())),
            result("wrong sign", "share of the significant studies", wrong / hit.sum(), *of_wrong,
                   n=int(hit.sum())),
        ]
    )  # fmt: skip


def two_visits(
    rng: Generator,
    n: Sequence[int],
    *,
    changes: Sequence[float],
    change_sd: float,
    between_sd: float = 5.0,
    names: Sequence[str] = ("first", "second"),
) -> pd.DataFrame:
    """Draw a simple table of two groups at two visits.

    Parameters
    ----------
    rng
        Random numbers.
    n, changes, names
        People, mean change and name of each group.
    change_sd
        Spread of the changes.
    between_sd
        Spread of the people.

    Returns
    -------
    pandas.DataFrame
        Columns ``person``, ``group``, ``visit`` (1, 2), ``value``.

    Examples
    --------
    >>> two_visits(np.random.default_rng(0), (3, 2), changes=(0, 1), change_sd=1).shape
    (10, 4)
    """
    group = np.repeat(list(names), list(n))
    level = rng.normal(0, between_sd, sum(n))
    change = np.repeat(list(changes), list(n)) + rng.normal(0, change_sd, sum(n))
    person = np.arange(sum(n))
    return pd.DataFrame(
        {
            "person": np.r_[person, person],
            "group": np.r_[group, group],
            "visit": np.repeat([1, 2], sum(n)),
            "value": np.r_[level - change / 2, level + change / 2],
        }
    )


def type_two_and_three(
    rng: Generator,
    *,
    n: Sequence[int] = (120, 40),
    changes: Sequence[float] = (1.0, -1.0),
    change_sd: float = 3.0,
    n_studies: int = 500,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Measure how often *time* is significant where the unweighted mean change is zero.

    Parameters
    ----------
    rng
        Random numbers.
    n, changes
        People and true mean change of each group; changes that cancel make type III's hypothesis
        true and type II's false.
    change_sd
        Spread of the changes.
    n_studies
        How many studies.
    alpha
        Level.

    Returns
    -------
    pandas.DataFrame
        Share of significant studies for time and interaction, by type, with Wilson's limits.

    Examples
    --------
    >>> found = type_two_and_three(np.random.default_rng(0), n_studies=20)
    >>> found["term"].tolist()
    ['interaction, type II', 'time, type II', 'interaction, type III', 'time, type III']
    """
    found = []
    for _ in range(n_studies):
        table = two_visits(rng, n, changes=changes, change_sd=change_sd)
        tests = mixed_anova(
            table, value="value", group="group", time="visit", person="person", order=(1, 2)
        )
        found.append(tests["p"].to_numpy() < alpha)
    rows = []
    for name, test, hit in zip(tests["term"], tests["test"], np.array(found).T, strict=True):
        if name != "group":
            limits = stats.binomtest(int(hit.sum()), n_studies).proportion_ci(method="wilson")
            term = name + test.removeprefix("F")
            rows.append(result(term, "share significant", hit.mean(), *limits, n=n_studies))
    return pd.DataFrame(rows)
