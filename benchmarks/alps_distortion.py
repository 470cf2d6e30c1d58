"""Can a package from PyPI undo the distortion of echo-planar images well enough for ALPS?

    pip install unpile && python benchmarks/alps_distortion.py [--voxel-mm 3]

A phantom is distorted along the phase-encoding axis by two fields that are known, as near the
sinuses and as over the parietal lobes, with signal piled up and stretched.  `unpile` estimates the
displacement from a b=0 image of the opposite direction, or from a T2w image of the same head; the
series is then resampled once.  The phantom's vessels thin out around the sites, so that the index
depends on the place.  Printed: error of the displacement in the brain and around the regions, and
the index.  Nothing here is a person's scan.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pvsbook import alps, images
from pvsbook.atlas.projection_association import ALPS_CENTRES_MNI_MM
from pvsbook.phantoms.brain import make_brain
from pvsbook.phantoms.diffusion import add_noise, gradient_scheme, make_diffusion

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


def undo(values: NDArray, shift_voxels: NDArray) -> NDArray[np.float32]:
    """Fetch each voxel's signal from where it went, corrected for stretching."""
    where = np.indices(values.shape, dtype=np.float32)
    where[AXIS] += shift_voxels
    stretch = 1 + np.gradient(shift_voxels, axis=AXIS)
    return stretch * ndimage.map_coordinates(values, where, order=1)


def estimate(
    epi: NDArray, affine: NDArray, mask: NDArray, folder: Path, **other: NDArray
) -> NDArray:
    """Displacement in mm by unpile, from a reversed image or a T2w reference."""
    for name, values in {"epi": epi, "mask": mask, **other}.items():
        nib.save(nib.Nifti1Image(values.astype(np.float32), affine), folder / f"{name}.nii.gz")
    extra = ["--reverse-epi", "reverse.nii.gz"]
    if "t2w" in other:
        extra = ["--reference", "t2w.nii.gz", "--metric", "lncc"]
    command = ["unpile", "--threads", "1", "fit", "--epi", "epi.nii.gz", "--mask", "mask.nii.gz",
               "--out", "out", "--pe-dir", "j", "--total-readout-time", "0.05",
               "--lam-mm", "60", *extra]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return nib.load(folder / "out" / "disp_pe_mm.nii.gz").get_fdata().squeeze()


def world(name: str, voxel_mm: float, folder: Path) -> Iterator[str]:
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

    def scan(sign: float) -> NDArray:
        moved = [
            distort(series[..., k], sign * shift_mm / voxel_mm) for k in range(series.shape[3])
        ]
        bent = replace(clean, dwi=replace(clean.dwi, image=head.image(np.stack(moved, -1))))
        return images.array(add_noise(bent, snr=25, rng=rng).dwi.image)

    def index(values: NDArray) -> float:
        dwi = replace(clean.dwi, image=images.make(values, affine))
        return alps.measure(dwi, mask=mask_image, n_bootstrap=10).indices["tract"]["mean"].value

    brain = head.brain > 0.5
    mask = ndimage.binary_dilation(brain, iterations=2)
    mask_image = images.make(mask.astype(np.uint8), affine)
    near = brain & (np.min(sites, axis=0) < 12)
    there, back = scan(1.0), scan(-1.0)
    t2w = 600 * head.wm + 900 * head.gm + 2200 * head.csf
    t2w = np.hypot(t2w + rng.normal(0, 25, t2w.shape), rng.normal(0, 25, t2w.shape))

    def rms(values: NDArray) -> str:
        return " and ".join(
            f"{np.sqrt((values[where] ** 2).mean()):.2f}" for where in (brain, near)
        )

    quiet = images.array(add_noise(clean, snr=25, rng=rng).dwi.image)
    yield f"{name}: displacement {rms(shift_mm)} mm (RMS in brain, around the regions)"
    yield f"  index without distortion {index(quiet):.3f}, distorted {index(there):.3f}"
    for way, other in (("reversed", {"reverse": back[..., 0]}), ("T2w", {"t2w": t2w})):
        own = folder / f"{name}-{way}"
        own.mkdir()
        start = time.perf_counter()
        found = estimate(there[..., 0], affine, mask, own, **other)
        seconds = time.perf_counter() - start
        # the sign of an estimate is unpile's convention: that which fits is meant
        found = min((found, -found), key=lambda f: np.square((f - shift_mm)[brain]).sum())
        fixed = np.stack(
            [undo(there[..., k], found / voxel_mm) for k in range(there.shape[3])], -1
        )
        yield (
            f"  {way}: error {rms(found - shift_mm)} mm, index {index(fixed):.3f}, {seconds:.0f} s"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voxel-mm", type=float, default=3.0)
    parser.add_argument("--fields", nargs="+", choices=FIELDS, default=list(FIELDS))
    chosen = parser.parse_args()
    for field in chosen.fields:
        with tempfile.TemporaryDirectory() as scratch:
            for line in world(field, chosen.voxel_mm, Path(scratch)):
                print(line, flush=True)
