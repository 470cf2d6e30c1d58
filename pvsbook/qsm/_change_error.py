"""One region of the head at two visits, and the error of its change."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from pvsbook.qsm.nuclei import PLACEMENT_MM
from pvsbook.qsm.pipeline import QsmResult
from pvsbook.qsm.regions import MIN_REGION_VOXELS, erode_labels

# SD along each axis that the error of aligning the visits stands for.
REGISTRATION_MM = 0.1
# What background removal, inversion and misplaced labels leave in a change, beside noise and the
# two errors above: SD at one pose, and per degree between the fields.  The least with which 95 %
# intervals held the true change in 95 % of nuclei on three simulated heads, see
# ``python benchmarks/qsm_worlds.py MIRROR --change``.  On two that chose nothing (``--report``)
# they held 96 % in the same pose and 82 % at 8 degrees, or 97 % of the changes in the measured
# regions: a misplaced label loses more than this in a head that is tilted.
POSE_PPB = 0.8
POSE_PPB_PER_DEG = 0.13
MIN_KNOWN = 0.99  # of the voxels around a point


class Visit:
    """The map of a visit, sampled at points of the labels' space.

    A mean over points, each with the linear mean of the eight voxels around it, is one over
    voxels, each weighted by the share of it that the label holds.  So both visits are measured in
    one region of the head, however their voxels lie.  With whole voxels (nearest neighbour) the
    regions differ along each edge, by several ppb where a label crosses one.
    """

    def __init__(self, result: QsmResult, to_world: NDArray[np.float64], point_mm3: float) -> None:
        self.known = result.local_field.mask.astype(np.float32)
        self.chi_ppm = result.susceptibility.chi_ppm
        self.to_voxel = np.linalg.inv(result.affine) @ to_world
        self.voxels_per_point = point_mm3 * abs(np.linalg.det(self.to_voxel[:3, :3]))

    def at(self, values: NDArray, points_mm: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return values at points, shape (point,); zero outside the grid."""
        voxels = apply_affine(self.to_voxel, points_mm).T
        return ndimage.map_coordinates(values, voxels, order=1, output=np.float32)

    def measure(self, chi_ppm: NDArray, points: Sequence[NDArray[np.float64]]) -> pd.DataFrame:
        """Measure each region: mean, median and SD over its points, and how many voxels it has."""
        rows = []
        for inside in points:
            n_voxels = round(len(inside) * self.voxels_per_point)
            value = 1e3 * self.at(chi_ppm, inside).astype(np.float64)
            enough = n_voxels >= MIN_REGION_VOXELS
            numbers = (value.mean(), np.median(value), value.std()) if enough else (np.nan,) * 3
            rows.append((n_voxels, *map(float, numbers)))
        return pd.DataFrame(rows, columns=["n_voxels", "mean_ppb", "median_ppb", "sd_ppb"])

    def moved_ppb(self, points: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return how far each mean moves with its region, half the difference, (axis, region)."""
        up, down = (
            np.array([self.measure(self.chi_ppm, [p + sign * shift for p in points])["mean_ppb"]
                      for shift in PLACEMENT_MM * np.eye(3)])
            for sign in (1, -1)
        )  # fmt: skip
        return (up - down) / 2


def region_points(
    labels: nib.Nifti1Image, table: pd.DataFrame, erode: int
) -> tuple[list[NDArray[np.float64]], float]:
    """Return points of each region, mm of the labels' space, and the volume of one: about 1 mm3.

    Each array has shape (point, 3).
    """
    numbers = np.asarray(labels.dataobj).astype(np.int32)
    numbers = erode_labels(np.pad(numbers, 1), n_voxels=erode)[1:-1, 1:-1, 1:-1]
    size = nib.affines.voxel_sizes(labels.affine)
    step = np.maximum(np.round(size), 1).astype(int)
    offsets = np.array(list(product(*((np.arange(n) + 0.5) / n - 0.5 for n in step))))
    places = (
        (np.argwhere(numbers == k)[:, None] + offsets).reshape(-1, 3) for k in table["label"]
    )
    return [apply_affine(labels.affine, p) for p in places], float(np.prod(size / step))


def in_both(
    visits: Sequence[Visit], points: Sequence[NDArray[np.float64]]
) -> list[NDArray[np.float64]]:
    """Keep the points where both maps are known."""
    return [p[np.min([v.at(v.known, p) for v in visits], axis=0) > MIN_KNOWN] for p in points]


def errors_ppb(
    noise: Sequence[NDArray[np.float64]], moved: Sequence[NDArray[np.float64]], tilt_deg: float
) -> dict[str, NDArray[np.float64]]:
    """Return each share of the standard error of a change, by its column.

    Parameters
    ----------
    noise
        Of each visit, shape (region,).
    moved
        `Visit.moved_ppb` of each visit.
    tilt_deg
        Between the static fields as the head saw them.
    """
    first, second = moved
    return {
        "noise_error_ppb": np.hypot(*noise),
        "placement_error_ppb": np.linalg.norm(second - first, axis=0),
        "registration_error_ppb": np.linalg.norm(second, axis=0)
        * (REGISTRATION_MM / PLACEMENT_MM),
        "pose_error_ppb": np.full(
            second.shape[1], np.hypot(POSE_PPB, POSE_PPB_PER_DEG * tilt_deg)
        ),
    }
