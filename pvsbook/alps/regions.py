"""The four regions of the ALPS index: where they are in MNI space, and their voxels on a scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
from dipy.reconst.dti import fractional_anisotropy, mean_diffusivity, mode
from nibabel.affines import apply_affine
from numpy.typing import ArrayLike, NDArray

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.alps import tensor
from pvsbook.atlas.projection_association import ALPS_CENTRES_MNI_MM
from pvsbook.atlas.registration import Registration

__all__ = [
    "NAMES",
    "SPHERES_2_5_MM",
    "SPHERES_5_MM",
    "RoiMeasure",
    "RoiSet",
    "Voxels",
    "sphere_voxels",
]

NAMES = tuple(ALPS_CENTRES_MNI_MM)
EXPECTED_AXIS = {"projection": 2, "association": 1}  # of the head, along which each tract runs
FLUID_MD_MM2_S = 1.1e-3  # mean diffusivity above which a voxel counts as fluid
WHITE_FA = 0.2  # anisotropy from which a voxel counts as white matter, as in the field's tools
LEAST_WHITE = 0.1  # of a sphere; with less, the whole sphere is measured and its quality says why
_SAMPLES = 7  # points along each edge of a voxel that measure its fraction inside a sphere
_COARSE = 3  # the same for the many places that an interval draws


@dataclass(frozen=True)
class RoiSet:
    """Four spheres; of each, white matter is measured (FA of 0.2 or more, and no fluid).

    Attributes
    ----------
    centres_mm : mapping of str to (x, y, z)
        One centre for each of `NAMES`; x is positive on the right.
    radius_mm : float
        A sphere of 2.5 mm holds eight voxels of 2 mm and three of 2.7 mm, so that a small shift
        may move the index of a real scan; one of 5 mm holds 65 and 27, and is less steep.
    space : {"mni", "scanner"}
        What the centres are in: MNI mm, or scanner mm of the one scan on which they were placed
        by hand.

    Examples
    --------
    >>> SPHERES_2_5_MM.centres_mm["left_projection"]
    (-26.0, -16.0, 27.0)
    """

    centres_mm: Mapping[str, tuple[float, float, float]]
    radius_mm: float
    space: str = "mni"

    def __post_init__(self) -> None:
        if set(self.centres_mm) != set(NAMES):
            raise InputError(
                f"centres_mm has {sorted(self.centres_mm)}; give one centre for each of "
                f"{', '.join(NAMES)}"
            )
        if not 1 <= self.radius_mm <= 10:
            raise InputError(f"radius_mm is {self.radius_mm}; use 1 to 10 mm, usually 2.5")
        if self.space not in ("mni", "scanner"):
            raise InputError(f"space is {self.space!r}; use 'mni' or 'scanner'")


SPHERES_2_5_MM = RoiSet(dict(ALPS_CENTRES_MNI_MM), 2.5)
SPHERES_5_MM = RoiSet(dict(ALPS_CENTRES_MNI_MM), 5.0)


@dataclass(frozen=True, eq=False)
class Voxels:
    """Voxels of one region.

    Attributes
    ----------
    index : ndarray of int, shape (n, 3)
    weight : ndarray, shape (n,)
        Fraction of each voxel that lies in the region, above 0 and up to 1.
    inside : float
        Fraction of the region that lies in the allowed voxels; below 1 where a mask or the
        field of view cuts it.
    white : float
        Fraction of that which is white matter.
    fluid : float
        Fraction with a mean diffusivity above 1.1e-3 mm2/s, as near ventricles.
    """

    index: NDArray[np.intp]
    weight: NDArray[np.float64]
    inside: float
    white: float = float("nan")
    fluid: float = float("nan")

    @property
    def at(self) -> tuple[NDArray[np.intp], ...]:
        """The voxels as an index into an array on the grid."""
        return tuple(self.index.T)

    def mean(self, values: ArrayLike) -> NDArray[np.float64]:
        """Average values of the voxels, shape (n, ...), by how much of each belongs."""
        return np.tensordot(self.weight, np.asarray(values, float), 1) / self.weight.sum()


def sphere_voxels(
    centre_mm: ArrayLike,
    radius_mm: float,
    voxel_to_mm: ArrayLike,
    allowed: ArrayLike,
    *,
    samples: int = _SAMPLES,
) -> Voxels:
    """Find the voxels of a scan that a sphere holds, and how much of each.

    A sphere of 2.5 mm holds eight voxels of 2 mm; taking or leaving whole voxels would make the
    index jump with shifts of a tenth of a millimetre.  Each voxel therefore counts by the
    fraction of its volume inside the sphere.

    Parameters
    ----------
    centre_mm : array_like, shape (3,)
    radius_mm : float
    voxel_to_mm : array_like, shape (4, 4)
        Voxel index to the space of the centre: to MNI mm for a sphere in MNI space.
    allowed : array_like of bool, shape (x, y, z)
        Voxels that may belong, such as the brain mask.
    samples : int
        Points along each edge of a voxel at which inside and outside are told apart.

    Returns
    -------
    Voxels

    Examples
    --------
    >>> found = sphere_voxels((5, 5, 5), 2.5, np.eye(4), np.ones((11, 11, 11), bool))
    >>> round(float(found.weight.sum()), 1), round(4 / 3 * np.pi * 2.5**3, 1)
    (65.8, 65.4)
    """
    voxel_to_mm, allowed = np.asarray(voxel_to_mm, float), np.asarray(allowed, bool)
    centre = np.asarray(centre_mm, float)
    middle = apply_affine(np.linalg.inv(voxel_to_mm), centre)
    # the box of voxels that can touch the sphere, by the norm of each row of mm -> voxel
    reach = radius_mm * np.linalg.norm(np.linalg.inv(voxel_to_mm[:3, :3]), axis=1) + 1
    low, high = np.floor(middle - reach).astype(int), np.ceil(middle + reach).astype(int)
    box = np.stack(np.meshgrid(*map(np.arange, low, high + 1), indexing="ij"), -1).reshape(-1, 3)
    ticks = (np.arange(samples) + 0.5) / samples - 0.5
    offsets = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), -1).reshape(-1, 3)
    points = apply_affine(voxel_to_mm, box[:, None] + offsets)
    weight = (((points - centre) ** 2).sum(axis=-1) <= radius_mm**2).mean(axis=1)
    box, weight = box[weight > 0], weight[weight > 0]
    on_grid = ((box >= 0) & (box < allowed.shape)).all(axis=1)
    usable = np.zeros(len(box), bool)
    usable[on_grid] = allowed[tuple(box[on_grid].T)]
    inside = weight[usable].sum() / max(weight.sum(), 1e-12)
    return Voxels(box[usable], weight[usable], float(inside))


def label_voxels(labels: ArrayLike, number: int, allowed: ArrayLike) -> Voxels:
    """Take the voxels of a region that was drawn by hand.

    Parameters
    ----------
    labels : array_like of int, shape (x, y, z)
        1 to 4 in the order of `NAMES`, on the grid of the scan.
    number : int
    allowed : array_like of bool, shape (x, y, z)
        Voxels that may belong, such as the brain mask.

    Raises
    ------
    InputError
        If no voxel has the label.

    Examples
    --------
    >>> drawn = np.zeros((3, 3, 3), int)
    >>> drawn[1, 1] = 2
    >>> label_voxels(drawn, 2, np.ones((3, 3, 3), bool)).weight
    array([1., 1., 1.])
    """
    drawn = np.asarray(labels) == number
    if not drawn.any():
        raise InputError(
            f"rois: no voxel has label {number}, {NAMES[number - 1]}; labels 1 to 4 are "
            f"{', '.join(NAMES)}"
        )
    index = np.argwhere(drawn & np.asarray(allowed, bool))
    return Voxels(index, np.ones(len(index)), len(index) / int(drawn.sum()))


@dataclass(frozen=True, eq=False)
class Placement:
    """Brings the four regions to a scan that lies somewhere in MNI space.

    Attributes
    ----------
    registration : Registration
    scan : Nifti1Image
        The series as it is stored, on whose grid regions by hand are drawn.
    affine : ndarray, shape (4, 4)
        Of the canonical storage order, which the arrays have.
    mask : ndarray of bool, shape (x, y, z)
        Brain.
    fa, md_mm2_s : ndarray, shape (x, y, z)
    d_mm2_s : ndarray, shape (x, y, z, 3, 3)
        Tensors in the axes of the head.
    """

    registration: Registration
    scan: nib.Nifti1Image
    affine: NDArray[np.float64]
    mask: NDArray[np.bool_]
    fa: NDArray[np.float32]
    md_mm2_s: NDArray[np.float32]
    d_mm2_s: NDArray[np.float64]

    def place(
        self,
        rois: RoiSet | nib.Nifti1Image,
        shifts_mm: Mapping[str, ArrayLike],
        *,
        coarse: bool = False,
    ) -> dict[str, Voxels]:
        """Find the voxels of each region.

        Spheres are shifted, each by mm along three axes, and only their white matter is kept;
        `coarse` places them faster.
        """
        if isinstance(rois, RoiSet):
            samples = _COARSE if coarse else _SAMPLES
            spheres = {n: self._sphere(rois, n, shifts_mm[n], samples) for n in NAMES}
            return {name: self._describe(sphere, cut=True) for name, sphere in spheres.items()}
        images.same_grid(rois, self.scan, name="rois", other_name="dwi")
        labels = np.asarray(nib.as_closest_canonical(rois).dataobj)
        drawn = {name: label_voxels(labels, k, self.mask) for k, name in enumerate(NAMES, 1)}
        return {name: self._describe(region, cut=False) for name, region in drawn.items()}

    def _sphere(
        self, rois: RoiSet, name: str, shift_mm: ArrayLike, samples: int = _SAMPLES
    ) -> Voxels:
        centre = np.add(rois.centres_mm[name], shift_mm)
        to_mm = self.affine
        if rois.space != "scanner":
            to_mm = self.registration.native_to_mni @ self.affine
            if self.registration.warp is not None:  # the sphere keeps its shape, and moves
                native = self.registration.points_to_native(centre)
                centre = apply_affine(self.registration.native_to_mni, native)
        return sphere_voxels(centre, rois.radius_mm, to_mm, self.mask, samples=samples)

    def _describe(self, region: Voxels, *, cut: bool) -> Voxels:
        """Say how much of a region is white matter and fluid; `cut` it to the white matter."""
        total = region.weight.sum()
        if not total:
            return replace(region, white=0.0, fluid=0.0)
        fluid = self.md_mm2_s[region.at] > FLUID_MD_MM2_S
        keep = (self.fa[region.at] >= WHITE_FA) & ~fluid
        white = float(region.weight[keep].sum() / total)
        region = replace(region, white=white, fluid=float(region.weight[fluid].sum() / total))
        if not cut or white < LEAST_WHITE:
            return region
        return replace(region, index=region.index[keep], weight=region.weight[keep])

    def search(
        self, rois: RoiSet | nib.Nifti1Image, search_mm: float
    ) -> dict[str, NDArray[np.float64]]:
        """Return the shift of each sphere to where FA along its axis is highest, fluid far."""
        if not isinstance(rois, RoiSet):
            raise InputError("search_mm: regions drawn by hand stay where they are; set it to 0")
        steps = np.arange(-np.floor(search_mm), np.floor(search_mm) + 1)
        shifts = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
        lengths = np.linalg.norm(shifts, axis=1)
        order = np.argsort(lengths, kind="stable")  # of equal scores, the smallest shift counts
        shifts = shifts[order[lengths[order] <= search_mm]]
        best = {}
        for name in NAMES:
            scores = [self._score(name, self._sphere(rois, name, shift)) for shift in shifts]
            best[name] = shifts[int(np.argmax(scores))]
        return best

    def _score(self, name: str, voxels: Voxels) -> float:
        """Score a place by anisotropy along the expected axis; fluid or a cut costs."""
        if voxels.inside < 0.9:
            return -1.0
        tensors = self.d_mm2_s[voxels.at]
        eigenvalues, eigenvectors = tensor.eigen(voxels.mean(tensors))
        along = eigenvectors[EXPECTED_AXIS[name.split("_")[1]], 0] ** 2
        fluid = voxels.mean(mean_diffusivity(tensor.eigen(tensors)[0]) > FLUID_MD_MM2_S)
        return float(min(fractional_anisotropy(eigenvalues), 1) * along - fluid)


@dataclass(frozen=True, eq=False)
class RoiMeasure:
    """Tensor and quality of one region, in the axes of the head (MNI); diffusivities in mm2/s.

    Attributes
    ----------
    name : str
        One of `pvsbook.alps.regions.NAMES`.
    voxels : Voxels
        Grid indices (canonical storage order) and weights.
    d_mm2_s : ndarray, shape (3, 3)
        Mean tensor.
    n_voxels : float
        Sum of the weights.
    fa, md_mm2_s, mode : float
        Of the mean tensor.
    eigenvalues_mm2_s : ndarray, shape (3,)
        Descending.
    angle_deg : float
        Of the principal direction to the axis along which the tract should run.
    dispersion_deg : float
        Root mean square angle of the voxels' principal directions to that of the mean tensor.
    fluid_distance_mm : float
        From the middle of the region to the nearest voxel above 2e-3.
    displacement_mm : float
        How far the search moved the region; 0 without one.
    fit : Wls
        Tensors of the voxels in the axes of the b-vectors, with what a bootstrap needs.
    """

    name: str
    voxels: Voxels
    d_mm2_s: NDArray[np.float64]
    n_voxels: float
    fa: float
    md_mm2_s: float
    mode: float
    eigenvalues_mm2_s: NDArray[np.float64]
    angle_deg: float
    dispersion_deg: float
    fluid_distance_mm: float
    displacement_mm: float
    fit: tensor.Wls

    @property
    def fluid_fraction(self) -> float:
        """Fraction of the whole region with a mean diffusivity above 1.1e-3 mm2/s."""
        return self.voxels.fluid


def measure_roi(
    name: str,
    voxels: Voxels,
    fit: tensor.Wls,
    to_head: NDArray[np.float64],
    to_fluid: NDArray[np.float64],
    displacement_mm: float,
) -> RoiMeasure:
    """Measure a region: its mean tensor in the axes of the head, and the quality of its place.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    voxels : Voxels
    fit : Wls
        Tensors of the voxels.
    to_head : ndarray, shape (3, 3)
        Rotation from the axes of the fit to those of the head.
    to_fluid : ndarray, shape (x, y, z)
        Distance in mm of every voxel to fluid.
    displacement_mm : float
        How far the search moved the region.
    """
    d = to_head @ fit.d_mm2_s @ to_head.T
    mean = voxels.mean(d)
    eigenvalues, eigenvectors = tensor.eigen(mean)
    each_eigenvectors = tensor.eigen(d)[1]
    cosines = np.abs(each_eigenvectors[..., 0] @ eigenvectors[:, 0])
    dispersion = np.rad2deg(np.arccos(np.clip(cosines, 0, 1)))
    along = abs(eigenvectors[EXPECTED_AXIS[name.split("_")[1]], 0])
    return RoiMeasure(
        name=name,
        voxels=voxels,
        d_mm2_s=mean,
        n_voxels=float(voxels.weight.sum()),
        fa=min(float(fractional_anisotropy(eigenvalues)), 1.0),
        md_mm2_s=float(mean_diffusivity(eigenvalues)),
        mode=float(mode(mean)),
        eigenvalues_mm2_s=eigenvalues,
        angle_deg=float(np.rad2deg(np.arccos(min(along, 1)))),
        dispersion_deg=float(np.sqrt(voxels.mean(dispersion**2))),
        fluid_distance_mm=float(voxels.mean(to_fluid[voxels.at])),
        displacement_mm=displacement_mm,
        fit=fit,
    )
