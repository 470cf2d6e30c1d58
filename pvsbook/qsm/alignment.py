"""How two visits of one person lie to each other: a rigid registration of masked images."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, ndimage
from scipy.spatial.transform import Rotation

from pvsbook import images
from pvsbook.atlas.registration import rigid_between

__all__ = ["Alignment", "align_visits"]


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

    @classmethod
    def of(
        cls,
        first_to_second: ArrayLike,
        affines: tuple[NDArray[np.float64], NDArray[np.float64]],
        masks: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    ) -> Alignment:
        """Measure angle and overlap of a registration, given both grids and brain masks."""
        matrix = np.asarray(first_to_second, np.float64)
        voxels = np.linalg.inv(affines[1]) @ matrix @ affines[0]
        moved = ndimage.affine_transform(
            masks[1].astype(np.uint8), voxels[:3, :3], voxels[:3, 3],
            output_shape=masks[0].shape, order=0,
        ).astype(bool)  # fmt: skip
        overlap = 2 * (masks[0] & moved).sum() / (masks[0].sum() + moved.sum())
        angle = np.degrees(Rotation.from_matrix(matrix[:3, :3]).magnitude())
        return cls(matrix, float(overlap), float(angle))

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

    It is `pvsbook.atlas.registration.rigid_between`, from where the brains' centres meet.

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
    inside = [ndimage.binary_fill_holes(np.asarray(m, bool)) for m in (first_mask, second_mask)]
    brains = [
        images.make(images.array(image) * mask, image.affine)
        for image, mask in zip((first, second), inside, strict=True)
    ]
    centres = [
        apply_affine(image.affine, ndimage.center_of_mass(mask))
        for image, mask in zip((first, second), inside, strict=True)
    ]
    start = from_matvec(np.eye(3), centres[1] - centres[0])
    matrix = rigid_between(brains[0], brains[1], start=start)
    return Alignment.of(matrix, (first.affine, second.affine), (inside[0], inside[1]))
