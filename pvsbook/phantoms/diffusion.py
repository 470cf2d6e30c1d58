"""A brain-shaped diffusion phantom whose ALPS index is known by calculation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
from dipy.core.sphere import HemiSphere, disperse_charges
from numpy.typing import ArrayLike, NDArray

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.phantoms._white_matter import (
    WhiteMatter,
    fibre_directions,
    near_regions,
    true_index,
)
from pvsbook.phantoms.brain import Brain

__all__ = [
    "DiffusionPhantom",
    "WhiteMatter",
    "add_noise",
    "fsl_bvecs",
    "gradient_scheme",
    "make_diffusion",
    "true_index",
]

_SCALE = 1000.0  # white-matter signal at b=0
_CHUNK = 50_000


@dataclass(frozen=True, eq=False)
class DiffusionPhantom:
    """A simulated diffusion scan and what is true of it.

    Attributes
    ----------
    dwi : pvsbook.images.Dwi
        Series with b-values and RAS b-vectors, as `pvsbook.images.load_dwi` would give it.
    brain : Brain
        Grid, tissue fractions and pose.
    tissue : WhiteMatter
    index : float
        True ALPS index of both sides in the frame of the tracts, at the b-value of the scan;
        with `vessels`, where these are 1.
    noise_sigma : float
        Standard deviation of the noise in each of the two channels.
    vessels : ndarray or None
        How much of the tissue's perivascular fraction each voxel has, on the grid; None: all.
    """

    dwi: images.Dwi
    brain: Brain
    tissue: WhiteMatter
    index: float
    noise_sigma: float
    vessels: NDArray[np.float64] | None = None

    @property
    def mask(self) -> nib.Nifti1Image:
        """Brain mask on the grid of the series."""
        return self.brain.image((self.brain.brain > 0.5).astype(np.uint8))


def gradient_scheme(
    n_directions: int,
    *,
    rng: np.random.Generator,
    b_s_mm2: float | Sequence[float] = 1000.0,
    n_b0: int = 1,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Spread directions over the sphere by electrostatic repulsion.

    Parameters
    ----------
    n_directions : int
        At least 6, on each shell.
    rng : numpy.random.Generator
        Where the directions start from.
    b_s_mm2 : float or sequence of float
        b-value of the shell, or of each.
    n_b0 : int
        Volumes without weighting, first in the series.

    Returns
    -------
    bvals_s_mm2 : ndarray, shape (n_b0 + shells * n_directions,)
    bvecs_ras : ndarray, shape (n_b0 + shells * n_directions, 3)

    Raises
    ------
    InputError
        Fewer than 6 directions or no b=0.

    References
    ----------
    Jones, Horsfield and Simmons 1999, Magn Reson Med 42:515,
    doi:10.1002/(SICI)1522-2594(199909)42:3<515::AID-MRM14>3.0.CO;2-Q.

    Examples
    --------
    >>> bvals, bvecs = gradient_scheme(12, rng=np.random.default_rng(0))
    >>> bvals.shape, bvecs.shape
    ((13,), (13, 3))
    """
    if n_directions < 6 or n_b0 < 1:
        raise InputError(
            f"n_directions={n_directions}, n_b0={n_b0}; a tensor needs 6 directions and one b=0"
        )
    shells = np.atleast_1d(np.asarray(b_s_mm2, float))
    bvecs = [np.zeros((n_b0, 3))]
    for _ in shells:
        points = rng.normal(size=(n_directions, 3))
        start = HemiSphere(xyz=points / np.linalg.norm(points, axis=1, keepdims=True))
        signs = np.where(rng.random(n_directions) < 0.5, -1, 1)
        bvecs.append(disperse_charges(start, iters=500)[0].vertices * signs[:, None])
    return np.r_[np.zeros(n_b0), np.repeat(shells, n_directions)], np.vstack(bvecs)


def fsl_bvecs(dwi: images.Dwi) -> NDArray[np.float64]:
    """Turn RAS b-vectors into an FSL ``bvec`` table, shape (3, volumes).

    Examples
    --------
    >>> series = images.make(np.ones((2, 2, 2, 2)), np.diag([-1, 1, 1, 1]))
    >>> dwi = images.Dwi(series, np.array([0, 1000.0]), np.array([[0, 0, 0], [1.0, 0, 0]]))
    >>> fsl_bvecs(dwi)[:, 1]
    array([-1.,  0.,  0.])
    """
    axes = images.rotation(dwi.image.affine)
    stored = dwi.bvecs_ras @ axes
    if np.linalg.det(axes) > 0:
        stored[:, 0] *= -1
    return stored.T + 0.0


