"""Can a package from PyPI undo the distortion of echo-planar images well enough for ALPS?

    pip install unpile && python benchmarks/alps_distortion.py [--voxel-mm 3]

A phantom is distorted along the phase-encoding axis by two fields that are known, as near the
sinuses and as over the parietal lobes, with signal piled up and stretched.
`pvsbook.alps.preprocess.find_displacement` finds the displacement from a b=0 image of the opposite
direction; the series is then resampled once.  The phantom's vessels thin out around the sites, so
that the index depends on the place.  Printed: error of the displacement, found from scans with
noise, in the brain and around the regions; and the index of the series without noise.  Nothing
here is a person's scan.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pvsbook import alps, images
from pvsbook.alps import preprocess
from pvsbook.atlas.projection_association import ALPS_CENTRES_MNI_MM
from pvsbook.phantoms.brain import make_brain
from pvsbook.phantoms.diffusion import (
    DiffusionPhantom,
    add_noise,
    gradient_scheme,
    make_diffusion,
)

FIELDS = {  # centre (MNI mm), largest shift (mm), width (mm)
    "sinuses": ((0, 40, -10), 8.0, 35.0),
    "parietal": ((10, -10, 40), 5.0, 45.0),
}
AXIS = 1  # of the arrays, along which the images are distorted
SUB = 5  # pieces of a voxel that are moved


def distort(values: NDArray, shift_voxels: NDArray) -> NDArray[np.float32]:
    """Move the signal of each voxel by its shift; what piles up adds up."""
    pieces = np.repeat(values, SUB, axis=AXIS) / SUB
    shift = ndimage.zoom(shift_voxels, (1, SUB, 1), order=1, grid_mode=True, mode="nearest")
    at = (np.arange(pieces.shape[AXIS]) + 0.5) / SUB - 0.5
    at = np.clip(at[None, :, None] + shift, 0, values.shape[AXIS] - 1.001)
    low = np.floor(at).astype(int)
    first, _, third = np.indices(at.shape)
    moved = np.zeros(values.shape)
    np.add.at(moved, (first, low, third), pieces * (1 - at + low))
    np.add.at(moved, (first, low + 1, third), pieces * (at - low))
    return moved.astype(np.float32)


def world(name: str, voxel_mm: float) -> Iterator[str]:
    rng = np.random.default_rng(8000)
    head = make_brain(voxel_mm, axcodes="LAS", z_range_mni_mm=(-30, 78))
    mm = head.mni_coordinates()
    sites = [np.linalg.norm(mm - c, axis=-1) for c in ALPS_CENTRES_MNI_MM.values()]
    _, y, z = ALPS_CENTRES_MNI_MM["left_projection"]
    vessels = np.exp(-((mm[..., 1] - y) ** 2 + (mm[..., 2] - z) ** 2) / (2 * 8.0**2))
    bvals, bvecs = gradient_scheme(15, rng=rng, n_b0=1)
    clean = make_diffusion(
        head, rng=rng, bvals_s_mm2=bvals, bvecs_ras=bvecs, snr=np.inf, vessels=vessels
    )
    centre, most, width = FIELDS[name]
    shift_mm = most * np.exp(-((mm - np.array(centre)) ** 2).sum(axis=-1) / (2 * width**2))
    series = images.array(clean.dwi.image)
    affine = clean.dwi.image.affine

    def bent(sign: float) -> DiffusionPhantom:
        steps = sign * shift_mm / voxel_mm
        moved = np.stack([distort(series[..., k], steps) for k in range(series.shape[3])], -1)
        return replace(clean, dwi=replace(clean.dwi, image=head.image(moved)))

    def index(dwi: images.Dwi) -> str:
        found = alps.measure(dwi, mask=mask_image, n_bootstrap=10)
        return f"{found.indices['tract']['mean'].value:.3f}"

    brain = head.brain > 0.5
    mask = ndimage.binary_dilation(brain, iterations=2)
    mask_image = images.make(mask.astype(np.uint8), affine)
    near = brain & (np.min(sites, axis=0) < 12)
    there = bent(1.0)
    scan, back = (add_noise(one, snr=25, rng=rng).dwi for one in (there, bent(-1.0)))

    def rms(values: NDArray) -> str:
        return " and ".join(
            f"{np.sqrt((values[where] ** 2).mean()):.2f}" for where in (brain, near)
        )

    yield f"{name}: displacement {rms(shift_mm)} mm (RMS in brain, around the regions)"
    yield f"  index without distortion {index(clean.dwi)}, distorted {index(there.dwi)}"
    start = time.perf_counter()
    reverse = images.make(images.array(back.image)[..., 0], affine)
    found = preprocess.find_displacement(
        scan, reverse, phase_encoding="ijk"[AXIS], mask=mask_image
    )
    seconds = time.perf_counter() - start
    fixed = found.correct(there.dwi)
    error = rms(found.mm - shift_mm)
    yield f"  corrected: error {error} mm, index {index(fixed)}, {seconds:.0f} s"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voxel-mm", type=float, default=3.0)
    parser.add_argument("--fields", nargs="+", choices=FIELDS, default=list(FIELDS))
    chosen = parser.parse_args()
    for field in chosen.fields:
        for line in world(field, chosen.voxel_mm):
            print(line, flush=True)
