"""How two visits of one person lie to each other: a rigid registration of masked images."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from dipy.align.imaffine import AffineRegistration, MutualInformationMetric
from dipy.align.transforms import RigidTransform3D
from nibabel.affines import apply_affine, from_matvec
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, ndimage
from scipy.spatial.transform import Rotation

from pvsbook import images

__all__ = ["Alignment", "align_visits", "halve"]

ALIGN_MM = 3.0  # of the grid on which visits are aligned


@dataclass(frozen=True, eq=False)
class Alignment:
    """How two visits lie to each other.

    Attributes
    ----------
    first_to_second
        Rigid, scanner mm of the first visit to scanner mm of the second, 4 x 4.
    overlap
        Dice overlap of the brain masks once aligned.
    rotation_deg
        Angle of the rotation.
    """

    first_to_second: NDArray[np.float64]
    overlap: float
    rotation_deg: float

    @property
    def first_to_halfway(self) -> NDArray[np.float64]:
        """Half of the way: neither visit is favoured."""
        return np.real(linalg.expm(0.5 * linalg.logm(self.first_to_second)))

    @property
    def second_to_halfway(self) -> NDArray[np.float64]:
        """The other half."""
        return self.first_to_halfway @ np.linalg.inv(self.first_to_second)


def align_visits(
    first: nib.Nifti1Image,
    second: nib.Nifti1Image,
    first_mask: ArrayLike,
    second_mask: ArrayLike,
) -> Alignment:
    """Align two visits of one participant rigidly, by mutual information of masked images.

    Parameters
    ----------
    first, second
        Magnitude of one echo, or T1w, of each visit.
    first_mask, second_mask
        Brain masks on their grids.

    Returns
    -------
    Alignment

    References
    ----------
    Reuter et al. 2012 (halfway space), doi:10.1016/j.neuroimage.2012.02.084.

    Examples
    --------
    >>> x, y, z = np.indices((40, 44, 36)) - 18
    >>> brain = (x / 15) ** 2 + (y / 17) ** 2 + (z / 13) ** 2 < 1
    >>> image = images.make(brain * (2.0 + np.sin(x / 3) + np.cos(y / 4) + z / 15), np.eye(4) * 3)
    >>> same = align_visits(image, image, brain, brain)
    >>> bool(same.rotation_deg < 0.5 and same.overlap > 0.98)
    True
    """
    small = [_reduce(i, m) for i, m in ((first, first_mask), (second, second_mask))]
    centres = [_centre_mm(*pair) for pair in small]
    start = from_matvec(np.eye(3), centres[1] - centres[0])
    registration = AffineRegistration(
        metric=MutualInformationMetric(nbins=32),
        level_iters=[200, 100],
        sigmas=[2.0, 0.0],
        factors=[2, 1],
        verbosity=0,
    )
    (static, static_affine), (moving, moving_affine) = small
    matrix = registration.optimize(
        static,
        moving,
        RigidTransform3D(),
        None,
        static_grid2world=static_affine,
        moving_grid2world=moving_affine,
        starting_affine=start,
    ).affine
    angle = np.degrees(Rotation.from_matrix(matrix[:3, :3]).magnitude())
    first_to_second_voxel = np.linalg.inv(second.affine) @ matrix @ first.affine
    second_inside = ndimage.affine_transform(
        np.asarray(second_mask, np.uint8), first_to_second_voxel[:3, :3],
        first_to_second_voxel[:3, 3],
        output_shape=first.shape, order=0,
    ).astype(bool)  # fmt: skip
    first_inside = np.asarray(first_mask, bool)
    both = (first_inside & second_inside).sum()
    overlap = 2 * both / (first_inside.sum() + second_inside.sum())
    return Alignment(np.asarray(matrix, np.float64), float(overlap), float(angle))


def _reduce(
    image: nib.Nifti1Image, mask: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smooth a masked image and keep every second or third voxel; return it and its affine."""
    size = images.voxel_size_mm(image)
    step = np.maximum(np.round(ALIGN_MM / size), 1).astype(int)
    inside = np.asarray(mask, bool)
    values = images.array(image) * inside
    values /= np.quantile(values[inside], 0.98)
    smooth = ndimage.gaussian_filter(values, 0.4 * (step - 1))
    affine = image.affine @ np.diag([*step, 1.0])
    coarse = smooth[:: step[0], :: step[1], :: step[2]]
    return np.clip(coarse, 0, 1.5).astype(np.float64), affine


def _centre_mm(values: NDArray, affine: NDArray) -> NDArray[np.float64]:
    return apply_affine(affine, ndimage.center_of_mass(values))


def halve(
    image: nib.Nifti1Image, mask: NDArray[np.bool_]
) -> tuple[nib.Nifti1Image, NDArray[np.bool_]]:
    """Average blocks of eight voxels of a scan, and their mask: enough to align two visits by."""
    even = tuple(slice(n - n % 2) for n in image.shape)

    def blocks(values: NDArray) -> NDArray[np.float32]:
        x, y, z = (n // 2 for n in image.shape)
        return values[even].reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5), dtype=np.float32)

    affine = image.affine @ from_matvec(2 * np.eye(3), np.full(3, 0.5))
    return images.make(blocks(images.array(image)), affine), blocks(mask) >= 0.5
