"""Corrections before the tensor: noise, ringing, motion.  Each is off unless it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
from dipy.denoise.gibbs import gibbs_removal
from dipy.denoise.localpca import mppca
from dipy.denoise.patch2self import patch2self
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pvsbook import images
from pvsbook._errors import InputError
from pvsbook.atlas.registration import rigid_between

__all__ = ["Motion", "correct_motion", "denoise", "remove_ringing"]


@dataclass(frozen=True, eq=False)
class Motion:
    """A series whose volumes lie in one place, and how they had moved.

    Attributes
    ----------
    dwi : pvsbook.images.Dwi
        Resampled series; its b-vectors have turned with the head.
    translation_mm : ndarray, shape (volumes, 3)
        Shift of the middle of the brain in each volume.
    rotation_deg : ndarray, shape (volumes,)
        Angle of its rotation.
    """

    dwi: images.Dwi
    translation_mm: NDArray[np.float64]
    rotation_deg: NDArray[np.float64]


def denoise(
    dwi: images.Dwi, *, method: str = "mppca", mask: nib.Nifti1Image | None = None
) -> images.Dwi:
    """Remove thermal noise; do it before everything else, since it needs the noise as it was.

    Parameters
    ----------
    dwi : pvsbook.images.Dwi
    method : {"mppca", "patch2self"}
        Local principal components, some 50 s of one core for a whole brain at 2 mm; needs more
        volumes than about 30 to pay.  Patch2Self costs some 10 s and assumes nothing of the
        noise, but learns each volume from the others, so it needs many directions as well.
    mask : Nifti1Image, optional
        Where to work (``"mppca"`` only); outside the series stays as it is.

    Returns
    -------
    pvsbook.images.Dwi

    Raises
    ------
    InputError
        Another method, or fewer than ten volumes.

    References
    ----------
    Veraart et al. 2016, NeuroImage 142:394, doi:10.1016/j.neuroimage.2016.08.016;
    Fadnavis et al. 2020, NeurIPS 33:16293, arXiv:2011.01355.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> bvecs = rng.normal(size=(20, 3))
    >>> bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    >>> noisy = images.make(100 + rng.normal(0, 5, (6, 6, 6, 20)), np.eye(4))
    >>> dwi = images.Dwi(noisy, np.r_[0, np.full(19, 1000.0)], bvecs)
    >>> bool(images.array(denoise(dwi).image).std() < 3)
    True
    """
    if method not in ("mppca", "patch2self"):
        raise InputError(f"method is {method!r}; use 'mppca' or 'patch2self'")
    data = images.array(dwi.image)
    if data.shape[-1] < 10:
        raise InputError(
            f"dwi: {data.shape[-1]} volumes are too few to tell signal from noise; "
            "leave denoising off below ten"
        )
    if method == "mppca":
        inside = None if mask is None else images.load_mask(mask, dwi.image)
        with np.errstate(invalid="ignore"):  # DIPY divides 0 by 0 where no patch reached
            clean = mppca(data, mask=inside, patch_radius=2, suppress_warning=True)
        clean = np.where(np.isfinite(clean) & (clean > 0), clean, data)
    else:
        clean = patch2self(data, dwi.bvals_s_mm2, shift_intensity=False, clip_negative_vals=True)
    return replace(dwi, image=images.make(clean, dwi.image.affine))


def remove_ringing(dwi: images.Dwi) -> images.Dwi:
    """Remove Gibbs ringing by sub-voxel shifts; after denoising, before any resampling.

    Costs some two minutes of one core for a whole brain at 2 mm.  Leave it off for images with
    partial Fourier below 7/8 or zero-filled to a larger matrix, where its model does not hold.

    Parameters
    ----------
    dwi : pvsbook.images.Dwi
        The third voxel axis runs across the slices.

    Returns
    -------
    pvsbook.images.Dwi

    References
    ----------
    Kellner et al. 2016, Magn Reson Med 76:1574, doi:10.1002/mrm.26054.

    Examples
    --------
    >>> step = np.zeros((16, 16, 2, 2))
    >>> step[4:12, 4:12] = 100
    >>> dwi = images.Dwi(images.make(step, np.eye(4)), np.array([0.0, 1000]), np.eye(3)[:2])
    >>> remove_ringing(dwi).image.shape
    (16, 16, 2, 2)
    """
    clean = gibbs_removal(images.array(dwi.image), slice_axis=2, inplace=False)
    return replace(dwi, image=images.make(clean, dwi.image.affine))


def correct_motion(dwi: images.Dwi, *, mask: nib.Nifti1Image | None = None) -> Motion:
    """Align every volume rigidly and turn the b-vectors with the head.

    Volumes without weighting are aligned to the first of them; weighted ones first to that
    volume, then to the mean of all weighted volumes, which look more alike.  Each volume is
    resampled once.  A head that turns by 5 degrees between volumes has been measured along
    gradients that are 5 degrees off: the b-vectors of the file must follow.

    This does not correct eddy currents; where the scanner's are strong, use a tool made for them
    before this one.  Costs about half a second a volume.

    Parameters
    ----------
    dwi : pvsbook.images.Dwi
    mask : Nifti1Image, optional
        Brain mask; it is grown by 6 mm, so that a head that moved stays inside.

    Returns
    -------
    Motion

    References
    ----------
    Leemans and Jones 2009, Magn Reson Med 61:1336, doi:10.1002/mrm.21890.
    """
    data, affine = images.array(dwi.image), dwi.image.affine
    size = images.voxel_size_mm(dwi.image)
    keep = np.ones(data.shape[:3], bool)
    if mask is not None:
        grow = int(np.ceil(6 / size.min()))
        keep = ndimage.binary_dilation(images.load_mask(mask, dwi.image), iterations=grow)

    def volume(values: NDArray) -> nib.Nifti1Image:
        return images.make(np.where(keep, values, 0), affine)

    first = int(np.flatnonzero(dwi.is_b0)[0])
    to_first = [
        np.eye(4) if k == first else rigid_between(volume(data[..., k]), volume(data[..., first]))
        for k in range(data.shape[-1])
    ]
    weighted = np.flatnonzero(~dwi.is_b0)
    aligned = [_resampled(data[..., k], affine, to_first[k]) for k in weighted]
    mean = volume(np.mean(aligned, axis=0))
    for k in weighted:
        to_first[k] = rigid_between(volume(data[..., k]), mean, start=to_first[k])
    centre = nib.affines.apply_affine(affine, np.argwhere(keep).mean(axis=0))
    resampled = np.stack(
        [_resampled(data[..., k], affine, m, order=3) for k, m in enumerate(to_first)], -1
    )
    turns = np.array([m[:3, :3] for m in to_first])
    bvecs = np.einsum("kij,kj->ki", turns, dwi.bvecs_ras)
    shift = np.array([centre - nib.affines.apply_affine(m, centre) for m in to_first])
    angle = np.rad2deg(Rotation.from_matrix(turns).magnitude())
    series = images.make(np.maximum(resampled, 0), affine)
    return Motion(replace(dwi, image=series, bvecs_ras=bvecs), shift, angle)


def _resampled(
    values: NDArray, affine: NDArray, to_reference: NDArray, *, order: int = 1
) -> NDArray[np.float32]:
    """Resample a volume where the reference has its voxels."""
    back = np.linalg.inv(affine) @ np.linalg.inv(to_reference) @ affine
    return ndimage.affine_transform(values, back[:3, :3], back[:3, 3], order=order, mode="nearest")
