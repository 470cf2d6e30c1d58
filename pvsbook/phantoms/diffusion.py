"""A brain-shaped diffusion phantom whose ALPS index is known by calculation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import nibabel as nib
import numpy as np
from dipy.core.sphere import HemiSphere, disperse_charges
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.atlas.templates import mni
from pvsbook.phantoms.brain import Brain

__all__ = [
    "SITES_MNI_MM",
    "DiffusionPhantom",
    "Tissue",
    "add_distortion",
    "add_motion",
    "add_noise",
    "fsl_bvecs",
    "gradient_scheme",
    "make_diffusion",
    "true_index",
]

SITES_MNI_MM = {
    "left_projection": (-26.0, -16.0, 27.0),
    "left_association": (-38.0, -16.0, 27.0),
    "right_projection": (26.0, -16.0, 27.0),
    "right_association": (38.0, -16.0, 27.0),
}
_SCALE = 1000.0  # white-matter signal at b=0
_PURE_MM = 8.0  # around the sites the phantom is white matter only, all fibres of one kind
_CHUNK = 50_000


@dataclass(frozen=True)
class Tissue:
    """What white matter is made of; diffusivities in mm2/s, fractions of the signal at b=0.

    Attributes
    ----------
    intra : float
        Fraction of sticks (inside axons), of the part that is neither perivascular nor free.
    parallel, perpendicular : float
        Diffusivities of the extra-axonal space; sticks share `parallel`.
    perivascular : float
        Fraction of fluid that moves along x of the head, as around medullary veins.
    perivascular_along, perivascular_across : float
        Its diffusivities.
    free : float
        Fraction of free water, isotropic at 3e-3.
    crossing : float
        Fraction of the fibres that run along x at every site: the index rises without any fluid.
    dispersion_deg : float
        Root mean square angle of the fibres inside a voxel from the tract, alike to all sides.
    tilt_deg : float
        Turn of the projection fibres about x, from z towards y.
    gaussian : bool
        True: every voxel has one tensor, the mean of its compartments, and the index is the
        same at every b-value.  False: the compartments' signals add, as in tissue.
    fanning_deg : float
        Root mean square angle by which the fibres fan to the left and right only, on top of
        `dispersion_deg`: where dispersion is not alike to all sides, its direction decides
        whether the index falls or rises.

    Examples
    --------
    >>> more = Tissue(dispersion_deg=25), Tissue(fanning_deg=25)
    >>> [round(true_index(tissue) - true_index(Tissue()), 2) for tissue in more]
    [-0.07, 0.45]
    """

    intra: float = 0.5
    parallel: float = 1.7e-3
    perpendicular: float = 0.8e-3
    perivascular: float = 0.08
    perivascular_along: float = 2.4e-3
    perivascular_across: float = 0.4e-3
    free: float = 0.0
    crossing: float = 0.0
    dispersion_deg: float = 8.0
    tilt_deg: float = 0.0
    gaussian: bool = True
    fanning_deg: float = 0.0

    def __post_init__(self) -> None:
        fractions = (self.intra, self.perivascular, self.free, self.crossing)
        if min(fractions) < 0 or max(fractions) > 1 or self.perivascular + self.free > 1:
            raise InputError(
                f"fractions intra={self.intra}, perivascular={self.perivascular}, "
                f"free={self.free}, crossing={self.crossing}; each must lie in 0..1, and "
                "perivascular + free too"
            )

    def compartments(self, fibres: NDArray) -> list[tuple[float, NDArray[np.float64]]]:
        """List fractions and tensors, shape (n, 3, 3), of voxels with the given fibres (n, 3)."""
        rest = 1 - self.perivascular - self.free
        across = np.broadcast_to([1.0, 0.0, 0.0], fibres.shape)
        parts = []
        for share, tract in ((1 - self.crossing, fibres), (self.crossing, across)):
            for weight, directions in self._dispersed(tract) if share > 0 else ():
                stick = _axial(directions, self.parallel, 0.0)
                around = _axial(directions, self.parallel, self.perpendicular)
                parts.append((rest * share * weight * self.intra, stick))
                parts.append((rest * share * weight * (1 - self.intra), around))
        fluid = _axial(across, self.perivascular_along, self.perivascular_across)
        free = np.broadcast_to(3e-3 * np.eye(3), (*fibres.shape, 3))
        parts += [(self.perivascular, fluid), (self.free, free)]
        return [(fraction, tensors) for fraction, tensors in parts if fraction > 0]

    def mean_tensor(self, fibres: NDArray) -> NDArray[np.float64]:
        """Average the compartments' tensors, shape (n, 3, 3)."""
        return np.add.reduce([f * d for f, d in self.compartments(fibres)])

    def _dispersed(self, tract: NDArray) -> list[tuple[float, NDArray[np.float64]]]:
        """Weights and directions, shape (n, 3), of the fibres about a tract: normal tilts."""
        if self.dispersion_deg == self.fanning_deg == 0:
            return [(1.0, tract)]
        nodes, weights = np.polynomial.hermite_e.hermegauss(3)
        each_way = np.deg2rad(self.dispersion_deg) / np.sqrt(2)
        tilts, weights = each_way * nodes, weights / np.sqrt(2 * np.pi)
        sideways = np.hypot(each_way, np.deg2rad(self.fanning_deg)) * nodes
        frames = _across_sideways(tract) if self.fanning_deg else _across(tract)
        return [
            (
                float(weights[i] * weights[j]),
                _tilted(tract, frames, np.array([[sideways[i], tilts[j]]])),
            )
            for i in range(3)
            for j in range(3)
        ]

    def signal(
        self,
        fibres: NDArray,
        bvals_s_mm2: NDArray,
        directions: NDArray,
        *,
        vessels: NDArray | None = None,
    ) -> NDArray[np.float64]:
        """Return the signal relative to b=0 of each voxel in each volume, shape (n, volumes).

        `vessels`, shape (n,), from 0 to 1, is how much of `perivascular` each voxel has; all of
        it by default.
        """
        if vessels is not None:
            return self._signal_at(fibres, bvals_s_mm2, directions, vessels[:, None])
        gaussian = [(1.0, self.mean_tensor(fibres))] if self.gaussian else []
        parts = gaussian or self.compartments(fibres)
        return _decay(parts, bvals_s_mm2, directions)

    def _signal_at(
        self, fibres: NDArray, bvals: NDArray, directions: NDArray, vessels: NDArray
    ) -> NDArray[np.float64]:
        """Mix tissue with and without vessels: both tensors and signals are linear in them."""
        bare = replace(self, perivascular=0.0)
        if self.gaussian:
            without, all_of_it = bare.mean_tensor(fibres), self.mean_tensor(fibres)
            mixed = without + vessels[:, :, None] * (all_of_it - without)
            return _decay([(1.0, mixed)], bvals, directions)
        without, all_of_it = (t.signal(fibres, bvals, directions) for t in (bare, self))
        return without + vessels * (all_of_it - without)


