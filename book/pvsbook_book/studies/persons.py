"""Scans of one virtual person, made and measured: the unit of an image-level cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pvsbook._errors import InputError
from pvsbook_book.studies.model import visible
from pvsbook_book.studies.repeat import find_study, sized

__all__ = ["job", "measure_person"]


def measure_person(study: str, *, seed: int, number: int, model: Any = None) -> dict[str, Any]:
    """Draw a cohort, take one person, make the scans, measure them.

    What comes back depends on the arguments alone, so that rows can be made in any order, on any
    machine, and made again to compare.

    Parameters
    ----------
    study
        One of `pvsbook_book.studies.repeat.STUDIES`.
    seed
        Of the cohort.
    number
        The person, from 0.
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
    parts = find_study(study)
    people = parts.draw(np.random.default_rng(seed), sized(study) if model is None else model)
    if not 0 <= number < len(people):
        raise InputError(
            f"number: {number}; the cohort of {study} has people 0 to {len(people) - 1}"
        )
    scans = parts.scan(np.random.default_rng([seed, number]), people.iloc[number])
    row = visible(people).iloc[number].to_dict() | parts.measure(scans)
    return {str(k): v.item() if isinstance(v, np.generic) else v for k, v in row.items()}


def job(
    inputs: Mapping[str, Sequence[str]], parameters: Mapping[str, Any], folder: str
) -> Mapping[str, Any]:
    """Do `measure_person` as a task of a map.

    `parameters` are ``study``, ``seed``, ``number`` and the size ``n`` of the cohort; there are no
    inputs, and nothing goes into the folder, for the row is the result.
    """
    study, n = parameters["study"], parameters["n"]
    return measure_person(
        study, seed=parameters["seed"], number=parameters["number"], model=sized(study, n)
    )
