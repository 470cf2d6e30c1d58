"""Time the ALPS pipeline stage by stage, and compare it with peers in time and under tilt.

    python benchmarks/alps.py [--fit-only]

CPU seconds on one core (set OMP_NUM_THREADS=1), a simulated whole brain at 2 mm.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel, fractional_anisotropy
from paired import paired
from scipy import ndimage

from pvsbook import alps, images
from pvsbook.alps import tensor
from pvsbook.alps.gradients import check_bvecs
from pvsbook.alps.regions import NAMES, SPHERES_2_5_MM
from pvsbook.alps.series import brain_mask
from pvsbook.atlas.registration import Registration, refine_nonlinear, register_to_mni
from pvsbook.atlas.templates import mni
from pvsbook.phantoms.brain import make_brain, pose
from pvsbook.phantoms.diffusion import DiffusionPhantom, make_diffusion

REPEATS = 3


def timed(what: str, run: Callable[[], Any], repeats: int = REPEATS) -> Any:
    """Run a few times; print the fastest, in CPU and wall seconds."""
    cpu, wall = [], []
    for _ in range(repeats):
        start = time.process_time(), time.perf_counter()
        found = run()
        cpu.append(time.process_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    print(f"{what:<46}{min(cpu):8.2f} s CPU {min(wall):8.2f} s wall", flush=True)
    return found


def template_space_index(dwi: images.Dwi, registration: Registration, mask: np.ndarray) -> float:
    """Follow the default of the most used script, from its description.

    Tensor components in voxel axes, each resampled to the 1 mm template without reorientation,
    averaged over spheres of 2.5 mm.
    """
    axes = images.rotation(dwi.image.affine)
    fit = tensor.fit_tensor(
        images.array(dwi.image), dwi.bvals_s_mm2, dwi.bvecs_ras @ axes, mask=mask
    )
    diagonal = fit.fill(np.diagonal(fit.d_mm2_s, axis1=1, axis2=2))
    template = mni("t1")
    to_voxel = np.linalg.inv(registration.native_to_mni @ dwi.image.affine) @ template.affine
    means = {}
    for name in NAMES:
        centre = np.linalg.inv(template.affine) @ [*SPHERES_2_5_MM.centres_mm[name], 1]
        offset = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), -1).reshape(-1, 3)
        offset = offset[(offset**2).sum(axis=1) <= 2.5**2]
        at = (to_voxel @ np.c_[np.rint(centre[:3]) + offset, np.ones(len(offset))].T)[:3]
        means[name] = [
            ndimage.map_coordinates(diagonal[..., k], at, order=1).mean() for k in range(3)
        ]
    sides = []
    for side in ("left", "right"):
        p, a = means[f"{side}_projection"], means[f"{side}_association"]
        sides.append((p[0] + a[0]) / (p[1] + a[2]))
    return float(np.mean(sides))


def stages(phantom: DiffusionPhantom, fit_only: bool) -> None:
    dwi, mask = phantom.dwi, np.asarray(phantom.mask.dataobj) > 0
    data = images.array(dwi.image)
    print(f"{mask.sum()} brain voxels, {data.shape[3]} volumes")
    if not fit_only:
        timed("brain mask (median Otsu)", lambda: brain_mask(dwi), 1)
    fit = timed(
        "WLS, all voxels",
        lambda: tensor.fit_tensor(data, dwi.bvals_s_mm2, dwi.bvecs_ras, mask=mask),
    )
    table = gradient_table(dwi.bvals_s_mm2, bvecs=dwi.bvecs_ras)
    low = data[mask][data[mask] > 0].min()
    model = TensorModel(table, fit_method="WLS", min_signal=low)

    def ours() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = tensor.fit_tensor(data, dwi.bvals_s_mm2, dwi.bvecs_ras, mask=mask)
        return (found.d_mm2_s, *tensor.eigen(found.d_mm2_s))  # DIPY's fit holds these too

    pair = paired(ours, lambda: model.fit(data, mask=mask))
    print(f"WLS with eigenvectors, beside DIPY: {pair}")
    d_mm2_s, eigenvalues, eigenvectors = pair.ours
    positive = eigenvalues[:, 2] > 1e-7
    apart = np.abs(d_mm2_s - pair.peer.quadratic_form[mask])[positive].max()
    print(f"largest difference {apart:.1e} mm2/s where DIPY clips no eigenvalue")
    if fit_only:
        return
    fa = fit.fill(np.minimum(fractional_anisotropy(eigenvalues), 1))
    directions = fit.fill(eigenvectors[..., 0])
    size = images.voxel_size_mm(dwi.image)
    timed("b-vector check, 24 changes", lambda: check_bvecs(directions, fa, fa > 0.25, size))
    image = phantom.brain.image(fa)
    found = timed(
        "FA to MNI, affine",
        lambda: register_to_mni(image, contrast="fa", mask=phantom.mask),
    )
    timed("FA to MNI, SyN on top", lambda: refine_nonlinear(found, image, mask=phantom.mask), 1)
    whole = timed(
        "whole: series to result, mask given", lambda: alps.measure(dwi, mask=phantom.mask)
    )
    timed("other regions of that result", lambda: whole.remeasure(SPHERES_2_5_MM))
    timed("whole: series to result, mask found", lambda: alps.measure(dwi), 1)


def tilted_peers() -> None:
    print("\nIndex of a head that is pitched (simulated, SNR 30)")
    print(f"{'pitch':>6}{'truth':>8}{'template space':>16}{'classic':>9}{'tract':>8}")
    for angle in (0, 10, 20, 30):
        turn = pose((angle, 0, 0))
        brain = make_brain(2.0, mni_to_world=turn, z_range_mni_mm=(5, 48))
        phantom = make_diffusion(brain, rng=np.random.default_rng(6000), snr=30)
        known = Registration(np.linalg.inv(turn), "fa", "affine", "given", 1.0, 0.9, 1.0, 1.0)
        mask = np.asarray(phantom.mask.dataobj) > 0
        peer = template_space_index(phantom.dwi, known, mask)
        ours = alps.measure(phantom.dwi, mask=phantom.mask, registration=known).indices
        classic, tract = (ours[e]["mean"].value for e in ("classic", "tract"))
        print(f"{angle:>6}{phantom.index:>8.3f}{peer:>16.3f}{classic:>9.3f}{tract:>8.3f}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--fit-only", action="store_true", help="the tensor fits, and end")
    fit_only = options.parse_args().fit_only
    if not fit_only:
        register_to_mni(mni("t1"))  # warm: templates are read once
    stages(make_diffusion(make_brain(2.0), rng=np.random.default_rng(6000), snr=30), fit_only)
    if not fit_only:
        tilted_peers()


if __name__ == "__main__":
    main()