@dataclass(frozen=True, eq=False)
class DiffusionPhantom:
    """A simulated diffusion scan and what is true of it.

    Attributes
    ----------
    dwi : pvsbook.images.Dwi
        Series with b-values and RAS b-vectors, as `pvsbook.images.load_dwi` would give it.
    brain : Brain
        Grid, tissue fractions and pose.
    tissue : Tissue
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
    tissue: Tissue
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
    tissue: Tissue | None = None,
    bvals_s_mm2: ArrayLike | None = None,
    bvecs_ras: ArrayLike | None = None,
    snr: float = 25.0,
    vessels: ArrayLike | None = None,
) -> DiffusionPhantom:
    """Simulate a diffusion scan of a brain.

    White matter has projection fibres (z) where the corona radiata runs, association fibres (y)
    beside it, subcortical fibres (x) outside, and the fanning corpus callosum between the
    hemispheres.  Within 8 mm of the four ALPS sites the direction is exactly the axis, turned by
    `Tissue.tilt_deg`.

    Parameters
    ----------
    brain : Brain
        From `pvsbook.phantoms.brain.make_brain`: grid, storage order and pose of the head.
    rng : numpy.random.Generator
        Gradient directions and noise.
    tissue : Tissue, optional
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
    ...     tissue, none = Tissue(gaussian=gaussian), np.zeros(brain.shape)
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
    tissue = Tissue() if tissue is None else tissue
    if bvals_s_mm2 is None or bvecs_ras is None:
        bvals, bvecs = gradient_scheme(32, rng=rng, n_b0=3)
    else:
        bvals, bvecs = np.asarray(bvals_s_mm2, float), np.asarray(bvecs_ras, float)
    density = None if vessels is None else _checked_vessels(vessels, brain)
    turn = images.rotation(brain.mni_to_world)
    clean = _signals(brain, tissue, bvals, bvecs @ turn, density)
    dwi = images.Dwi(brain.image(_SCALE * clean), bvals, bvecs)
    index = true_index(tissue, b_s_mm2=_nearest_shell(bvals))
    phantom = DiffusionPhantom(dwi, brain, tissue, index, 0.0, density)
    return add_noise(phantom, snr=snr, rng=rng)


