"""Where the ALPS index is measured: which region is reliable, and what the interval holds.

    python benchmarks/alps_places.py regions registrations coverage denoised estimators

``regions`` and ``registrations`` read the real scans in the folder PVSBOOK_MIRROR (and any folder
named with --scan) and need no truth: left against right, two encodings of one person, shifts.
The rest are phantoms.  The radius of 5 mm was chosen after all these series had been looked at:
none of them is left to report on, so figures of real scans say how it was chosen, not how well it
will do on another person's.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import experiments
import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import apply_affine
from scipy import ndimage

from pvsbook import alps, images
from pvsbook.alps import pipeline, preprocess, uncertainty
from pvsbook.alps.pipeline import ESTIMATORS, AlpsResult
from pvsbook.alps.regions import NAMES, SPHERES_5_MM, RoiSet
from pvsbook.atlas.registration import Registration, register
from pvsbook.phantoms.brain import make_brain, pose
from pvsbook.phantoms.diffusion import (
    DiffusionPhantom,
    WhiteMatter,
    add_noise,
    gradient_scheme,
    make_diffusion,
)

SEED = 7000
SLAB_MM = (15.0, 39.0)
RADII_MM = (2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0)
SCANS: list[Path] = []


def known(mni_to_world: Any = None) -> Registration:
    to_mni = np.eye(4) if mni_to_world is None else np.linalg.inv(mni_to_world)
    return Registration(to_mni, "fa", "affine", "given", 1.0, 0.9, 1.0, 1.0)


def real() -> Iterator[tuple[str, AlpsResult]]:
    mirror = os.environ.get("PVSBOOK_MIRROR", ".")
    folders = [Path(mirror, name) for name in ("dwi_prisma_ap", "dwi_philips_slab")] + SCANS
    for folder in folders:
        path = next(folder.glob("*.nii.gz"), None)
        if path is None:
            print(f"{folder}: no series here")
            continue
        stem = str(path).removesuffix(".nii.gz")
        dwi = images.load_dwi(path, f"{stem}.bval", f"{stem}.bvec")
        yield folder.name, alps.measure(dwi, n_bootstrap=200)


def regions_() -> Iterator[dict[str, Any]]:
    """Index, left less right, and its spread over shifts by 2 mm, by radius."""
    for name, result in real():
        for frame, sides in result.indices.items():
            for side, e in sides.items():
                yield {"scan": name, "setting": f"{frame}, {side}"} | {
                    k: getattr(e, k) for k in vars(e)
                }
        print(result.published().round(2).drop(columns=["directions", "source"]).to_string())
        shifts = [s for s in itertools.product((-2, 0, 2), repeat=3) if s != (0, 0, 0)]
        for radius in RADII_MM:
            rois = replace(SPHERES_5_MM, radius_mm=radius)
            here = result.index_at(rois)["tract"]
            moved = pd.DataFrame(
                [result.index_at(rois, shift_mm=np.array(s))["tract"] for s in shifts]
            )
            apart = moved["left"] - moved["right"]
            yield {
                "scan": name,
                "setting": f"radius {radius} mm",
                "tract": here["mean"],
                "reoriented": result.index_at(rois)["reoriented"]["mean"],
                "left_minus_right": here["left"] - here["right"],
                "left_minus_right_shifted_rms": float(np.sqrt((apart**2).mean())),
                "shift_sd": float(moved["mean"].std()),
            }


def registrations() -> Iterator[dict[str, Any]]:
    """How far two registrations of one scan place the four sites from each other."""
    sites = np.array([SPHERES_5_MM.centres_mm[n] for n in NAMES])
    for name, result in real():
        fa, brain = images.array(result.fa), images.array(result.fa) > 0
        brain = ndimage.binary_fill_holes(brain)
        there = apply_affine(np.linalg.inv(result.registration.native_to_mni), sites)
        inner = ndimage.binary_erosion(brain, iterations=2)
        for other, mask, model in (("nonlinear", brain, "syn"), ("smaller mask", inner, "affine")):
            found = register(
                images.make(np.where(mask, fa, 0), result.fa.affine),
                model,  # type: ignore[arg-type]
                contrast="fa",
                mask=images.make(mask, result.fa.affine),
            )
            off = found.points_to_native(sites) - there
            common = off.mean(axis=0)
            yield {
                "scan": name,
                "setting": f"affine against {other}",
                "common_mm_per_axis": float(np.sqrt((common**2).mean())),
                "own_mm_per_axis": float(np.sqrt(((off - common) ** 2).mean())),
            }


def vessels(kind: str, mm: np.ndarray) -> np.ndarray:
    """Fraction of the vessels at each place: a ridge at the level of the sites, or blobs."""
    if kind == "ridge":
        return np.exp(-((mm[..., 2] - 27.0) ** 2) / (2 * 6.0**2))
    voxel_mm = np.linalg.norm(mm[1, 0, 0] - mm[0, 0, 0])
    noise = np.random.default_rng(SEED).normal(size=mm.shape[:3])
    field = ndimage.gaussian_filter(noise, 6.0 / voxel_mm)
    return (field - field.min()) / np.ptp(field)


def phantom(
    kind: str = "", *, voxel_mm: float = 2.0, n: int = 32, turn: Any = None, **tissue: Any
) -> DiffusionPhantom:
    rng = np.random.default_rng(SEED)
    bvals, bvecs = gradient_scheme(n, rng=rng, n_b0=3)
    place = {} if turn is None else {"mni_to_world": turn}
    brain = make_brain(voxel_mm, z_range_mni_mm=SLAB_MM, margin_mm=2, **place)
    density = vessels(kind, brain.mni_coordinates()) if kind else None
    return make_diffusion(
        brain, rng=rng, bvals_s_mm2=bvals, bvecs_ras=bvecs, snr=np.inf,
        tissue=WhiteMatter(**tissue), vessels=density,
    )  # fmt: skip


def near_sites(clean: DiffusionPhantom, reach_mm: float = 16.0) -> nib.Nifti1Image:
    """Mask of what lies near a region: hundreds of scans need no more."""
    mm, sites = clean.brain.mni_coordinates(), SPHERES_5_MM.centres_mm.values()
    near = [np.linalg.norm(mm - np.array(c), axis=-1) < reach_mm for c in sites]
    return clean.brain.image((np.any(near, axis=0) & (clean.brain.brain > 0.5)).astype(np.uint8))


def coverage() -> Iterator[dict[str, Any]]:
    """How often the interval holds the index at the right place, when regions miss it."""
    scans = 100
    for kind, snr, factors in (("blobs", 25.0, (1.0,)), ("ridge", 20.0, (0.0, 1.0, 1.5))):
        clean = phantom(kind)
        mask = near_sites(clean)
        right = alps.measure(clean.dwi, mask=mask, registration=known(), n_bootstrap=10)
        for factor in factors:
            row = dict.fromkeys(ESTIMATORS, 0) | {"noise alone": 0}
            for seed in range(SEED, SEED + scans):
                rng = np.random.default_rng(seed)
                scan = add_noise(clean, snr=snr, rng=rng)
                common = rng.normal(0, factor * uncertainty.REGISTRATION_MM, 3)
                rois = RoiSet(
                    {
                        name: tuple(
                            np.add(c, common) + rng.normal(0, factor * uncertainty.PLACEMENT_MM, 3)
                        )
                        for name, c in SPHERES_5_MM.centres_mm.items()
                    },
                    5.0 * (1 + factor * rng.normal(0, uncertainty.RADIUS_SHARE)),
                )
                found = alps.measure(
                    scan.dwi, mask=mask, registration=known(), rois=rois,
                    n_bootstrap=400, rng=rng,
                )  # fmt: skip
                for frame in ESTIMATORS:
                    for side in ("left", "right"):
                        e, truth = found.indices[frame][side], right.indices[frame][side].value
                        row[frame] += e.low <= truth <= e.high
                        if frame == "tract":
                            row["noise alone"] += abs(e.value - truth) < 1.96 * e.noise_sd
            yield {
                "setting": f"{kind}, SNR {snr:g}, misplaced by {factor:g} times what is assumed",
                "sides": 2 * scans,
            } | {f"{frame}_covered": count / (2 * scans) for frame, count in row.items()}


def denoised() -> Iterator[dict[str, Any]]:
    """How often the noise share holds the truth after MP-PCA, told of the raw series or not."""
    uncertainty.N_PLACES = 2  # the share of noise alone is looked at
    clean = phantom(n=60)
    box = near_sites(clean, 12.0)
    mask = near_sites(clean)
    truth = alps.measure(clean.dwi, mask=mask, registration=known(), n_bootstrap=10)
    scans, covered, sds, values = (
        60,
        {"told": 0, "not told": 0},
        {"told": 0.0, "not told": 0.0},
        [],
    )
    for seed in range(SEED, SEED + scans):
        scan = add_noise(clean, snr=20.0, rng=np.random.default_rng(seed))
        less = preprocess.denoise(scan.dwi, mask=box)
        for name, before in (("told", scan.dwi), ("not told", None)):
            found = alps.measure(
                less, mask=mask, registration=known(), n_bootstrap=300,
                before_denoising=before,
            )  # fmt: skip
            for side in ("left", "right"):
                e = found.indices["tract"][side]
                off = e.value - truth.indices["tract"][side].value
                covered[name] += abs(off) < 1.96 * e.noise_sd
                sds[name] += e.noise_sd / (2 * scans)
                if name == "told":
                    values.append(off)
    for name in covered:
        yield {
            "setting": f"after MP-PCA, series before {name}",
            "sides": 2 * scans,
            "noise_covered": covered[name] / (2 * scans),
            "noise_sd": sds[name],
            "true_sd": float(np.std(values)),
            "bias": float(np.mean(values)),
        }


def estimators() -> Iterator[dict[str, Any]]:
    """Bias and SD of every published estimator, against the same tissue without the trouble."""
    settings: list[tuple[str, Any, dict[str, float], float, float]] = [
        ("nothing", None, {}, 25.0, 1.0),
        ("pitch 12 deg", pose((12, 0, 0)), {}, 25.0, 1.0),
        ("pitch 25 deg", pose((25, 0, 0)), {}, 25.0, 1.0),
        ("roll 25 deg", pose((0, 25, 0)), {}, 25.0, 1.0),
        ("yaw 25 deg", pose((0, 0, 25)), {}, 25.0, 1.0),
        ("tracts 75 deg apart", None, {"tilt_deg": 15}, 25.0, 1.0),
        ("tracts 60 deg apart", None, {"tilt_deg": 30}, 25.0, 1.0),
        ("tracts 50 deg apart", None, {"tilt_deg": 40}, 25.0, 1.0),
        ("dispersion 20 deg", None, {"dispersion_deg": 20}, 25.0, 1.0),
        ("fanning 20 deg", None, {"fanning_deg": 20}, 25.0, 1.0),
        ("10 % crossing", None, {"crossing": 0.1}, 25.0, 1.0),
        ("10 % free water", None, {"free": 0.1}, 25.0, 1.0),
        ("SNR 50", None, {}, 50.0, 1.0),
        ("SNR 10", None, {}, 10.0, 1.0),
        ("no vessels, SNR 25", None, {"perivascular": 0.0}, 25.0, 0.0),
        ("no vessels, SNR 10", None, {"perivascular": 0.0}, 10.0, 0.0),
    ]
    uncertainty.N_PLACES = 2  # values alone are looked at
    base = phantom().index
    for name, turn, tissue, snr, has_vessels in settings:
        clean = phantom(turn=turn, **tissue)
        mask = near_sites(clean)
        tables = []
        for seed in range(SEED, SEED + 10):
            scan = add_noise(clean, snr=snr, rng=np.random.default_rng(seed))
            found = alps.measure(scan.dwi, mask=mask, registration=known(turn), n_bootstrap=10)
            tables.append(found.published().set_index("estimator")["mean"])
        table = pd.concat(tables, axis=1)
        truth = base if has_vessels else 1.0
        row = {"setting": name, "truth": truth, "scans": table.shape[1]}
        for estimator, values in table.iterrows():
            row |= {f"{estimator}_bias": values.mean() - truth, f"{estimator}_sd": values.std()}
        yield row


EXPERIMENTS = {f.__name__.strip("_"): f for f in (
    regions_, registrations, coverage, denoised, estimators)}  # fmt: skip


def main() -> None:
    # other fits of the same voxels cost more than all the rest, and play no part here
    pipeline.estimators.other_fits = lambda *_: {"restore": float("nan")}  # type: ignore[assignment]
    parser = experiments.parser(__doc__, EXPERIMENTS)
    parser.add_argument(
        "--scan", type=Path, action="append", default=[], help="folder, one series"
    )
    chosen = parser.parse_args()
    SCANS.extend(chosen.scan)
    experiments.run(chosen, EXPERIMENTS)


if __name__ == "__main__":
    main()
