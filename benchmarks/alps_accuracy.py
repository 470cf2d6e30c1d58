"""Bias and spread of the ALPS index on phantoms with known truth, and checks on a real slab.

    python benchmarks/alps_accuracy.py tilt grid noise control coverage motion slab

Parameters of the method were chosen with seeds below 1000; this script draws from 5000 up.
Rows are printed as they come and end up in the file named by --out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import experiments
import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pvsbook import InputError, alps, images
from pvsbook.alps.pipeline import ESTIMATORS
from pvsbook.atlas.registration import Registration, register_to_mni
from pvsbook.atlas.templates import mni
from pvsbook.phantoms.brain import make_brain, pose
from pvsbook.phantoms.diffusion import (
    DiffusionPhantom,
    WhiteMatter,
    add_noise,
    fsl_bvecs,
    gradient_scheme,
    make_diffusion,
)

SEED = 5000
DRAWS = 16
SLAB_MM = (-8.0, 62.0)
SNR, VOXEL_MM = 25.0, 2.0


def clean_phantom(
    *,
    n: int = 32,
    n_b0: int = 3,
    tissue: WhiteMatter | None = None,
    voxel_mm: float = VOXEL_MM,
    b_s_mm2: Any = 1000.0,
    **brain: Any,
) -> DiffusionPhantom:
    rng = np.random.default_rng(SEED)
    bvals, bvecs = gradient_scheme(n, rng=rng, n_b0=n_b0, b_s_mm2=b_s_mm2)
    head = make_brain(voxel_mm, z_range_mni_mm=SLAB_MM, margin_mm=2, **brain)
    return make_diffusion(
        head, rng=rng, tissue=tissue, bvals_s_mm2=bvals, bvecs_ras=bvecs, snr=np.inf
    )


def draws(
    clean: DiffusionPhantom, *, snr: float = SNR, truth: float | None = None
) -> dict[str, Any]:
    """Bias and SD over noise; the first draw's registration serves all."""
    truth = clean.index if truth is None else truth
    values, status, registration = [], [], "affine"
    inside, total = 0, 0
    n = DRAWS
    for seed in range(SEED, SEED + n):
        scan = add_noise(clean, snr=snr, rng=np.random.default_rng(seed))
        result = alps.measure(scan.dwi, mask=scan.mask, registration=registration)
        registration = result.registration
        values.append([result.indices[e]["mean"].value for e in ESTIMATORS])
        status.append(result.status)
        for side in ("left", "right"):
            found = result.indices["tract"][side]
            inside += found.low <= truth <= found.high
            total += 1
    seen = np.array(values) - truth
    row: dict[str, Any] = {"truth": truth, "snr": snr, "draws": n}
    for k, e in enumerate(ESTIMATORS):
        row |= {f"{e}_bias": seen[:, k].mean(), f"{e}_sd": seen[:, k].std(ddof=1)}
    se = row["tract_sd"] / np.sqrt(n)
    return row | {"tract_bias_se": se, "covered": inside / total, "fail": status.count("fail")}


def tilt() -> Iterator[dict[str, Any]]:
    for name, unit in (("pitch", (1, 0, 0)), ("roll", (0, 1, 0)), ("yaw", (0, 0, 1))):
        for angle in (-25, -12, 12, 25):
            turn = pose(np.multiply(unit, angle))
            yield {"setting": f"{name} {angle:+d} deg"} | draws(clean_phantom(mni_to_world=turn))
    yield {"setting": "no tilt"} | draws(clean_phantom())
    tissue = WhiteMatter(tilt_deg=15)
    yield {"setting": "projection tract 15 deg off"} | draws(clean_phantom(tissue=tissue))


