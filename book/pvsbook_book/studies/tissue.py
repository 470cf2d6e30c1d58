"""TissueFractions of a T1-weighted scan, and how much grey matter is deep and how much cortex."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from dipy.segment.mrf import ConstantObservationModel, IteratedConditionalModes
from numpy.typing import NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.atlas import deep_grey
from pvsbook.atlas.registration import Registration

__all__ = ["GreyVolumes", "TissueFractions", "classify", "grey_volumes"]

CLASSES = 4  # outside, CSF, grey, white
SMOOTHNESS = 0.1  # weight of the neighbours in the Markov random field
SETTLED = 1e-3  # of the brightest voxel: the means move less than this from step to step
MOST_STEPS = 50


@dataclass(frozen=True, eq=False)
class TissueFractions:
    """What each voxel of a T1-weighted scan holds.

    Attributes
    ----------
    csf, gm, wm
        Fractions 0..1 that add up to 1 inside the mask and 0 outside, shape (x, y, z), float32.
    means
        Signal of CSF, grey and white matter, in the unit of the scan.
    """

    csf: NDArray[np.float32]
    gm: NDArray[np.float32]
    wm: NDArray[np.float32]
    means: tuple[float, float, float]


@dataclass(frozen=True)
class GreyVolumes:
    """Grey matter of one head.

    Attributes
    ----------
    deep_grey_ml
        In the region of `pvsbook.atlas.deep_grey.region`.
    cortex_ml
        Everywhere else: cerebral cortex, hippocampus, cerebellum.
    head_scale
        How many times MNI's head is larger than this one: volumes times this are those of a head
        of MNI's size.
    """

    deep_grey_ml: float
    cortex_ml: float
    head_scale: float


def classify(image: nib.Nifti1Image, *, mask: nib.Nifti1Image) -> TissueFractions:
    """Tell CSF, grey and white matter apart on a T1-weighted scan.

    The means of the three classes come from a hidden Markov random field (DIPY's, by expectation
    and maximisation).  A voxel between two means is then taken as a mixture of the two, which
    volumes need more than a label: at the rim of a nucleus most voxels are mixed.

    Parameters
    ----------
    image
        3D T1-weighted scan: CSF dark, white matter bright.
    mask
        Brain on the same grid.

    Raises
    ------
    InputError
        The mask lies on another grid or is empty, or the scan does not fall into three classes.

    References
    ----------
    Zhang et al. 2001, IEEE Trans Med Imaging 20:45, doi:10.1109/42.906424.

    Examples
    --------
    >>> from pvsbook.atlas import templates
    >>> found = classify(templates.mni("t1"), mask=templates.mni("brain"))
    >>> bool(found.means[0] < found.means[1] < found.means[2])
    True
    """
    images.same_grid(mask, image, name="mask")
    inside = np.asarray(mask.dataobj) != 0
    if not inside.any():
        raise InputError("mask: is empty; give a mask of the brain")
    values = np.where(inside, images.array(image), 0).astype(np.float64)
    top = values.max()
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = top * _class_means(np.pad(values[box], 1) / top)
    if not (np.isfinite(means).all() and np.all(np.diff(means) > 0)):
        raise InputError(
            "image: does not fall into CSF, grey and white matter; give a T1-weighted scan"
        )
    csf, gm, wm = (
        (np.interp(values, means, one) * inside).astype(np.float32) for one in np.eye(3)
    )
    return TissueFractions(csf, gm, wm, tuple(means.tolist()))


def _class_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of CSF, grey and white matter of a scan scaled to 0..1, with 0 outside the brain.

    The steps of DIPY's `TissueClassifierHMRF`, which itself adds unseeded noise to the background
    and loses that class where it is exactly zero.
    """
    model, field = ConstantObservationModel(), IteratedConditionalModes()
    mean, variance = (np.asarray(v) for v in model.initialize_param_uniform(values, CLASSES))
    order = np.argsort(mean)
    unlikely = model.negloglikelihood(values, mean[order], variance[order], CLASSES)
    labels = field.initialize_maximum_likelihood(unlikely)
    mean, variance = model.seg_stats(values, labels, CLASSES)
    for _ in range(MOST_STEPS):
        before = np.asarray(mean)
        near = field.prob_neighborhood(labels, SMOOTHNESS, CLASSES)
        likely = model.prob_image(values, CLASSES, mean, variance, near)
        mean, variance = model.update_param(values, likely, mean, CLASSES)
        unlikely = model.negloglikelihood(values, mean, variance, CLASSES)
        labels, _ = field.icm_ising(unlikely, SMOOTHNESS, labels)
        if not np.abs(mean - before).max() > SETTLED:
            break
    return np.asarray(mean)[1:]


def grey_volumes(
    image: nib.Nifti1Image, *, mask: nib.Nifti1Image, registration: Registration
) -> GreyVolumes:
    """Measure deep grey matter and cortex on a T1-weighted scan of a whole brain.

    Parameters
    ----------
    image, mask
        As in `classify`.
    registration
        Where the scan lies in MNI space.

    Notes
    -----
    Pallidum and thalamus hold much myelin and are bright on T1w, so part of them counts as white
    matter, here as with the usual programs: compare people with each other, not with a textbook.
    A receive field is not corrected; correct it before where there is one.
    """
    tissue = classify(image, mask=mask)
    near = registration.to_native(deep_grey.region(), image, order=1)
    share = np.asarray(near.dataobj, dtype=np.float64)
    voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    deep = float((tissue.gm * share).sum() * voxel_ml)
    return GreyVolumes(
        deep_grey_ml=deep,
        cortex_ml=float(tissue.gm.sum(dtype=np.float64) * voxel_ml) - deep,
        head_scale=float(np.linalg.det(registration.native_to_mni[:3, :3])),
    )
