"""Repeat a virtual study, and see whether its intervals hold what was declared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from pvsbook._errors import InputError
from pvsbook_book.studies import migraine, ms, nmosd
from pvsbook_book.studies.model import Study

__all__ = [
    "SEED",
    "SETTINGS",
    "STUDIES",
    "declared",
    "find_study",
    "load_stored",
    "no_estimate",
    "recovery",
    "repeat",
    "run_once",
    "sized",
]

STUDIES: dict[str, Study] = {"nmosd": nmosd.STUDY, "migraine": migraine.STUDY, "ms": ms.STUDY}
SEED = 20_260
"""Of the stored repeats: other people than those of the tests and the pages."""
SETTINGS: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "nmosd": ("nmosd", {}),
    "migraine": ("migraine", {}),
    "migraine, no false spaces": ("migraine", {"false_7t": 0.0, "wmh_called_pvs": 0.0}),
    "ms": ("ms", {}),
}
"""What the stored repeats are of: a study, and what is declared otherwise."""


def find_study(study: str) -> Study:
    """Return a study by its name."""
    if study not in STUDIES:
        raise InputError(f"study: {study!r}; one of {', '.join(STUDIES)}")
    return STUDIES[study]


def sized(study: str, n: int | None = None) -> Any:
    """Return the model of a study with `n` people, the groups in the published proportion.

    Parameters
    ----------
    study
        One of `pvsbook_book.studies.repeat.STUDIES`.
    n
        People in all; as published by default.

    Raises
    ------
    InputError
        So few people that a group is empty.

    Examples
    --------
    >>> model = sized("nmosd", 40)
    >>> model.n_patients, model.n_controls
    (17, 23)
    """
    model = find_study(study).model()
    if n is None:
        return model
    names = [f.name for f in fields(model) if f.name.startswith("n_")]
    share = np.array([getattr(model, name) for name in names], float)
    exact = n * share / share.sum()
    sizes = np.floor(exact).astype(int)
    sizes[np.argsort(sizes - exact, kind="stable")[: n - sizes.sum()]] += 1
    if n < 1 or sizes.min() < 1:
        raise InputError(
            f"n: {n} people leave a group of {study} empty; give more (published: "
            f"{int(share.sum())})"
        )
    return replace(model, **{k: int(v) for k, v in zip(names, sizes, strict=True)})


def run_once(study: str, *, seed: int, number: int = 0, model: Any = None) -> pd.DataFrame:
    """Draw, measure and analyse one virtual study.

    Examples
    --------
    >>> run_once("nmosd", seed=1)["term"].tolist()
    ['ALPS difference', 'log odds ratio']
    """
    parts, rng = find_study(study), np.random.default_rng([seed, number])
    model = sized(study) if model is None else model
    return parts.primary(parts.observe(rng, parts.draw(rng, model), model))


def repeat(study: str, *, n_studies: int, seed: int, model: Any = None) -> pd.DataFrame:
    """Repeat a virtual study with new people.

    A study whose model cannot be fitted, or whose odds ratio is infinite, keeps its rows with
    missing limits: it counts as one that does not cover.

    Returns
    -------
    pandas.DataFrame
        Primary effects of all studies, with ``study`` and ``truth``.
    """
    model = sized(study) if model is None else model
    truths = find_study(study).truths(model)
    parts = []
    for number in range(n_studies):
        try:
            effects = run_once(study, seed=seed, number=number, model=model)
        except InputError:
            effects = no_estimate(study)
        parts.append(effects.assign(study=number))
    every = pd.concat(parts, ignore_index=True)
    return every.assign(truth=every["term"].map(truths))


def declared(setting: str) -> Any:
    """Return the model of one of `SETTINGS`.

    Examples
    --------
    >>> declared("migraine, no false spaces").false_7t
    0.0
    """
    try:
        study, changes = SETTINGS[setting]
    except KeyError:
        raise InputError(f"setting: {setting!r}; one of {', '.join(SETTINGS)}") from None
    return replace(find_study(study).model(), **changes)


def load_stored(setting: str) -> pd.DataFrame:
    """Load 200 repeats at the published size: `repeat` of a setting with the seed `SEED`.

    ``python benchmarks/studies.py coverage --out FOLDER`` makes them again.

    Examples
    --------
    >>> load_stored("nmosd").groupby("term").size().to_dict()
    {'ALPS difference': 200, 'log odds ratio': 200}
    """
    declared(setting)
    path = files("pvsbook_book.studies").joinpath("tables", "repeats.tsv")
    with path.open(encoding="utf-8") as text:
        table = pd.read_csv(text, sep="\t", na_values="n/a")
    return table[table["setting"] == setting].drop(columns="setting").reset_index(drop=True)


def no_estimate(study: str) -> pd.DataFrame:
    """Return the primary effects of a study that could not be fitted: none of them known."""
    terms = list(find_study(study).truths())
    return pd.DataFrame({"term": terms}).reindex(
        columns=["term", "estimate", "low", "high", "p"], fill_value=np.nan
    )


def recovery(repeats: pd.DataFrame) -> pd.DataFrame:
    """Summarise repeated studies: mean estimate, its bias, coverage of the 95 % interval, power.

    Returns
    -------
    pandas.DataFrame
        One row a primary effect; coverage with Wilson's limits; ``failed`` counts studies without
        an interval, which do not cover.
    """
    rows = []
    for term, part in repeats.groupby("term", sort=False):
        estimate = part["estimate"].replace([np.inf, -np.inf], np.nan).dropna().astype(float)
        truth = float(part["truth"].iloc[0])
        cover = ((part["low"] <= truth) & (truth <= part["high"])).to_numpy()
        limits = stats.binomtest(int(cover.sum()), len(part)).proportion_ci(method="wilson")
        n = len(estimate)
        error = stats.t.ppf(0.975, n - 1) * stats.sem(estimate) if n > 1 else np.nan
        rows.append(
            {
                "term": term,
                "declared": truth,
                "recovered": estimate.mean(),
                "low": estimate.mean() - error,
                "high": estimate.mean() + error,
                "coverage": cover.mean(),
                "coverage_low": limits.low,
                "coverage_high": limits.high,
                "significant": float((part["p"] < 0.05).mean()),
                "studies": len(part),
                "failed": int(part["low"].isna().sum()),
            }
        )
    return pd.DataFrame(rows)