def _checked_vessels(vessels: ArrayLike, brain: Brain) -> NDArray[np.float64]:
    density = np.asarray(vessels, float)
    if density.shape != brain.shape or not ((density >= 0) & (density <= 1)).all():
        raise InputError(
            f"vessels: shape {density.shape}, {density.min():g} to {density.max():g}; give values "
            f"from 0 to 1 on the grid of the brain, {brain.shape}"
        )
    return density


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
        Its b-vectors are the scanner's: what the gradients were in the head is not told.

    Examples
    --------
    >>> from pvsbook.phantoms.brain import make_brain
    >>> rng = np.random.default_rng(0)
    >>> clean = make_diffusion(make_brain(5.0), rng=rng, snr=np.inf)
    >>> moved = add_motion(clean, rotation_deg=2, translation_mm=1, rng=rng)
    >>> moved.dwi.image.shape == clean.dwi.image.shape
    True
    """
    if phantom.noise_sigma > 0:
        raise InputError("phantom: has noise already; make it with snr=inf, move it, add noise")
    brain, dwi = phantom.brain, phantom.dwi
    n = len(dwi.bvals_s_mm2)
    angles = rng.normal(0, rotation_deg, (n, 3)) * (np.arange(n) > 0)[:, None]
    shifts = rng.normal(0, translation_mm, (n, 3)) * (np.arange(n) > 0)[:, None]
    turns = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    in_head = np.einsum("ki,kij->kj", dwi.bvecs_ras, turns) @ images.rotation(brain.mni_to_world)
    series = _SCALE * _signals(brain, phantom.tissue, dwi.bvals_s_mm2, in_head, phantom.vessels)
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

    Examples
    --------
    >>> from pvsbook.phantoms.brain import make_brain
    >>> clean = make_diffusion(make_brain(5.0), rng=np.random.default_rng(0), snr=np.inf)
    >>> warped = add_distortion(clean, shift_mm=8)
    >>> bool(np.abs(warped.dwi.image.dataobj - clean.dwi.image.dataobj).max() > 100)
    True
    """
    if phantom.noise_sigma > 0:
        raise InputError("phantom: has noise already; make it with snr=inf, distort it, add noise")
    brain = phantom.brain
    apart = brain.mni_coordinates() - np.array([0, 40, -10], np.float32)
    shift = shift_mm * np.exp(-(apart**2).sum(axis=-1) / (2 * 35.0**2))
    axis = int(np.argmax(np.abs(images.rotation(brain.affine)[1])))
    steps = shift / brain.voxel_size_mm[axis]
    squeeze = 1 - np.gradient(steps, axis=axis)
    where = np.indices(brain.shape, dtype=np.float32)
    where[axis] -= steps
    series = images.array(phantom.dwi.image).copy()
    for k in range(series.shape[-1]):
        series[..., k] = squeeze * ndimage.map_coordinates(series[..., k], where, order=1)
    return replace(phantom, dwi=replace(phantom.dwi, image=brain.image(series)))


def _nearest_shell(bvals: NDArray) -> float:
    """Return the shell that a tensor is fitted to: the one nearest to 1000 s/mm2."""
    weighted = bvals[bvals >= images.B0_BELOW_S_MM2]
    return float(weighted[np.abs(weighted - 1000).argmin()])


