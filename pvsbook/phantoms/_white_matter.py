"""White matter of the diffusion phantom: its compartments, its fibres and its true index."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.atlas.projection_association import ALPS_CENTRES_MNI_MM
from pvsbook.atlas.templates import mni

_PURE_MM = 8.0  # around the ALPS regions: white matter only, all fibres of one kind


@dataclass(frozen=True)
class WhiteMatter:
    """Compartments of white matter: diffusivities in mm2/s, fractions of the signal at b=0.

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
        Fraction of the fibres that run along x everywhere: the index rises without any fluid.
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
    >>> more = WhiteMatter(dispersion_deg=25), WhiteMatter(fanning_deg=25)
    >>> [round(true_index(tissue) - true_index(WhiteMatter()), 2) for tissue in more]
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
        sideways = np.hypot(each_way, np.deg2rad(self.fanning_deg))
        across, third = _across(tract, sideways=self.fanning_deg != 0)
        weights = weights / np.sqrt(2 * np.pi)
        parts = []
        for a, weight_a in zip(sideways * nodes, weights, strict=True):
            for b, weight_b in zip(each_way * nodes, weights, strict=True):
                angle = np.sqrt(a * a + b * b)
                towards = a / (angle or 1.0) * across + b / (angle or 1.0) * third
                turned = np.cos(angle) * tract + np.sin(angle) * towards
                parts.append((float(weight_a * weight_b), turned))
        return parts

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
        if vessels is None:
            parts = self.compartments(fibres)
            if self.gaussian:
                parts = [(1.0, self.mean_tensor(fibres))]
            return _decay(parts, bvals_s_mm2, directions)
        # both tensors and signals are linear in the fraction of vessels
        bare = replace(self, perivascular=0.0)
        if self.gaussian:
            without, full = bare.mean_tensor(fibres), self.mean_tensor(fibres)
            mixed = without + vessels[:, None, None] * (full - without)
            return _decay([(1.0, mixed)], bvals_s_mm2, directions)
        without, full = (t.signal(fibres, bvals_s_mm2, directions) for t in (bare, self))
        return without + vessels[:, None] * (full - without)


def true_index(tissue: WhiteMatter, *, b_s_mm2: float = 1000.0) -> float:
    """Calculate the ALPS index of a tissue in the frame of its tracts, without noise.

    For Gaussian tissue the mean tensor gives it in closed form at every b-value; otherwise the
    tensor is the weighted least-squares fit to the log-signal over the whole sphere, which is
    what an infinitely dense gradient scheme would measure.

    Parameters
    ----------
    tissue : WhiteMatter
    b_s_mm2 : float
        Matters only for tissue that is not Gaussian.

    Examples
    --------
    >>> round(true_index(WhiteMatter(perivascular=0)), 6)
    1.0
    """
    tilt = np.deg2rad(tissue.tilt_deg)
    projection = np.array([0.0, np.sin(tilt), np.cos(tilt)])
    along = across = 0.0
    for tract in (projection, np.array([0.0, 1.0, 0.0])):
        tensor = _population_tensor(tissue, tract, b_s_mm2)
        third = np.cross([1.0, 0.0, 0.0], tract)  # x is the vessels' direction
        along += float(tensor[0, 0])
        across += float(third @ tensor @ third)
    return along / across


def _population_tensor(tissue: WhiteMatter, tract: NDArray, b_s_mm2: float) -> NDArray[np.float64]:
    """Tensor of the tissue: the mean one, or the fit to its signal over the whole sphere."""
    if tissue.gaussian:
        return tissue.mean_tensor(tract[None])[0]
    g = _sphere(600)
    signal = tissue.signal(tract[None], np.full(len(g), b_s_mm2), g)[0]
    design = (g[:, :, None] * g[:, None, :]).reshape(-1, 9) * signal[:, None]
    # of the nine, off-diagonal elements are told apart by the shortest solution: a symmetric one
    fit = np.linalg.lstsq(design, -np.log(signal) / b_s_mm2 * signal, rcond=None)[0]
    return fit.reshape(3, 3)


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


def _across(fibres: NDArray, *, sideways: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two unit vectors perpendicular to each fibre and each other, shape (n, 3) each.

    Where `sideways`, the first is as near to x, left-right, as it can be.
    """
    least = np.eye(3)[np.abs(fibres).argmin(axis=1)]
    one = np.cross(fibres, least)
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    if sideways:
        towards_x = np.array([1.0, 0.0, 0.0]) - fibres[:, :1] * fibres
        length = np.linalg.norm(towards_x, axis=1, keepdims=True)
        one = np.where(length > 1e-6, towards_x / np.maximum(length, 1e-6), one)
    return one, np.cross(fibres, one)


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


def near_regions(mm: NDArray) -> NDArray[np.bool_]:
    """Whether MNI coordinates, shape (n, 3), lie near a region of the ALPS index."""
    squares = [((mm - np.array(c)) ** 2).sum(axis=1) for c in ALPS_CENTRES_MNI_MM.values()]
    return np.min(squares, axis=0) < _PURE_MM**2


def fibre_directions(mm: NDArray, tilt_deg: float) -> NDArray[np.float64]:
    """Fibre direction at MNI coordinates, shape (n, 3): smooth bundles, exact at the regions."""
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
    return np.where(near_regions(mm)[:, None], fibres, along_walls)


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
