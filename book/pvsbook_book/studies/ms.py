"""Susceptibility of the deep grey matter over two years in multiple sclerosis: a virtual study.

After Hagemeier et al. 2018, doi:10.1016/j.nicl.2017.04.008, of which the abstract was read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.random import Generator

from pvsbook import images, qsm
from pvsbook._errors import InputError
from pvsbook.atlas import deep_grey
from pvsbook.atlas.registration import is_placed, register_to_mni
from pvsbook.phantoms.brain import pose
from pvsbook.phantoms.gradient_echo import CHI_PPB, MYELIN_PPB, make_gre
from pvsbook.qsm import change
from pvsbook.stats import longitudinal
from pvsbook_book.studies import visits
from pvsbook_book.studies.model import ASSUMED, Study, head_size, parameter, visible

__all__ = [
    "BACKGROUNDS",
    "DESIGN",
    "GROUPS",
    "REFERENCES",
    "SCANS",
    "STRUCTURES",
    "STUDY",
    "Model",
    "draw",
    "from_images",
    "observe",
    "primary",
    "truths",
]

_PAPER = "Hagemeier 2018, abstract"
_GROUP = "600 MS v 250 controls of the same centre (see the evidence page)"
_BENCH = "measured: benchmarks/qsm.py change, error of change after a tilt of 8 degrees, 16 nuclei"
STRUCTURES = ("caudate", "putamen", "pallidum", "thalamus")
REFERENCES = ("whole brain", "CSF", "white matter")
BACKGROUNDS = ("vsharp", "lbv")
GROUPS = ("MS", "controls")
DESIGN: dict[str, Any] = {"group": "group", "time": "visit", "person": "person", "order": (1, 2)}

GRE_MM, ECHOES_S = 2.5, (0.006, 0.013, 0.020)
SCANS = {
    "MEGRE": "whole head, 2.5 mm voxels, echoes at 6, 13 and 20 ms, 3 T, signal-to-noise ratio of "
    "white matter 60 in the first; coil, shim, noise and pose are new at the second visit",
    "head": "MNI152 shape, each axis scaled by a standard deviation of 3 %; veins and texture of "
    "its own; the same at both visits but for the susceptibility of the nuclei",
    "measured by": "qsm.reconstruct with change.SETTINGS (smv, TV), visits.align_coarsely, "
    "register_to_mni from the header, visits.measure_whole_voxels",
}
"""What the scans of an image-level cohort are."""


@dataclass(frozen=True)
class Model:
    """What the virtual study declares; `.model.describe` lists it with its sources."""

    n_patients: int = parameter(120, _PAPER)
    n_controls: int = parameter(40, _PAPER)
    years: float = parameter(2.0, _PAPER, "years")
    age_mean_years: float = parameter(45.0, ASSUMED, "years")
    age_sd_years: float = parameter(11.0, ASSUMED, "years")
    female_share: float = parameter(0.7, f"{ASSUMED}; the groups are matched")
    caudate_d_ppb: float = parameter(7.2, f"{_GROUP}: basal ganglia 62 v 54.8", "ppb")
    putamen_d_ppb: float = parameter(0.0, f"{ASSUMED}; no difference is in the abstract", "ppb")
    pallidum_d_ppb: float = parameter(7.2, f"{_GROUP}: basal ganglia 62 v 54.8", "ppb")
    thalamus_d_ppb: float = parameter(-6.4, f"{_GROUP}: thalamus -7.5 v -1.1", "ppb")
    between_sd_ppb: float = parameter(
        12.0, f"{ASSUMED}; p<.001 in {_GROUP} allows at most 25.8", "ppb"
    )
    age_ppb_per_decade: float = parameter(1.5, ASSUMED, "ppb")
    caudate_change_ppb: float = parameter(
        2.0, f"{ASSUMED}: both groups; that it rose in both is from {_PAPER}", "ppb"
    )
    extra_change_ppb: float = parameter(
        0.0, f"{ASSUMED}: of the caudate in MS; an interaction was not seen", "ppb"
    )
    true_change_sd_ppb: float = parameter(1.5, ASSUMED, "ppb")
    within_sd_ppb: float = parameter(
        7 / 1.96 / np.sqrt(2),
        "95 % limits of -7.25 to 6.99 ppb, doi:10.1111/jon.12923: 12 healthy people, CSF as "
        "reference; assumed for the whole brain too",
        "ppb",
    )
    common_sd_ppb: float = parameter(1.5, f"{ASSUMED}: shared by all structures at a visit", "ppb")
    drift_ppb: float = parameter(0.0, f"{ASSUMED}: of the scanner, all structures", "ppb")
    loss_patients: float = parameter(0.020, f"{ASSUMED}: volume lost between the visits")
    loss_controls: float = parameter(0.006, f"{ASSUMED}: volume lost between the visits")
    iron_kept: float = parameter(
        0.0, f"{ASSUMED}: share of the lost tissue's iron that stays; 1 concentrates it"
    )
    csf_sd_ppb: float = parameter(3.0, f"{ASSUMED}: of the CSF reference at a visit", "ppb")
    white_d_ppb: float = parameter(
        2.0, f"{ASSUMED}: white matter in MS less controls, myelin lost", "ppb"
    )
    white_change_ppb: float = parameter(0.5, f"{ASSUMED}: the same over the two years", "ppb")
    lbv_sd_ppb: float = parameter(
        7.7 / 0.8 / np.sqrt(2),
        f"{_BENCH}: mean 7.7 ppb with LBV (largest in the dentate; about 2 in the four nuclei of "
        "this study), 2.4 with V-SHARP",
        "ppb",
    )


DECLARED = Model()


def draw(rng: Generator, model: Model = DECLARED) -> pd.DataFrame:
    """Draw people and what is true of them; columns named ``true_...`` are never measured.

    Returns
    -------
    pandas.DataFrame
        One row a person; ``true_caudate_1_ppb`` is the susceptibility at the first visit,
        relative to the whole brain.

    Examples
    --------
    >>> draw(np.random.default_rng(0))["group"].value_counts().to_dict()
    {'MS': 120, 'controls': 40}
    """
    n = model.n_patients + model.n_controls
    ill = np.arange(n) < model.n_patients
    age = rng.normal(model.age_mean_years, model.age_sd_years, n).clip(18, 75)
    people = pd.DataFrame(
        {
            "person": np.arange(n),
            "group": np.where(ill, *GROUPS),
            "age_years": age,
            "sex": np.where(rng.random(n) < model.female_share, "F", "M"),
            "edss": np.where(ill, (2 * rng.gamma(3, 1, n)).round() / 2, np.nan),
        }
    )
    loss = np.where(ill, model.loss_patients, model.loss_controls)
    people["true_loss"] = np.clip(loss + rng.normal(0, 0.006, n), -0.01, 0.08)
    shared = rng.normal(0, np.sqrt(0.5) * model.between_sd_ppb, n)
    for name in STRUCTURES:
        own = shared + rng.normal(0, np.sqrt(0.5) * model.between_sd_ppb, n)
        at_age = model.age_ppb_per_decade * (age - model.age_mean_years) / 10
        first = CHI_PPB[name] + getattr(model, f"{name}_d_ppb") * ill + own + at_age
        change = rng.normal(0, model.true_change_sd_ppb, n)
        if name == "caudate":
            change += model.caudate_change_ppb + model.extra_change_ppb * ill
        iron = np.maximum(first + MYELIN_PPB.get(name, 0.0), 0)
        change += model.iron_kept * iron * people["true_loss"] / (1 - people["true_loss"])
        people[f"true_{name}_1_ppb"], people[f"true_{name}_2_ppb"] = first, first + change
    return people


def observe(
    rng: Generator,
    people: pd.DataFrame,
    model: Model = DECLARED,
    *,
    reference: str = "whole brain",
    background: str = "vsharp",
) -> pd.DataFrame:
    """Measure people at both visits, at the level of statistics.

    Parameters
    ----------
    rng
        Noise.
    people
        From `draw`.
    model
        What is declared of bias and noise.
    reference
        One of `REFERENCES`: what is subtracted from every structure, with its own error and, for
        white matter, its own disease.
    background
        One of `BACKGROUNDS`: with LBV each visit's error is larger.

    Returns
    -------
    pandas.DataFrame
        One row a person, visit and structure: ``chi_ppb``, ``volume`` (of that at the first
        visit).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> observe(rng, draw(rng)).groupby(["visit", "structure"]).size().unique().tolist()
    [160]
    """
    if reference not in REFERENCES or background not in BACKGROUNDS:
        raise InputError(
            f"reference, background: {reference!r}, {background!r}; one of {REFERENCES}, one of "
            f"{BACKGROUNDS}"
        )
    n, ill = len(people), (people["group"] == "MS").to_numpy()
    within = model.within_sd_ppb if background == "vsharp" else model.lbv_sd_ppb
    kept = visible(people)
    rows = []
    for visit in (1, 2):
        zero = rng.normal(0, model.common_sd_ppb, n) - model.drift_ppb * (visit == 2)
        if reference == "CSF":
            zero = zero + rng.normal(0, model.csf_sd_ppb, n)
        elif reference == "white matter":
            zero = zero + ill * (model.white_d_ppb + model.white_change_ppb * (visit == 2))
        lost = people["true_loss"] * (visit == 2)
        for name in STRUCTURES:
            noise = rng.normal(0, within, n)
            rows.append(
                kept.assign(
                    visit=visit,
                    structure=name,
                    chi_ppb=people[f"true_{name}_{visit}_ppb"] - zero + noise,
                    volume=1 - lost + rng.normal(0, 0.01, n),
                )
            )
    return pd.concat(rows, ignore_index=True)


def truths(model: Model = DECLARED) -> dict[str, float]:
    """Return the declared effects, by the names that `primary` gives their estimates.

    Concentration by atrophy (`iron_kept`) is left out: it is not a change of iron.
    """
    extra = model.extra_change_ppb
    return {
        "thalamus, group": model.thalamus_d_ppb,
        "caudate, group": model.caudate_d_ppb + extra / 2,
        "caudate, time": model.caudate_change_ppb + extra / 2,
        "caudate, difference of changes": extra,
    }


def primary(table: pd.DataFrame) -> pd.DataFrame:
    """Estimate the primary effects by the mixed model, adjusted for age and sex."""
    rows = []
    for name in ("thalamus", "caudate"):
        fitted = longitudinal.mixed_model(
            table[table["structure"] == name], value="chi_ppb", groups=GROUPS,
            covariates=["age_years", "sex"], **DESIGN,
        )  # fmt: skip
        rows.append(fitted.assign(term=[f"{name}, {term}" for term in fitted["term"]]))
    every = pd.concat(rows)
    return every[every["term"].isin(truths())].reset_index(drop=True)


def scan(rng: Generator, person: pd.Series) -> tuple[images.Gre, images.Gre]:
    """Make the two gradient-echo scans of a person: one head, two poses, new noise and shim.

    The second visit is a scan of its own, from a head whose nuclei have the susceptibility of
    that visit; no map is carried over.  The phantom has one shape of brain: atrophy does not show
    in it.

    Parameters
    ----------
    rng
        Size, veins and texture of the head; then pose, coil, shim and noise of each visit.
    person
        A row of `draw`.
    """
    head, size = int(rng.integers(2**31)), head_size(rng)
    visits = []
    for visit in (1, 2):
        visits.append(
            make_gre(
                rng,
                voxel_size_mm=GRE_MM,
                echo_times_s=ECHOES_S,
                margin_mm=6.0,
                anatomy=np.random.default_rng(head),
                mni_to_world=pose(tuple(rng.normal(0, 4, 3)), tuple(rng.normal(0, 3, 3))) @ size,
                chi_ppb={name: float(person[f"true_{name}_{visit}_ppb"]) for name in STRUCTURES},
            ).gre
        )
    return visits[0], visits[1]


def measure(scans: tuple[images.Gre, images.Gre]) -> dict[str, float]:
    """Measure susceptibility at two visits: reconstruct, align, carry labels, take the change.

    Only public functions see the scans; nothing that is true of the person reaches them.  Brain
    masks, the alignment of the visits and the place of the nuclei are found from the images, the
    last from where the header puts the head.  See
    `pvsbook_book.studies.visits` for what `pvsbook run` does otherwise.

    Returns
    -------
    dict
        ``caudate_1_ppb``, ``caudate_2_ppb`` and so on (mean of both sides), the overlap of the
        two aligned visits, and the angle between their fields.
    """
    table = deep_grey.table()
    table = table[table["region"].isin(STRUCTURES)].reset_index(drop=True)
    results = [qsm.reconstruct(gre, **change.SETTINGS) for gre in scans]
    last = [images.make(gre.magnitude[..., -1], gre.affine) for gre in scans]
    (one, one_mask), (two, two_mask) = (
        visits.halve(image, r.mask) for image, r in zip(last, results, strict=True)
    )
    between = visits.align_coarsely(one, two, one_mask, two_mask)
    brain = images.make(np.asarray(results[0].mask, np.uint8), scans[0].affine)
    to_mni = register_to_mni(last[0], contrast="t2", mask=brain, start=np.eye(4))
    is_sound = is_placed(to_mni) and not any(r.unsupported_steps for r in results)
    halfway = between.first_to_halfway @ np.linalg.inv(to_mni.native_to_mni)
    row = {}
    measured = visits.measure_whole_voxels(results, between, _labels(), halfway, table)
    for visit, values in enumerate(measured, start=1):
        for name in STRUCTURES:
            mean = float(values.loc[values["region"] == name, "mean_ppb"].mean())
            row[f"{name}_{visit}_ppb"] = mean if is_sound else np.nan
    return row | {
        "overlap": float(between.overlap),
        "tilt_difference_deg": float(change.tilt_deg(between)),
    }


@cache
def _labels() -> nib.Nifti1Image:
    return deep_grey.labels()


def from_images(rows: pd.DataFrame) -> pd.DataFrame:
    """Turn the rows of an image-level cohort into the table that the analyses take.

    Returns
    -------
    pandas.DataFrame
        One row a person, visit and structure: ``chi_ppb``.  Whoever lacks a value is left out of
        that structure.
    """
    kept = ["person", "group", "age_years", "sex", "edss"]
    parts = [
        rows[kept].assign(visit=visit, structure=name, chi_ppb=rows[f"{name}_{visit}_ppb"])
        for visit in (1, 2)
        for name in STRUCTURES
    ]
    table = pd.concat(parts, ignore_index=True)
    n_values = table.groupby(["person", "structure"])["chi_ppb"].transform("count")
    return table[n_values == 2].reset_index(drop=True)


def true_values(known: pd.DataFrame) -> pd.DataFrame:
    """Return what a perfect measurement would have given, from `cohorts.latent`."""
    names = [f"{name}_{visit}_ppb" for name in STRUCTURES for visit in (1, 2)]
    return known[[f"true_{name}" for name in names]].set_axis(names, axis=1)


def compared(values: pd.DataFrame) -> pd.DataFrame:
    """Return of each structure the first visit (``NAME``) and the change (``NAME, change``)."""
    columns = {}
    for name in STRUCTURES:
        first, second = (values[f"{name}_{visit}_ppb"] for visit in (1, 2))
        columns[name], columns[f"{name}, change"] = first, second - first
    return pd.DataFrame(columns)


STUDY = Study(
    model=Model,
    scans=SCANS,
    draw=draw,
    observe=observe,
    scan=scan,
    measure=measure,
    true_values=true_values,
    from_images=from_images,
    primary=primary,
    truths=truths,
    compared=compared,
)