def true_index(tissue: Tissue, *, b_s_mm2: float = 1000.0) -> float:
    """Calculate the ALPS index of a tissue in the frame of its tracts, without noise.

    For Gaussian tissue the mean tensor gives it in closed form at every b-value; otherwise the
    tensor is the weighted least-squares fit to the log-signal over the whole sphere, which is
    what an infinitely dense gradient scheme would measure.

    Parameters
    ----------
    tissue : Tissue
    b_s_mm2 : float
        Matters only for tissue that is not Gaussian.

    Examples
    --------
    >>> round(true_index(Tissue(perivascular=0)), 6)
    1.0
    """
    tilt = np.deg2rad(tissue.tilt_deg)
    projection = np.array([0.0, np.sin(tilt), np.cos(tilt)])
    association = np.array([0.0, 1.0, 0.0])
    vessel = np.array([1.0, 0.0, 0.0])
    along, across = np.zeros(()), np.zeros(())
    for tract in (projection, association):
        tensor = _population_tensor(tissue, tract, b_s_mm2)
        third = np.cross(vessel, tract)
        along = along + vessel @ tensor @ vessel
        across = across + third @ tensor @ third
    return float(along / across)


def _population_tensor(tissue: Tissue, tract: NDArray, b_s_mm2: float) -> NDArray[np.float64]:
    """Tensor of the tissue: the mean one, or the fit to its signal over the whole sphere."""
    if tissue.gaussian:
        return tissue.mean_tensor(tract[None])[0]
    g = _sphere(600)
    signal = tissue.signal(tract[None], np.full(len(g), b_s_mm2), g)[0]
    design = np.column_stack(
        [g**2, 2 * g[:, [0]] * g[:, [1]], 2 * g[:, [0]] * g[:, [2]], 2 * g[:, [1]] * g[:, [2]]]
    )
    weighted = -np.log(signal) / b_s_mm2 * signal
    xx, yy, zz, xy, xz, yz = np.linalg.lstsq(design * signal[:, None], weighted, rcond=None)[0]
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def _decay(
    parts: list[tuple[float, NDArray]], bvals: NDArray, directions: NDArray
) -> NDArray[np.float64]:
    """Add the signals of compartments, each a fraction and tensors of shape (n, 3, 3)."""
    products = (directions[:, :, None] * directions[:, None, :]).reshape(-1, 9)
    weighted = bvals[:, None] * products
    total = np.zeros((len(parts[0][1]), len(bvals)))
    for fraction, tensors in parts:
        total += fraction * np.exp(-tensors.reshape(-1, 9) @ weighted.T)
    return total


def _across(fibres: NDArray) -> NDArray[np.float64]:
    """Two unit vectors perpendicular to each fibre and each other, shape (n, 2, 3)."""
    least = np.eye(3)[np.abs(fibres).argmin(axis=1)]
    one = np.cross(fibres, least)
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    return np.stack([one, np.cross(fibres, one)], axis=1)


def _across_sideways(fibres: NDArray) -> NDArray[np.float64]:
    """Choose the first of the two perpendiculars as near to x, left-right, as it can be."""
    towards_x = np.array([1.0, 0.0, 0.0]) - fibres[:, :1] * fibres
    length = np.linalg.norm(towards_x, axis=1, keepdims=True)
    one = np.where(length > 1e-6, towards_x / np.maximum(length, 1e-6), _across(fibres)[:, 0])
    return np.stack([one, np.cross(fibres, one)], axis=1)


def _tilted(fibres: NDArray, frames: NDArray, tilts_rad: NDArray) -> NDArray[np.float64]:
    """Turn fibres by the length of a tilt vector towards where it points in the frame."""
    angle = np.linalg.norm(tilts_rad, axis=1, keepdims=True)
    unit = tilts_rad / np.where(angle > 0, angle, 1)
    towards = unit[:, :1] * frames[:, 0] + unit[:, 1:] * frames[:, 1]
    return np.cos(angle) * fibres + np.sin(angle) * towards


def _sphere(n: int) -> NDArray[np.float64]:
    """Points spread evenly over the sphere by the golden angle."""
    k = np.arange(n) + 0.5
    z = 1 - 2 * k / n
    phi = np.pi * (1 + 5**0.5) * k
    r = np.sqrt(1 - z**2)
    return np.column_stack([r * np.cos(phi), r * np.sin(phi), z])


def _axial(directions: NDArray, along: float, across: float) -> NDArray[np.float64]:
    outer = directions[..., :, None] * directions[..., None, :]
    return across * np.eye(3) + (along - across) * outer


def _near_sites(mm: NDArray) -> NDArray[np.bool_]:
    near = np.zeros(len(mm), bool)
    for site in SITES_MNI_MM.values():
        near |= ((mm - np.array(site)) ** 2).sum(axis=1) < _PURE_MM**2
    return near


