"""Image-level cohorts: everyone of a virtual study scanned and measured, and the stored tables.

A row needs nothing but the study, its seed, its size and the person's number, so a cohort can be
made in any order, on any machine, killed and run again, and any row of a stored table can be made
once more to compare.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from pvsbook import images, jobs
from pvsbook._errors import InputError
from pvsbook._version import __version__
from pvsbook.derivatives import plain
from pvsbook_book.studies import persons, repeat
from pvsbook_book.studies.model import describe

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "SEEDS",
    "collect",
    "columns",
    "errors",
    "latent",
    "load",
    "load_provenance",
    "make",
    "measured_and_true",
    "people_of",
    "provenance",
    "recover",
    "tasks",
    "write",
]

SEEDS = {"nmosd": 601, "migraine": 641, "ms": 681}
"""Seed of the first stored cohort of each study; repeats count up from it."""

LIBRARIES = ("numpy", "scipy", "pandas", "nibabel", "dipy", "numba", "edt",
             "connected-components-3d", "nilearn")  # fmt: skip
KEPT_DIGITS = 6
LEAST_PEOPLE = 20  # below, a model with five coefficients has an interval that means nothing

_PERSON = {
    "seed": ("of the cohort", ""),
    "person": ("number of the person in the cohort, from 0", ""),
    "group": ("group of the study", ""),
    "age_years": ("age at the first scan", "year"),
    "sex": ("F or M", ""),
    "reason": ("why a person has no measurement; empty where there is one", ""),
}
_MEASURED = {
    "nmosd": {
        "cohort": ("exploratory or validation", ""),
        "scanner": ("A or B", ""),
        "cognition_z": ("cognitive score", "SD"),
        "myelitis": ("episodes of myelitis", ""),
        "lesions_ml": ("T2 lesions, drawn from the model, not measured on a scan", "mL"),
        "pitch_deg": ("pitch of the head that the operator noted", "deg"),
        "mode": ("mode of anisotropy, drawn from the model, not measured on a scan", "SD"),
        "fa": ("fractional anisotropy, drawn from the model, not measured on a scan", "SD"),
        "edss": ("disability; n/a in controls", ""),
        "alps_classic": ("ALPS index along the voxel axes, mean of both sides", ""),
        "alps_reoriented": ("ALPS index along the axes of the head, mean of both sides", ""),
        "alps_tract": ("ALPS index in the frame of the tracts, mean of both sides", ""),
        "pvs": ("perivascular spaces in the centrum semiovale, fuller hemisphere", ""),
        "deep_grey_ml": ("deep grey matter, at the size of the MNI head", "mL"),
        "cortex_ml": ("the other grey matter, at the size of the MNI head", "mL"),
    },
    "migraine": {
        "headache_days": ("days with headache a month; n/a in controls", ""),
        "years_ill": ("years with migraine; n/a in controls", "year"),
    }
    | {
        f"{region}_{name}": (f"perivascular spaces in {words}, both sides, {scan} voxels", "")
        for name, scan in (("1mm", "1 mm"), ("1_5mm", "1.5 mm"))
        for region, words in (("cso", "the centrum semiovale"), ("bg", "the basal ganglia"))
    },
    "ms": {"edss": ("disability; n/a in controls", "")}
    | {
        f"{name}_{visit}_ppb": (
            f"susceptibility of the {name} at visit {visit}, mean of both sides, relative to the "
            "whole brain",
            "ppb",
        )
        for name in ("caudate", "putamen", "pallidum", "thalamus")
        for visit in (1, 2)
    }
    | {
        "overlap": ("Dice overlap of the two visits' brains, once aligned", ""),
        "tilt_difference_deg": ("angle between the fields of the two visits in the head", "deg"),
    },
}


def people_of(study: str, *, seed: int, n: int | None = None) -> pd.DataFrame:
    """Draw the people of one cohort with what is true of them, as its scans were made from."""
    if seed < 0:
        raise InputError(f"seed: {seed}; give 0 or more")
    model = repeat.sized(study, n)
    return repeat.find_study(study).draw(np.random.default_rng(seed), model)


def latent(table: pd.DataFrame, study: str, *, n: int | None = None) -> pd.DataFrame:
    """Draw again the people of a table, with what is true of them.

    Only a reader of a simulation can do this.  Nothing that measures calls it.  `n` is the size
    of the cohorts, where it is not the published one.

    Returns
    -------
    pandas.DataFrame
        The rows of `table`, with the columns ``true_...``.
    """
    true = pd.concat(
        [people_of(study, seed=int(k), n=n).assign(seed=k) for k in table["seed"].unique()]
    )
    names = ["seed", "person", *(c for c in true if str(c).startswith("true_"))]
    return table.merge(true[names], on=["seed", "person"], validate="one_to_one")


# --- making ------------------------------------------------------------------------------------


def tasks(
    study: str, *, seeds: Iterable[int], n: int | None = None, first: int | None = None
) -> Iterator[jobs.Task]:
    """List the people of some cohorts as tasks of a map, the groups in turn by their sizes."""
    for seed in seeds:
        groups = people_of(study, seed=seed, n=n).groupby("group")["person"]
        place = ((groups.cumcount() + 0.5) / groups.transform("size")).to_numpy()
        for number in np.argsort(place, kind="stable")[:first].tolist():
            what = {"study": study, "seed": int(seed), "number": number, "n": n}
            yield jobs.Task(f"{study}-{seed}-{number:04d}", {}, what)


def make(
    study: str,
    folder: images.PathLike,
    *,
    seeds: Sequence[int],
    n: int | None = None,
    first: int | None = None,
    client: Client | None = None,
) -> Iterator[jobs.Record]:
    """Scan and measure everyone of some cohorts; who is done is not done again.

    Parameters
    ----------
    study
        One of `pvsbook_book.studies.repeat.STUDIES`.
    folder
        Where the rows are kept; only one `make` at a time may write there.
    seeds
        One cohort each.
    n
        People in each; as published by default.
    first
        Only so many of them, the groups in proportion: for a look before the rest is made.
    client
        From `pvsbook.jobs.workers`; by default the work is done in this process.

    Yields
    ------
    pvsbook.jobs.Record
        One a person, as it ends.  `write` makes the table of them.
    """
    yield from jobs.run(
        persons.job, tasks(study, seeds=seeds, n=n, first=first), folder, client=client
    )


def collect(
    study: str,
    folder: images.PathLike,
    *,
    seeds: Sequence[int],
    n: int | None = None,
    first: int | None = None,
) -> pd.DataFrame:
    """Put the rows that `make` left in a folder into one table, by seed and person.

    Raises
    ------
    InputError
        Someone is not done yet.
    """
    rows = []
    for task in tasks(study, seeds=seeds, n=n, first=first):
        record = jobs.read_record(folder, task.name)
        if record is None:
            raise InputError(f"{folder}: {task.name} is not done; run the same command again")
        known = {"seed": task.parameters["seed"], "person": task.parameters["number"]}
        rows.append(known | dict(record.result) | {"reason": record.reason})
    table = pd.DataFrame(rows)[_order(study, rows)]
    return table.sort_values(["seed", "person"], ignore_index=True)


def _order(study: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Columns in the order of their dictionary."""
    present = {name for row in rows for name in row}
    return [name for name in columns(study) if name in present]


