"""Susceptibility of the deep grey matter over two years in multiple sclerosis: a virtual study.

After Hagemeier et al. 2018, doi:10.1016/j.nicl.2017.04.008, of which the abstract was read.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.random import Generator

from pvsbook import images
from pvsbook._constants import RELAXIVITY_HZ_PPM
from pvsbook._errors import InputError
from pvsbook.atlas import deep_grey
from pvsbook.phantoms.brain import pose
from pvsbook.phantoms.gradient_echo import CHI_PPB, MYELIN_PPB, make_gre
from pvsbook.qsm import change
from pvsbook.stats import groups, longitudinal
from pvsbook.stats.tables import adjust
from pvsbook_book.studies.model import ASSUMED, head_size, parameter, visible

__all__ = [
    "BACKGROUNDS",
    "REFERENCES",
    "SCANS",
    "STRUCTURES",
    "Model",
    "anova",
    "calibrated",
    "change_tests",
    "draw",
    "drop_out",
    "error_free",
    "from_images",
    "measure",
    "measured_and_true",
    "mixed_models",
    "mixtures",
    "multiverse",
    "observe",
    "primary",
    "scan",
    "tilted_heads",
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
    "measured by": "qsm.reconstruct with change.SETTINGS (smv, TV), align_visits, register_to_mni "
    "from the header, measure_change; one voxel taken off each nucleus",
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


def draw(rng: Generator, model: Model | None = None) -> pd.DataFrame:
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
    m = Model() if model is None else model
    n = m.n_patients + m.n_controls
    ill = np.arange(n) < m.n_patients
    age = rng.normal(m.age_mean_years, m.age_sd_years, n).clip(18, 75)
    people = pd.DataFrame(
        {
            "person": np.arange(n),
            "group": np.where(ill, *GROUPS),
            "age_years": age,
            "sex": np.where(rng.random(n) < m.female_share, "F", "M"),
            "edss": np.where(ill, (2 * rng.gamma(3, 1, n)).round() / 2, np.nan),
        }
    )
    loss = np.where(ill, m.loss_patients, m.loss_controls)
    people["true_loss"] = np.clip(loss + rng.normal(0, 0.006, n), -0.01, 0.08)
    shared = rng.normal(0, np.sqrt(0.5) * m.between_sd_ppb, n)
    for name in STRUCTURES:
        own = shared + rng.normal(0, np.sqrt(0.5) * m.between_sd_ppb, n)
        at_age = m.age_ppb_per_decade * (age - m.age_mean_years) / 10
        first = CHI_PPB[name] + getattr(m, f"{name}_d_ppb") * ill + own + at_age
        change = rng.normal(0, m.true_change_sd_ppb, n)
        if name == "caudate":
            change += m.caudate_change_ppb + m.extra_change_ppb * ill
        iron = np.maximum(first + MYELIN_PPB.get(name, 0.0), 0)
        change += m.iron_kept * iron * people["true_loss"] / (1 - people["true_loss"])
        people[f"true_{name}_1_ppb"], people[f"true_{name}_2_ppb"] = first, first + change
    return people


def observe(
    rng: Generator,
    people: pd.DataFrame,
    model: Model | None = None,
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
    m = Model() if model is None else model
    if reference not in REFERENCES or background not in BACKGROUNDS:
        raise InputError(
            f"reference, background: {reference!r}, {background!r}; one of {REFERENCES}, one of "
            f"{BACKGROUNDS}"
        )
    n, ill = len(people), (people["group"] == "MS").to_numpy()
    within = m.within_sd_ppb if background == "vsharp" else m.lbv_sd_ppb
    kept = visible(people)
    rows = []
    for visit in (1, 2):
        zero = rng.normal(0, m.common_sd_ppb, n) - m.drift_ppb * (visit == 2)
        if reference == "CSF":
            zero = zero + rng.normal(0, m.csf_sd_ppb, n)
        elif reference == "white matter":
            zero = zero + ill * (m.white_d_ppb + m.white_change_ppb * (visit == 2))
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


def of(table: pd.DataFrame, structure: str) -> pd.DataFrame:
    """Return the rows of one structure."""
    return table[table["structure"] == structure]


def truths(model: Model | None = None) -> dict[str, float]:
    """Return the declared effects, by the names that `primary` gives their estimates.

    Concentration by atrophy (`iron_kept`) is left out: it is not a change of iron.
    """
    m = Model() if model is None else model
    extra = m.extra_change_ppb
    return {
        "thalamus, group": m.thalamus_d_ppb,
        "caudate, group": m.caudate_d_ppb + extra / 2,
        "caudate, time": m.caudate_change_ppb + extra / 2,
        "caudate, difference of changes": extra,
    }


def calibrated(found: pd.DataFrame, ruler: pd.DataFrame) -> pd.DataFrame:
    """Divide effects by the slope with which their measure follows the truth.

    Partial volume and regularisation shorten every difference of susceptibility.  By how much is
    known where the truth is: on the images of other people, made in the same way.

    Parameters
    ----------
    found
        Primary effects, such as `pvsbook_book.studies.cohorts.recover` gives.
    ruler
        From `pvsbook_book.studies.cohorts.errors`, on a cohort that is not in `found`.

    Returns
    -------
    pandas.DataFrame
        `found` with estimate, limits and, where ``truth`` is known, ``covers`` anew.  The limits
        hold the uncertainty of the slope too, by the delta method.
    """
    of = ruler.set_index("measure")
    name = found["term"].map(lambda term: term.split(",")[0])
    change = found["term"].str.contains("time|changes")
    measure = name.where(~change, name + ", change")
    slope = measure.map(of["slope"])
    unsure = measure.map(of["slope_high"] - of["slope_low"]) / (2 * slope)
    estimate = found["estimate"] / slope
    half = np.hypot((found["high"] - found["low"]) / (2 * slope), estimate * unsure)
    out = found.assign(estimate=estimate, low=estimate - half, high=estimate + half)
    if "truth" in out:
        out["covers"] = (out["low"] <= out["truth"]) & (out["truth"] <= out["high"])
    return out


def primary(table: pd.DataFrame) -> pd.DataFrame:
    """Estimate the primary effects by the mixed model, given age and sex."""
    rows = mixed_models(table, structures=("thalamus", "caudate"))
    return rows[rows["term"].isin(truths())].reset_index(drop=True)


def mixed_models(table: pd.DataFrame, *, structures: Sequence[str] = STRUCTURES) -> pd.DataFrame:
    """Fit the mixed model of each structure, given age and sex; everyone counts."""
    rows = []
    for name in structures:
        found = longitudinal.mixed_model(
            of(table, name), value="chi_ppb", groups=GROUPS, covariates=["age_years", "sex"],
            **DESIGN,
        )  # fmt: skip
        rows.append(found.assign(term=[f"{name}, {t}" for t in found["term"]]))
    return pd.concat(rows, ignore_index=True)


def anova(table: pd.DataFrame) -> pd.DataFrame:
    """Run the factorial ANOVA of each structure, type II and type III; Holm over all of a type."""
    rows = []
    for name in STRUCTURES:
        found = longitudinal.mixed_anova(of(table, name), value="chi_ppb", **DESIGN)
        rows.append(found.assign(term=[f"{name}, {t}" for t in found["term"]]))
    every = pd.concat(rows, ignore_index=True)
    parts = [every[every["test"] == kind] for kind in ("F, type II", "F, type III")]
    return pd.concat([adjust(part) for part in parts], ignore_index=True)


def change_tests(table: pd.DataFrame, *, method: str = "holm") -> pd.DataFrame:
    """Test the changes of each structure by t; the family is structures x contrasts."""
    rows = []
    for name in STRUCTURES:
        found = longitudinal.change_test(
            of(table, name), value="chi_ppb", groups=GROUPS, **DESIGN
        ).iloc[[0, 1, 3]]
        rows.append(found.assign(term=[f"{name}, {t}" for t in found["term"]]))
    return adjust(rows, method=method)


def drop_out(
    rng: Generator, table: pd.DataFrame, *, share: float, depends_on: str
) -> pd.DataFrame:
    """Let patients miss the second visit.

    Parameters
    ----------
    rng
        Who is missing.
    table
        From `observe`.
    share
        Share of the patients who drop out.
    depends_on
        ``"nothing"``; ``"first"``: a high first value of the caudate, which was seen (missing at
        random); ``"change"``: a large rise of it, which nobody saw (not at random).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> table = drop_out(rng, observe(rng, draw(rng)), share=0.25, depends_on="first")
    >>> len(table) // 4
    290
    """
    if depends_on not in ("nothing", "first", "change") or not 0 <= share < 1:
        raise InputError(
            f"depends_on, share: {depends_on!r}, {share}; 'nothing', 'first' or 'change', and a "
            "share from 0 to 1"
        )
    caudate = of(table, "caudate").pivot(index="person", columns="visit", values="chi_ppb")
    ill = table.loc[table["group"] == "MS", "person"].unique()
    first, second = (caudate.loc[ill, k].to_numpy() for k in (1, 2))
    drive = {"nothing": 0 * first, "first": first, "change": second - first}[depends_on]
    spread = drive.std() if drive.std() > 0 else 1.0
    order = np.argsort(2 * drive / spread + rng.normal(0, 1, len(ill)))
    gone = ill[order[len(ill) - round(share * len(ill)) :]]
    return table[~((table["visit"] == 2) & table["person"].isin(gone))].reset_index(drop=True)


def multiverse(
    people: pd.DataFrame, *, seed: int, structure: str, question: str, model: Model | None = None
) -> pd.DataFrame:
    """Analyse the same people in every defensible way.

    Parameters
    ----------
    people
        From `draw`.
    seed
        Of the noise, the same in each analysis that shares a measurement.
    structure
        One of `STRUCTURES`.
    question
        ``"group"``: difference at the first visit; ``"change"``: difference of changes.
    model
        What is declared.

    Returns
    -------
    pandas.DataFrame
        One row an analysis: ``reference``, ``background``, ``covariates``, ``outliers``,
        estimate, limits, p.

    Examples
    --------
    >>> people = draw(np.random.default_rng(0))
    >>> len(multiverse(people, seed=1, structure="thalamus", question="group"))
    24
    """
    if question not in ("group", "change"):
        raise InputError(f"question: {question!r}; 'group' or 'change'")
    rows = []
    for reference, background in itertools.product(REFERENCES, BACKGROUNDS):
        table = observe(
            np.random.default_rng(seed), people, model, reference=reference, background=background
        )
        wide = longitudinal.change_scores(
            of(table, structure), value="chi_ppb", covariates=["age_years", "sex"], **DESIGN
        ).table
        value = "first" if question == "group" else "change"
        z = (wide[value] - wide[value].median()) / (1.4826 * _mad(wide[value]))
        for given, cut in itertools.product(("none", "age and sex"), ("kept", "beyond 3 MAD out")):
            found = groups.ancova(
                wide if cut == "kept" else wide[z.abs() < 3],
                value=value, group="group", reference="controls",
                covariates=[] if given == "none" else ["age_years", "sex"],
            ).iloc[0]  # fmt: skip
            choice = {"reference": reference, "background": background}
            choice |= {"covariates": given, "outliers": cut}
            rows.append(choice | found[["estimate", "low", "high", "p", "n"]].to_dict())
    return pd.DataFrame(rows)


def _mad(values: pd.Series) -> float:
    return float((values - values.median()).abs().median())


def mixtures(change_ppb: float = -6.4) -> pd.DataFrame:
    """List mixtures of iron and myelin that change susceptibility by the same amount.

    Susceptibility is iron less myelin, while both raise R2': one number cannot hold two unknowns,
    and R2' is the second equation.

    Parameters
    ----------
    change_ppb
        Of the bulk susceptibility.

    Returns
    -------
    pandas.DataFrame
        ``iron_ppb``, ``myelin_ppb`` (changes), ``chi_ppb``, ``r2_prime_hz`` (at 3 T).

    References
    ----------
    Shin et al. 2021 (chi-separation), doi:10.1016/j.neuroimage.2021.118371.

    Examples
    --------
    >>> mixtures(-6.4)["chi_ppb"].round(1).unique().tolist()
    [-6.4]
    """
    size = abs(change_ppb)
    mixes = {
        "iron lost": (change_ppb, 0.0),
        "myelin gained": (0.0, -change_ppb),
        "iron lost, half as much myelin lost": (2 * change_ppb, change_ppb),
        "iron gained, more myelin gained": (size, size - change_ppb),
        "half from each": (change_ppb / 2, -change_ppb / 2),
    }
    rows = []
    for name, (iron, myelin) in mixes.items():
        r2 = RELAXIVITY_HZ_PPM * 1e-3 * (iron + myelin)
        rows.append(
            {"mixture": name, "iron_ppb": iron, "myelin_ppb": myelin, "chi_ppb": iron - myelin,
             "r2_prime_hz": r2}
        )  # fmt: skip
    return pd.DataFrame(rows)


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
    last from where the header puts the head.

    Returns
    -------
    dict
        ``caudate_1_ppb``, ``caudate_2_ppb`` and so on (mean of both sides), the overlap of the
        two aligned visits, and the angle between their fields.
    """
    table = deep_grey.table()
    table = table[table["region"].isin(STRUCTURES)].reset_index(drop=True)
    found = change.measure_visits(
        *scans, _labels(), table, np.random.default_rng(0), start=np.eye(4), n_repeats=0
    )
    row = {}
    for name in STRUCTURES:
        sides = found.table[found.table["region"] == name]
        row[f"{name}_1_ppb"] = float(sides["first_ppb"].mean())
        row[f"{name}_2_ppb"] = float(sides["second_ppb"].mean())
    return row | {
        "overlap": float(found.alignment.overlap),
        "tilt_difference_deg": float(found.tilt_difference_deg),
    }


