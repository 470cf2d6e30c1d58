"""Corrections before the tensor: noise, ringing, distortion, motion.

Each is off unless it is asked for.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

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
from pvsbook.alps.series import brain_mask
from pvsbook.atlas.registration import rigid_between

__all__ = [
    "Displacement", "Motion", "correct_motion", "denoise", "find_displacement", "remove_ringing",
]  # fmt: skip

AXES = "ijk"  # of the voxels, as BIDS names them
SMOOTHNESS_MM = 60.0  # weight of the bending of the displacement
# Share of what makes the two images unlike (1 - correlation) that a correction may leave; a wrong
# axis, or an image of the same direction, leaves more.
UNLIKE_LEFT = 0.7
GRID_MM = "24,12,6"  # spacing of its control points, from coarse to fine


@dataclass(frozen=True, eq=False)
class Displacement:
    """How far the signal lies from its place, as the magnetic field distorts echo-planar images.

    Attributes
    ----------
    mm : ndarray, shape (x, y, z)
        Towards higher indices of one axis, in the storage order of the series.
    axis : int
        The axis of phase encoding.
    voxel_mm : float
        Length of a voxel along it.
    """

    mm: NDArray[np.float64]
    axis: int
    voxel_mm: float

    def undo(
        self,
        values: NDArray,
        *,
        order: int = 1,
        to_index: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """Fetch a volume's signal from where it went, corrected for stretching.

        Parameters
        ----------
        values : ndarray, shape (x, y, z)
        order : int
            Of the spline that interpolates.
        to_index : ndarray, shape (4, 4), optional
            Takes an index to where that voxel was when the volume was acquired.
        """
        steps = self.mm / self.voxel_mm
        where = np.indices(values.shape, dtype=float)
        if to_index is not None:
            where = np.tensordot(to_index[:3, :3], where, 1) + to_index[:3, 3, None, None, None]
        where[self.axis] += steps  # the scanner's axis, however the head lies
        found = ndimage.map_coordinates(values, where, order=order, mode="nearest")
        return np.asarray(found * (1 + np.gradient(steps, axis=self.axis)), np.float32)

    def correct(self, dwi: images.Dwi, *, order: int = 3) -> images.Dwi:
        """Undo the distortion of every volume, each resampled once.

        `correct_motion` takes a displacement too, and then resamples once for both.

        Parameters
        ----------
        dwi : pvsbook.images.Dwi
        order : int
            Of the spline that interpolates; 0 keeps the noise of each voxel.

        Examples
        --------
        >>> series = np.zeros((1, 8, 1, 2))
        >>> series[0, 5] = 100
        >>> image = images.make(series, np.diag([2, 2, 2, 1]))
        >>> dwi = images.Dwi(image, np.array([0.0, 1000]), np.eye(3)[:2])
        >>> shift = Displacement(np.full((1, 8, 1), 4.0), 1, 2.0)
        >>> images.array(shift.correct(dwi, order=1).image)[0, :, 0, 0].tolist()
        [0.0, 0.0, 0.0, 100.0, 0.0, 0.0, 0.0, 0.0]
        """
        volumes = np.moveaxis(images.array(dwi.image), -1, 0)
        fixed = np.stack([self.undo(values, order=order) for values in volumes], -1)
        return replace(dwi, image=images.make(np.maximum(fixed, 0), dwi.image.affine))


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


def find_displacement(
    dwi: images.Dwi,
    reverse: nib.Nifti1Image,
    *,
    phase_encoding: str,
    mask: nib.Nifti1Image | None = None,
) -> Displacement:
    """Find the distortion of a series by an image of the opposite phase encoding.

    The field that moves the signal of one image forward moves that of the other back, so the
    displacement is the one under which both agree.  The package ``unpile`` finds it; the readout
    time, with which it would scale the field in Hz, has no part in a displacement in mm.  The head
    is taken to lie in one place in both images, and their readout times to be the same.

    Parameters
    ----------
    dwi : pvsbook.images.Dwi
        As it was acquired; its first volume at b=0 is compared.
    reverse : Nifti1Image
        Without diffusion weighting, on the same grid; of several volumes the first is taken.
    phase_encoding : {"i", "j", "k"}
        Axis of the stored voxels along which phase was encoded; a sign plays no part.
    mask : Nifti1Image, optional
        Brain on the grid of the series; found with median Otsu otherwise.

    Returns
    -------
    Displacement

    Raises
    ------
    InputError
        ``unpile`` is not installed or fails, another axis or grid, or two images that the
        correction makes little more alike.

    References
    ----------
    Andersson, Skare and Ashburner 2003, NeuroImage 20:870, doi:10.1016/S1053-8119(03)00336-7.
    """
    try:
        import unpile
    except ImportError:
        raise InputError(
            "reverse: correcting distortion needs the package unpile, which is missing here; "
            "run: pip install unpile"
        ) from None
    axis = AXES.find(phase_encoding.rstrip("-") or "?")
    if axis < 0:
        raise InputError(f"phase_encoding is {phase_encoding!r}; use i, j or k")
    images.same_grid(reverse, dwi.image, name="reverse", other_name="dwi")
    there = images.array(dwi.image)[..., int(np.argmax(dwi.is_b0))]
    back = images.array(reverse).reshape(*there.shape, -1)[..., 0]
    brain = brain_mask(dwi) if mask is None else np.asarray(images.load_mask(mask, dwi.image) > 0)
    back = back * (np.median(there[brain]) / max(float(np.median(back[brain])), 1e-6))
    size = images.voxel_size_mm(dwi.image)
    las = np.diag([-size[0], *size[1:], 1])  # unpile expects this order; the axes are the voxels'
    with tempfile.TemporaryDirectory() as folder:
        files = {"epi": there, "reverse-epi": back, "mask": brain}
        for name, values in files.items():
            image = images.make(values.astype(np.float32), las)
            images.save(image, Path(folder, f"{name}.nii.gz"))
        command = ["fit", "--out", folder, "--pe-dir", AXES[axis], "--total-readout-time", "0.05",
                   "--lam-mm", f"{SMOOTHNESS_MM:g}", "--levels", GRID_MM]  # fmt: skip
        for name in files:
            command += [f"--{name}", str(Path(folder, f"{name}.nii.gz"))]
        threads = int(os.environ.get("OMP_NUM_THREADS", "0")) or None
        try:
            unpile.run(command, threads=threads)
        except OSError as error:  # its program is not found: the words say what to do
            raise InputError(f"reverse: unpile failed ({' '.join(str(error).split())})") from error
        except subprocess.CalledProcessError as error:
            said = str(error.stderr or error).strip().splitlines()[-1:]
            raise InputError(f"reverse: unpile failed ({''.join(said)})") from error
        mm = images.array(nib.Nifti1Image.from_filename(Path(folder, "disp_pe_mm.nii.gz")), float)
    found = Displacement(mm.reshape(there.shape), axis, float(size[axis]))
    opposite = replace(found, mm=-found.mm)
    before, after = (
        float(np.corrcoef(one[brain], two[brain])[0, 1])
        for one, two in ((there, back), (found.undo(there), opposite.undo(back)))
    )
    if not 1 - after < UNLIKE_LEFT * (1 - before):
        raise InputError(
            f"reverse: correlates with the series by {before:.2f}, and after the correction by "
            f"{after:.2f}, so too little is gained; check that its phase encoding is opposite and "
            f"that {AXES[axis]} is the axis"
        )
    return found


def correct_motion(
    dwi: images.Dwi,
    *,
    mask: nib.Nifti1Image | None = None,
    displacement: Displacement | None = None,
) -> Motion:
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
    displacement : Displacement, optional
        Distortion that is corrected in the same step, so that the series is resampled once.

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
        [
            _resampled(data[..., k], affine, m, order=3, displacement=displacement)
            for k, m in enumerate(to_first)
        ],
        -1,
    )
    turns = np.array([m[:3, :3] for m in to_first])
    bvecs = np.einsum("kij,kj->ki", turns, dwi.bvecs_ras)
    shift = np.array([centre - nib.affines.apply_affine(m, centre) for m in to_first])
    angle = np.rad2deg(Rotation.from_matrix(turns).magnitude())
    series = images.make(np.maximum(resampled, 0), affine)
    return Motion(replace(dwi, image=series, bvecs_ras=bvecs), shift, angle)


def _resampled(
    values: NDArray,
    affine: NDArray,
    to_reference: NDArray,
    *,
    order: int = 1,
    displacement: Displacement | None = None,
) -> NDArray[np.float32]:
    """Resample a volume where the reference has its voxels."""
    back = np.linalg.inv(affine) @ np.linalg.inv(to_reference) @ affine
    if displacement is not None:
        return displacement.undo(values, order=order, to_index=back)
    return ndimage.affine_transform(values, back[:3, :3], back[:3, 3], order=order, mode="nearest")