def columns(study: str) -> dict[str, dict[str, str]]:
    """Return what each column of a table is, as BIDS writes it.

    Examples
    --------
    >>> columns("nmosd")["age_years"]
    {'Description': 'age at the first scan', 'Units': 'year'}
    """
    reason = _PERSON["reason"]
    every = {k: v for k, v in _PERSON.items() if k != "reason"} | _MEASURED[study]
    every |= {"reason": reason}
    return {
        name: {"Description": words} | ({"Units": unit} if unit else {})
        for name, (words, unit) in every.items()
    }


def provenance(
    study: str, *, seeds: Sequence[int], n: int | None = None, first: int | None = None
) -> dict[str, Any]:
    """Say what a table was made from: seeds, versions, parameters, scans, and the command."""
    model = repeat.sized(study, n)
    declared = describe(model).reset_index()
    options = {"n": n, "first": first, "repeats": len(seeds) if len(seeds) > 1 else None}
    words = "".join(f" --{name} {value}" for name, value in options.items() if value is not None)
    return {
        "study": study,
        "simulated": True,
        "seeds": [int(s) for s in seeds],
        "people_in_each": len(people_of(study, seed=seeds[0], n=n)),
        "measured_in_each": sum(1 for _ in tasks(study, seeds=seeds[:1], n=n, first=first)),
        "command": f"pvsbook simulate {study} --seed {seeds[0]}{words} --out FOLDER",
        "pvsbook": __version__,
        "libraries": {name: version(name) for name in LIBRARIES},
        "scans": dict(repeat.find_study(study).scans),
        "parameters": declared.to_dict("records"),
    }


def write(
    study: str,
    folder: images.PathLike,
    *,
    seeds: Sequence[int],
    n: int | None = None,
    first: int | None = None,
) -> tuple[Path, ...]:
    """Write the table of a cohort that `make` has made, its dictionary and its provenance.

    Returns
    -------
    tuple of pathlib.Path
        ``STUDY.tsv``, ``STUDY.json``, ``STUDY_provenance.json``, each renamed to its name when
        it is whole.

    Raises
    ------
    InputError
        Someone is not done yet, or the folder cannot be written.
    """
    table = collect(study, folder, seeds=seeds, n=n, first=first)
    text = table.to_csv(
        sep="\t", index=False, na_rep="n/a", lineterminator="\n", float_format=f"%.{KEPT_DIGITS}g"
    )
    meanings = columns(study)
    contents = {
        f"{study}.tsv": text,
        f"{study}.json": _json({str(name): meanings[str(name)] for name in table}),
        f"{study}_provenance.json": _json(provenance(study, seeds=seeds, n=n, first=first)),
    }
    return tuple(
        images.write_bytes(content.encode(), Path(folder, name))
        for name, content in contents.items()
    )


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, default=plain, ensure_ascii=False) + "\n"


# --- reading -----------------------------------------------------------------------------------