def make_diffusion(
    brain: Brain,
    *,
    rng: np.random.Generator,
    tissue: WhiteMatter | None = None,
    bvals_s_mm2: ArrayLike | None = None,
    bvecs_ras: ArrayLike | None = None,
    snr: float = 25.0,
    vessels: ArrayLike | None = None,
) -> DiffusionPhantom:
    """Simulate a diffusion scan of a brain.

    White matter has projection fibres (z) where the corona radiata runs, association fibres (y)
    beside it, subcortical fibres (x) outside, and the fanning corpus callosum between the
    hemispheres.  Within 8 mm of the four ALPS regions the direction is exactly the axis, turned by
    `WhiteMatter.tilt_deg`.

    Parameters
    ----------
    brain : Brain
        From `pvsbook.phantoms.brain.make_brain`: grid, storage order and pose of the head.
    rng : numpy.random.Generator
        Gradient directions and noise.
    tissue : WhiteMatter, optional
    bvals_s_mm2, bvecs_ras : array_like, optional
        Gradient scheme; by default 32 directions at 1000 s/mm2 and three b=0.
    snr : float
        White-matter signal at b=0 over the noise of one channel; infinity for none.
    vessels : array_like, optional
        How much of the perivascular fraction each voxel has, 0 to 1, on the grid of the brain:
        the index then depends on the place.  All of it everywhere by default.

    Returns
    -------
    DiffusionPhantom

    Examples
    --------
    >>> from pvsbook.phantoms.brain import make_brain
    >>> phantom = make_diffusion(make_brain(4.0), rng=np.random.default_rng(0))
    >>> phantom.dwi.image.shape[3], round(phantom.index, 2)
    (35, 1.39)

    Without vessels in any voxel the tissue's index of 1.39 is found nowhere:

    >>> brain = make_brain(4.0, z_range_mni_mm=(20, 34))
    >>> rng = np.random.default_rng(0)
    >>> for gaussian in (True, False):
    ...     tissue, none = WhiteMatter(gaussian=gaussian), np.zeros(brain.shape)
    ...     bare = make_diffusion(brain, rng=rng, tissue=tissue, snr=np.inf, vessels=none)
    ...     known = replace(tissue, perivascular=0.0)
    ...     same = make_diffusion(
    ...         brain, rng=rng, tissue=known, snr=np.inf,
    ...         bvals_s_mm2=bare.dwi.bvals_s_mm2, bvecs_ras=bare.dwi.bvecs_ras,
    ...     )  # fmt: skip
    ...     bool(np.allclose(bare.dwi.image.dataobj, same.dwi.image.dataobj))
    True
    True
    """
    tissue = WhiteMatter() if tissue is None else tissue
    if bvals_s_mm2 is None or bvecs_ras is None:
        bvals, bvecs = gradient_scheme(32, rng=rng, n_b0=3)
    else:
        bvals, bvecs = np.asarray(bvals_s_mm2, float), np.asarray(bvecs_ras, float)
    density = None if vessels is None else np.asarray(vessels, float)
    if density is not None and (
        density.shape != brain.shape or not ((density >= 0) & (density <= 1)).all()
    ):
        raise InputError(
            f"vessels: shape {density.shape}, {density.min():g} to {density.max():g}; give values "
            f"from 0 to 1 on the grid of the brain, {brain.shape}"
        )
    to_head = images.rotation(brain.mni_to_world)
    clean = _signals(brain, tissue, bvals, bvecs @ to_head, density)
    dwi = images.Dwi(brain.image(_SCALE * clean), bvals, bvecs)
    weighted = bvals[bvals >= images.B0_BELOW_S_MM2]
    fitted = weighted[np.abs(weighted - 1000).argmin()]  # a tensor is fitted to this shell
    index = true_index(tissue, b_s_mm2=float(fitted))
    phantom = DiffusionPhantom(dwi, brain, tissue, index, 0.0, density)
    return add_noise(phantom, snr=snr, rng=rng)


def add_noise(
    phantom: DiffusionPhantom, *, snr: float, rng: np.random.Generator
) -> DiffusionPhantom:
    """Add Rician noise to a phantom; keep the noise-free one to draw many scans of one head.

    Examples
    --------
    >>> from pvsbook.phantoms.brain import make_brain
    >>> rng = np.random.default_rng(0)
    >>> clean = make_diffusion(make_brain(5.0), rng=rng, snr=np.inf)
    >>> add_noise(clean, snr=20, rng=rng).noise_sigma
    50.0
    """
    if np.isinf(snr):
        return phantom
    sigma = _SCALE / snr
    clean = images.array(phantom.dwi.image)
    real = clean + np.float32(sigma) * rng.standard_normal(clean.shape, dtype=np.float32)
    noisy = np.hypot(real, np.float32(sigma) * rng.standard_normal(clean.shape, dtype=np.float32))
    dwi = replace(phantom.dwi, image=phantom.brain.image(noisy))
    return replace(phantom, dwi=dwi, noise_sigma=sigma)


def _signals(
    brain: Brain,
    tissue: WhiteMatter,
    bvals: NDArray,
    bvecs_head: NDArray,
    vessels: NDArray | None,
) -> NDArray[np.float32]:
    """Noise-free series; white matter has signal 1 at b=0."""
    inside = brain.brain > 0.01
    mm = brain.mni_coordinates()[inside].astype(np.float64)
    near = near_regions(mm)
    wm, gm, csf = (
        np.where(near, pure, fraction[inside])
        for pure, fraction in ((1, brain.wm), (0, brain.gm), (0, brain.csf))
    )
    fibres = fibre_directions(mm, tissue.tilt_deg)
    density = None if vessels is None else vessels[inside]
    grey = WhiteMatter(
        dispersion_deg=0.0, intra=0.0, parallel=0.95e-3, perpendicular=0.75e-3, perivascular=0.0
    )
    fluid = np.exp(-3e-3 * bvals)
    values = np.empty((len(mm), len(bvals)), np.float32)
    for start in range(0, len(mm), _CHUNK):
        part = slice(start, start + _CHUNK)
        share = None if density is None else density[part]
        values[part] = (
            wm[part, None] * tissue.signal(fibres[part], bvals, bvecs_head, vessels=share)
            + 1.2 * gm[part, None] * grey.signal(fibres[part], bvals, bvecs_head)
            + 2.5 * csf[part, None] * fluid
        )
    series = np.zeros((*brain.shape, len(bvals)), np.float32)
    series[inside] = values
    return series
