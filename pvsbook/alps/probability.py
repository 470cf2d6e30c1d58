"""Regions of several people, drawn by hand, made into regions for the next person."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.alps.regions import NAMES
from pvsbook.atlas.registration import Registration

__all__ = ["carry_to", "probability_maps", "threshold_maps"]

# A box of MNI space around the four sites, 1 mm: two hands' drawings never lie further apart.
_SHAPE = (131, 111, 71)
_AFFINE = nib.affines.from_matvec(np.eye(3), (-65.0, -75.0, 0.0))


def probability_maps(
    drawn: Sequence[tuple[nib.Nifti1Image, Registration]],
) -> dict[str, nib.Nifti1Image]:
    """Average hand-drawn regions of several people in MNI space.

    Parameters
    ----------
    drawn : sequence of (Nifti1Image, Registration)
        Of each person: labels 1 to 4 in the order of `pvsbook.alps.regions.NAMES`, on the grid
        of the scan, and where that scan lies in MNI space.

    Returns
    -------
    dict of str to Nifti1Image
        For each region, the fraction of people who have it there; 1 mm, MNI.

    Raises
    ------
    InputError
        If nobody is given, or a label is missing from a drawing.

    Notes
    -----
    Drawings are resampled to 1 mm and cut at one half, which makes small ones smaller: spheres
    of 3 mm that were drawn on voxels of 2 mm lose about a fifth of their volume, and half of it
    where the two grids coincide.  Compare sizes of maps with each other, not with drawings.

    References
    ----------
    Cacciaguerra et al. 2022, Ann Neurol 92:173, doi:10.1002/ana.26419.

    Examples
    --------
    >>> from pvsbook.phantoms.brain import make_brain
    >>> grid = make_brain(4.0)
    >>> labels = np.zeros(grid.shape, np.uint8)
    >>> labels[10:13, 20:24, 20:24] = [[[4]], [[3]], [[2]]]
    >>> labels[14, 20:24, 20:24] = 1
    >>> here = Registration(np.eye(4), "fa", "affine", "given", 1.0, 0.9, 1.0, 1.0)
    >>> maps = probability_maps([(grid.image(labels), here)] * 2)
    >>> float(maps["left_projection"].dataobj.max())
    1.0
    """
    if not drawn:
        raise InputError("drawn: is empty; give the drawings of at least one person")
    sums = np.zeros((len(NAMES), *_SHAPE), np.float32)
    for person, (labels, registration) in enumerate(drawn, 1):
        values = np.asarray(labels.dataobj)
        to_voxel = np.linalg.inv(registration.native_to_mni @ labels.affine) @ _AFFINE
        for k, name in enumerate(NAMES):
            if not (values == k + 1).any():
                raise InputError(f"drawn: person {person} has no label {k + 1}, {name}")
            box = _box(np.argwhere(values == k + 1), np.linalg.inv(to_voxel))
            sums[k][box] += _pulled((values == k + 1).astype(np.float32), to_voxel, box) > 0.5
    return {name: images.make(sums[k] / len(drawn), _AFFINE) for k, name in enumerate(NAMES)}


def threshold_maps(maps: dict[str, nib.Nifti1Image], *, at_least: float = 0.25) -> nib.Nifti1Image:
    """Keep where at least a fraction of people have a region; give one label image, MNI.

    Parameters
    ----------
    maps : dict of str to Nifti1Image
        From `probability_maps`.
    at_least : float
        0.25 in the NMOSD study.  Higher keeps a smaller core, on which people agree.

    Raises
    ------
    InputError
        If nothing of a region reaches the threshold.

    Notes
    -----
    A voxel that two regions claim goes to the one with the higher probability.
    """
    stack = np.stack([images.array(maps[name]) for name in NAMES])
    labels = np.where(stack.max(axis=0) >= at_least, stack.argmax(axis=0) + 1, 0)
    for k, name in enumerate(NAMES, 1):
        if not (labels == k).any():
            raise InputError(
                f"at_least is {at_least}, but {name} reaches only {stack[k - 1].max():.2f}; "
                "lower it, or look for a drawing that lies elsewhere"
            )
    return images.make(labels.astype(np.uint8), maps[NAMES[0]].affine)


def carry_to(
    labels: nib.Nifti1Image, registration: Registration, like: nib.Nifti1Image
) -> nib.Nifti1Image:
    """Bring MNI regions to a person's scan, ready for ``measure(..., rois=...)``.

    Parameters
    ----------
    labels : Nifti1Image
        From `threshold_maps`.
    registration : Registration
        Of the person's scan.
    like : Nifti1Image
        The series, or any image on its grid.
    """
    return registration.to_native(labels, like)


def _box(voxels: NDArray[np.intp], to_box: NDArray) -> tuple[slice, ...]:
    """Bounds in the MNI box of some voxels, with room for interpolation."""
    there = nib.affines.apply_affine(to_box, voxels)
    room = np.abs(to_box[:3, :3]).sum(axis=1) + 1
    low = np.clip(np.floor(there.min(axis=0) - room), 0, _SHAPE).astype(int)
    high = np.clip(np.ceil(there.max(axis=0) + room) + 1, 0, _SHAPE).astype(int)
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def _pulled(
    values: NDArray[np.float32], to_voxel: NDArray, box: tuple[slice, ...]
) -> NDArray[np.float32]:
    """Sample a drawing in a part of the MNI box."""
    start = [s.start for s in box]
    return ndimage.affine_transform(
        values,
        to_voxel[:3, :3],
        nib.affines.apply_affine(to_voxel, start),
        output_shape=tuple(s.stop - s.start for s in box),
        order=1,
    )