def load(study: str, folder: images.PathLike | None = None) -> pd.DataFrame:
    """Load the table of an image-level cohort: the stored one, or one from a folder.

    Raises
    ------
    InputError
        An unknown study, or a folder without its table.

    Examples
    --------
    >>> load("migraine")["group"].nunique()
    3
    """
    text = _stored(study, f"{study}.tsv", folder)
    table = pd.read_csv(StringIO(text), sep="\t", na_values="n/a", keep_default_na=False)
    return table.assign(reason=table["reason"].fillna(""))


def load_provenance(study: str, folder: images.PathLike | None = None) -> dict[str, Any]:
    """Load what `provenance` said when the table was made.

    Examples
    --------
    >>> load_provenance("nmosd")["command"].startswith("pvsbook simulate nmosd")
    True
    """
    return json.loads(_stored(study, f"{study}_provenance.json", folder))


def _stored(study: str, name: str, folder: images.PathLike | None) -> str:
    repeat.find_study(study)
    top = files("pvsbook_book.studies").joinpath("tables") if folder is None else Path(folder)
    try:
        return top.joinpath(name).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{top}: {name} cannot be read ({error.strerror}); make it with: "
            f"pvsbook simulate {study} --out FOLDER"
        ) from error


# --- what came out -----------------------------------------------------------------------------


def measured_and_true(
    table: pd.DataFrame, study: str, *, n: int | None = None
) -> dict[str, tuple[pd.Series, pd.Series]]:
    """Pair each measure of a table with what is true of the same people; arguments as `errors`.

    Returns
    -------
    dict
        By the name of the measure: measured, and true; for MS also ``NAME, change``.
    """
    known, parts = latent(table, study, n=n), repeat.find_study(study)
    true = parts.true_values(known)
    measured, true = (parts.compared(values) for values in (known[true.columns], true))
    return {str(name): (measured[name], true[name]) for name in true}


def errors(table: pd.DataFrame, study: str, *, n: int | None = None) -> pd.DataFrame:
    """Compare what was measured with what is true, over the people of a table.

    Parameters
    ----------
    table
        From `load` or `collect`.
    study
        Whose.
    n
        Size of the cohorts, where it is not the published one.

    Returns
    -------
    pandas.DataFrame
        One row a measure: ``n``; ``bias`` (mean of measured less true) and its limits; ``slope``
        of measured on true and its limits; ``sd`` of what the line leaves, in the measure's unit.
    """
    rows = []
    for name, (measured, true) in measured_and_true(table, study, n=n).items():
        pair = pd.DataFrame({"measured": measured, "true": true}).dropna()
        x, y = pair["true"].to_numpy(float), pair["measured"].to_numpy(float)
        line = stats.linregress(x, y)
        t = stats.t.ppf(0.975, len(x) - 2)
        error = y - x
        half = stats.t.ppf(0.975, len(x) - 1) * error.std(ddof=1) / np.sqrt(len(x))
        residual = y - line.intercept - line.slope * x
        rows.append(
            {
                "measure": name,
                "n": len(x),
                "bias": error.mean(),
                "bias_low": error.mean() - half,
                "bias_high": error.mean() + half,
                "slope": line.slope,
                "slope_low": line.slope - t * line.stderr,
                "slope_high": line.slope + t * line.stderr,
                "sd": float(np.sqrt((residual**2).sum() / (len(x) - 2))),
            }
        )
    return pd.DataFrame(rows)


def recover(
    table: pd.DataFrame, study: str, *, error_free: bool = False, n: int | None = None
) -> pd.DataFrame:
    """Analyse each cohort of a table as the study is, and compare with what was declared.

    Parameters
    ----------
    table
        From `load` or `collect`.
    study
        Whose.
    error_free
        Analyse what is true of these people in place of what was measured: what is left between
        that and the declared effect is chance in who was drawn, and no fault of the images.
    n
        Size of the cohorts, where it is not the published one; for `error_free`.

    Returns
    -------
    pandas.DataFrame
        Primary effects of each cohort, with ``seed``, ``study`` (its count from 0), ``truth``
        and whether the interval ``covers`` it; `.repeat.recovery` summarises them.
        A cohort of which fewer than 20 people are measured, or that cannot be fitted, has no
        estimate.
    """
    study_parts = repeat.find_study(study)
    declared = study_parts.truths()
    if error_free:
        known = latent(table, study, n=n)
        table = known.assign(**study_parts.true_values(known))
    parts = []
    for number, (seed, part) in enumerate(table.groupby("seed")):
        try:
            if len(part) < LEAST_PEOPLE:
                raise InputError(f"{len(part)} people are too few for the study's models")
            effects = study_parts.primary(study_parts.from_images(part))
        except InputError:
            effects = repeat.no_estimate(study)
        parts.append(effects.assign(seed=seed, study=number))
    every = pd.concat([part.dropna(axis=1, how="all") for part in parts], ignore_index=True)
    every = every.reindex(columns=list(dict.fromkeys([*every, "estimate", "low", "high", "p"])))
    truth = every["term"].map(declared)
    covers = (every["low"] <= truth) & (truth <= every["high"])
    return every.assign(truth=truth, covers=covers)
