"""Bring a scan to MNI space, and MNI points and labels to the scan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import nibabel as nib
import numpy as np
from dipy.align.imaffine import AffineRegistration, MutualInformationMetric
from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
from dipy.align.metrics import CCMetric
from dipy.align.transforms import (
    AffineTransform3D,
    RigidScalingTransform3D,
    RigidTransform3D,
)
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.processing import resample_from_to
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.atlas.templates import mni

__all__ = [
    "Registration",
    "Warp",
    "refine_nonlinear",
    "register_to_mni",
    "resample_labels",
    "rigid_between",
]

# Lengths are divided by this before the optimiser sees them, so that one unit of a rotation
# (rad), of a translation and of a shear move the surface of the brain by about as much.
_UNIT_MM = 70.0
_SEARCH_MM, _FINE_MM, _WARP_MM = 8.0, 4.0, 2.5
_PARTIAL_MM = 100.0  # a brain seen over less than this along one axis is cut by the field of view
_SCALES = (
    0.75,
    1.4,
)  # brain to template, along each axis; adults lie within 0.9 to 1.25
_TILTS_DEG = (-20.0, 0.0, 20.0)
_KEEP, _REFINE = 3, 2
_STEPS = 100
_APART = 0.02  # coarse results closer than this (1.4 mm, 1 degree) are one
_BINS = 32


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
        grid = np.moveaxis(np.indices(self.shift_mm.shape[:3]), 0, -1)
        there = apply_affine(self.affine, grid)
        source = there
        for _ in range(8):  # p + shift(p) = there, by fixed-point iteration
            source = there - self.at(source)
        back = Warp(self.affine, (source - there).astype(np.float32))
        voxels = np.moveaxis(np.indices(mni_image.shape), 0, -1).reshape(-1, 3)
        points = apply_affine(mni_image.affine, voxels)
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
        Pearson's, of the scan with the template where both have brain.
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
    native = _Side.of(_intensities(image, mask))
    return _align(native, contrast, start)


def rigid_between(
    moving: nib.Nifti1Image,
    static: nib.Nifti1Image,
    *,
    start: NDArray[np.float64] | None = None,
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
    one, other = (_Side.of(_intensities(image, None)) for image in (moving, static))
    between = _between_centres(np.eye(4) if start is None else start, one, other)
    found, _ = _optimise(one.fine, other.fine, RigidTransform3D(), between)
    return _in_scanner(found, one, other)


def refine_nonlinear(
    registration: Registration,
    image: nib.Nifti1Image,
    *,
    mask: nib.Nifti1Image | None = None,
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
        With a `warp`, and the correlation after it.

    References
    ----------
    Avants et al. 2008, Med Image Anal 12:26, doi:10.1016/j.media.2007.06.004.
    """
    target, grid = _sampled_template(registration.contrast, _WARP_MM)
    scan = _intensities(image, mask)
    to_scan = np.linalg.inv(scan.affine) @ np.linalg.inv(registration.native_to_mni) @ grid
    moved = ndimage.affine_transform(
        np.asarray(scan.dataobj), to_scan[:3, :3], to_scan[:3, 3], target.shape, order=1
    )
    seen = ndimage.affine_transform(
        np.ones(scan.shape, np.float32), to_scan[:3, :3], to_scan[:3, 3], target.shape, order=1
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
    after = mapping.transform(moved)
    both = (static > 0.05) & (after > 0.05)
    correlation = float(np.corrcoef(static[both], after[both])[0, 1])
    return replace(registration, warp=warp, correlation=correlation)


def _sampled_template(
    contrast: str, spacing_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Template on a coarser grid, and the grid's affine to MNI mm."""
    full = _template_image(contrast)
    data = ndimage.gaussian_filter(np.asarray(full.dataobj), spacing_mm / 2.355)
    shape = tuple(int(n // spacing_mm) for n in full.shape)
    sampled = ndimage.affine_transform(data, np.full(3, spacing_mm), 0, shape, order=1)
    return sampled, full.affine @ np.diag([spacing_mm] * 3 + [1.0])


@dataclass(frozen=True)
class _Side:
    """One image of the pair in the axes of its voxels, from its centre of mass, in 70 mm.

    The header says only where to start: a header that is turned without resampling gives the
    same optimisation, and so the same place in the image.
    """

    to_header: NDArray[np.float64]  # mm along the voxel axes to scanner mm
    centre_mm: NDArray[np.float64]
    search: tuple[NDArray[np.float64], NDArray[np.float64]]
    fine: tuple[NDArray[np.float64], NDArray[np.float64]]

    @classmethod
    def of(cls, image: nib.Nifti1Image) -> _Side:
        upright = np.diag([*np.round(voxel_sizes(image.affine), 6), 1.0])
        data = np.asarray(image.dataobj, dtype=np.float32)
        centre_mm = apply_affine(upright, np.argwhere(data > 0).mean(axis=0))
        search, fine = (_sampled(data, upright, centre_mm, mm) for mm in (_SEARCH_MM, _FINE_MM))
        return cls(image.affine @ np.linalg.inv(upright), centre_mm, search, fine)


def _intensities(image: nib.Nifti1Image, mask: nib.Nifti1Image | None) -> nib.Nifti1Image:
    """Brain in canonical storage order, scaled to 0..1 between robust limits."""
    data = np.nan_to_num(np.asarray(image.dataobj, dtype=np.float32))
    brain = data > 0
    if mask is not None:
        brain &= np.asarray(mask.dataobj) > 0
    volume_ml = brain.sum() * abs(np.linalg.det(image.affine[:3, :3])) / 1000
    if volume_ml < 100:
        raise InputError(
            f"the image has {volume_ml:.0f} ml above zero inside the mask, less than 100 ml; "
            "check the mask and that the image is a brain"
        )
    top = np.percentile(data[brain], 99)
    scaled = np.where(brain, np.clip(data / top, 1e-3, 1), 0).astype(np.float32)
    return nib.as_closest_canonical(nib.Nifti1Image(scaled, image.affine))


def _sampled(
    data: NDArray[np.float32], upright: NDArray, centre_mm: NDArray, spacing_mm: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smooth and sample along the image's own axes; give the array and its centred affine."""
    ratio = np.maximum(spacing_mm / np.diag(upright)[:3], 1)
    data = ndimage.gaussian_filter(data, np.sqrt(np.maximum(ratio**2 - 1, 0)) / 2.355)
    shape = np.maximum(np.ceil(np.array(data.shape) / ratio), 2).astype(int)
    offset = ((np.array(data.shape) - 1) - (shape - 1) * ratio) / 2
    sampled = ndimage.affine_transform(data, ratio, offset, tuple(shape), order=1)
    affine = upright @ nib.affines.from_matvec(np.diag(ratio), offset)
    affine[:3, 3] -= centre_mm
    affine[:3] /= _UNIT_MM
    return sampled.astype(np.float64), affine


@cache
def _template(contrast: str) -> _Side:
    return _Side.of(_template_image(contrast))


def _template_image(contrast: str) -> nib.Nifti1Image:
    if contrast == "t1":
        data = np.asarray(mni("t1").dataobj)
    else:
        gm, wm, csf = (np.asarray(mni(kind).dataobj) for kind in ("gm", "wm", "csf"))
        weights = (0.6, 0.4, 1.0) if contrast == "t2" else (0.15, 0.5, 0.05)
        data = weights[0] * gm + weights[1] * wm + weights[2] * csf
        if contrast == "fa":  # anisotropy falls faster than the fraction of white matter
            data = data * (0.5 + 0.5 * wm)
    return nib.Nifti1Image(np.asarray(data, np.float32), mni("t1").affine)


def _starts(native: _Side, template: _Side) -> list[tuple[str, NDArray[np.float64]]]:
    """List transforms between the centred spaces to begin from, each with a name."""
    header = _between_centres(np.eye(4), native, template)
    frames = [("voxel axes", np.eye(3))]
    if np.abs(header[:3, :3] - np.eye(3)).max() > 0.02:
        frames.append(("header axes", images.rotation(header)))
    starts = [("header", header)]
    for (name, frame), tilt_deg, shift_mm in product(
        frames, product(_TILTS_DEG, repeat=3), _shifts_mm(native, template)
    ):
        start = np.eye(4)
        start[:3, :3] = Rotation.from_euler("xyz", tilt_deg, degrees=True).as_matrix() @ frame
        start[:3, 3] = np.array(shift_mm) / _UNIT_MM
        starts.append((f"centre of mass, {name}, tilt {tilt_deg}, shift {shift_mm} mm", start))
    return starts


def _extent_mm(side: _Side) -> NDArray[np.float64]:
    data, affine = side.fine
    brain = np.argwhere(data > 0.02)
    return (np.ptp(brain, axis=0) + 1) * voxel_sizes(affine) * _UNIT_MM


def _shifts_mm(native: _Side, template: _Side) -> list[tuple[float, float, float]]:
    """Places of a slab along its thin axis (canonical order); one place for a whole brain."""
    extent_mm, whole_mm = _extent_mm(native), _extent_mm(template)
    axis = int(np.argmin(extent_mm))
    if extent_mm[axis] >= _PARTIAL_MM:
        return [(0.0, 0.0, 0.0)]
    free_mm = (whole_mm[axis] - extent_mm[axis]) / 2
    steps = np.round(np.linspace(-free_mm, free_mm, 2 * int(np.ceil(free_mm / 15)) + 1), 1)
    return [tuple(float(s) if a == axis else 0.0 for a in range(3)) for s in steps]  # type: ignore[misc]


def _optimise(
    native: tuple, template: tuple, transform: object, start: NDArray
) -> tuple[NDArray[np.float64], float]:
    """Maximise mutual information from one start; give the transform and what it reached."""
    engine = AffineRegistration(
        metric=MutualInformationMetric(nbins=_BINS),
        level_iters=[_STEPS],
        sigmas=[0.0],
        factors=[1],
        options={"gtol": 1e-4, "ftol": 1e-5},
        verbosity=0,
    )
    found, _, value = engine.optimize(
        native[0],
        template[0],
        transform,
        None,
        static_grid2world=native[1],
        moving_grid2world=template[1],
        starting_affine=start,
        ret_metric=True,
    )
    return found.affine, -float(value)


def _score(native: tuple, template: tuple, start: NDArray) -> float:
    metric = MutualInformationMetric(nbins=_BINS)
    rigid = RigidTransform3D()
    metric.setup(
        rigid,
        native[0],
        template[0],
        static_grid2world=native[1],
        moving_grid2world=template[1],
        starting_affine=start,
    )
    return -float(metric.distance(rigid.get_identity_parameters()))


def _align(native: _Side, contrast: str, start: ArrayLike | None = None) -> Registration:
    template = _template(contrast)
    if start is None:
        begin = _search(native, template)
    else:
        begin = [("as given", _between_centres(np.asarray(start, float), native, template))]
    refined = [(*_refine(native, template, place), name) for name, place in begin]
    found, value, model, name = max(refined, key=lambda r: r[1])
    native_to_mni = _in_scanner(found, native, template)
    return Registration(
        native_to_mni, contrast, model, name, value, *_quality(native, template, found)
    )


def _search(native: _Side, template: _Side) -> list[tuple[str, NDArray[np.float64]]]:
    """Score many starts, align the best rigidly at 8 mm, and return the best two of those."""
    scored = [
        (_score(native.search, template.search, start), name, start)
        for name, start in _starts(native, template)
    ]
    tried = [scored[0], *sorted(scored[1:], key=lambda s: -s[0])[:_KEEP]]
    coarse = [
        (*_optimise(native.search, template.search, RigidTransform3D(), start), name)
        for _, name, start in tried
    ]
    coarse.sort(key=lambda c: -c[1])
    first = coarse[0][0]
    others = [c for c in coarse[1:] if np.abs(c[0] - first).max() > _APART]
    return [(name, found) for found, _, name in [coarse[0], *others[: _REFINE - 1]]]


def _between_centres(
    transform: NDArray[np.float64], one: _Side, other: _Side
) -> NDArray[np.float64]:
    """Turn a transform between scanner mm into one between centred sides."""
    between = np.linalg.inv(other.to_header) @ transform @ one.to_header
    between[:3, 3] = (apply_affine(between, one.centre_mm) - other.centre_mm) / _UNIT_MM
    return between


def _in_scanner(found: NDArray, one: _Side, other: _Side) -> NDArray[np.float64]:
    """Turn a transform between centred sides into one between scanner mm."""
    between = found.copy()
    between[:3, 3] = found[:3, 3] * _UNIT_MM + other.centre_mm - found[:3, :3] @ one.centre_mm
    return other.to_header @ between @ np.linalg.inv(one.to_header)


def _refine(
    native: _Side, template: _Side, start: NDArray
) -> tuple[NDArray[np.float64], float, str]:
    """Align at 4 mm, rigidly and then with more parameters; give transform, value and model."""
    partial = _extent_mm(native).min() < _PARTIAL_MM
    richer = RigidScalingTransform3D() if partial else AffineTransform3D()
    rigid, at_rigid = _optimise(native.fine, template.fine, RigidTransform3D(), start)
    found, value = _optimise(native.fine, template.fine, richer, rigid)
    again, better = _optimise(native.fine, template.fine, richer, found)
    if better > value:
        found, value = again, better
    scales = np.linalg.svd(found[:3, :3], compute_uv=False)
    if _SCALES[0] <= scales.min() and scales.max() <= _SCALES[1]:
        return found, value, "scaling" if partial else "affine"
    return rigid, at_rigid, "rigid"


def _quality(native: _Side, template: _Side, found: NDArray) -> tuple[float, float, float]:
    """Correlation, overlap and coverage on the 4 mm grid of the scan."""
    (data, affine), (target, target_affine) = native.fine, template.fine
    to_target = np.linalg.inv(target_affine) @ found @ affine
    moved = ndimage.affine_transform(
        target, to_target[:3, :3], to_target[:3, 3], data.shape, order=1
    )
    brain, there = data > 0.1 * data.max(), moved > 0.1 * target.max()
    both = brain & there
    correlation = np.corrcoef(data[both], moved[both])[0, 1] if both.sum() > 2 else 0.0
    volume = abs(np.linalg.det(to_target[:3, :3]))
    coverage = there.sum() * volume / (target > 0.1 * target.max()).sum()
    return float(correlation), float(both.sum() / brain.sum()), float(coverage)
