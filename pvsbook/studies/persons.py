"""Scans of one virtual person, made and measured: the unit of an image-level cohort."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pvsbook._errors import InputError
from pvsbook._version import __version__
from pvsbook.studies.model import visible
from pvsbook.studies.repeat import load

__all__ = ["job", "measure_people", "measure_person"]


def measure_person(
    study: str,
    *,
    seed: int,
    number: int,
    folder: str | Path | None = None,
    voxel_size_mm: float | None = None,
    model: Any = None,
) -> dict[str, Any]:
    """Draw a cohort, take one person, make the scans, measure them.

    What comes back depends on the arguments alone, so that rows can be made in any order, on any
    machine, and made again to compare.

    Parameters
    ----------
    study
        One of `pvsbook.studies.repeat.STUDIES`.
    seed
        Of the cohort.
    number
        The person, from 0.
    folder
        Where to put the row as JSON, with seed, version and voxel size; nowhere by default.
    voxel_size_mm
        Of the scans; each study has a default that keeps a cohort affordable.
    model
        What is declared; the study's own by default.

    Returns
    -------
    dict
        What the study knows of the person (no truth), and what was measured.

    Raises
    ------
    InputError
        An unknown study, or a number outside the cohort.
    """
    module = load(study)
    people = module.draw(np.random.default_rng(seed), model)
    if not 0 <= number < len(people):
        raise InputError(
            f"number: {number}; the cohort of {study} has people 0 to {len(people) - 1}"
        )
    options = {} if voxel_size_mm is None else {"voxel_size_mm": voxel_size_mm}
    rng = np.random.default_rng([seed, number])
    scans = module.scan(rng, people.iloc[number], **options)
    row = visible(people).iloc[number].to_dict() | module.measure(scans)
    row = {k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()}
    if folder is not None:
        made = {"study": study, "seed": seed, "number": number, "version": __version__}
        text = json.dumps(made | {"voxel_size_mm": voxel_size_mm, "row": row}, indent=1)
        path = Path(folder) / f"{study}-{number:04d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return row


def job(
    inputs: Mapping[str, Sequence[str]], parameters: Mapping[str, Any], folder: str
) -> Mapping[str, Any]:
    """Do `measure_person` as a task of a map: `parameters` are its arguments."""
    return measure_person(**parameters, folder=folder)


def measure_people(
    study: str, numbers: Iterable[int], *, seed: int, voxel_size_mm: float | None = None
) -> pd.DataFrame:
    """Measure some people of a cohort one after the other; a table, one row a person."""
    rows = [
        measure_person(study, seed=seed, number=number, voxel_size_mm=voxel_size_mm)
        for number in numbers
    ]
    return pd.DataFrame(rows)
