"""Perivascular spaces and ALPS in neuromyelitis optica: a virtual study.

After Cacciaguerra et al. 2022, doi:10.1002/ana.26419, of which the abstract and a figure legend
were read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.random import Generator
from scipy import optimize, stats

from pvsbook import alps, images, pvs
from pvsbook.atlas import register_to_mni
from pvsbook.phantoms.brain import grey_ml, make_brain, pose, resize_grey
from pvsbook.phantoms.diffusion import (
    WhiteMatter,
    gradient_scheme,
    make_diffusion,
    true_index,
)
from pvsbook.phantoms.perivascular import LESIONS, draw_scan, make_phantom
from pvsbook.pvs.anatomy import foreground_mask
from pvsbook.pvs.rating import grade
from pvsbook.stats import groups
from pvsbook_book.studies import tissue
from pvsbook_book.studies.model import ASSUMED, Study, head_size, log_ratio, parameter, visible

__all__ = [
    "COVARIATES",
    "SCANS",
    "STUDY",
    "Model",
    "draw",
    "from_images",
    "observe",
    "primary",
    "truths",
]

_PAPER = "Cacciaguerra 2022, abstract"
_TILT = "measured: benchmarks/alps_accuracy.py, 0.154 lower at a pitch of 12 degrees"
_FLUID = "measured: benchmarks/alps_accuracy.py, 0.150 lower with 10 % free water"
_SEGMENTED = "measured on simulated images, seed 601: scatter of a T1w segmentation"
_CONTROLS = "1.45 +- 0.17 in controls of doi:10.3389/fimmu.2025.1698986"
_AGE = (
    "Spearman, 433 unimpaired people of 13 to 88 years, doi:10.1016/j.neuroscience.2023.04.004; "
    "taken as a straight line"
)
COVARIATES = ("age_years", "sex", "scanner")

T2_MM, T2_SLAB_MM = 1.25, (0.0, 78.0)
T1_MM, T1_SNR = 2.0, 30.0
DWI_MM, DWI_SLAB_MM, DWI_SNR = 2.0, (15.0, 40.0), {"A": 25.0, "B": 20.0}
SCANS = {
    "T2w": "slab from the level of the ventricles up (MNI z 0 to 78 mm), 1.25 mm voxels, "
    "signal-to-noise ratio of white matter 20",
    "T1w": "whole brain, 2 mm voxels, signal-to-noise ratio of white matter 30; in this scan "
    "alone grey matter has the person's own volumes",
    "dwi": "slab of 25 mm about the ALPS regions (MNI z 15 to 40 mm), 2 mm voxels, 2 volumes at "
    "b = 0 and 20 directions at b = 1000 s/mm2, signal-to-noise ratio 25 (scanner A), 20 (B)",
    "head": "MNI152 shape, each axis scaled by a standard deviation of 3 %, pose of its own, the "
    "same in all scans",
    "measured by": "register_to_mni of the T2w scan from its header, pvs.measure, alps.measure; "
    "register_to_mni of the T1w scan, tissue.grey_volumes",
}
"""What the scans of an image-level cohort are."""


@dataclass(frozen=True)
class Model:
    """What the virtual study declares; `.model.describe` lists it with its sources."""

    n_patients: int = parameter(34, _PAPER)
    n_controls: int = parameter(46, _PAPER)
    exploratory_share: float = parameter(
        0.5, f"{ASSUMED}; two cohorts are published, their sizes were not seen"
    )
    age_mean_years: float = parameter(45.0, ASSUMED, "years")
    age_sd_years: float = parameter(13.0, ASSUMED, "years")
    female_share: float = parameter(0.8, f"{ASSUMED}; the groups are matched")
    severe_patients: float = parameter(10 / 34, f"{_PAPER}: 29.4 %")
    severe_controls: float = parameter(4 / 46, f"{_PAPER}: 8.7 %")
    severe_above: int = parameter(20, f"{ASSUMED}; above 10 is in use too", "PVS")
    pvs_size: float = parameter(4.0, f"{ASSUMED}: size of the negative binomial")
    pvs_seen: float = parameter(
        0.80, "measured on simulated images, seed 601: share that an automated count finds"
    )
    alps_controls: float = parameter(1.37, f"{ASSUMED}; {_CONTROLS}")
    alps_sd: float = parameter(0.21, f"{ASSUMED}; {_CONTROLS}")
    alps_age_r: float = parameter(-0.45, _AGE)
    alps_d: float = parameter(
        0.8, f"{ASSUMED}: gives p between the printed .004 and .038 in cohorts of 17 vs 23"
    )
    alps_icc: float = parameter(
        0.90, f"{ASSUMED}; test-retest .83 (7 people) and .89 to .95 (50 people) are published"
    )
    scanner_shift: float = parameter(0.05, f"{ASSUMED}: second scanner less the first")
    pitch_sd_deg: float = parameter(6.0, ASSUMED, "degrees")
    classic_loss: float = parameter(0.154 / 12**2, _TILT, "per squared degree")
    fluid_per_space: float = parameter(
        0.0005, f"{ASSUMED}: free water that one PVS adds to the region"
    )
    fluid_loss: float = parameter(1.50, _FLUID, "per fraction")
    manual_sd: float = parameter(0.06, f"{ASSUMED}: of regions drawn by hand")
    automated_sd: float = parameter(0.03, f"{ASSUMED}: of regions transformed from MNI")
    mode_r: float = parameter(-0.85, "ALPS and mode of anisotropy, doi:10.1101/2025.11.12.688102")
    fa_r: float = parameter(0.3, ASSUMED)
    deep_grey_d: float = parameter(-1.5, f"{ASSUMED}: towards the printed R2 of .62", "SD")
    cortex_d: float = parameter(-0.8, f"{ASSUMED}: towards the printed R2 of .62", "SD")
    deep_grey_cv: float = parameter(0.08, f"{ASSUMED}: SD between people, share of the volume")
    cortex_cv: float = parameter(0.05, f"{ASSUMED}: SD between people, share of the volume")
    deep_grey_error: float = parameter(0.29, _SEGMENTED, "SD")
    cortex_error: float = parameter(0.095, _SEGMENTED, "SD")
    pvs_deep_grey_r: float = parameter(-0.40, f"{_PAPER}: -.44 to -.36")
    pvs_cognition_r: float = parameter(-0.40, f"{_PAPER}: -.44 to -.36")
    myelitis_mean: float = parameter(2.0, ASSUMED, "episodes")
    lesion_log_sd: float = parameter(1.0, f"{ASSUMED}: T2 lesions, median 1 ml", "log ml")
    disability_r2: float = parameter(0.55, f"{_PAPER}: ALPS, myelitis and T2 lesions")


DECLARED = Model()


def _pvs_mean(share: float, model: Model) -> float:
    """Mean of the negative binomial that puts this share of people above the cut-off."""
    size = model.pvs_size

    def above(mean: float) -> float:
        return float(stats.nbinom.sf(model.severe_above, size, size / (size + mean))) - share

    return float(optimize.brentq(above, 0.01, 1000.0))


def draw(rng: Generator, model: Model = DECLARED) -> pd.DataFrame:
    """Draw people and what is true of them; columns named ``true_...`` are never measured.

    Volumes are true in SD of controls (``..._z``) and as a factor of the usual (``..._volume``).

    Examples
    --------
    >>> draw(np.random.default_rng(0))["group"].value_counts().to_dict()
    {'controls': 46, 'NMOSD': 34}
    """
    n = model.n_patients + model.n_controls
    patient = np.arange(n) < model.n_patients
    age = rng.normal(model.age_mean_years, model.age_sd_years, n).clip(18, 80)
    z_age = (age - model.age_mean_years) / model.age_sd_years
    z_pvs, own = rng.normal(size=n), rng.normal(size=(5, n))
    mean = np.where(
        patient, _pvs_mean(model.severe_patients, model), _pvs_mean(model.severe_controls, model)
    )
    size = model.pvs_size
    count = stats.nbinom.ppf(stats.norm.cdf(z_pvs), size, size / (size + mean)).astype(int)
    z_alps = model.alps_age_r * z_age + np.sqrt(1 - model.alps_age_r**2) * own[0]
    second = rng.random(n) >= model.exploratory_share
    grey = model.pvs_deep_grey_r * z_pvs + np.sqrt(1 - model.pvs_deep_grey_r**2) * own[1]
    cognition = model.pvs_cognition_r * z_pvs + np.sqrt(1 - model.pvs_cognition_r**2) * own[2]
    people = pd.DataFrame(
        {
            "person": np.arange(n),
            "group": np.where(patient, "NMOSD", "controls"),
            "cohort": np.where(second, "validation", "exploratory"),
            "scanner": np.where(second, "B", "A"),
            "age_years": age,
            "sex": np.where(rng.random(n) < model.female_share, "F", "M"),
            "true_deep_grey_z": grey + model.deep_grey_d * patient,
            "true_cortex_z": own[3] + model.cortex_d * patient,
            "cognition_z": cognition,
            "myelitis": np.where(patient, rng.poisson(model.myelitis_mean, n), 0),
            "lesions_ml": np.where(patient, np.exp(rng.normal(0, model.lesion_log_sd, n)), 0.0),
            "pitch_deg": rng.normal(0, model.pitch_sd_deg, n),
            "true_pvs": count,
            "true_alps": model.alps_controls + model.alps_sd * (z_alps - model.alps_d * patient),
            "true_free_water": np.minimum(model.fluid_per_space * count, 0.1),
            "mode": model.mode_r * z_alps + np.sqrt(1 - model.mode_r**2) * own[4],
        }
    )
    for name, cv in (("deep_grey", model.deep_grey_cv), ("cortex", model.cortex_cv)):
        people[f"true_{name}_volume"] = (1 + cv * people[f"true_{name}_z"]).clip(0.6, 1.4)
    people["mode"] -= model.mode_r * model.alps_d * patient
    people["fa"] = model.fa_r * z_alps + np.sqrt(1 - model.fa_r**2) * rng.normal(size=n)
    people["edss"] = _edss(rng, people, z_alps, model)
    return people


def _edss(rng: Generator, people: pd.DataFrame, z_alps: np.ndarray, model: Model) -> np.ndarray:
    """Disability of patients in steps of a half; missing in controls."""
    lesions = np.log(people["lesions_ml"].clip(lower=1e-9)) / model.lesion_log_sd
    myelitis = (people["myelitis"] - model.myelitis_mean) / np.sqrt(model.myelitis_mean)
    explained = (lesions + myelitis - z_alps) / np.sqrt(3)
    score = np.sqrt(model.disability_r2) * explained
    score = score + np.sqrt(1 - model.disability_r2) * rng.normal(size=len(people))
    edss = (np.round(2 * (4.0 + 2.0 * score)) / 2).clip(0, 9.5)
    return edss.where(people["group"] == "NMOSD").to_numpy()


def observe(rng: Generator, people: pd.DataFrame, model: Model = DECLARED) -> pd.DataFrame:
    """Measure people as scans would, at the level of statistics: bias and noise are declared.

    Returns
    -------
    pandas.DataFrame
        `people` without what is true, with ``pvs`` (a reader's count), ``grade``, ``severe``,
        ``pvs_automated`` (what a segmentation finds of it), and ALPS:
        ``alps_classic``, ``alps_reoriented``, ``alps_tract``, ``alps_manual``,
        ``alps_automated``; and the volumes ``deep_grey_z`` and ``cortex_z``, in SD of controls.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> table = observe(rng, draw(rng))
    >>> any(name.startswith("true_") for name in table)
    False
    """
    n = len(people)
    within = model.alps_sd * np.sqrt(1 / model.alps_icc - 1)
    scanner = model.scanner_shift * (people["scanner"] == "B")
    expected = people["true_alps"] + scanner - model.fluid_loss * people["true_free_water"]
    tract = expected + rng.normal(0, within, n)
    table = visible(people)
    table["pvs"] = people["true_pvs"]
    table["grade"] = grade(table["pvs"])
    table["severe"] = table["pvs"] > model.severe_above
    table["free_water"] = people["true_free_water"] + rng.normal(0, 0.005, n)
    table["alps_tract"] = tract
    table["alps_reoriented"] = tract + rng.normal(0, 0.2 * within, n)
    table["alps_classic"] = (
        table["alps_reoriented"] - model.classic_loss * people["pitch_deg"] ** 2
    )
    table["alps_manual"] = table["alps_classic"] + rng.normal(0, model.manual_sd, n)
    table["alps_automated"] = table["alps_classic"] + rng.normal(0, model.automated_sd, n)
    table["pvs_automated"] = rng.binomial(people["true_pvs"], model.pvs_seen)
    for name, error in (("deep_grey_z", model.deep_grey_error), ("cortex_z", model.cortex_error)):
        table[name] = people[f"true_{name}"] + rng.normal(0, error, n)
    return table


def truths(model: Model = DECLARED) -> dict[str, float]:
    """Return the declared effects, by the names that `primary` gives their estimates."""
    odds = [p / (1 - p) for p in (model.severe_patients, model.severe_controls)]
    return {
        "ALPS difference": -model.alps_d * model.alps_sd,
        "log odds ratio": np.log(odds[0] / odds[1]),
    }


def primary(table: pd.DataFrame) -> pd.DataFrame:
    """Estimate the primary effects: adjusted difference of ALPS, log odds ratio of severe PVS."""
    covariates = [c for c in COVARIATES if table[c].nunique() > 1]
    difference = groups.ancova(
        table, value="alps_tract", group="group", reference="controls", covariates=covariates
    )
    names = ("NMOSD", "controls")
    severe = [table.loc[table["group"] == name, "severe"] for name in names]
    events = [int(part.sum()) for part in severe]
    odds = groups.compare_counts(events, [len(part) for part in severe], names=names)
    rows = [difference.iloc[[0]].assign(term="ALPS difference"),
            log_ratio(odds.iloc[[0]], "log odds ratio")]  # fmt: skip
    return pd.concat(rows, ignore_index=True)


@cache
def _scheme() -> tuple[np.ndarray, np.ndarray]:
    return gradient_scheme(20, rng=np.random.default_rng(0), n_b0=2)


def _tissue(index: float, free_water: float) -> WhiteMatter:
    """White matter whose index, without free water, is this one.

    Below 1 the fluid moves in the planes across the vessels: no anatomy is meant by it.
    """
    base, most = WhiteMatter(), 0.35
    if index < 1:
        base = replace(base, perivascular_along=base.perivascular_across,
                       perivascular_across=base.perivascular_along)  # fmt: skip

    def excess(fraction: float) -> float:
        return true_index(replace(base, perivascular=fraction)) - index

    inside = excess(0.0) * excess(most) < 0
    fraction = optimize.brentq(excess, 0.0, most) if inside else most * (index != 1)
    return replace(base, perivascular=float(fraction), free=free_water)


def scan(rng: Generator, person: pd.Series) -> tuple[images.Dwi, nib.Nifti1Image, nib.Nifti1Image]:
    """Make the diffusion, the T2w and the T1w scan of a person, as `SCANS` says: one head.

    The hemispheres have as many PVS as the reader of the paper would have counted on a slice,
    up to 45 each; atrophy shows in the T1w scan, T2 lesions in none.  The scanners differ in
    noise only; what that does to the index is not imposed.

    Parameters
    ----------
    rng
        Size of the head, places of PVS, pose, noise; the T1w scan has a stream of its own.
    person
        A row of `draw`.
    """
    turn = (float(person["pitch_deg"]), *rng.normal(0, 3, 2))
    head = pose(turn, tuple(rng.normal(0, 3, 3))) @ head_size(rng)
    bvals, bvecs = _scheme()
    diffusion = make_diffusion(
        make_brain(DWI_MM, mni_to_world=head, z_range_mni_mm=DWI_SLAB_MM),
        rng=rng,
        tissue=_tissue(float(person["true_alps"]), float(person["true_free_water"])),
        bvals_s_mm2=bvals,
        bvecs_ras=bvecs,
        snr=DWI_SNR[person["scanner"]],
    )
    count = min(int(person["true_pvs"]), 45)
    anatomy = make_phantom(
        rng,
        voxel_size_mm=T2_MM,
        strength="weak",
        counts={"cso_left": count, "cso_right": int(rng.binomial(count, 0.9))},
        diameters_mm=(1.0, 3.0),
        lengths_mm=(4.0, 10.0),
        mni_to_world=head,
        z_range_mni_mm=T2_SLAB_MM,
    )
    return diffusion.dwi, anatomy.scans["T2w"], _whole_brain(rng.spawn(1)[0], head, person)


def _whole_brain(rng: Generator, head: np.ndarray, person: pd.Series) -> nib.Nifti1Image:
    """Make the T1w scan, in which grey matter has the person's volumes."""
    brain = resize_grey(
        make_brain(T1_MM, mni_to_world=head),
        deep_grey=float(person["true_deep_grey_volume"]),
        cortex=float(person["true_cortex_volume"]),
    )
    none = np.zeros(brain.shape, np.float32)
    return draw_scan(rng, brain, none, dict.fromkeys(LESIONS, none), contrast="T1w", snr=T1_SNR)


def measure(scans: tuple[images.Dwi, nib.Nifti1Image, nib.Nifti1Image]) -> dict[str, float]:
    """Measure ALPS in its three frames, the PVS of the fuller hemisphere, and grey matter.

    Only public functions see the scans; nothing that is true of the person reaches them.  The
    T2-weighted scan is registered, from the place that its header gives, and the diffusion scan
    of the same visit takes its regions from there.
    """
    dwi, anatomy, whole = scans
    mask = foreground_mask(anatomy)
    place = register_to_mni(anatomy, contrast="t2", mask=mask, start=np.eye(4))
    alps_row = alps.measure(dwi, registration=place, n_bootstrap=50).to_row()
    pvs_row = pvs.measure(anatomy, brain_mask=mask, registration=place).to_row()
    names = ("classic", "reoriented", "tract")
    row = {f"alps_{name}": float(alps_row[f"alps_{name}_mean"]) for name in names}
    row["pvs"] = float(max(pvs_row["n_cso_left"], pvs_row["n_cso_right"]))
    return row | _measure_volumes(whole)


def _measure_volumes(whole: nib.Nifti1Image) -> dict[str, float]:
    """Volumes at the size of MNI's head."""
    mask = foreground_mask(whole)
    place = register_to_mni(whole, contrast="t1", mask=mask, start=np.eye(4))
    grey = tissue.grey_volumes(whole, mask=mask, registration=place)
    return {
        "deep_grey_ml": grey.head_scale * grey.deep_grey_ml,
        "cortex_ml": grey.head_scale * grey.cortex_ml,
    }


def from_images(rows: pd.DataFrame, model: Model = DECLARED) -> pd.DataFrame:
    """Turn the rows of an image-level cohort into the table that the analyses take.

    People without a measurement are left out.
    """
    table = rows.dropna(subset=["alps_tract", "pvs"]).reset_index(drop=True)
    table["grade"] = grade(table["pvs"])
    table["severe"] = table["pvs"] > model.severe_above
    controls = table[table["group"] == "controls"]
    for name in ("deep_grey", "cortex"):
        volume, usual = table[f"{name}_ml"], controls[f"{name}_ml"]
        table[f"{name}_z"] = (volume - usual.mean()) / usual.std()
    return table


def true_values(known: pd.DataFrame) -> pd.DataFrame:
    """Return what a perfect measurement would have given, from `cohorts.latent`.

    The true index is that of the tissue with its free water; true volumes are those of a head of
    MNI's size.
    """
    index = [
        true_index(_tissue(index, water))
        for index, water in zip(known["true_alps"], known["true_free_water"], strict=True)
    ]
    values: dict[str, Any] = {str(name): index for name in known if str(name).startswith("alps_")}
    values["pvs"] = known["true_pvs"]
    usual = dict(zip(("deep_grey", "cortex"), grey_ml(make_brain()), strict=True))
    for name, ml in usual.items():
        values[f"{name}_ml"] = ml * known[f"true_{name}_volume"]
    return pd.DataFrame(values, index=known.index)


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
)
