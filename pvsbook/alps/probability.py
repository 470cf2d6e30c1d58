"""Average regions that were drawn by hand into probability maps in MNI space.

`pvsbook.atlas.registration.Registration.to_native` resamples the labels of `threshold_maps` on
the next participant's scan, ready for ``pvsbook.alps.measure(..., rois=...)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from scipy import ndimage

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.alps.regions import NAMES
from pvsbook.atlas.registration import Registration

__all__ = ["probability_maps", "threshold_maps"]

# A box of MNI space around the four sites, 1 mm: drawings by two raters never lie further apart.
_SHAPE = (131, 111, 71)
_AFFINE = nib.affines.from_matvec(np.eye(3), (-65.0, -75.0, 0.0))


def probability_maps(
    drawn: Sequence[tuple[nib.Nifti1Image, Registration]],
) -> dict[str, nib.Nifti1Image]:
    """Average hand-drawn regions of several participants in MNI space.

    Parameters
    ----------
    drawn : sequence of (Nifti1Image, Registration)
        Of each participant: labels 1 to 4 in the order of `pvsbook.alps.regions.NAMES`, on the
        grid of the scan, and where that scan lies in MNI space.

    Returns
    -------
    dict of str to Nifti1Image
        For each region, the fraction of participants who have it there; 1 mm, MNI.

    Raises
    ------
    InputError
        If there is no drawing, or a label is missing from one.

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
    >>> place = Registration(np.eye(4), "fa", "affine", "given", 1.0, 0.9, 1.0, 1.0)
    >>> maps = probability_maps([(grid.image(labels), place)] * 2)
    >>> float(maps["left_projection"].dataobj.max())
    1.0
    """
    if not drawn:
        raise InputError("drawn: is empty; give the drawings of at least one participant")
    sums = np.zeros((len(NAMES), *_SHAPE), np.float32)
    for number, (labels, registration) in enumerate(drawn, 1):
        values = np.asarray(labels.dataobj)
        to_voxel = np.linalg.inv(registration.native_to_mni @ labels.affine) @ _AFFINE
        for k, name in enumerate(NAMES):
            region = (values == k + 1).astype(np.float32)
            if not region.any():
                raise InputError(f"drawn: drawing {number} has no label {k + 1}, {name}")
            in_mni = ndimage.affine_transform(region, to_voxel, output_shape=_SHAPE, order=1)
            sums[k] += in_mni > 0.5
    return {name: images.make(sums[k] / len(drawn), _AFFINE) for k, name in enumerate(NAMES)}


def threshold_maps(maps: dict[str, nib.Nifti1Image], *, at_least: float = 0.25) -> nib.Nifti1Image:
    """Label where at least a fraction of participants have a region; one image, MNI.

    Parameters
    ----------
    maps : dict of str to Nifti1Image
        From `probability_maps`.
    at_least : float
        0.25 in the NMOSD study.  Higher keeps a smaller core, on which drawings agree.

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
