"""How the two visits of the stored tables were compared, which `pvsbook run` now does otherwise.

The tables ``ms.tsv`` and ``tilted_heads.tsv`` hold labels carried to each visit as whole voxels,
by an alignment on a coarse grid.  `pvsbook.qsm.change.measure_visits` takes the share of each
voxel and a finer alignment, which errs less where the head is tilted.
"""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
import pandas as pd
from dipy.align.imaffine import AffineRegistration, MutualInformationMetric
from dipy.align.transforms import RigidTransform3D
from nibabel.affines import apply_affine, from_matvec
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pvsbook import images
from pvsbook.atlas.registration import resample_labels
from pvsbook.qsm.alignment import Alignment
from pvsbook.qsm.pipeline import QsmResult
from pvsbook.qsm.regions import measure_regions

__all__ = ["align_coarsely", "halve", "measure_whole_voxels"]

ALIGN_MM = 3.0  # of the grid on which visits are aligned


def align_coarsely(
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
    masks = (np.asarray(first_mask, bool), np.asarray(second_mask, bool))
    return Alignment.of(matrix, (first.affine, second.affine), masks)


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


def measure_whole_voxels(
    results: Sequence[QsmResult],
    alignment: Alignment,
    labels: nib.Nifti1Image,
    labels_to_halfway: ArrayLike,
    table: pd.DataFrame,
) -> list[pd.DataFrame]:
    """Measure the nuclei at each visit, on its own voxels, one taken off each label.

    Parameters
    ----------
    results
        Of the first and the second visit.
    alignment, labels, labels_to_halfway, table
        As in `pvsbook.qsm.change.measure_change`.

    Returns
    -------
    list of pandas.DataFrame
        Of each visit, from `pvsbook.qsm.regions.measure_regions`.
    """
    tables = []
    to_halfway = alignment.first_to_halfway, alignment.second_to_halfway
    for result, matrix in zip(results, to_halfway, strict=True):
        to_world = np.linalg.inv(matrix) @ np.asarray(labels_to_halfway, float)
        native = resample_labels(labels, to_world, result.mask.shape, result.affine)
        chi, known = result.susceptibility.chi_ppm, result.local_field.mask
        size_mm = nib.affines.voxel_sizes(result.affine)
        tables.append(measure_regions(chi, native, table, known, size_mm))
    return tables
