"""Registration from many starts: DIPY's optimiser finds the nearest maximum, not the highest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import nibabel as nib
import numpy as np
from dipy.align.imaffine import AffineRegistration, MutualInformationMetric
from dipy.align.transforms import AffineTransform3D, RigidScalingTransform3D, RigidTransform3D
from nibabel.affines import apply_affine, voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.atlas.templates import mni

# Lengths are divided by this before the optimiser sees them, so that one unit of a rotation
# (rad), of a translation and of a shear move the surface of the brain by about as much.
_UNIT_MM = 70.0
_SEARCH_MM, _FINE_MM = 8.0, 4.0
_PARTIAL_MM = 100.0  # a brain seen over less than this along one axis is cut by the field of view
_SCALES = (0.75, 1.4)  # brain to template, along each axis; adults lie within 0.9 to 1.25
_TILTS_DEG = (-20.0, 0.0, 20.0)
_KEEP, _REFINE = 3, 2
_STEPS = 100
_APART = 0.02  # coarse results closer than this (1.4 mm, 1 degree) are one
_BINS = 32


@dataclass(frozen=True)
class Side:
    """One image of the pair in the axes of its voxels, from its centre of mass, in 70 mm.

    The header says only where to start: a header that is turned without resampling gives the
    same optimisation, and so the same place in the image.
    """

    to_header: NDArray[np.float64]  # mm along the voxel axes to scanner mm
    centre_mm: NDArray[np.float64]
    search: tuple[NDArray[np.float64], NDArray[np.float64]]
    fine: tuple[NDArray[np.float64], NDArray[np.float64]]

    @classmethod
    def of(cls, image: nib.Nifti1Image) -> Side:
        upright = np.diag([*np.round(voxel_sizes(image.affine), 6), 1.0])
        data = np.asarray(image.dataobj, dtype=np.float32)
        centre_mm = apply_affine(upright, np.argwhere(data > 0).mean(axis=0))
        search, fine = (_sampled(data, upright, centre_mm, mm) for mm in (_SEARCH_MM, _FINE_MM))
        return cls(image.affine @ np.linalg.inv(upright), centre_mm, search, fine)


def intensities(image: nib.Nifti1Image, mask: nib.Nifti1Image | None) -> nib.Nifti1Image:
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
def template_side(contrast: str) -> Side:
    return Side.of(template_image(contrast))


def template_image(contrast: str) -> nib.Nifti1Image:
    if contrast == "t1":
        data = np.asarray(mni("t1").dataobj)
    else:
        gm, wm, csf = (np.asarray(mni(kind).dataobj) for kind in ("gm", "wm", "csf"))
        weights = (0.6, 0.4, 1.0) if contrast == "t2" else (0.15, 0.5, 0.05)
        data = weights[0] * gm + weights[1] * wm + weights[2] * csf
        if contrast == "fa":  # anisotropy falls faster than the fraction of white matter
            data = data * (0.5 + 0.5 * wm)
    return nib.Nifti1Image(np.asarray(data, np.float32), mni("t1").affine)


def _starts(native: Side, template: Side) -> list[tuple[str, NDArray[np.float64]]]:
    """List transforms between the centred spaces to begin from, each with a name."""
    header = between_centres(np.eye(4), native, template)
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


def _extent_mm(side: Side) -> NDArray[np.float64]:
    data, affine = side.fine
    brain = np.argwhere(data > 0.02)
    return (np.ptp(brain, axis=0) + 1) * voxel_sizes(affine) * _UNIT_MM


def _shifts_mm(native: Side, template: Side) -> list[tuple[float, float, float]]:
    """Places of a slab along its thin axis (canonical order); one place for a whole brain."""
    extent_mm, whole_mm = _extent_mm(native), _extent_mm(template)
    axis = int(np.argmin(extent_mm))
    if extent_mm[axis] >= _PARTIAL_MM:
        return [(0.0, 0.0, 0.0)]
    free_mm = (whole_mm[axis] - extent_mm[axis]) / 2
    steps = np.round(np.linspace(-free_mm, free_mm, 2 * int(np.ceil(free_mm / 15)) + 1), 1)
    return [tuple(float(s) if a == axis else 0.0 for a in range(3)) for s in steps]  # type: ignore[misc]


def _places(native: tuple, template: tuple, start: NDArray) -> dict[str, NDArray]:
    """Say where two images lie, in DIPY's words."""
    return {
        "static_grid2world": native[1], "moving_grid2world": template[1], "starting_affine": start,
    }  # fmt: skip