def grid() -> Iterator[dict[str, Any]]:
    for angle in ((25, 0, 0), (0, 25, 0), (0, 0, 25)):
        oblique = Rotation.from_euler("xyz", angle, degrees=True).as_matrix()
        yield {"setting": f"oblique slices {angle} deg"} | draws(clean_phantom(oblique=oblique))
    for voxel_mm in (1.5, 2.0, 2.5, 3.0):
        yield {"setting": f"voxel {voxel_mm} mm"} | draws(clean_phantom(voxel_mm=voxel_mm))
    clean = clean_phantom(axcodes="LAS")
    scan = add_noise(clean, snr=SNR, rng=np.random.default_rng(SEED))
    first = alps.measure(scan.dwi, mask=scan.mask)
    for axcodes in ("RAS", "LPS", "PIR", "SAL"):
        other = stored_as(scan.dwi, axcodes)
        mask = reorder(scan.mask, axcodes)
        yield {"setting": f"stored as {axcodes}"} | differences(
            first, alps.measure(other, mask=mask)
        )
    for name, matrix in (
        ("x flipped", np.diag([-1, 1, 1])),
        ("y flipped", np.diag([1, -1, 1])),
        ("z flipped", np.diag([1, 1, -1])),
        ("x and y swapped", np.eye(3)[[1, 0, 2]]),
    ):
        wrong = images.Dwi(
            scan.dwi.image, scan.dwi.bvals_s_mm2, scan.dwi.bvecs_ras @ matrix.astype(float)
        )
        found = alps.measure(wrong, mask=scan.mask)
        yield (
            {"setting": f"b-vectors {name}", "says": found.bvecs.best, "z": found.bvecs.z}
            | {"fail": int(found.status == "fail")}
            | differences(first, found)
        )


def noise() -> Iterator[dict[str, Any]]:
    clean = clean_phantom()
    for snr in (10, 15, 20, 30, 50):
        yield {"setting": f"SNR {snr}"} | draws(clean, snr=snr)
    for n in (6, 12, 20, 32, 64):
        yield {"setting": f"{n} directions"} | draws(clean_phantom(n=n), snr=20)
    for b in (700.0, 1000.0, 1500.0):
        yield {"setting": f"b = {b:g}"} | draws(clean_phantom(b_s_mm2=b), snr=20)


def control() -> Iterator[dict[str, Any]]:
    null = clean_phantom(tissue=WhiteMatter(perivascular=0))
    for snr in (10, 20, 30, 50):
        yield {"setting": f"no vessels, SNR {snr}"} | draws(null, snr=snr)
    for name, tissue in (
        ("no vessels, compartments", WhiteMatter(perivascular=0, gaussian=False)),
        ("vessels, compartments", WhiteMatter(gaussian=False)),
        (
            "no vessels, 10 % crossing fibres (bias from 1)",
            WhiteMatter(perivascular=0, crossing=0.1),
        ),
        ("10 % free water", WhiteMatter(free=0.1)),
        ("dispersion 20 deg", WhiteMatter(dispersion_deg=20)),
    ):
        truth = 1.0 if "from 1" in name else None
        yield {"setting": name} | draws(clean_phantom(tissue=tissue), truth=truth)


def add_motion(
    phantom: DiffusionPhantom,
    *,
    rotation_deg: float,
    translation_mm: float,
    rng: np.random.Generator,
) -> DiffusionPhantom:
    """Let the head lie differently in each volume; add noise afterwards.

    Parameters
    ----------
    phantom : DiffusionPhantom
        Without noise.
    rotation_deg, translation_mm : float
        Standard deviation of each angle and of each shift.  The first volume stays.
    rng : numpy.random.Generator

    Returns
    -------
    DiffusionPhantom
        Its b-vectors are the scanner's, as in a scan before motion correction.

    """
    if phantom.noise_sigma > 0:
        raise InputError("phantom: has noise already; make it with snr=inf, move it, add noise")
    brain, dwi = phantom.brain, phantom.dwi
    n = len(dwi.bvals_s_mm2)
    angles = rng.normal(0, rotation_deg, (n, 3)) * (np.arange(n) > 0)[:, None]
    shifts = rng.normal(0, translation_mm, (n, 3)) * (np.arange(n) > 0)[:, None]
    turns = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    turned = make_diffusion(
        brain,
        rng=rng,
        tissue=phantom.tissue,
        bvals_s_mm2=dwi.bvals_s_mm2,
        bvecs_ras=np.einsum("ki,kij->kj", dwi.bvecs_ras, turns),
        snr=np.inf,
        vessels=phantom.vessels,
    )
    series = images.array(turned.dwi.image).copy()
    centre = nib.affines.apply_affine(brain.affine, (np.array(brain.shape) - 1) / 2)
    for k in range(1, n):
        moved = nib.affines.from_matvec(turns[k], centre + shifts[k] - turns[k] @ centre)
        back = np.linalg.inv(brain.affine) @ np.linalg.inv(moved) @ brain.affine
        series[..., k] = ndimage.affine_transform(
            series[..., k], back[:3, :3], back[:3, 3], order=1
        )
    return replace(phantom, dwi=replace(dwi, image=brain.image(series)))


