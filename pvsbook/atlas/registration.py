"""Bring a scan to MNI space, and MNI points and labels to the scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import nibabel as nib
import numpy as np
from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
from dipy.align.metrics import CCMetric
from dipy.align.transforms import AffineTransform3D, RigidTransform3D
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.processing import resample_from_to
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.atlas._multistart import (
    Side,
    between_centres,
    in_scanner,
    intensities,
    optimise,
    quality,
    refine,
    search,
    template_image,
    template_side,
)

__all__ = [
    "Registration",
    "Warp",
    "refine_nonlinear",
    "register_to_mni",
    "resample_labels",
    "rigid_between",
]

Model = Literal["affine", "syn"]

# Below it a scan does not lie where the registration says, and regions are not placed by it.
# Chosen between places that are right and wrong ones (turned over, moved by 10 mm or more, or no
# brain) of simulated heads, real people and textures.  Places 5 to 10 mm off can pass.
MIN_CORRELATION: Mapping[str, float] = MappingProxyType({"t1": 0.55, "t2": 0.35, "fa": 0.35})
_WARP_MM = 2.5


def _grid_mm(shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Place every voxel of a grid, shape (x, y, z, 3)."""
    return apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


@dataclass(frozen=True, eq=False)
class Warp:
    """A nonlinear correction on top of an affine transform.

    Attributes
    ----------
    affine : ndarray, shape (4, 4)
        Voxel index of the field to MNI mm.
    shift_mm : ndarray, shape (x, y, z, 3)
        To add to an MNI point before the affine transform takes it to the scan.
    """

    affine: NDArray[np.float64]
    shift_mm: NDArray[np.float32]

    def at(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the shift at MNI points, shape (..., 3); zero outside the field."""
        points = np.asarray(points_mm, float)
        voxel = apply_affine(np.linalg.inv(self.affine), points.reshape(-1, 3)).T
        shift = [ndimage.map_coordinates(self.shift_mm[..., k], voxel, order=1) for k in range(3)]
        return np.stack(shift, -1).reshape(points.shape)

    def apply(self, mni_image: nib.Nifti1Image, *, order: int = 0) -> nib.Nifti1Image:
        """Move an MNI image to where the affine transform of the scan finds it.

        Parameters
        ----------
        mni_image : Nifti1Image
            3D labels or map in MNI space.
        order : {0, 1}
            0 (nearest) for labels, 1 (linear) for probabilities.

        Returns
        -------
        Nifti1Image
            On the same grid; `Registration.to_native` takes it to the scan.
        """
        source = there = _grid_mm(self.shift_mm.shape[:3], self.affine)
        for _ in range(8):  # p + shift(p) = there, by fixed-point iteration
            source = there - self.at(source)
        back = Warp(self.affine, (source - there).astype(np.float32))
        points = _grid_mm(mni_image.shape, mni_image.affine).reshape(-1, 3)
        places = apply_affine(np.linalg.inv(mni_image.affine), points + back.at(points)).T
        moved = ndimage.map_coordinates(np.asanyarray(mni_image.dataobj), places, order=order)
        return nib.Nifti1Image(moved.reshape(mni_image.shape), mni_image.affine)


@dataclass(frozen=True)
class Registration:
    """Where a scan lies in MNI space.

    Attributes
    ----------
    native_to_mni : ndarray, shape (4, 4)
        Scanner mm (RAS, of the image's affine) to MNI mm.
    contrast : {"t1", "t2", "fa"}
        What the image was compared with.
    model : {"affine", "scaling", "rigid"}
        ``"scaling"`` (rotation, translation, three scales) where the field of view cuts the
        brain, ``"rigid"`` where a scale ran outside 0.75 to 1.4.
    start : str
        The start that led to the largest mutual information.
    mutual_information : float
        In nats, over the 4 mm grid of the scan.
    correlation : float
        Pearson's, of the scan with the template where both have brain, by the affine part.
    overlap : float
        Fraction of the scan's brain that lies on the template's brain.
    coverage : float
        Fraction of the template's brain that the scan's field of view holds.
    warp : Warp, optional
        From `refine_nonlinear`; `points_to_native` follows it.
    """

    native_to_mni: NDArray[np.float64]
    contrast: str
    model: str
    start: str
    mutual_information: float
    correlation: float
    overlap: float
    coverage: float
    warp: Warp | None = None

    @property
    def rotation(self) -> NDArray[np.float64]:
        """Rotation part, shape (3, 3), by polar decomposition (finite strain).

        It takes directions in the scanner to directions in MNI space.
        """
        u, _, vt = np.linalg.svd(self.native_to_mni[:3, :3])
        return u @ vt

    @property
    def scales(self) -> NDArray[np.float64]:
        """The three stretches of the affine, ascending; 1.1 means the brain grows by 10 %."""
        return np.linalg.svd(self.native_to_mni[:3, :3])[1][::-1].astype(np.float64)

    @property
    def angles_deg(self) -> tuple[float, float, float]:
        """Pitch, roll and yaw of the head in the scanner, in degrees: about x, y and z.

        Positive pitch lifts the chin, positive roll moves the crown to the right, positive yaw
        turns the nose to the left.
        """
        pitch, roll, yaw = Rotation.from_matrix(self.rotation.T).as_euler("xyz", degrees=True)
        return float(pitch), float(roll), float(yaw)

    def points_to_native(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Take points, shape (..., 3), from MNI mm to scanner mm."""
        points = np.asarray(points_mm, float)
        if self.warp is not None:
            points = points + self.warp.at(points)
        return apply_affine(np.linalg.inv(self.native_to_mni), points)

    def to_native(
        self, mni_image: nib.Nifti1Image, like: nib.Nifti1Image, *, order: int = 0
    ) -> nib.Nifti1Image:
        """Resample an MNI image on the grid of a scan, by the affine part alone.

        Parameters
        ----------
        mni_image : Nifti1Image
            3D labels or map in MNI space.
        like : Nifti1Image
            The scan, or any image in its space; its grid is used.
        order : {0, 1}
            0 (nearest) for labels, 1 (linear) for probabilities.
        """
        to_scanner = np.linalg.inv(self.native_to_mni)
        return _resample(mni_image, to_scanner, like.shape[:3], like.affine, order=order)


def is_placed(registration: Registration) -> bool:
    """Whether a scan fits the template well enough to place regions by its registration."""
    return registration.correlation >= MIN_CORRELATION[registration.contrast]


def resample_labels(
    labels: nib.Nifti1Image, to_world: ArrayLike, shape: tuple[int, ...], affine: ArrayLike
) -> NDArray[np.int32]:
    """Resample labels on the grid of a scan by nearest neighbour.

    Parameters
    ----------
    labels
        Label image in its own space, MNI say.
    to_world
        mm of the labels' space to scanner mm, 4 x 4.
    shape, affine
        Grid of the scan.

    Examples
    --------
    >>> labels = images.make(np.arange(27, dtype=np.uint8).reshape(3, 3, 3), np.eye(4))
    >>> shift = nib.affines.from_matvec(np.eye(3), (1, 0, 0))
    >>> resample_labels(labels, shift, (3, 3, 3), np.eye(4))[1, 0, 0]
    np.int32(0)
    """
    resampled = _resample(labels, np.asarray(to_world, float), shape, np.asarray(affine), order=0)
    return np.asarray(resampled.dataobj).astype(np.int32)


def _resample(
    image: nib.Nifti1Image, to_world: NDArray, shape: tuple, affine: NDArray, *, order: int
) -> nib.Nifti1Image:
    placed = nib.Nifti1Image(np.asanyarray(image.dataobj), to_world @ image.affine)
    return resample_from_to(placed, (shape, affine), order=order)


def register_to_mni(
    image: nib.Nifti1Image,
    *,
    contrast: str = "t1",
    mask: nib.Nifti1Image | None = None,
    start: ArrayLike | None = None,
) -> Registration:
    """Find the affine transform from a scan to MNI space by mutual information.

    The scan is smoothed and sampled at 4 mm, which costs no accuracy for an affine transform and
    saves nine tenths of the time.  Many starts (the header's world coordinates, the centre of
    mass with the voxels' axes and with the header's, tilts of 20 degrees, shifts along a slab)
    are scored at 8 mm; the best are aligned rigidly, and the best two of those are refined at
    4 mm, rigidly and then with 12 parameters.  Where the field of view cuts the brain, nine are
    used: a slab determines three scales, but not the shears.

    Parameters
    ----------
    image : Nifti1Image
        3D, any storage order and obliquity.
    contrast : {"t1", "t2", "fa"}
        What the image shows.  Change it with the image: mutual information forgives a wrong
        choice in finding the transform, the correlation that tells of failure does not.
    mask : Nifti1Image, optional
        Brain mask on the grid of the image; required when the head is not skull-stripped, since
        the template is.  Without it, every voxel above zero is brain.
    start : array_like, shape (4, 4), optional
        Where to begin, scanner mm to MNI mm, instead of the search, which takes two thirds of
        the time.  Give it where a place within some 20 mm and 20 degrees is known: the identity,
        say, for scans of one scanner whose header puts every head near the origin.

    Returns
    -------
    Registration

    Raises
    ------
    InputError
        If the contrast is unknown, the mask lies on another grid, or fewer than 100 ml are brain.

    References
    ----------
    Mattes et al. 2003, IEEE Trans Med Imaging 22:120, doi:10.1109/TMI.2003.809072;
    Garyfallidis et al. 2014, Front Neuroinform 8:8, doi:10.3389/fninf.2014.00008.

    Examples
    --------
    >>> from pvsbook.atlas import register_to_mni
    >>> from pvsbook.atlas.templates import mni
    >>> found = register_to_mni(mni("t1"))
    >>> bool(abs(found.native_to_mni - np.eye(4)).max() < 0.5)
    True
    """
    if contrast not in ("t1", "t2", "fa"):
        raise InputError(f"contrast is {contrast!r}; use 't1', 't2' or 'fa'")
    if mask is not None:
        images.same_grid(mask, image, name="mask", other_name="image")
    native, template = Side.of(intensities(image, mask)), template_side(contrast)
    if start is None:
        starts = search(native, template)
    else:
        starts = [("as given", between_centres(np.asarray(start, float), native, template))]
    refined = [(*refine(native, template, place), name) for name, place in starts]
    found, value, model, name = max(refined, key=lambda r: r[1])
    native_to_mni = in_scanner(found, native, template)
    return Registration(
        native_to_mni, contrast, model, name, value, *quality(native, template, found)
    )


def rigid_between(
    moving: nib.Nifti1Image, static: nib.Nifti1Image, *, start: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Find the rigid transform from one scan of a head to another by mutual information.

    Parameters
    ----------
    moving, static : Nifti1Image
        3D, skull-stripped or not, but both alike; sampled at 4 mm.
    start : ndarray, shape (4, 4), optional
        Where to begin, scanner mm to scanner mm; by default the headers are believed.

    Returns
    -------
    ndarray, shape (4, 4)
        Scanner mm of `moving` to scanner mm of `static`.

    Examples
    --------
    >>> from pvsbook.atlas.templates import mni
    >>> t1 = mni("t1")
    >>> higher = nib.affines.from_matvec(np.eye(3), [0, 0, 5]) @ t1.affine
    >>> shifted = nib.Nifti1Image(t1.dataobj, higher)
    >>> np.round(rigid_between(shifted, t1)[:3, 3])
    array([ 0.,  0., -5.])
    """
    one, other = (Side.of(intensities(image, None)) for image in (moving, static))
    between = between_centres(np.eye(4) if start is None else start, one, other)
    found, _ = optimise(one.fine, other.fine, RigidTransform3D(), between)
    return in_scanner(found, one, other)


def rigid_and_scales(
    moving: nib.Nifti1Image, static: nib.Nifti1Image
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the rigid transform between scans of one head, and what else would fit them better.

    Parameters
    ----------
    moving, static : Nifti1Image
        As in `rigid_between`.

    Returns
    -------
    transform : ndarray, shape (4, 4)
        Scanner mm of `moving` to scanner mm of `static`.
    scales : ndarray, shape (3,)
        Stretches of an affine transform that begins at the rigid one, ascending: near 1 where
        both are of one head.
    """
    one, other = (Side.of(intensities(image, None)) for image in (moving, static))
    header = between_centres(np.eye(4), one, other)
    centred = nib.affines.from_matvec(header[:3, :3], np.zeros(3))
    tried = [
        optimise(one.fine, other.fine, RigidTransform3D(), start) for start in (header, centred)
    ]
    rigid = max(tried, key=lambda found: found[1])[0]
    free, _ = optimise(one.fine, other.fine, AffineTransform3D(), rigid)
    scales = np.linalg.svd(free[:3, :3], compute_uv=False)[::-1]
    return in_scanner(rigid, one, other), scales.astype(np.float64)


def check_model(registration: Registration | Model) -> None:
    """Refuse another model than ``"affine"`` and ``"syn"``, before anything is computed."""
    if not isinstance(registration, Registration) and registration not in ("affine", "syn"):
        raise InputError(f"registration: {registration!r}; choose 'affine' or 'syn'")


def register(
    image: nib.Nifti1Image,
    registration: Registration | Model,
    *,
    contrast: str,
    mask: nib.Nifti1Image | None = None,
) -> Registration:
    """Register a scan to MNI space as asked, or return where it lies if that is known.

    Raises
    ------
    InputError
        Another model than ``"affine"`` and ``"syn"`` (affine, then `refine_nonlinear`).
    """
    check_model(registration)
    if isinstance(registration, Registration):
        return registration
    affine = register_to_mni(image, contrast=contrast, mask=mask)
    return affine if registration == "affine" else refine_nonlinear(affine, image, mask=mask)


def refine_nonlinear(
    registration: Registration, image: nib.Nifti1Image, *, mask: nib.Nifti1Image | None = None
) -> Registration:
    """Add a diffeomorphic correction (SyN, cross-correlation, 2.5 mm) to an affine registration.

    Ask for it where ventricles are wide or the brain is far from the template's shape; it costs
    some ten seconds, and a few tenths of a millimetre of noise where the affine is good already.

    Parameters
    ----------
    registration : Registration
        From `register_to_mni`.
    image, mask : Nifti1Image
        What was registered.

    Returns
    -------
    Registration
        With a `warp`.  The correlation stays that of the affine part: with so many parameters a
        head that is upside down correlates too (0.14 becomes 0.48, with T1w 0.29 becomes 0.67).

    References
    ----------
    Avants et al. 2008, Med Image Anal 12:26, doi:10.1016/j.media.2007.06.004.
    """
    target, grid = _sampled_template(registration.contrast, _WARP_MM)
    scan = intensities(image, mask)
    to_scan = np.linalg.inv(scan.affine) @ np.linalg.inv(registration.native_to_mni) @ grid
    moved, seen = (
        ndimage.affine_transform(volume, to_scan, output_shape=target.shape, order=1)
        for volume in (np.asarray(scan.dataobj), np.ones(scan.shape, np.float32))
    )
    static = np.where(seen > 0.5, target, 0)
    engine = SymmetricDiffeomorphicRegistration(
        CCMetric(3, sigma_diff=2.0, radius=3), level_iters=[20, 15, 6]
    )
    engine.verbosity = 0
    # as SyN sees it, the template is static and the scan, moved by the affine, is moving
    mapping = engine.optimize(static.astype(np.float64), moved.astype(np.float64))
    forward = np.asarray(mapping.get_forward_field(), np.float32)
    warp = Warp(grid, forward * voxel_sizes(grid).astype(np.float32))
    return replace(registration, warp=warp)


def _sampled_template(
    contrast: str, spacing_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Template on a coarser grid, and the grid's affine to MNI mm."""
    full = template_image(contrast)
    data = ndimage.gaussian_filter(np.asarray(full.dataobj), spacing_mm / 2.355)
    shape = tuple(int(n // spacing_mm) for n in full.shape)
    sampled = ndimage.affine_transform(data, np.full(3, spacing_mm), 0, shape, order=1)
    return sampled, full.affine @ np.diag([spacing_mm] * 3 + [1.0])
