"""Perivascular spaces in migraine at 7 T: a virtual study.

After a conference abstract (RSNA 2022), of which only the press coverage was seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.random import Generator
from scipy import stats

from pvsbook import pvs
from pvsbook.atlas import register_to_mni
from pvsbook.phantoms.brain import pose
from pvsbook.phantoms.perivascular import make_phantom
from pvsbook.pvs.anatomy import foreground_mask
from pvsbook.stats import groups
from pvsbook_book.studies.model import ASSUMED, Study, head_size, log_ratio, parameter, visible

__all__ = [
    "COUNTED",
    "REGIONS",
    "SCANS",
    "STUDY",
    "VOXEL_MM",
    "Model",
    "draw",
    "from_images",
    "observe",
    "primary",
    "truths",
]

_PRESS = "press coverage of the RSNA 2022 abstract"
_BENCH = "measured: benchmarks/pvs_accuracy.py, weak contrast, 0.75 to 3 mm wide"
REGIONS = ("cso", "bg", "midbrain")
COUNTED = ("cso", "bg")  # on the slab of an image-level cohort

VOXEL_MM = {"1mm": 1.0, "1_5mm": 1.5}
SLAB_MM = (-15.0, 78.0)
SCANS = {
    "1mm": "T2w, slab from the basal ganglia up (MNI z -15 to 78 mm), 1 mm voxels, signal-to-"
    "noise ratio of white matter 20; as the model has it for 3 T, while 7 T (0.5 mm) would "
    "cost ten times as much",
    "1_5mm": "T2w, the same slab, 1.5 mm voxels, signal-to-noise ratio 20",
    "head": "MNI152 shape, each axis scaled by a standard deviation of 3 %; one head, two poses",
    "measured by": "register_to_mni from the header, pvs.measure, without a mask of lesions",
}
"""What the scans of an image-level cohort are."""


@dataclass(frozen=True)
class Model:
    """What the virtual study declares; `.model.describe` lists it with its sources."""

    n_chronic: int = parameter(10, _PRESS)
    n_episodic: int = parameter(10, f"{_PRESS}: without aura")
    n_controls: int = parameter(5, _PRESS)
    age_low_years: float = parameter(25.0, _PRESS, "years")
    age_high_years: float = parameter(60.0, _PRESS, "years")
    cso_controls: float = parameter(15.0, f"{ASSUMED}; counts were not seen", "PVS")
    cso_ratio: float = parameter(1.8, f"{ASSUMED}: migraine over controls; only 'higher' was seen")
    bg_controls: float = parameter(8.0, ASSUMED, "PVS")
    bg_ratio: float = parameter(1.0, f"{ASSUMED}; not seen for migraine at 7 T")
    midbrain_controls: float = parameter(2.0, ASSUMED, "PVS")
    midbrain_ratio: float = parameter(1.0, f"{ASSUMED}; not seen for migraine at 7 T")
    size: float = parameter(6.0, f"{ASSUMED}: size of the negative binomial")
    ratio_per_decade: float = parameter(1.15, f"{ASSUMED}: more PVS with age")
    wmh_mean: float = parameter(3.0, f"{ASSUMED}: deep lesions; no group difference ({_PRESS})")
    wmh_r: float = parameter(0.5, f"{ASSUMED}; that they go together is from {_PRESS}")
    bleed_mean: float = parameter(0.1, f"{ASSUMED}; one case was shown")
    thin_share: float = parameter(0.4, f"{ASSUMED}: PVS thinner than 0.75 mm")
    seen_wide_7t: float = parameter(1.0, f"{_BENCH}, 0.5 mm voxels (one head)")
    seen_wide_3t: float = parameter(0.917, f"{_BENCH}, 1 mm voxels (three heads)")
    seen_thin_7t: float = parameter(0.5, f"{ASSUMED}; thinner than the benchmark's")
    seen_thin_3t: float = parameter(0.1, f"{ASSUMED}; thinner than the benchmark's")
    false_7t: float = parameter(6.0, f"{_BENCH}, 0.5 mm voxels (one head)", "a scan")
    false_3t: float = parameter(0.0, f"{_BENCH}, 1 mm voxels (three heads)", "a scan")
    wmh_called_pvs: float = parameter(0.15, f"{ASSUMED}: share of deep lesions, without a mask")


DECLARED = Model()


def draw(rng: Generator, model: Model = DECLARED) -> pd.DataFrame:
    """Draw people and what is true of them; columns named ``true_...`` are never measured.

    Examples
    --------
    >>> draw(np.random.default_rng(0))["group"].value_counts().to_dict()
    {'chronic': 10, 'episodic': 10, 'controls': 5}
    """
    sizes = [model.n_chronic, model.n_episodic, model.n_controls]
    group, n = np.repeat(["chronic", "episodic", "controls"], sizes), sum(sizes)
    age = rng.uniform(model.age_low_years, model.age_high_years, n)
    age_ratio = model.ratio_per_decade ** (
        (age - (model.age_low_years + model.age_high_years) / 2) / 10
    )
    ill = group != "controls"
    z = rng.normal(size=n)
    people = pd.DataFrame({"person": np.arange(n), "group": group, "age_years": age})
    people["sex"] = np.where(rng.random(n) < 0.75, "F", "M")
    for region, rank in zip(REGIONS, (z, rng.normal(size=n), rng.normal(size=n)), strict=True):
        mean = getattr(model, f"{region}_controls") * age_ratio
        mean = mean * np.where(ill, getattr(model, f"{region}_ratio"), 1.0)
        share = stats.norm.cdf(rank)
        count = stats.nbinom.ppf(share, model.size, model.size / (model.size + mean)).astype(int)
        people[f"true_{region}"] = count
    z_wmh = model.wmh_r * z + np.sqrt(1 - model.wmh_r**2) * rng.normal(size=n)
    people["true_wmh"] = stats.nbinom.ppf(stats.norm.cdf(z_wmh), 1.5, 1.5 / (1.5 + model.wmh_mean))
    people["true_wmh"] = people["true_wmh"].astype(int)
    people["true_bleeds"] = rng.poisson(model.bleed_mean, n)
    days = np.select(
        [group == "chronic", group == "episodic"],
        [rng.integers(15, 31, n), rng.integers(1, 15, n)],
        0,
    )
    people["headache_days"] = np.where(ill, days, np.nan)
    people["years_ill"] = np.where(ill, rng.uniform(1, 0.6 * age), np.nan)
    return people


def observe(
    rng: Generator, people: pd.DataFrame, model: Model = DECLARED, *, field: str = "7t"
) -> pd.DataFrame:
    """Measure people as a scanner of 7 or 3 tesla would, at the level of statistics.

    Wide and thin PVS are counted with the chances that the model declares; false ones are added,
    some of them hyperintensities counted as PVS (``cso_from_wmh``, which a study does not know).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> "cso" in observe(rng, draw(rng), field="3t")
    True
    """
    n = len(people)
    wide, thin, false = (
        getattr(model, f"{k}_{field}") for k in ("seen_wide", "seen_thin", "false")
    )
    table = visible(people)
    spread = {"cso": 0.6, "bg": 0.3, "midbrain": 0.1}  # of the false ones over the regions
    for region in REGIONS:
        narrow = rng.binomial(people[f"true_{region}"], model.thin_share)
        true = rng.binomial(narrow, thin) + rng.binomial(people[f"true_{region}"] - narrow, wide)
        table[region] = true + rng.poisson(false * spread[region], n)
    mistaken = rng.binomial(people["true_wmh"], model.wmh_called_pvs)
    table["cso"] += mistaken
    table["cso_from_wmh"] = mistaken
    table["deep_wmh"] = people["true_wmh"]
    table["fazekas_deep"] = np.digitize(table["deep_wmh"], [1, 5, 11])
    table["microbleeds"] = people["true_bleeds"]
    table["migraine"] = np.where(table["group"] == "controls", "controls", "migraine")
    return table


def truths(model: Model = DECLARED) -> dict[str, float]:
    """Return the declared effect, by the name that `primary` gives its estimate."""
    return {"log rate ratio": float(np.log(model.cso_ratio))}


def primary(table: pd.DataFrame) -> pd.DataFrame:
    """Estimate the primary effect: log rate ratio in the centrum semiovale, adjusted for age."""
    rows = groups.negative_binomial(
        table.assign(age_decades=table["age_years"] / 10),
        value="cso", group="migraine", reference="controls", covariates=["age_decades"],
    )  # fmt: skip
    return log_ratio(rows.iloc[[0]], "log rate ratio")


def scan(rng: Generator, person: pd.Series) -> dict[str, nib.Nifti1Image]:
    """Make the two T2-weighted scans of a person, as `SCANS` says: one head, two poses.

    Half of the PVS lie in each hemisphere, 0.4 to 2 mm wide and of weak contrast; deep
    hyperintensities lie between them.

    Parameters
    ----------
    rng
        Size of the head, places and sizes in it; then pose and noise of each scan.
    person
        A row of `draw`.
    """
    counts = {}
    for region in REGIONS:
        total = int(person[f"true_{region}"])
        counts[f"{region}_left"] = int(rng.binomial(total, 0.5))
        counts[f"{region}_right"] = total - counts[f"{region}_left"]
    head, size = int(rng.integers(2**31)), head_size(rng)
    scans = {}
    for name, voxel_size_mm in VOXEL_MM.items():
        scans[name] = make_phantom(
            np.random.default_rng(head),  # first places, then noise, which the grid makes another
            voxel_size_mm=voxel_size_mm,
            strength="weak",
            counts=counts,
            diameters_mm=(0.4, 2.0),
            lengths_mm=(4.0, 10.0),
            n_wmh=int(person["true_wmh"]),
            mni_to_world=pose(tuple(rng.normal(0, 4, 3)), tuple(rng.normal(0, 3, 3))) @ size,
            z_range_mni_mm=SLAB_MM,
        ).scans["T2w"]
    return scans


def measure(scans: dict[str, nib.Nifti1Image]) -> dict[str, float]:
    """Count the PVS of each scan, without a mask of lesions; none of the truth reaches it.

    Returns
    -------
    dict
        ``cso_1mm``, ``bg_1mm`` (PVS, both sides), the same for ``1_5mm``.
    """
    row = {}
    for name, scan in scans.items():
        mask = foreground_mask(scan)
        place = register_to_mni(scan, contrast="t2", mask=mask, start=np.eye(4))
        counts = pvs.measure(scan, brain_mask=mask, registration=place).to_row()
        for region in COUNTED:
            both = counts[f"n_{region}_left"] + counts[f"n_{region}_right"]
            row[f"{region}_{name}"] = float(both)
    return row


def from_images(rows: pd.DataFrame, *, voxels: str = "1mm") -> pd.DataFrame:
    """Turn the rows of an image-level cohort into the table that the analyses take.

    Parameters
    ----------
    rows
        From `pvsbook_book.studies.cohorts`.  People without a measurement are left out.
    voxels
        One of `VOXEL_MM`.
    """
    names = {f"{region}_{voxels}": region for region in COUNTED}
    table = rows.rename(columns=names).dropna(subset=["cso"]).reset_index(drop=True)
    table["migraine"] = np.where(table["group"] == "controls", "controls", "migraine")
    return table


def true_values(known: pd.DataFrame) -> pd.DataFrame:
    """Return what a perfect count would have given, from `cohorts.latent`."""
    return pd.DataFrame(
        {f"{region}_{name}": known[f"true_{region}"] for name in VOXEL_MM for region in COUNTED}
    )


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