def _fibres(mm: NDArray, tilt_deg: float) -> NDArray[np.float64]:
    """Fibre direction at MNI coordinates, shape (n, 3): smooth bundles, exact at the sites."""
    x, y, z = mm.T
    side, lateral = np.where(x < 0, -1.0, 1.0), np.abs(x)  # the midline is right
    zero, one = np.zeros_like(x), np.ones_like(x)
    # callosum: out from the midline, bending up, forwards at the genu, backwards at the splenium
    bend = np.clip(lateral / 22, 0, 1)
    fore = np.clip((y - 5) / 25, 0, 1) - np.clip((-y - 35) / 20, 0, 1)
    callosum = np.stack([side * (1.05 - bend), 1.2 * fore * bend, bend * (1 - np.abs(fore))], -1)
    tilt = np.deg2rad(tilt_deg)
    # corona radiata: up, fanning outwards above, forwards and backwards away from the sites
    out = np.clip((z - 38) / 30, 0, 0.9) - np.clip((8 - z) / 40, 0, 0.6)
    fan = np.clip((np.abs(y + 16) - 10) / 40, 0, 1) * np.sign(y + 16)
    projection = np.stack([side * out, fan + np.sin(tilt), np.cos(tilt) * one], -1)
    # superior longitudinal fasciculus: forwards, its ends bending down and outwards
    down = np.clip((np.abs(y + 16) - 12) / 35, 0, 1) * -np.sign(y + 16)
    association = np.stack([side * 0.5 * np.abs(down), one, 0.9 * down], -1)
    subcortical = np.stack([side, 0.4 * fore, np.clip((z - 20) / 50, -0.8, 0.8)], -1)
    cingulum = np.stack([zero, one, -0.02 * (y + 10)], -1)
    is_cingulum = (lateral < 12) & (z > 28)
    central = (lateral < 18) & (z > -8)
    zones = [is_cingulum, central, lateral < 32, lateral < 45]
    fibres = np.select(
        [zone[:, None] for zone in zones],
        [cingulum, callosum, projection, association],
        subcortical,
    )
    fibres /= np.linalg.norm(fibres, axis=1, keepdims=True)
    along_walls = _along_walls(fibres, mm)
    return np.where(_near_sites(mm)[:, None], fibres, along_walls)


@cache
def _wall_normals() -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Gradient of the smoothed white-matter map, shape (3, x, y, z), and its affine."""
    wm = mni("wm")
    smooth = ndimage.gaussian_filter(images.array(wm), 1.5)
    return np.stack(np.gradient(smooth)), wm.affine


def _along_walls(fibres: NDArray, mm: NDArray) -> NDArray[np.float64]:
    """Bend fibres along the walls of the white matter, as those of gyri run."""
    gradient, affine = _wall_normals()
    voxels = nib.affines.apply_affine(np.linalg.inv(affine), mm).T
    normal = np.stack([ndimage.map_coordinates(g, voxels, order=1) for g in gradient], -1)
    steep = np.linalg.norm(normal, axis=1, keepdims=True)
    unit = normal / np.maximum(steep, 1e-6)
    into = np.clip(steep / 0.04, 0, 1) * (fibres * unit).sum(axis=1, keepdims=True)
    bent = fibres - into * unit
    length = np.linalg.norm(bent, axis=1, keepdims=True)
    return np.where(length > 0.2, bent / np.maximum(length, 0.2), fibres)


def _signals(
    brain: Brain,
    tissue: Tissue,
    bvals: NDArray,
    bvecs_head: NDArray,
    vessels: NDArray | None = None,
) -> NDArray[np.float32]:
    """Noise-free series; white matter has signal 1 at b=0."""
    inside = brain.brain > 0.01
    mm = brain.mni_coordinates()[inside].astype(np.float64)
    near = _near_sites(mm)
    wm, gm, csf = (
        np.where(near, p, m[inside]) for p, m in zip((1, 0, 0), _maps(brain), strict=True)
    )
    fibres = _fibres(mm, tissue.tilt_deg)
    density = None if vessels is None else vessels[inside]
    grey = Tissue(
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


def _maps(brain: Brain) -> tuple[NDArray, NDArray, NDArray]:
    return brain.wm, brain.gm, brain.csf