def add_distortion(phantom: DiffusionPhantom, *, shift_mm: float) -> DiffusionPhantom:
    """Shift the frontal lobe along the phase-encoding axis, as the field above the sinuses does.

    Parameters
    ----------
    phantom : DiffusionPhantom
        Without noise.
    shift_mm : float
        Largest shift, at MNI (0, 40, -10); it fades over 35 mm.

    Returns
    -------
    DiffusionPhantom
        Signals are stretched and piled up as in echo-planar images.

    """
    if phantom.noise_sigma > 0:
        raise InputError("phantom: has noise already; make it with snr=inf, distort it, add noise")
    brain = phantom.brain
    offset = brain.mni_coordinates() - np.array([0, 40, -10], np.float32)
    shift = shift_mm * np.exp(-(offset**2).sum(axis=-1) / (2 * 35.0**2))
    axis = int(np.argmax(np.abs(images.rotation(brain.affine)[1])))
    steps = shift / brain.voxel_size_mm[axis]
    squeeze = 1 - np.gradient(steps, axis=axis)
    where = np.indices(brain.shape, dtype=np.float32)
    where[axis] -= steps
    series = images.array(phantom.dwi.image).copy()
    for k in range(series.shape[-1]):
        series[..., k] = squeeze * ndimage.map_coordinates(series[..., k], where, order=1)
    return replace(phantom, dwi=replace(phantom.dwi, image=brain.image(series)))


def motion() -> Iterator[dict[str, Any]]:
    from pvsbook.alps.preprocess import correct_motion

    clean = clean_phantom()
    rng = np.random.default_rng(SEED)
    moved = add_motion(clean, rotation_deg=2.0, translation_mm=1.5, rng=rng)
    yield {"setting": "motion 2 deg, 1.5 mm, not corrected"} | draws(moved)
    one = add_noise(moved, snr=SNR, rng=rng)
    corrected = correct_motion(one.dwi, mask=one.mask).dwi
    result = alps.measure(corrected, mask=one.mask)
    yield {"setting": "the same, corrected (one draw)", "truth": clean.index} | {
        f"{e}_bias": result.indices[e]["mean"].value - clean.index for e in ESTIMATORS
    }
    bent = add_distortion(clean, shift_mm=8.0)
    yield {"setting": "distortion 8 mm in the frontal lobe"} | draws(bent)


def coverage() -> Iterator[dict[str, Any]]:
    """Coverage of the 95 % interval of each side over many scans of a thin slab."""
    global SLAB_MM
    whole, SLAB_MM = SLAB_MM, (18.0, 36.0)
    placed = registration_that_is_right()
    for n, n_b0, snr in ((12, 1, 25), (12, 5, 25), (32, 3, 15), (32, 3, 25), (64, 6, 25)):
        clean = clean_phantom(n=n, n_b0=n_b0)
        row = dict.fromkeys(ESTIMATORS, 0)
        scans = 25 * DRAWS
        for seed in range(SEED, SEED + scans):
            rng = np.random.default_rng(seed)
            scan = add_noise(clean, snr=snr, rng=rng)
            result = alps.measure(scan.dwi, mask=scan.mask, registration=placed, rng=rng)
            for e in ESTIMATORS:
                for side in ("left", "right"):
                    found = result.indices[e][side]
                    row[e] += found.low <= clean.index <= found.high
        yield {"setting": f"{n} directions, {n_b0} b=0, SNR {snr}", "scans": scans} | {
            f"{e}_covered": count / (2 * scans) for e, count in row.items()
        }
    SLAB_MM = whole