def optimise(
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
        ret_metric=True,
        **_places(native, template, start),
    )
    return found.affine, -float(value)


def _score(native: tuple, template: tuple, start: NDArray) -> float:
    metric = MutualInformationMetric(nbins=_BINS)
    rigid = RigidTransform3D()
    metric.setup(rigid, native[0], template[0], **_places(native, template, start))
    return -float(metric.distance(rigid.get_identity_parameters()))


def search(native: Side, template: Side) -> list[tuple[str, NDArray[np.float64]]]:
    """Score many starts, align the best rigidly at 8 mm, and return the best two of those."""
    scored = [
        (_score(native.search, template.search, start), name, start)
        for name, start in _starts(native, template)
    ]
    tried = [scored[0], *sorted(scored[1:], key=lambda s: -s[0])[:_KEEP]]
    coarse = [
        (*optimise(native.search, template.search, RigidTransform3D(), start), name)
        for _, name, start in tried
    ]
    coarse.sort(key=lambda c: -c[1])
    first = coarse[0][0]
    others = [c for c in coarse[1:] if np.abs(c[0] - first).max() > _APART]
    return [(name, found) for found, _, name in [coarse[0], *others[: _REFINE - 1]]]


def between_centres(transform: NDArray[np.float64], one: Side, other: Side) -> NDArray[np.float64]:
    """Turn a transform between scanner mm into one between centred sides."""
    between = np.linalg.inv(other.to_header) @ transform @ one.to_header
    between[:3, 3] = (apply_affine(between, one.centre_mm) - other.centre_mm) / _UNIT_MM
    return between


def in_scanner(found: NDArray, one: Side, other: Side) -> NDArray[np.float64]:
    """Turn a transform between centred sides into one between scanner mm."""
    between = found.copy()
    between[:3, 3] = found[:3, 3] * _UNIT_MM + other.centre_mm - found[:3, :3] @ one.centre_mm
    return other.to_header @ between @ np.linalg.inv(one.to_header)


def refine(native: Side, template: Side, start: NDArray) -> tuple[NDArray[np.float64], float, str]:
    """Align at 4 mm, rigidly and then with more parameters; give transform, value and model."""
    partial = _extent_mm(native).min() < _PARTIAL_MM
    richer = RigidScalingTransform3D() if partial else AffineTransform3D()
    rigid, at_rigid = optimise(native.fine, template.fine, RigidTransform3D(), start)
    found, value = optimise(native.fine, template.fine, richer, rigid)
    again, better = optimise(native.fine, template.fine, richer, found)
    if better > value:
        found, value = again, better
    scales = np.linalg.svd(found[:3, :3], compute_uv=False)
    if _SCALES[0] <= scales.min() and scales.max() <= _SCALES[1]:
        return found, value, "scaling" if partial else "affine"
    return rigid, at_rigid, "rigid"


def quality(native: Side, template: Side, found: NDArray) -> tuple[float, float, float]:
    """Correlation, overlap and coverage on the 4 mm grid of the scan."""
    (data, affine), (target, target_affine) = native.fine, template.fine
    to_target = np.linalg.inv(target_affine) @ found @ affine
    moved = ndimage.affine_transform(target, to_target, output_shape=data.shape, order=1)
    brain, there = data > 0.1 * data.max(), moved > 0.1 * target.max()
    both = brain & there
    correlation = np.corrcoef(data[both], moved[both])[0, 1] if both.sum() > 2 else 0.0
    volume = abs(np.linalg.det(to_target[:3, :3]))
    coverage = there.sum() * volume / (target > 0.1 * target.max()).sum()
    return float(correlation), float(both.sum() / brain.sum()), float(coverage)