@cache
def _labels() -> nib.Nifti1Image:
    return deep_grey.labels()


def tilted_heads() -> pd.DataFrame:
    """Load the change measured in ten simulated heads that lay differently at two visits.

    The notebook *Change over time* makes the rows of one head; with another ``SEED`` it makes
    those of another.

    Returns
    -------
    pandas.DataFrame
        One row a head, setting, region and side: ``change_ppb`` and ``true_ppb``.

    Examples
    --------
    >>> tilted_heads().groupby("setting")["head"].nunique().to_dict()
    {'LBV': 10, 'tilt ignored': 10, 'tilt used': 10}
    """
    with files("pvsbook_book.studies").joinpath("tables", "tilted_heads.tsv").open("rb") as text:
        return pd.read_csv(text, sep="\t")


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
    seen = table.groupby(["person", "structure"])["chi_ppb"].transform("count")
    return table[seen == 2].reset_index(drop=True)


def measured_and_true(known: pd.DataFrame) -> dict[str, tuple[pd.Series, pd.Series]]:
    """Pair each measure of a cohort with what is true of it, from `cohorts.latent`.

    ``NAME`` is the first visit, ``NAME, change`` the second less the first.
    """
    pairs = {}
    for name in STRUCTURES:
        first, second = (known[f"{name}_{k}_ppb"] for k in (1, 2))
        one, two = (known[f"true_{name}_{k}_ppb"] for k in (1, 2))
        pairs[name] = (first, one)
        pairs[f"{name}, change"] = (second - first, two - one)
    return pairs


def error_free(known: pd.DataFrame) -> pd.DataFrame:
    """Put what is true of each person in place of what was measured; see `cohorts.recover`."""
    names = [f"{name}_{k}_ppb" for name in STRUCTURES for k in (1, 2)]
    return known.assign(**{name: known[f"true_{name}"] for name in names})