def registration_that_is_right() -> Registration:
    return Registration(np.eye(4), "fa", "affine", "given", 1.0, 0.9, 1.0, 1.0)


def reorder(image: nib.Nifti1Image, axcodes: str) -> nib.Nifti1Image:
    wanted = nib.orientations.axcodes2ornt(axcodes)
    change = nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted)
    return image.as_reoriented(change)


def stored_as(dwi: images.Dwi, axcodes: str) -> images.Dwi:
    """The same scan in another storage order, through files as FSL would write them."""
    image = reorder(dwi.image, axcodes)
    moved = images.Dwi(image, dwi.bvals_s_mm2, dwi.bvecs_ras)
    return images.load_dwi(image, dwi.bvals_s_mm2, fsl_bvecs(moved))


def differences(one: alps.AlpsResult, two: alps.AlpsResult) -> dict[str, Any]:
    return {
        f"{e}_change": max(
            abs(one.indices[e][s].value - two.indices[e][s].value) for s in ("left", "right")
        )
        for e in ESTIMATORS
    }


def slab() -> Iterator[dict[str, Any]]:
    mirror = os.environ.get("PVSBOOK_MIRROR")
    if not mirror:
        print("slab: set PVSBOOK_MIRROR to the folder with dwi_philips_slab")
        return
    folder = Path(mirror, "dwi_philips_slab")
    image = images.load(next(folder.glob("*.nii.gz")), ndim=4)
    bval, bvec = (np.loadtxt(next(folder.glob(f"*.{kind}"))) for kind in ("bval", "bvec"))
    dwi = images.load_dwi(image, bval, bvec)
    start = time.process_time()
    first = alps.measure(dwi)
    seconds = time.process_time() - start
    for e in ESTIMATORS:
        for side in ("left", "right", "mean"):
            found = first.indices[e][side]
            yield {
                "setting": f"{e}, {side}",
                "value": found.value,
                "low": found.low,
                "high": found.high,
            }
    yield {"setting": f"status {first.status}: {'; '.join(first.reasons)}", "cpu_s": seconds}
    for axcodes in ("RAS", "LPS", "PIR", "SAL"):
        yield {"setting": f"stored as {axcodes}"} | differences(
            first, alps.measure(stored_as(dwi, axcodes))
        )
    for angle in ((25, 0, 0), (-25, 0, 0), (0, 25, 0), (0, -25, 0), (0, 0, 25), (0, 0, -25)):
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_euler("xyz", angle, degrees=True).as_matrix()
        turned = images.load_dwi(
            nib.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine), bval, bvec
        )
        yield {"setting": f"header turned {angle} deg"} | differences(first, alps.measure(turned))
    flipped = alps.measure(images.load_dwi(image, bval, bvec * [[-1], [1], [1]]))
    yield {"setting": "b-vectors x flipped", "says": flipped.bvecs.best, "z": flipped.bvecs.z} | {
        "fail": int(flipped.status == "fail")
    }


EXPERIMENTS = {f.__name__: f for f in (tilt, grid, noise, control, coverage, motion, slab)}


def main() -> None:
    global DRAWS
    parser = experiments.parser(__doc__, EXPERIMENTS)
    parser.add_argument("--draws", type=int, default=DRAWS, help="scans a setting, 2 or more")
    chosen = parser.parse_args()
    DRAWS = chosen.draws
    register_to_mni(mni("t1"))  # warm: templates are read once
    experiments.run(chosen, EXPERIMENTS)


if __name__ == "__main__":
    main()
